//! A call that never left returns in its error.
//!
//! A transport that knows that it sent nothing returns the request with the error, as hyper's `TrySendError` does. A retry or a selection above
//! takes the request out of the error and sends it again, so neither copies a request before it is sent. The layers in between pass the error on
//! unchanged. Tell a layer that its service does so with [`RetryLayer::returned`](crate::retry::RetryLayer::returned).

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use http::{Request, request};
use tonic::{Status, body::Body};

#[cfg(feature = "select")]
use crate::Deadline;
use crate::{BoxError, Fault, Origin, peek::Peeked, replay::Held};

/// The error of a call that never left, or that the peer provably has not begun, with the call's request. Its source is the original error.
#[derive(thiserror::Error)]
#[error("the call was not sent")]
pub struct Unsent {
    #[source]
    error: BoxError,
    /// A tonic body is not `Sync`; an error must be.
    request: Mutex<Option<Request<Body>>>,
}

impl Unsent {
    /// Adds the request to the error.
    pub fn wrap(
        error: impl Into<BoxError>,
        #[cfg_attr(
            not(feature = "breaker"),
            expect(unused_mut, reason = "nothing to remove")
        )]
        mut request: Request<Body>,
    ) -> BoxError {
        #[cfg(feature = "breaker")]
        // The next attempt is a probe only if a breaker says so again.
        request.extensions_mut().remove::<crate::breaker::Probing>();
        Box::new(Self {
            error: error.into(),
            request: Mutex::new(Some(request)),
        })
    }

    /// The error, and the request if the error has one.
    pub fn take(error: BoxError) -> (BoxError, Option<Request<Body>>) {
        match error.downcast::<Self>() {
            Ok(unsent) => {
                let Self { error, request } = *unsent;
                let request = request.into_inner();
                (error, request.unwrap_or_else(PoisonError::into_inner))
            }
            Err(error) => (error, None),
        }
    }
}

impl fmt::Debug for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unsent").field(&self.error).finish()
    }
}

/// What is kept of a request, so that it can be sent again.
pub struct Kept {
    head: request::Parts,
    body: Held,
}

impl Kept {
    /// Keeps a request: a copy of its head, with the original extensions, and a reference to a message of at most `limit` bytes, or that much of
    /// a stream once it is sent. Returns the head, without extensions, and the body to send. Keeps nothing for a message that is larger.
    pub fn new(
        mut head: Request<()>,
        body: Peeked<Body>,
        limit: usize,
    ) -> (Option<Self>, Request<()>, Peeked<Body>) {
        let (held, body) = Held::keep(body, limit, superseded);
        let kept = held.map(|held| {
            let extensions = std::mem::take(head.extensions_mut());
            let (mut kept, ()) = head.clone().into_parts();
            kept.extensions = extensions;
            Self {
                head: kept,
                body: held,
            }
        });
        (kept, head, body)
    }

    /// Keeps `request`, and returns one to be sent.
    #[cfg(feature = "select")]
    pub(crate) fn copy(request: Request<Body>, limit: usize) -> (Self, Request<Body>) {
        let (head, body) = request.into_parts();
        let body = Held::new(body, limit, superseded);
        let first = Request::from_parts(head.clone(), body.attempt());
        (Self { head, body }, first)
    }

    /// Takes the request back from the attempt that has failed. `None` if the attempt has read more than was kept.
    pub fn take_back(self) -> Option<Request<Body>> {
        let Self { head, body } = self;
        // The body last: after this the failed attempt can't read it.
        (body.take_back()).then(|| Request::from_parts(head, body.attempt()))
    }

