use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use pin_project_lite::pin_project;
use tokio::sync::oneshot;
use tonic::body::Body;
use tower::{Service, util::Oneshot};

use super::{
    BufferError, BufferReason, Served,
    driver::start,
    entry::{End, Full},
    error::History,
    held::{Answer, Held, Message, Story, Verdict, Waiter, judge},
    shared::{Flight, Place, Queued, Shared},
};
use crate::{BoxError, Deadline, Idempotent, peek::Peeked};

pin_project! {
    /// The future of [`Buffer`](super::Buffer). Dropping it removes its call from the queue at once, or drops the call in flight.
    #[must_use = "futures do nothing unless polled"]
    pub struct BufferFuture<S, P>
    where
        S: Served,
        P: Service<Request<Body>>,
    {
        #[pin]
        state: State<S, P>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, P>
    where
        S: Served,
        P: Service<Request<Body>>,
    {
        // In boxes, so that the future of a call that passes by is no larger for them.
        Arrives { arrival: Option<Box<Arrival<S, P>>> },
        Passes { #[pin] future: Oneshot<P, Request<Body>> },
        Straight { #[pin] future: S::Future, call: Option<Box<Straight<S>>> },
        // The receiver is dropped before the place: code that puts the call back meanwhile sees it closed, or the place finds the
        // call.
        Waits { answer: oneshot::Receiver<Answer<S::Body>>, place: Option<Place<S::Body>> },
    }
}

/// A served call before its first poll.
struct Arrival<S: Served, P> {
    inner: S,
    passing: P,
    shared: Arc<Shared<S::Body>>,
    request: Request<Body>,
}

/// A call that went straight through.
struct Straight<S: Served> {
    /// The message that is kept in case the call comes back; or why there was no capacity for it.
    message: Result<Message, Full>,
    story: Story,
    flight: Flight<S::Body>,
    template: S,
}

impl<S, P> BufferFuture<S, P>
where
    S: Served,
    P: Service<Request<Body>>,
{
    pub(super) fn passing(passing: P, request: Request<Body>) -> Self {
        let future = Oneshot::new(passing, request);
        Self {
            state: State::Passes { future },
        }
    }

    pub(super) fn served(
        inner: S,
        passing: P,
        shared: Arc<Shared<S::Body>>,
        request: Request<Body>,
    ) -> Self {
        let arrival = Some(Box::new(Arrival {
            inner,
            passing,
            shared,
            request,
        }));
        Self {
            state: State::Arrives { arrival },
        }
    }
}

impl<S: Served, P: Service<Request<Body>>> Arrival<S, P> {
    /// Decides where a call goes that has just arrived.
    fn go(self, cx: &mut Context<'_>) -> Result<State<S, P>, BoxError> {
        let (parts, body) = self.request.into_parts();
        let mut body = Peeked::new(body, cx);
        let whole = match body.take_single() {
            Some(bytes) => Some(bytes),
            None => body.is_end_stream().then(Bytes::new),
        };
        let Some(bytes) = whole else {
            // A stream cannot be held: it goes with the calls that pass by.
            let request = Request::from_parts(parts, Body::new(body));
            let future = Oneshot::new(self.passing, request);
            return Ok(State::Passes { future });
        };
        let deadline = Deadline::of_parts(&parts.extensions, &parts.headers);
        let entry = self.shared.methods.get(parts.uri.path());
        let idempotent = parts.extensions.get::<Idempotent>().is_some() || entry.is_idempotent();
        let max_attempts = self.shared.config.max_attempts;
        let mut held = Held::new(parts, bytes, deadline, idempotent, max_attempts);
        held.story.ttl = entry.buffer_ttl();
        if self.shared.is_idle() {
            let mut service = self.inner.clone();
            match service.poll_ready(cx) {
                Poll::Ready(Ok(())) => {
                    if let Some(flight) = self.shared.straight(&held) {
                        let Held { message, story } = held;
                        let (request, message) = match flight.unheld() {
                            None => (message.request(), Ok(message)),
                            Some(full) => (message.into_request(), Err(full)),
                        };
                        let future = service.call(request);
                        let call = Some(Box::new(Straight {
                            message,
                            story,
                            flight,
                            template: self.inner,
                        }));
                        return Ok(State::Straight { future, call });
                    }
                }
                Poll::Ready(Err(error)) => {
                    let error = error.into();
                    if matches!(held.story.verdict(&error, false), Verdict::Final) {
                        if let Some(flight) = self.shared.straight(&held) {
                            flight.end(End::Failed);
                        }
                        return Err(error);
                    }
                }
                Poll::Pending => {}
            }
        }
        let Queued {
            place,
            answer,
            start: needed,
        } = self.shared.wait(held)?;
        if needed {
            start(&self.shared, &self.inner);
        }
        let place = Some(place);
        Ok(State::Waits { answer, place })
    }
}

impl<S: Served> Straight<S> {
    /// The call came back with an error: it waits from now on, or has failed.
    fn came_back<P: Service<Request<Body>>>(
        self,
        error: BoxError,
    ) -> Result<State<S, P>, BoxError> {
        let mut story = self.story;
        let rejected = match story.verdict(&error, true) {
            Verdict::Again => false,
            Verdict::Rejected => true,
            Verdict::Final => {
                self.flight.end(End::Failed);
                return Err(error);
            }
            Verdict::Spent => return Err(self.flight.spent(story).into()),
        };
        let message = match self.message {
            Ok(message) => message,
            Err(full) => return Err(self.flight.no_room(full, story).into()),
        };
        let held = Held { message, story };
        let (caller, answer) = oneshot::channel();
        let place = self.flight.place();
        let waiter = Box::new(Waiter { held, caller });
        let needed = self.flight.put_back(waiter, rejected);
        if needed {
            start(place.shared(), &self.template);
        }
        let place = Some(place);
        Ok(State::Waits { answer, place })
    }
}

impl<S, P> Future for BufferFuture<S, P>
where
    S: Served,
    P: Service<Request<Body>, Response = Response<S::Body>>,
    P::Error: Into<BoxError>,
{
    type Output = Result<Response<S::Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Arrives { arrival } => match arrival.take() {
                    Some(arrival) => arrival.go(cx)?,
                    None => return Poll::Ready(Err(lost())),
                },
                StateProj::Passes { future } => {
                    return future.poll(cx).map_err(Into::into);
                }
                StateProj::Straight { future, call } => {
                    let result = ready!(future.poll(cx));
                    match (result, call.take()) {
                        (Ok(response), call) => {
                            if let Some(call) = call {
                                call.flight.answered(judge(&response));
                            }
                            return Poll::Ready(Ok(response));
                        }
                        (Err(error), None) => return Poll::Ready(Err(error.into())),
                        (Err(error), Some(call)) => call.came_back(error.into())?,
                    }
                }
                StateProj::Waits { answer, place } => {
                    let answer = ready!(Pin::new(answer).poll(cx));
                    // The call is out of the queue by now.
                    drop(place.take());
                    return Poll::Ready(answer.unwrap_or_else(|_| Err(lost())));
                }
            };
            state.set(next);
        }
    }
}

/// Waiting calls are told when the driver ends. Without a message the call was in flight, and the task that followed it is gone.
fn lost() -> BoxError {
    let history = History {
        perhaps_processed: true,
        ..History::default()
    };
    Box::new(BufferError::new(BufferReason::Stopped, &history))
}
