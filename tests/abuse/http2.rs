//! HTTP/2 frames that cost the server more than their sender.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tower_iroh::TransportKind;

use crate::{
    attacks::{self, Attack, Outcome, never_reads},
    support::{Attacker, ECHO, Honest, Witness, World, assert_unhurt, soon},
};

/// How long each attack goes on.
const LASTS: Duration = Duration::from_millis(700);

// What h2 says in its GOAWAY: RFC 9113, section 7. Where it would go on for ever, the server ends the lane or the connection without one.
const PROTOCOL: Option<u32> = Some(1);
const FLOW: Option<u32> = Some(3);
const CALM: Option<u32> = Some(11);

/// Attacks again and again, on one lane or connection after the other, with honest callers beside it.
async fn beside(transport: TransportKind, attack: Attack) -> Vec<Outcome> {
    let world = World::start().await;
    let mut honest = Honest::new(&world).await;
    let idle = honest.call_for(LASTS / 4).await;
    let mut attacker = Attacker::new(transport, &world).await;
    let (refused, began) = (Witness::get().refused(transport, "abuse"), Instant::now());
    let script = attack.script(ECHO);
    let before = memory();
    let over = Arc::new(AtomicBool::new(false));
    let (name, until) = (attacker.name(), over.clone());
    // In a task, as all of an attacker's work would hold up the honest callers in theirs.
    let attacks = tokio::spawn(async move {
        let mut outcomes = Vec::new();
        while !until.load(Ordering::Relaxed) {
            let attack = attacks::attack(attacker.io().await, &script);
            outcomes.push(soon("the end of the attack", attack).await);
        }
        outcomes
    });
    let beside = honest.call_for(LASTS).await;
    over.store(true, Ordering::Relaxed);
    let outcomes = attacks.await.expect("no panic");
    let bytes: u64 = outcomes.iter().map(|outcome| outcome.sent).sum();
    println!(
        "{attack:?} over {transport}: {} times, {bytes} bytes, {:?}",
        outcomes.len(),
        outcomes[0]
    );
    assert_unhurt(idle, beside);
    assert!(
        memory().saturating_sub(before) < MORE,
        "it grew from {before} bytes to {}",
        memory()
    );
    if outcomes[0].ended {
        assert!(
            Witness::get().refused(transport, "abuse") > refused,
            "it is counted"
        );
        let lines = Witness::get().lines(&["broke the rules", &name]);
        println!("{lines:?}");
        let most = began.elapsed().as_secs() as usize + 1;
        assert!(!lines.is_empty() && lines.len() <= most, "{lines:?}");
    }
    outcomes
}

/// By how much this process may grow: the attacker and the callers are in it as well.
const MORE: u64 = 48 << 20;

/// The bytes that this process has in memory, where that can be read.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kilobytes.map_or(0, |number| {
        number.trim().parse::<u64>().expect("a number") * 1024
    })
}

macro_rules! attacks {
    ($($name:ident $attack:ident $expected:pat,)*) => {
        mod iroh {
            use super::{CALM, FLOW, PROTOCOL};
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::ends(super::TransportKind::Iroh, super::Attack::$attack, |goaway| matches!(goaway, $expected)).await;
                }
            )*
        }
        mod tcp {
            use super::{CALM, FLOW, PROTOCOL};
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::ends(super::TransportKind::Tcp, super::Attack::$attack, |goaway| matches!(goaway, $expected)).await;
                }
            )*
        }
        #[test]
        fn each_attack_has_its_tests() {
            let tested = [$(Attack::$attack),*];
            assert!(Attack::ALL.iter().all(|attack| tested.contains(attack)));
        }
    };
}

async fn ends(transport: TransportKind, attack: Attack, expected: fn((bool, Option<u32>)) -> bool) {
    for outcome in beside(transport, attack).await {
        assert!(expected((outcome.ended, outcome.goaway)), "{outcome:?}");
    }
}

attacks! {
    calls_that_are_reset_at_once RapidReset (true, CALM),
    headers_without_end ContinuationFlood (true, CALM),
    settings SettingsFlood (true, None),
    pings PingFlood (true, None),
    a_megabyte_of_headers HeaderList (true, CALM),
    data_frames_without_a_byte EmptyFrames (true, CALM | None),
    data_frames_of_a_byte TinyFrames (true, CALM | None),
    a_window_of_nothing WindowOfZero (true, PROTOCOL),
    a_window_beyond_all_numbers WindowOverflow (true, FLOW),
    windows_of_a_byte WindowsOfOne (true, None),
    frames_of_no_type UnknownFrames (true, None),
    priorities PriorityFlood (true, None),
}

/// 1,000 calls of 16 KiB each, whose answers are not read.
async fn unread(transport: TransportKind) {
    let world = World::start().await;
    let mut honest = Honest::new(&world).await;
    let idle = honest.call_for(LASTS / 4).await;
    let mut attacker = Attacker::new(transport, &world).await;
    let io = attacker.io().await;
    let (over, enough) = tokio::sync::oneshot::channel::<()>();
    // A message of gRPC that is one field of bytes.
    let mut body = vec![0, 0, 0, 0x3e, 0x84, 0x0a, 0x80, 0x7d];
    body.resize(5 + 0x3e84, 0);
    let attack = never_reads(io, ECHO, 1000, &body, async {
        let _ = enough.await;
    });
    let calls = async {
        let beside = honest.call_for(LASTS).await;
        drop(over);
        beside
    };
    let (sent, beside) = tokio::join!(attack, calls);
    println!("over {transport} the server took {sent} bytes of calls");
    assert_unhurt(idle, beside);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_over_iroh() {
    unread(TransportKind::Iroh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_over_tcp() {
    unread(TransportKind::Tcp).await;
}
