//! Whatever passes is fed to an HTTP/2 server, which must see listed calls only.

use http::Request;
use proptest::prelude::*;
use tokio_test::task;

use super::*;

pub(in crate::quic::io) const LISTED: &str = "/a.B/Get";
pub(in crate::quic::io) const OTHER: &str = "/a.B/Take";

fn screen() -> Screen {
    Screen::new(Arc::new(|path| path == LISTED))
}

/// One call: its path, the length of its body, and whether trailers follow.
pub(in crate::quic::io) type Call = (&'static str, usize, bool);

/// What a client sends that makes these calls.
pub(in crate::quic::io) fn sent(calls: &[Call]) -> Vec<u8> {
    let (io, mut far) = tokio::io::duplex(4 << 20);
    let mut handshake = task::spawn(h2::client::handshake(io));
    let Poll::Ready(Ok((mut requests, connection))) = handshake.poll() else {
        panic!("a duplex takes the preface");
    };
    let mut connection = task::spawn(connection);
    let mut open = Vec::new();
    for (path, len, trailers) in calls {
        let head = Request::post(format!("http://peer{path}")).body(());
        let head = head.expect("a request");
        let (response, mut body) = requests.send_request(head, false).expect("sent");
        let data = Bytes::from(vec![0; *len]);
        body.send_data(data, !trailers).expect("sent");
        if *trailers {
            body.send_trailers(http::HeaderMap::new()).expect("sent");
        }
        open.push((response, body));
        assert!(connection.poll().is_pending());
    }
    let mut bytes = vec![0; 4 << 20];
    let mut read = ReadBuf::new(&mut bytes);
    let mut far = task::spawn(std::future::poll_fn(|cx| {
        Pin::new(&mut far).poll_read(cx, &mut read)
    }));
    assert!(far.poll().is_ready());
    drop(far);
    let len = read.filled().len();
    bytes.truncate(len);
    bytes
}

/// The paths of the calls that an HTTP/2 server with the settings of tonic's sees in these bytes.
fn served(bytes: &[u8]) -> Vec<String> {
    let tape = Tape::default();
    tape.lock().extend_from_slice(bytes);
    let builder = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 20)
        .max_frame_size(16 << 10)
        .max_header_list_size(16 << 20)
        .handshake::<_, Bytes>(tape);
    let mut paths = Vec::new();
    let Poll::Ready(Ok(mut connection)) = task::spawn(builder).poll() else {
        return paths;
    };
    let mut cx = Context::from_waker(Waker::noop());
    let mut open = Vec::new();
    while let Poll::Ready(Some(Ok(call))) = connection.poll_accept(&mut cx) {
        paths.push(call.0.uri().path().to_owned());
        open.push(call);
    }
    paths
}

/// What passes of bytes that come in such pieces.
fn passed(bytes: &[u8], pieces: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let (mut screen, mut passed, mut rest) = (screen(), 0, bytes);
    for piece in pieces {
        let (piece, after) = rest.split_at(piece.min(rest.len()));
        let through = screen.pass(piece);
        passed += through;
        rest = after;
        if through < piece.len() || rest.is_empty() {
            break;
        }
    }
    bytes[..passed].to_vec()
}

#[test]
fn listed_calls_pass_and_the_first_other_one_stops_the_lane() {
    let listed = [(LISTED, 100, false), (LISTED, 0, false)];
    let bytes = sent(&listed);
    assert_eq!(served(&bytes), [LISTED, LISTED], "the test's own tools");
    assert_eq!(passed(&bytes, [usize::MAX]), bytes);

    let bytes = sent(&[(LISTED, 9, false), (OTHER, 9, false), (LISTED, 9, false)]);
    assert_eq!(served(&bytes), [LISTED, OTHER, LISTED]);
    let passed = passed(&bytes, [usize::MAX]);
    assert_eq!(
        served(&passed),
        [LISTED],
        "what is behind the other one waits with it"
    );
}

#[test]
fn what_is_not_understood_waits() {
    // Trailers are a block of headers too, and no request.
    let trailers = sent(&[(LISTED, 9, true), (LISTED, 9, false)]);
    assert_eq!(served(&passed(&trailers, [usize::MAX])), [LISTED]);
    let http1 = b"POST /a.B/Get HTTP/1.1\r\nhost: peer\r\ncontent-length: 0\r\n\r\n";
    let mut screen = screen();
    assert!(screen.pass(http1) < http1.len());
    assert_eq!(screen.pass(b"PRI"), 0, "it does not open again");
}

#[test]
fn no_more_is_read_than_a_client_may_send() {
    let bytes = sent(&[(LISTED, 40_000, false), (LISTED, 25_000, false)]);
    assert!(bytes.len() < MOST);
    assert_eq!(passed(&bytes, [usize::MAX]).len(), bytes.len());
    // Not one more frame, although frames that are no DATA may follow.
    let mut more = bytes.clone();
    while more.len() <= MOST {
        more.extend_from_slice(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
    let passed = passed(&more, [usize::MAX]);
    assert!(passed.len() <= MOST && passed.len() >= bytes.len());
}

/// A call costs a dozen bytes of a lane and far more memory.
#[test]
fn a_lane_holds_a_bounded_number_of_calls() {
    let calls = vec![(LISTED, 0, false); MOST_CALLS as usize + 1];
    let bytes = sent(&calls);
    assert!(bytes.len() < MOST);
    let passed = passed(&bytes, [usize::MAX]);
    assert!(passed.len() < bytes.len());
    assert_eq!(served(&passed).len(), MOST_CALLS as usize);
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let path = prop_oneof![4 => Just(LISTED), 1 => Just(OTHER)];
    proptest::collection::vec((path, 0..2000usize, proptest::bool::weighted(0.1)), 1..8)
}

proptest! {
    #[test]
    fn exactly_the_listed_calls_before_the_first_other_one_are_served(
        calls in calls(), pieces in proptest::collection::vec(1..600usize, 1..200),
    ) {
        let bytes = sent(&calls);
        let passed = passed(&bytes, pieces.into_iter().chain([usize::MAX]));
        let first = calls.iter().position(|(path, _, trailers)| *path == OTHER || *trailers);
        let expected = match first {
            // A call with trailers is listed; its trailers stop the lane.
            Some(first) => first + usize::from(calls[first].0 == LISTED),
            None => calls.len(),
        };
        prop_assert_eq!(served(&passed), vec![LISTED; expected]);
    }

    /// Anybody with a key can send bytes that no client of ours sends.
    #[test]
    fn nothing_else_is_served_whatever_is_sent(
        calls in calls(), pieces in proptest::collection::vec(1..600usize, 1..50),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = sent(&calls);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let passed = passed(&bytes, pieces.into_iter().chain([usize::MAX]));
        prop_assert!(served(&passed).iter().all(|path| path == LISTED));
    }
}
