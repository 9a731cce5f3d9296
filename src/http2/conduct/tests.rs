use std::time::Duration;

use super::*;

const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

fn conduct() -> Conduct {
    Conduct::new(Arc::new(Refusals::new("test")))
}

fn peer() -> PeerInfo {
    PeerInfo::tcp(None, ([127, 0, 0, 1], 1).into(), None)
}

fn head(len: usize, kind: u8, flags: u8, stream: u8) -> Vec<u8> {
    let mut frame = vec![0, 0, len as u8, kind, flags, 0, 0, 0, stream];
    frame.resize(9 + len, 0);
    frame
}

#[test]
fn a_flood_of_pings_ends_and_a_ping_each_second_never_does() {
    let (mut conduct, mut now) = (conduct(), Instant::now());
    conduct.came(now, &peer(), PREFACE).expect("no frame");
    for _ in 0..20_000 {
        now += Duration::from_secs(1);
        conduct.came(now, &peer(), &PING).expect("in the budget");
    }
    let mut taken = 0;
    while conduct.came(now, &peer(), &PING).is_ok() {
        taken += 1;
    }
    assert_eq!(
        taken,
        BURST as u32 - 1,
        "the last of the pings before took one"
    );
}

#[test]
fn what_calls_and_answers_need_is_earned_by_them() {
    let (mut conduct, now) = (conduct(), Instant::now());
    conduct.came(now, &peer(), PREFACE).expect("no frame");
    for _ in 0..5 * BURST as u32 {
        // A call that is reset, and an update of a window for two kilobytes.
        let mut sent = head(10, Head::HEADERS, 4, 1);
        sent.extend(head(4, Head::RST_STREAM, 0, 1));
        sent.extend(head(4, Head::WINDOW_UPDATE, 0, 0));
        conduct.came(now, &peer(), &sent).expect("earned");
        conduct.wrote(&peer(), &[IoSlice::new(&[0; 2048])], 2048);
    }
}

#[test]
fn a_message_or_room_for_one_shows_a_handler_and_a_refusal_does_not() {
    let refusal = [
        head(20, Head::HEADERS, 5, 1),
        head(4, Head::WINDOW_UPDATE, 0, 0),
    ]
    .concat();
    let message = [head(20, Head::HEADERS, 4, 1), head(7, Head::DATA, 0, 1)].concat();
    let room = head(4, Head::WINDOW_UPDATE, 0, 1);
    for (frames, serves) in [(&refusal, false), (&message, true), (&room, true)] {
        let mut conduct = conduct();
        let (one, other) = frames.split_at(5);
        let slices = [IoSlice::new(one), IoSlice::new(other)];
        assert_eq!(conduct.wrote(&peer(), &slices, frames.len()), serves);
        let again = conduct.wrote(&peer(), &slices, frames.len());
        assert!(!again, "it is told once");
    }
    let mut conduct = conduct();
    let half = message.len() - 8;
    assert!(!conduct.wrote(&peer(), &[IoSlice::new(&message)], half));
    assert!(conduct.wrote(&peer(), &[IoSlice::new(&message[half..])], 8));
}

#[test]
fn http_1_is_no_flood_of_frames() {
    let (mut conduct, now) = (conduct(), Instant::now());
    for piece in [&b"P"[..], b"OST /a.B/Get HTTP/1.1\r\n\r\n", &[0; 1 << 20]] {
        conduct.came(now, &peer(), piece).expect("not followed");
    }
    assert!(!conduct.wrote(&peer(), &[IoSlice::new(&[0; 100])], 100));
}