    /// Drops what is kept, since the answer has begun.
    pub fn commit(self) {
        self.body.commit();
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// What the body of an attempt yields after its request was taken back: its transport failed, but may still read.
fn superseded() -> BoxError {
    let status = Status::cancelled("the request was sent again, because this attempt failed");
    Box::new(Fault::perhaps_sent(Origin::Ours, status))
}

/// The request again, with the time left. `None` if no time is left.
#[cfg(feature = "select")]
pub(crate) fn again(mut request: Request<Body>) -> Option<Request<Body>> {
    if let Some(deadline) = Deadline::of(&request) {
        if deadline.is_over() {
            return None;
        }
        // Only if it came with the call: otherwise `of` has just counted the header from now.
        if request.extensions().get::<Deadline>().is_some() {
            deadline.stamp(request.headers_mut());
        }
    }
    Some(request)
}

#[cfg(all(test, feature = "retry"))]
mod tests {
    use std::{
        convert::Infallible,
        future::ready,
        sync::{Arc, Mutex},
        task::{Context, Waker},
    };

    use bytes::Bytes;
    use http::Response;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use tokio_stream::StreamExt as _;
    use tower::{Layer as _, ServiceExt as _, service_fn};

    use super::*;
    use crate::{fault::code_of, retry::RetryLayer};

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Mark(u8);

    /// A transport that sends nothing twice, and says what came the third time.
    async fn third(body: Body) -> (Option<Mark>, Bytes) {
        let seen = Arc::new(Mutex::new(0));
        let arm = service_fn(move |request: Request<Body>| {
            let mut seen = seen.lock().expect("no panic");
            *seen += 1;
            let last = *seen == 3;
            async move {
                let (head, body) = request.into_parts();
                let body = Peeked::new(body, &mut Context::from_waker(Waker::noop()));
                let (kept, _, mut body) = Kept::new(Request::from_parts(head, ()), body, 1 << 10);
                if !last {
                    // As much as is there has left when the peer refuses it.
                    let _ = body.frame().await;
                    let refused = Fault::unsent(Origin::Refused, Status::unavailable("full"));
                    let request = kept.and_then(Kept::take_back).expect("all of it is kept");
                    assert!(
                        body.frame().await.is_none_or(|frame| frame.is_err()),
                        "the attempt that failed gets no more of it"
                    );
                    return Err(Unsent::wrap(refused, request));
                }
                let kept = kept.expect("kept");
                let mark = kept.head.extensions.get::<Mark>().copied();
                let body = body.collect().await.expect("a body").to_bytes();
                let mut response = Response::new(Full::new(body));
                response.extensions_mut().insert(mark);
                Ok(response)
            }
        });
        let retry = RetryLayer::default().returned().layer(arm);
        let mut request = Request::new(body);
        request.extensions_mut().insert(Mark(7));
        let response = retry.oneshot(request).await.expect("sent again");
        let mark = *response.extensions().get::<Option<Mark>>().expect("set");
        let body = response.into_body().collect().await.expect("infallible");
        (mark, body.to_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_back_in_its_error_is_sent_again_whole() {
        let whole = Body::new(Full::new(Bytes::from_static(b"\0\0\0\0\x01x")));
        let (mark, body) = third(whole).await;
        assert_eq!((mark, &body[..]), (Some(Mark(7)), &b"\0\0\0\0\x01x"[..]));
        assert_eq!(third(Body::empty()).await.1, "");
        let frames = tokio_stream::iter(["one", "two", "three"]);
        let frames = frames.map(|data| Ok::<_, Infallible>(Frame::data(Bytes::from(data))));
        let stream = StreamBody::new(frames);
        // One that has nothing at hand when it is looked at, too.
        let (mark, body) = third(Body::new(stream)).await;
        assert_eq!((mark, &body[..]), (Some(Mark(7)), &b"onetwothree"[..]));
    }

    #[tokio::test]
    async fn an_error_without_its_request_is_the_caller_s_and_so_is_one_that_has_it() {
        let fault = || Fault::unsent(Origin::Refused, Status::unavailable("full"));
        let arm = service_fn(move |_: Request<Body>| {
            ready(Err::<Response<Body>, BoxError>(fault().into()))
        });
        let retry = RetryLayer::default().returned().layer(arm);
        let error = retry.oneshot(Request::new(Body::empty())).await;
        assert!(error.expect_err("once").is::<Fault>());

        let arm = service_fn(move |request: Request<Body>| {
            ready(Err::<Response<Body>, _>(Unsent::wrap(fault(), request)))
        });
        for policy in [Default::default(), crate::retry::RetryPolicy::disabled()] {
            let retry = RetryLayer::new(policy).returned().layer(arm);
            let error = retry.oneshot(Request::new(Body::empty())).await;
            assert!(error.expect_err("for ever").is::<Fault>(), "and no more");
        }
        let error = Unsent::wrap(fault(), Request::new(Body::empty()));
        assert_eq!(code_of(&*error), tonic::Code::Unavailable);
        assert!(Fault::find(&*error).expect("beneath").not_processed());
    }

    #[test]
    fn a_message_that_is_too_large_is_not_kept() {
        let body = Body::new(Full::new(Bytes::from(vec![0; 101])));
        let body = Peeked::new(body, &mut Context::from_waker(Waker::noop()));
        let (kept, _, mut body) = Kept::new(Request::new(()), body, 100);
        assert!(kept.is_none());
        assert_eq!(body.take_single().expect("as it was").len(), 101);
    }
}
