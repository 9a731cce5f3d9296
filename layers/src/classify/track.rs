//! Follows one attempt, as a future and then as a body, to its end.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Request, Response, StatusCode, response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Code;

use super::{
    Ending, Outcome, Pushback,
    head::{code_of_http, is_foreign, status},
};
use crate::{
    BoxError, Deadline, Fault, clock,
    fault::{chain, code_of},
};

/// Observes how an attempt ended. Implemented for closures `FnOnce(&Outcome)`, pairs, options and `()`.
pub trait Observe {
    /// The head has arrived and decides nothing: the end may be days away. Does nothing by default.
    #[inline]
    fn answered(&mut self) {}

    /// Called once, at the first end; from a destructor when that is a drop, so it must not panic or block.
    fn ended(self, outcome: &Outcome);
}

impl<F: FnOnce(&Outcome)> Observe for F {
    fn ended(self, outcome: &Outcome) {
        self(outcome);
    }
}

/// Makes an observer for each attempt that begins.
///
/// A layer that follows attempts itself accepts a recorder, as `BreakerLayer::recording` does, so that each attempt is followed once.
pub trait Recorder: Clone {
    /// The observer of an attempt's end.
    type Observer: Observe;

    /// Whether it records anything. If not, no deadline is read for it, and its observer may not be called.
    fn records(&self) -> bool {
        true
    }

    /// An attempt begins. The returned observer is told of its end.
    fn begin<B>(&self, request: &Request<B>) -> Self::Observer;
}

/// Records nothing.
impl Recorder for () {
    type Observer = ();

    #[inline]
    fn records(&self) -> bool {
        false
    }

    #[inline]
    fn begin<B>(&self, _: &Request<B>) {}
}

/// Observes nothing.
impl Observe for () {
    #[inline]
    fn ended(self, _: &Outcome) {}
}

impl<O: Observe> Observe for Option<O> {
    #[inline]
    fn answered(&mut self) {
        if let Some(observer) = self {
            observer.answered();
        }
    }

    #[inline]
    fn ended(self, outcome: &Outcome) {
        if let Some(observer) = self {
            observer.ended(outcome);
        }
    }
}

impl<A: Observe, B: Observe> Observe for (A, B) {
    #[inline]
    fn answered(&mut self) {
        self.0.answered();
        self.1.answered();
    }

    #[inline]
    fn ended(self, outcome: &Outcome) {
        self.0.ended(outcome);
        self.1.ended(outcome);
    }
}

/// Follows the attempt that `future` performs. `deadline` is the call's, if it has one.
///
/// The end is told when it is seen: at once for an error or a trailers-only head, else at the body's last frame or a drop. The future
/// and the body that it yields are as cancel safe as what they wrap.
#[inline]
pub fn track<F, O: Observe>(future: F, observer: O, deadline: Option<Deadline>) -> Tracked<F, O> {
    Tracking::new(observer, deadline).follow(future)
}

/// Passes `future` on unfollowed, in the type of a followed one: for a layer without an observer.
#[inline]
pub fn untracked<F, O: Observe>(future: F) -> Tracked<F, O> {
    Tracking::off().follow(future)
}

#[inline]
fn with_left(at: Deadline) -> (Deadline, Duration) {
    (at, at.left_at(clock::now()))
}

/// Follows an attempt and tells its observer once, at the latest when it is dropped.
pub(crate) struct Tracking<O: Observe> {
    /// `None` once it was told, and without an observer.
    observer: Option<O>,
    /// The deadline, and how long it was when the attempt began.
    deadline: Option<(Deadline, Duration)>,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    Future,
    Body { got_data: bool },
}

/// A peer may end a call by its own clock, this much before ours would.
const SLACK: Duration = Duration::from_millis(5);

impl<O: Observe> Tracking<O> {
    #[inline]
    pub(crate) fn new(observer: O, deadline: Option<Deadline>) -> Self {
        Self {
            observer: Some(observer),
            deadline: deadline.map(with_left),
            stage: Stage::Future,
        }
    }

    /// Follows nothing.
    #[inline]
    pub(crate) fn off() -> Self {
        Self {
            observer: None,
            deadline: None,
            stage: Stage::Future,
        }
    }

    /// Follows what `future` yields.
    #[inline]
    pub(crate) fn follow<F>(self, future: F) -> Tracked<F, O> {
        Tracked {
            inner: future,
            tracking: self,
        }
    }

    /// The attempt begins only now. `deadline` is the call's, in case it is not known yet.
    #[cfg(feature = "breaker")]
    #[inline]
    pub(crate) fn restart(&mut self, deadline: Option<Deadline>) {
        let deadline = self.deadline.map(|(at, _)| at).or(deadline);
        self.deadline = deadline.map(with_left);
    }

    /// The observer, unless it has been told.
    #[cfg(feature = "breaker")]
    #[inline]
    pub(crate) fn observer(&mut self) -> Option<&mut O> {
        self.observer.as_mut()
    }

    /// The same attempt, to continue elsewhere.
    #[inline]
    fn take(&mut self) -> Self {
        Self {
            observer: self.observer.take(),
            deadline: self.deadline,
            stage: self.stage,
        }
    }

    /// It ended with OK.
    #[inline]
    fn succeeded(&mut self, ending: Ending) {
        if let Some(observer) = self.observer.take() {
            observer.ended(&Outcome {
                ending,
                code: Code::Ok,
                origin: None,
                not_processed: false,
                // With OK there is nothing to send again.
                pushback: None,
                timed_out_after: None,
                after_data: self.got_data(),
            });
        }
    }

    #[inline]
    fn got_data(&self) -> bool {
        matches!(self.stage, Stage::Body { got_data: true })
    }

