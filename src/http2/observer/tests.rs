use std::task::Waker;

use crate::pool::Why;

use super::*;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

fn frame(kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    let mut frame = vec![0, 0, 3, kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(b"abc");
    frame
}

fn call(stream: u32) -> Vec<u8> {
    frame(Head::HEADERS, END_HEADERS, stream)
}

fn watched(connection: Arc<OpenConnection>) -> Observer {
    Observer::new(connection, Arc::new(Refusals::new("test")))
}

fn peer() -> PeerInfo {
    PeerInfo::tcp(None, ([127, 0, 0, 1], 1).into(), None)
}

fn read(observer: &mut Observer, bytes: &[u8]) -> bool {
    let read = observer.read(std::time::Instant::now, &peer(), bytes);
    read.expect("in the budget")
}

fn wrote(observer: &mut Observer, bytes: &[u8]) -> bool {
    observer.wrote(&peer(), &[IoSlice::new(bytes)], bytes.len())
}

/// An observer that has seen the preface of the client.
fn observer() -> (Arc<OpenConnection>, Observer) {
    let connection = OpenConnection::new(Instant::now());
    let mut observer = watched(connection.clone());
    for byte in PREFACE {
        assert!(read(&mut observer, &[*byte]));
    }
    assert!(read(&mut observer, &frame(SETTINGS, 0, 0)));
    (connection, observer)
}

/// What the client is told now.
fn said(observer: &mut Observer) -> Vec<u8> {
    let mut cx = Context::from_waker(Waker::noop());
    observer.is_shut(&cx);
    let mut sent = Vec::new();
    let told = observer.poll_tell(&mut cx, &mut sent);
    assert!(matches!(told, Poll::Ready(Ok(bytes)) if bytes == sent.len()));
    sent
}

#[test]
fn a_call_is_in_flight_from_its_headers_to_its_end_from_either_side() {
    let (connection, mut observer) = observer();
    for stream in [1, 3, 5, 7] {
        assert!(read(&mut observer, &call(stream)));
    }
    assert_eq!(connection.calls(), 4);
    read(&mut observer, &frame(Head::DATA, END_STREAM, 1));
    read(
        &mut observer,
        &frame(Head::HEADERS, END_HEADERS | END_STREAM, 3),
    );
    assert_eq!(connection.calls(), 4, "the client's end is not the call's");
    for (flags, stream, left) in [(0, 1, 4), (END_STREAM, 1, 3), (END_STREAM, 1, 3)] {
        wrote(&mut observer, &frame(Head::DATA, flags, stream));
        assert_eq!(connection.calls(), left);
    }
    wrote(
        &mut observer,
        &frame(Head::HEADERS, END_HEADERS | END_STREAM, 3),
    );
    wrote(&mut observer, &frame(Head::RST_STREAM, 0, 5));
    read(&mut observer, &frame(Head::RST_STREAM, 0, 5));
    assert_eq!(connection.calls(), 1);
    drop(observer);
    assert_eq!(connection.calls(), 0);
}

#[test]
fn the_client_is_told_between_frames_and_once() {
    let (connection, mut observer) = observer();
    connection.leave();
    assert!(said(&mut observer).is_empty(), "SETTINGS come first");
    wrote(&mut observer, &frame(SETTINGS, 0, 0));
    wrote(&mut observer, &frame(Head::HEADERS, 0, 1));
    assert!(said(&mut observer).is_empty(), "in a block of headers");
    let rest = frame(CONTINUATION, END_HEADERS, 1);
    let two = [rest.clone(), rest.clone()].concat();
    assert_eq!(observer.within_frame(&two), rest.len());
    wrote(&mut observer, &rest[..5]);
    assert!(said(&mut observer).is_empty(), "in a frame");
    wrote(&mut observer, &rest[5..]);
    assert_eq!(said(&mut observer), goaway(ANY));
    assert!(said(&mut observer).is_empty());
    assert_eq!(observer.within_frame(&two), two.len());
    assert!(read(&mut observer, &call(1)), "it was on its way");
    wrote(&mut observer, &frame(Head::RST_STREAM, 0, 1));
    assert!(connection.shut_unused(Why::Idle));
    assert!(!read(&mut observer, &call(3)), "it is not begun");
    assert_eq!(said(&mut observer), goaway(1));
}

#[test]
fn a_server_that_says_goodbye_itself_is_not_contradicted() {
    let (connection, mut observer) = observer();
    wrote(&mut observer, &frame(SETTINGS, 0, 0));
    wrote(&mut observer, &goaway(0));
    assert!(connection.shut_unused(Why::Evicted));
    assert!(said(&mut observer).is_empty());
}

#[test]
fn http1_counts_as_a_call() {
    let connection = OpenConnection::new(Instant::now());
    let mut observer = watched(connection.clone());
    assert!(read(&mut observer, b"P"));
    assert_eq!(connection.calls(), 0);
    assert!(read(&mut observer, b"OST / HTTP/1.1\r\n"));
    assert_eq!(connection.calls(), 1);
    connection.leave();
    assert!(said(&mut observer).is_empty());
}

#[test]
fn a_message_or_room_for_one_shows_a_handler_and_a_refusal_does_not() {
    let refusal = [
        call(1),
        frame(Head::HEADERS, END_STREAM | END_HEADERS, 1),
        frame(Head::WINDOW_UPDATE, 0, 0),
    ]
    .concat();
    let message = [call(1), frame(Head::DATA, 0, 1)].concat();
    let room = frame(Head::WINDOW_UPDATE, 0, 1);
    for (frames, serves) in [(&refusal, false), (&message, true), (&room, true)] {
        let (_, mut observer) = observer();
        let (one, other) = frames.split_at(5);
        let slices = [IoSlice::new(one), IoSlice::new(other)];
        assert_eq!(observer.wrote(&peer(), &slices, frames.len()), serves);
        let again = observer.wrote(&peer(), &slices, frames.len());
        assert!(!again, "it is told once");
    }
    let (_, mut observer) = observer();
    // The head of the message, and a byte of it.
    let begins = message.len() - 2;
    assert!(!wrote(&mut observer, &message[..begins - 1]));
    assert!(wrote(&mut observer, &message[begins - 1..begins]));
    assert!(!wrote(&mut observer, &message[begins..]));
}

#[test]
fn a_flood_of_frames_without_content_ends_in_an_error() {
    let (_, mut observer) = observer();
    let now = std::time::Instant::now();
    let flood = frame(SETTINGS, 0, 0).repeat(10_000);
    let flooded = observer.read(|| now, &peer(), &flood);
    flooded.expect_err("the SETTINGS of the preface took one of them");
    // HTTP/1.1 is no flood of frames.
    let (connection, now) = (
        OpenConnection::new(Instant::now()),
        std::time::Instant::now(),
    );
    let mut observer = watched(connection);
    for piece in [&b"P"[..], b"OST /a.B/Get HTTP/1.1\r\n\r\n", &[0; 1 << 20]] {
        observer.read(|| now, &peer(), piece).expect("not followed");
    }
    assert!(!wrote(&mut observer, &[0; 100]));
}
