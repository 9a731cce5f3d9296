use std::time::Duration;

use super::{super::Frames, *};

fn conduct() -> Conduct {
    Conduct::new(Arc::new(Refusals::new("test")))
}

fn peer() -> PeerInfo {
    PeerInfo::tcp(None, ([127, 0, 0, 1], 1).into(), None)
}

fn frame(kind: u8, len: u8) -> Head {
    let mut bytes = vec![0, 0, len, kind, 0, 0, 0, 0, 1];
    bytes.resize(9 + usize::from(len), 0);
    let (_, head) = Frames::default().next_part(&bytes);
    head.expect("a whole frame")
}

#[test]
fn a_flood_of_pings_ends_and_a_ping_each_second_never_does() {
    const PING: u8 = 6;
    let (mut conduct, mut now) = (conduct(), Instant::now());
    let mut ping = |now| {
        conduct.came(frame(PING, 8));
        conduct.settle(|| now, &peer())
    };
    for _ in 0..20_000 {
        now += Duration::from_secs(1);
        ping(now).expect("in the budget");
    }
    let taken = (0..).take_while(|_| ping(now).is_ok()).count();
    assert_eq!(
        taken,
        BURST as usize - 1,
        "the last of the pings before took one"
    );
}

/// grpc-go sends an update and a PING for each message of a stream.
#[test]
fn a_stream_of_small_messages_may_go_on_for_ever() {
    const PING: u8 = 6;
    let (mut conduct, now) = (conduct(), Instant::now());
    for _ in 0..5 * BURST as u32 {
        for (kind, len) in [
            (Head::DATA, 20),
            (Head::WINDOW_UPDATE, 4),
            (PING, 8),
            (PING, 8),
        ] {
            conduct.came(frame(kind, len));
        }
        conduct.settle(|| now, &peer()).expect("earned");
        conduct.answered(frame(Head::DATA, 20), &peer());
    }
}

#[test]
fn what_calls_and_answers_need_is_earned_by_them() {
    let (mut conduct, now) = (conduct(), Instant::now());
    for _ in 0..5 * BURST as u32 {
        // A call that is reset, and an update of a window for two kilobytes.
        for head in [
            frame(Head::HEADERS, 10),
            frame(Head::RST_STREAM, 4),
            frame(Head::WINDOW_UPDATE, 4),
        ] {
            conduct.came(head);
        }
        conduct.settle(|| now, &peer()).expect("earned");
        conduct.sent(2048);
    }
}
