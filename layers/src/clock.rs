//! One clock reading for all layers within one poll.
//!
//! A dozen places read the clock for one call: metrics, deadline, the breaker's verdict, the selection's samples. Within one poll they all get the same time if
//! the outermost layer [freezes](frozen) the clock; otherwise each reads it. Code that waits for a timer reads the real clock, or it would wait for ever.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

thread_local! {
    static FROZEN: Cell<Frozen> = const { Cell::new(Frozen::No) };
}

#[derive(Clone, Copy)]
enum Frozen {
    No,
    /// Not read yet.
    Unread,
    At(Instant),
}

/// The time. Within [`frozen`] it is that of the first read.
#[inline]
pub fn now() -> Instant {
    match FROZEN.get() {
        Frozen::No => look(),
        Frozen::At(at) => at,
        Frozen::Unread => {
            let at = look();
            FROZEN.set(Frozen::At(at));
            at
        }
    }
}

#[inline]
fn look() -> Instant {
    #[cfg(test)]
    LOOKS.set(LOOKS.get() + 1);
    Instant::now()
}

#[cfg(test)]
thread_local! {
    /// How often this thread has read the clock.
    pub(crate) static LOOKS: Cell<u32> = const { Cell::new(0) };
}

/// Runs `f`, which may be the poll of a future, with a clock that stops at its first read. A nested call keeps the outer time.
///
/// `f` must not block: time that passes within it is not measured. Only [`now`] stands still; [`Deadline`](crate::Deadline) and tokio's clock go on.
#[inline]
pub fn frozen<T>(f: impl FnOnce() -> T) -> T {
    if !matches!(FROZEN.get(), Frozen::No) {
        return f();
    }
    FROZEN.set(Frozen::Unread);
    // Also after a panic.
    let _thaw = Thaw;
    f()
}

struct Thaw;

impl Drop for Thaw {
    fn drop(&mut self) {
        FROZEN.set(Frozen::No);
    }
}

pin_project! {
    /// A response's body that is polled with a [frozen] clock.
    #[derive(Debug)]
    pub struct FrozenBody<B> {
        #[pin]
        inner: B,
    }
}

impl<B> FrozenBody<B> {
    /// Wraps a body.
    pub fn new(inner: B) -> Self {
        Self { inner }
    }
}

impl<B: Body> Body for FrozenBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        frozen(|| self.project().inner.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{panic::catch_unwind, time::Duration};

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_stands_still_from_the_first_look_to_the_end() {
        let before = now();
        let tick = Duration::from_secs(1);
        let (first, second) = frozen(|| {
            let mut ticking = Box::pin(advance(tick));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            // The clock is set by the first poll.
            let _ = ticking.as_mut().poll(&mut cx);
            let first = now();
            let mut ticking = Box::pin(advance(tick));
            let _ = ticking.as_mut().poll(&mut cx);
            (first, frozen(now))
        });
        assert_eq!(first, before + tick);
        assert_eq!(second, first);
        assert_eq!(now(), first + tick);
    }

    #[test]
    fn a_panic_thaws_it() {
        catch_unwind(|| frozen(|| panic!("on purpose"))).expect_err("it panics");
        assert!(matches!(FROZEN.get(), Frozen::No));
    }

    /// Span, call metrics, deadline, attempt metrics, breaker and `grpc-timeout`, in the order of a stack.
    #[cfg(all(
        feature = "breaker",
        feature = "deadline",
        feature = "metrics",
        feature = "trace"
    ))]
    #[tokio::test]
    async fn a_unary_call_reads_the_clock_once_per_poll() {
        use std::{convert::Infallible, future::ready, task::Waker};

        use bytes::Bytes;
        use http::{HeaderMap, Request, Response};
        use http_body_util::StreamBody;
        use tower::{Layer as _, Service as _, service_fn};

        use crate::{
            breaker::{BreakerLayer, Circuit},
            deadline::{DeadlineLayer, StampLayer},
            metrics::MetricsLayer,
            trace::TraceLayer,
        };

        let answers = service_fn(|_: Request<()>| {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", 0.into());
            let frames = [
                Frame::data(Bytes::from_static(b"x")),
                Frame::trailers(trailers),
            ];
            let frames = tokio_stream::iter(frames.map(Ok::<_, Infallible>));
            ready(Ok::<_, Infallible>(Response::new(StreamBody::new(frames))))
        });
        let attempts = BreakerLayer::new(Circuit::new(Default::default()))
            .recording(MetricsLayer::attempt("any").recorder())
            .layer(StampLayer.layer(answers));
        let trace = TraceLayer::client().recording(MetricsLayer::client().recorder());
        let timed = DeadlineLayer::builder().default_timeout(Duration::from_secs(5));
        for (deadline, reads) in [
            (DeadlineLayer::new(), 3),
            (timed.build().expect("valid"), 4),
        ] {
            let mut service = trace.clone().layer(deadline.above(attempts.clone()));
            let mut cx = Context::from_waker(Waker::noop());
            LOOKS.set(0);
            assert!(service.poll_ready(&mut cx).is_ready());
            let mut call = Box::pin(frozen(|| service.call(Request::new(()))));
            let Poll::Ready(Ok(response)) = frozen(|| call.as_mut().poll(&mut cx)) else {
                panic!("it answers at once");
            };
            let mut body = Box::pin(FrozenBody::new(response.into_body()));
            while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
                frame.expect("a frame");
            }
            assert_eq!(LOOKS.get(), reads);
        }
    }
}
