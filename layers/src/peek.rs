//! The size of a call's first message, before the call is sent.
//!
//! gRPC prefixes each message with five bytes: a flag that says whether it is compressed, and its length, big-endian
//! ([PROTOCOL-HTTP2], "Length-Prefixed-Message"). A transport that sends large messages over another path than small ones needs
//! no more than those five bytes. [`Peeked::new`] reads a body's first frame if one is ready. It never waits for a frame (a
//! client stream may wait for the server to speak first), and returns a body that still yields everything.
//!
//! It also learns whether that first frame was the whole body. A generated client's unary body does not say so, which costs an
//! empty DATA frame with END_STREAM per call; a peeked body does. On the receiving side such an empty frame is dropped, so that a
//! call that arrived whole is seen to be whole.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use bytes::Bytes;
//! use http_body_util::{BodyExt, Full};
//! use tower_iroh_layers::peek::Peeked;
//!
//! let body = Full::new(Bytes::from_static(b"\0\0\0\0\x02hi"));
//! let body = std::future::poll_fn(|cx| std::task::Poll::Ready(Peeked::new(body.clone(), cx))).await;
//! assert_eq!(body.message_len(), Some(2));
//! assert!(body.is_whole());
//! assert_eq!(body.collect().await.unwrap().to_bytes().len(), 7);
//! # }
//! ```
//!
//! [PROTOCOL-HTTP2]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The length of the prefix before each message.
pub const PREFIX_LEN: usize = 5;