    /// It ended without OK.
    #[cold]
    fn settle(
        &mut self,
        ending: Ending,
        code: Code,
        fault: Option<&Fault>,
        said: Option<&HeaderMap>,
    ) {
        let Some(observer) = self.observer.take() else {
            return;
        };
        let is_over = |at: Deadline| at.instant() <= clock::now() + SLACK;
        let timed_out = self.deadline.filter(|(at, _)| match (code, ending) {
            // In an answer that comes earlier it is the handler's own.
            (Code::DeadlineExceeded, Ending::Head | Ending::Trailers) => is_over(*at),
            // The transport's own time-out, which may be shorter.
            (Code::DeadlineExceeded, _) => true,
            // tonic's servers say CANCELLED when the time is over, and a layer above drops what it waited for.
            (Code::Cancelled, _) => is_over(*at),
            _ => false,
        });
        let timed_out_after = timed_out.map(|(_, budget)| budget);
        observer.ended(&Outcome {
            ending,
            code: match timed_out_after {
                Some(_) => Code::DeadlineExceeded,
                None => code,
            },
            origin: fault.map(Fault::origin),
            not_processed: fault.is_some_and(Fault::not_processed),
            pushback: said.and_then(Pushback::read),
            timed_out_after,
            after_data: self.got_data(),
        });
    }

    #[cold]
    pub(crate) fn failed(&mut self, ending: Ending, error: &BoxError) {
        if self.observer.is_none() {
            return;
        }
        let fault = Fault::find(&**error);
        let said = chain(&**error)
            .find_map(|error| error.downcast_ref::<tonic::Status>())
            .map(|status| status.metadata().as_ref());
        self.settle(ending, code_of(&**error), fault.as_ref(), said);
    }

    /// What the attempt's future has yielded: tells of its end, or follows the body.
    #[inline]
    pub(crate) fn response<R: Body, E: Into<BoxError>>(
        &mut self,
        result: Result<Response<R>, E>,
    ) -> Result<Response<TrackedBody<R, O>>, BoxError> {
        match result {
            Ok(response) => {
                let (head, inner) = response.into_parts();
                if self.observer.is_some() {
                    self.head(&head, inner.is_end_stream());
                }
                let tracking = self.take();
                Ok(Response::from_parts(head, TrackedBody { inner, tracking }))
            }
            Err(error) => {
                let error = error.into();
                self.failed(Ending::Error, &error);
                Err(error)
            }
        }
    }

    /// Settles what the head decides.
    #[inline]
    fn head(&mut self, head: &response::Parts, is_end: bool) {
        self.stage = Stage::Body { got_data: false };
        let headers = &head.headers;
        match status(headers) {
            // A head with OK and a body after it is only a head.
            Some(Code::Ok) if !is_end => self.answered(),
            Some(Code::Ok) => self.succeeded(Ending::Head),
            Some(code) => self.settle(Ending::Head, code, None, Some(headers)),
            None if head.status != StatusCode::OK => {
                let code = code_of_http(head.status);
                self.settle(Ending::Http(head.status), code, None, Some(headers));
            }
            None if is_foreign(headers) => {
                self.settle(Ending::NotGrpc, Code::Unknown, None, None);
            }
            None if is_end => self.settle(Ending::NoStatus, Code::Unknown, None, None),
            None => self.answered(),
        }
    }

    #[inline]
    fn answered(&mut self) {
        if let Some(observer) = &mut self.observer {
            observer.answered();
        }
    }

    #[inline]
    fn frame<D>(&mut self, frame: &Frame<D>, is_end: bool) {
        match frame.trailers_ref() {
            Some(trailers) => match status(trailers) {
                Some(Code::Ok) => self.succeeded(Ending::Trailers),
                Some(code) => self.settle(Ending::Trailers, code, None, Some(trailers)),
                None => self.settle(Ending::NoStatus, Code::Unknown, None, Some(trailers)),
            },
            None => {
                self.stage = Stage::Body { got_data: true };
                if is_end {
                    self.settle(Ending::NoStatus, Code::Unknown, None, None);
                }
            }
        }
    }
}

impl<O: Observe> Drop for Tracking<O> {
    #[inline]
    fn drop(&mut self) {
        if self.observer.is_none() {
            return;
        }
        let ending = match self.stage {
            Stage::Future => Ending::FutureDropped,
            Stage::Body { got_data } => Ending::BodyDropped {
                after_data: got_data,
            },
        };
        self.settle(ending, Code::Cancelled, None, None);
    }
}

pin_project! {
    /// A future that is followed: see [`track`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Tracked<F, O: Observe> {
        #[pin]
        inner: F,
        tracking: Tracking<O>,
    }
}

impl<F, R, E, O> Future for Tracked<F, O>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
    O: Observe,
{
    type Output = Result<Response<TrackedBody<R, O>>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        Poll::Ready(this.tracking.response(result))
    }
}

pin_project! {
    /// A followed body of a response: see [`track`]. Its size and its end are the inner body's.
    pub struct TrackedBody<B, O: Observe> {
        #[pin]
        inner: B,
        tracking: Tracking<O>,
    }
}

impl<B, O> Body for TrackedBody<B, O>
where
    B: Body,
    B::Error: Into<BoxError>,
    O: Observe,
{
    type Data = B::Data;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if this.tracking.observer.is_some() {
                    this.tracking.frame(&frame, this.inner.is_end_stream());
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let error = error.into();
                this.tracking.failed(Ending::BodyError, &error);
                Some(Err(error))
            }
            None => {
                this.tracking
                    .settle(Ending::NoStatus, Code::Unknown, None, None);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
