//! Follows one attempt, as a future and then as a body, to its end.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Response, StatusCode, response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::Code;

use super::{
    Ending, Outcome, Pushback,
    head::{code_of_http, is_foreign, status},
};
use crate::{
    BoxError, Deadline, Fault,
    fault::{chain, code_of},
};

/// Who is told how an attempt ended. A closure `FnOnce(&Outcome)` is one.
pub trait Observe {
    /// The head is there and decides nothing: the end may be days away. Nothing is to be done by default.
    #[inline]
    fn answered(&mut self) {}

    /// Called once, by whichever end comes first; from a destructor when that is a drop, so it must not panic or block.
    fn ended(self, outcome: &Outcome);
}

impl<F: FnOnce(&Outcome)> Observe for F {
    fn ended(self, outcome: &Outcome) {
        self(outcome);
    }
}

/// Follows the attempt that `future` is. `deadline` is the call's, if it has one.
///
/// The end is told when it is seen: at once for an error or a head that is trailers too, else from the body's last frame or a drop.
/// The future and the body that it yields are as cancel safe as what they wrap.
#[inline]
pub fn track<F, O: Observe>(future: F, observer: O, deadline: Option<Deadline>) -> Tracked<F, O> {
    let deadline = deadline.map(|at| (at, at.left()));
    followed(future, observer, deadline)
}

/// The same for who has just looked at the clock.
#[cfg(any(feature = "metrics", feature = "select"))]
#[inline]
pub(crate) fn track_at<F, O: Observe>(
    future: F,
    observer: O,
    deadline: Option<Deadline>,
    now: Instant,
) -> Tracked<F, O> {
    let left = |at: Deadline| at.instant().saturating_duration_since(now);
    followed(future, observer, deadline.map(|at| (at, left(at))))
}

#[inline]
fn followed<F, O: Observe>(
    future: F,
    observer: O,
    deadline: Option<(Deadline, Duration)>,
) -> Tracked<F, O> {
    Tracked {
        inner: future,
        attempt: Attempt {
            observer: Some(observer),
            deadline,
            stage: Stage::Future,
        },
    }
}

/// Passes `future` on unfollowed, in the type of one that is: for a layer that has nobody to tell.
#[inline]
pub fn untracked<F, O: Observe>(future: F) -> Tracked<F, O> {
    Tracked {
        inner: future,
        attempt: Attempt {
            observer: None,
            deadline: None,
            stage: Stage::Future,
        },
    }
}

/// Tells its observer once; at the latest when it is dropped.
struct Attempt<O: Observe> {
    /// None once it was told, and where there is nobody to tell.
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

impl<O: Observe> Attempt<O> {
    /// The same attempt, to go on elsewhere.
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

    /// It ended otherwise.
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
        let is_over = |at: Deadline| at.instant() <= Instant::now() + SLACK;
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
    fn failed(&mut self, ending: Ending, error: &BoxError) {
        if self.observer.is_none() {
            return;
        }
        let fault = Fault::find(&**error);
        let said = chain(&**error)
            .find_map(|error| error.downcast_ref::<tonic::Status>())
            .map(|status| status.metadata().as_ref());
        self.settle(ending, code_of(&**error), fault.as_ref(), said);
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

impl<O: Observe> Drop for Attempt<O> {
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
        attempt: Attempt<O>,
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
        match this.inner.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(response)) => {
                let (head, inner) = response.into_parts();
                if this.attempt.observer.is_some() {
                    this.attempt.head(&head, inner.is_end_stream());
                }
                let attempt = this.attempt.take();
                let body = TrackedBody { inner, attempt };
                Poll::Ready(Ok(Response::from_parts(head, body)))
            }
            Poll::Ready(Err(error)) => {
                let error = error.into();
                this.attempt.failed(Ending::Error, &error);
                Poll::Ready(Err(error))
            }
        }
    }
}

pin_project! {
    /// A response's body that is followed: see [`track`]. Its size and its end are the inner one's.
    pub struct TrackedBody<B, O: Observe> {
        #[pin]
        inner: B,
        attempt: Attempt<O>,
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
                if this.attempt.observer.is_some() {
                    this.attempt.frame(&frame, this.inner.is_end_stream());
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let error = error.into();
                this.attempt.failed(Ending::BodyError, &error);
                Some(Err(error))
            }
            None => {
                this.attempt
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
