use std::time::Duration;

use proptest::prelude::*;
use tokio::time::timeout;

use super::*;

fn address(last: u8) -> Source {
    Source::address(IpAddr::from([10, 0, 0, last]))
}

fn via() -> Source {
    Source::Via("relay".to_owned())
}

/// Takes as many as it gets.
fn fill(handshakes: &Handshakes, source: &Source) -> (Vec<HandshakePermit>, Busy) {
    let mut permits = Vec::new();
    loop {
        match handshakes.try_acquire(source.clone()) {
            Ok(permit) => permits.push(permit),
            Err(busy) => return (permits, busy),
        }
    }
}

#[test]
fn a_network_of_ipv6_and_an_address_of_ipv4_are_one_source() {
    let source = |addr: &str| Source::address(addr.parse().expect("an address"));
    assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
    assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
    assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
}

#[test]
fn a_source_alone_gets_a_quarter_and_beside_others_its_share() {
    let handshakes = Handshakes::new(256);
    let (alone, busy) = fill(&handshakes, &address(1));
    assert_eq!((alone.len(), busy), (65, Busy::Source(32)));
    let (beside, busy) = fill(&handshakes, &address(2));
    assert_eq!((beside.len(), busy), (32, Busy::Source(32)));
    let (relayed, busy) = fill(&handshakes, &via());
    assert_eq!((relayed.len(), busy), (128, Busy::Source(128)));
    let (last, busy) = fill(&handshakes, &address(3));
    assert_eq!((last.len(), busy), (32, Busy::Handshakes(256)));
    // The 32nd is from the one that had the most.
    let displaced = |permits: &[HandshakePermit]| {
        let displaced = permits.iter().map(HandshakePermit::is_displaced);
        displaced.collect::<Vec<_>>()
    };
    assert_eq!(displaced(&alone).iter().position(|it| *it), Some(0));
    assert_eq!(displaced(&alone).iter().filter(|it| **it).count(), 1);
    assert!(
        !displaced(
            &[beside, relayed, last]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
        )
        .contains(&true)
    );
    drop(alone);
    assert_eq!(handshakes.taken(), 0, "all others were dropped before");
}

#[test]
fn many_addresses_do_not_keep_another_out() {
    let handshakes = Handshakes::new(256);
    let crowd: Vec<_> = (1..=16)
        .map(|host| fill(&handshakes, &address(host)).0)
        .collect();
    assert_eq!(handshakes.taken(), 256);
    let (held, busy) = fill(&handshakes, &address(99));
    // As many as each of the sixteen then has, or one less.
    assert!((14..=16).contains(&held.len()), "{}", held.len());
    assert_eq!(busy, Busy::Handshakes(256));
    assert!(!held.iter().any(HandshakePermit::is_displaced));
    drop(crowd);
    assert_eq!(handshakes.taken(), held.len());
}

#[test]
fn an_unproven_address_gets_no_more_than_a_quarter_and_is_charged_to_nobody() {
    let handshakes = Handshakes::new(256);
    let (unproven, busy) = fill(&handshakes, &Source::Unproven);
    assert_eq!((unproven.len(), busy), (65, Busy::Unproven));
    let (proven, _) = fill(&handshakes, &address(1));
    assert_eq!(proven.len(), 32);
    // Also where all are taken it is asked for proof first.
    let (_rest, _) = fill(&handshakes, &Source::Unknown);
    assert_eq!(handshakes.taken(), 256);
    let busy = handshakes.try_acquire(Source::Unproven);
    assert_eq!(busy.expect_err("full"), Busy::Unproven);
}

#[test]
fn a_small_limit_leaves_room_for_another_source() {
    for most in 4..40 {
        let handshakes = Handshakes::new(most);
        let (held, busy) = fill(&handshakes, &address(1));
        assert!(matches!(busy, Busy::Source(2..)), "{most}: {busy:?}");
        assert!(held.len() < most, "{most}");
        let other = handshakes.try_acquire(address(2));
        assert!(other.is_ok(), "{most}: {other:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_woken_by_its_own_source_or_by_another() {
    let handshakes = Handshakes::new(8);
    let (mut first, _) = fill(&handshakes, &address(1));
    let (mut second, _) = fill(&handshakes, &address(2));
    let waiting = handshakes.clone();
    let task = tokio::spawn(async move { waiting.acquire(address(1)).await });
    // The third of source 1, which has two by then.
    assert_eq!((first.len(), second.len()), (3, 2));
    tokio::time::sleep(Duration::from_secs(1)).await;
    second.pop();
    first.pop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!task.is_finished(), "beyond its share of two");
    first.pop();
    let got = timeout(Duration::from_secs(1), task).await;
    drop(got.expect("woken").expect("no panic"));
    assert_eq!(handshakes.taken(), 2);
}

fn any_source() -> impl Strategy<Value = Source> {
    prop_oneof![
        (0..4u8).prop_map(address),
        Just(via()),
        Just(Source::Unproven),
        Just(Source::Unknown),
    ]
}

proptest! {
    /// A step either asks for a permit of a source or drops one of those that are held.
    #[test]
    fn no_source_has_more_than_its_share_or_a_quarter(
        most in 1..40usize,
        steps in proptest::collection::vec((prop::bool::weighted(0.7), any_source(), any::<prop::sample::Index>()), 0..200),
    ) {
        let handshakes = Handshakes::new(most);
        let mut held: Vec<HandshakePermit> = Vec::new();
        for (begins, source, which) in steps {
            let of_source = held.iter().filter(|permit| permit.source == source).count();
            if begins {
                match handshakes.try_acquire(source.clone()) {
                    Ok(permit) => {
                        prop_assert!(held.len() <= most / 4 || of_source < source.share(most));
                        let before = held.len();
                        held.retain(|permit| !permit.is_displaced());
                        prop_assert!(before - held.len() == usize::from(before == most));
                        held.push(permit);
                    }
                    Err(Busy::Handshakes(_)) => prop_assert_eq!(held.len(), most),
                    Err(Busy::Source(share)) => {
                        prop_assert!(held.len() > most / 4 && of_source >= share);
                    }
                    Err(Busy::Displaced) => prop_assert!(false, "nothing was held"),
                    Err(Busy::Unproven) => {
                        prop_assert!(source == Source::Unproven && held.len() > most / 4);
                    }
                }
            } else if !held.is_empty() {
                drop(held.swap_remove(which.index(held.len())));
            }
            let counts = lock(&handshakes.shared.counts);
            prop_assert_eq!(counts.taken, held.len());
            prop_assert_eq!(counts.by_source.values().map(VecDeque::len).sum::<usize>(), held.len());
            for (source, held) in &counts.by_source {
                let quarter = most / 4 + 1;
                prop_assert!(!held.is_empty());
                prop_assert!(held.len() <= source.share(most).max(quarter));
            }
        }
    }
}