/// The length of the first message in `bytes`, from its prefix. `None` when there are fewer than [`PREFIX_LEN`] bytes, or when
/// the flag is neither 0 nor 1, which no gRPC message has.
pub fn message_len(bytes: &[u8]) -> Option<u32> {
    match bytes {
        [0 | 1, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// Whether a frame carries nothing, as the DATA frame that only ends a stream does.
fn is_empty(frame: &Frame<Bytes>) -> bool {
    frame.data_ref().is_some_and(Bytes::is_empty)
}

type Held<B> = Result<Frame<<B as Body>::Data>, <B as Body>::Error>;

/// A body whose first frame has been read.
///
/// Cancel safe: it holds the frame. Dropping it between polls loses nothing but the body itself.
pub struct Peeked<B: Body> {
    /// What was polled from `rest` and not yet yielded. At most two: a data frame, and trailers or an error behind it.
    held: [Option<Held<B>>; 2],
    /// Absent once the body has reported its end.
    rest: Option<B>,
}

impl<B: Body<Data = Bytes> + Unpin> Peeked<B> {
    /// Polls `body` for its first frame, and once or twice more to learn whether it was the last.
    ///
    /// If the body is not ready, it later wakes the task of `cx`, as with any poll.
    pub fn new(mut body: B, cx: &mut Context<'_>) -> Self {
        let mut held = [None, None];
        let mut filled = 0;
        // Enough for two frames and an empty one. A peer may send empty frames without end.
        for _ in 0..=held.len() {
            if body.is_end_stream() {
                return Self { held, rest: None };
            }
            if filled == held.len() {
                break;
            }
            match Pin::new(&mut body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) if is_empty(&frame) => {}
                Poll::Ready(Some(frame)) => {
                    // Nothing follows trailers or an error.
                    let last = frame.as_ref().map_or(true, Frame::is_trailers);
                    held[filled] = Some(frame);
                    filled += 1;
                    if last {
                        return Self { held, rest: None };
                    }
                }
                Poll::Ready(None) => return Self { held, rest: None },
                Poll::Pending => break,
            }
        }
        Self {
            held,
            rest: Some(body),
        }
    }

    /// A body of one data frame.
    pub fn single(data: Bytes) -> Self {
        Self {
            held: [Some(Ok(Frame::data(data))), None],
            rest: None,
        }
    }

    /// A body that has not been read.
    pub fn unread(body: B) -> Self {
        Self {
            held: [None, None],
            rest: Some(body),
        }
    }

    /// The length of the first message, without its prefix; `None` if the body had nothing ready.
    pub fn message_len(&self) -> Option<u32> {
        message_len(self.first_data()?)
    }

    /// Whether this body holds everything, so that there is nothing to wait for.
    pub fn is_whole(&self) -> bool {
        self.rest.is_none() && !self.held.iter().any(|frame| matches!(frame, Some(Err(_))))
    }

    /// Takes the single data frame that is the whole body; the body is then at its end.
    ///
    /// `None`, with nothing taken, if the body goes on, is empty, failed, or has trailers.
    pub fn take_single(&mut self) -> Option<Bytes> {
        if self.rest.is_some() || self.held[1].is_some() {
            return None;
        }
        self.first_data()?;
        let frame = self.held[0].take()?.ok()?;
        frame.into_data().ok()
    }

    /// Takes the error that the body began with, if there is one.
    pub fn take_error(&mut self) -> Option<B::Error> {
        match self.held[0].take() {
            Some(Err(error)) => Some(error),
            other => {
                self.held[0] = other;
                None
            }
        }
    }

    fn first_data(&self) -> Option<&Bytes> {
        self.held[0].as_ref()?.as_ref().ok()?.data_ref()
    }
}

impl<B: Body> fmt::Debug for Peeked<B> {
    /// Shows how much is held, not the content: it may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peeked")
            .field("held", &self.held.iter().flatten().count())
            .field("goes_on", &self.rest.is_some())
            .finish()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Peeked<B>
where
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(frame) = self.held.iter_mut().find_map(Option::take) {
            return Poll::Ready(Some(frame));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.iter().all(Option::is_none)
            && self.rest.as_ref().is_none_or(|rest| rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let held: u64 = self
            .held
            .iter()
            .filter_map(|frame| frame.as_ref()?.as_ref().ok()?.data_ref())
            .map(|data| data.len() as u64)
            .sum();
        let rest = match &self.rest {
            Some(rest) => rest.size_hint(),
            None => SizeHint::with_exact(0),
        };
        let mut hint = SizeHint::new();
        // The upper bound first: `set_lower` refuses to pass it.
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(held)) {
            hint.set_upper(upper);
        }
        hint.set_lower(rest.lower().saturating_add(held));
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, task::Waker};

    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;

    /// A body that plays a script; `None` is a poll that finds nothing ready.
    struct Script(VecDeque<Option<Frame<Bytes>>>);

    impl Body for Script {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(None) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                None => Poll::Ready(None),
            }
        }
    }

    fn peek(script: impl IntoIterator<Item = Option<Frame<Bytes>>>) -> Peeked<Script> {
        let body = Script(script.into_iter().collect());
        Peeked::new(body, &mut Context::from_waker(Waker::noop()))
    }

    fn data(bytes: &'static [u8]) -> Option<Frame<Bytes>> {
        Some(Frame::data(Bytes::from_static(bytes)))
    }

    #[test]
    fn a_unary_body_is_one_whole_frame() {
        let mut body = peek([data(b"\0\0\0\0\x01x")]);
        assert_eq!(body.message_len(), Some(1));
        assert!(body.is_whole() && !body.is_end_stream());
        assert_eq!(body.take_single().expect("single"), "\0\0\0\0\x01x");
        assert!(body.is_end_stream());
    }

    #[test]
    fn an_empty_frame_behind_the_message_is_no_second_frame() {
        let mut body = peek([data(b"\0\0\0\0\x01x"), data(b"")]);
        assert!(body.is_whole());
        assert_eq!(body.take_single().expect("single"), "\0\0\0\0\x01x");
        // However many follow, a peek polls three times at most.
        let endless = std::iter::repeat_with(|| data(b"")).take(100);
        let body = peek(endless);
        assert_eq!(body.rest.expect("goes on").0.len(), 97);
    }

    #[test]
    fn a_body_that_waits_is_not_waited_for() {
        let mut body = peek([None, data(b"\0\0\0\0\x01x")]);
        assert_eq!(body.message_len(), None);
        assert!(!body.is_whole());
        assert!(body.take_single().is_none());
    }

    #[test]
    fn a_short_or_foreign_prefix_has_no_length() {
        assert_eq!(message_len(b"\0\0\0\0"), None);
        assert_eq!(message_len(b"GET / HTTP"), None);
        assert_eq!(message_len(b"\x01\xff\xff\xff\xff"), Some(u32::MAX));
    }

    #[tokio::test]
    async fn trailers_come_after_the_data() {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("a", "b".parse().expect("a value"));
        let mut body = peek([data(b"xy"), Some(Frame::trailers(trailers))]);
        assert!(body.is_whole());
        assert!(body.take_single().is_none(), "trailers are not data");
        let collected = body.collect().await.expect("infallible");
        assert_eq!(collected.trailers().expect("trailers")["a"], "b");
        assert_eq!(collected.to_bytes(), "xy");
    }

    /// A body that fails, and must not be asked again.
    struct Failing(bool);

    impl Body for Failing {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            assert!(
                !std::mem::replace(&mut self.0, true),
                "polled after its end"
            );
            Poll::Ready(Some(Err("lost")))
        }
    }

    #[tokio::test]
    async fn a_body_that_failed_is_not_polled_again() {
        let mut body = Peeked::new(Failing(false), &mut Context::from_waker(Waker::noop()));
        assert!(!body.is_whole() && !body.is_end_stream());
        assert_eq!(body.frame().await.expect("a frame").err(), Some("lost"));
        assert!(body.frame().await.is_none());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_whatever_the_body_does(
            script in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..8)), 0..6),
        ) {
            let expected: Vec<u8> = script.iter().flatten().flatten().copied().collect();
            let body = peek(script.into_iter().map(|step| step.map(|bytes| Frame::data(Bytes::from(bytes)))));
            let lower = body.size_hint().lower();
            prop_assert!(lower <= expected.len() as u64);
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let all = runtime.block_on(body.collect()).expect("infallible").to_bytes();
            prop_assert_eq!(all.to_vec(), expected);
        }
    }
}
