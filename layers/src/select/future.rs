use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderName, Request, Response};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::body::Body;
use tower::Service;

use super::{
    Arm, SELECTED, SelectBody, SelectReason, Selected,
    flight::Flight,
    group::{Group, Sample},
    kept::{Kept, Spare, failed_unsent},
    waiting::{Waited, Waiting},
};
use crate::BoxError;

pin_project! {
    /// The future of a [`Select`](super::Select)'s call.
    ///
    /// Dropping it drops the attempt or the wait that it is at, and what is kept of the request. Nothing is left behind.
    #[must_use = "futures do nothing unless polled"]
    pub struct SelectFuture<I, T>
    where
        I: Service<Request<Body>>,
        T: Service<Request<Body>>,
    {
        #[pin]
        state: State<I, T, I::Future, T::Future>,
        selected: Selected,
        header: bool,
        // Whoever keeps the request above is told that there is another arm.
        kept_above: bool,
        // What a further attempt is made of; nothing where there is to be none.
        spare: Option<Box<Spare<I, T>>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<I, T, A, B> {
        Flight { #[pin] flight: Flight<A, B> },
        // In a box, so that the future of all others is no larger for it.
        Waiting { waiting: Option<Box<Waiting<I, T>>> },
        Failed { error: Option<BoxError> },
    }
}

impl<I, T> SelectFuture<I, T>
where
    I: Service<Request<Body>>,
    T: Service<Request<Body>>,
{
    #[inline]
    pub(super) fn flying(
        flight: Flight<I::Future, T::Future>,
        selected: Selected,
        header: bool,
        kept_above: bool,
        spare: Option<Box<Spare<I, T>>>,
    ) -> Self {
        Self {
            state: State::Flight { flight },
            selected,
            header,
            kept_above,
            spare,
        }
    }

    pub(super) fn waiting(waiting: Box<Waiting<I, T>>, selected: Selected, header: bool) -> Self {
        Self {
            state: State::Waiting {
                waiting: Some(waiting),
            },
            selected,
            header,
            kept_above: false,
            spare: None,
        }
    }

    pub(super) fn failed(error: BoxError, selected: Selected) -> Self {
        Self {
            state: State::Failed { error: Some(error) },
            selected,
            header: false,
            kept_above: false,
            spare: None,
        }
    }
}

impl<I, T, R> Future for SelectFuture<I, T>
where
    I: Service<Request<Body>, Response = Response<R>>,
    T: Service<Request<Body>, Response = Response<R>>,
    I::Error: Into<BoxError>,
    T::Error: Into<BoxError>,
    R: HttpBody,
{
    type Output = Result<Response<SelectBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Flight { flight } => {
                    // Changed where it is: a response is large, and moved often enough.
                    let mut polled = flight.poll(cx);
                    match &mut polled {
                        Poll::Pending => return polled,
                        Poll::Ready(Ok(response)) => {
                            tag(response, *this.selected, *this.header);
                            if let Some(spare) = this.spare.take() {
                                spare.kept.commit();
                            }
                            return polled;
                        }
                        Poll::Ready(Err(_)) if this.spare.is_none() => {
                            let failed = *this.kept_above;
                            return polled.map_err(|error| match failed {
                                true => elsewhere(error, this.selected.arm),
                                false => error,
                            });
                        }
                        Poll::Ready(Err(_)) => {}
                    }
                    let Poll::Ready(Err(error)) = polled else {
                        return polled;
                    };
                    match fall_back(this.spare.take(), error) {
                        Ok(waiting) => {
                            let waiting = Some(waiting);
                            this.state.set(State::Waiting { waiting });
                        }
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
                StateProj::Waiting { waiting } => {
                    let Some(waits) = waiting else {
                        // Polled after its end.
                        return Poll::Pending;
                    };
                    let waited = ready!(waits.poll(cx));
                    let Some(waited_for) = waiting.take() else {
                        return Poll::Pending;
                    };
                    match begin(waited, *waited_for) {
                        Ok((flight, selected, spare)) => {
                            *this.selected = selected;
                            *this.spare = spare;
                            this.state.set(State::Flight { flight });
                        }
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
                StateProj::Failed { error } => {
                    return match error.take() {
                        Some(error) => Poll::Ready(Err(error)),
                        None => Poll::Pending,
                    };
                }
            }
        }
    }
}

/// Says over which arm a response came.
#[inline]
fn tag<R>(response: &mut Response<R>, selected: Selected, header: bool) {
    response.extensions_mut().insert(selected);
    if header && let Some(value) = selected.header() {
        let name = const { HeaderName::from_static(SELECTED) };
        response.headers_mut().insert(name, value);
    }
}

/// Tells who keeps the request that it may go over the other arm.
#[cold]
fn elsewhere(error: BoxError, arm: Arm) -> BoxError {
    #[cfg(feature = "retry")]
    if failed_unsent(&error) {
        let avoid = crate::elsewhere::Avoids(arm.index());
        return Box::new(crate::elsewhere::Elsewhere { error, avoid });
    }
    let _ = arm;
    error
}

/// An attempt has failed: waits for the other arm, if it may go there.
#[cold]
fn fall_back<I, T>(
    spare: Option<Box<Spare<I, T>>>,
    error: BoxError,
) -> Result<Box<Waiting<I, T>>, BoxError>
where
    I: Service<Request<Body>>,
    T: Service<Request<Body>>,
    I::Error: Into<BoxError>,
    T::Error: Into<BoxError>,
{
    let Some(spare) = spare else {
        return Err(error);
    };
    // The body last: from then on the failed attempt can't have it.
    if !failed_unsent(&error) || !spare.kept.take_back() {
        spare.kept.commit();
        return Err(error);
    }
    let Spare { group, other, kept } = *spare;
    let to = other.arm();
    tracing::debug!(target: "tower_iroh::select", from = %to.other(), %to, reason = %SelectReason::FailedUnsent, %error, "falls back");
    let Some(request) = kept.again() else {
        return Err(error);
    };
    let until = group.core.until(to, false, Instant::now());
    Ok(Box::new(Waiting {
        group,
        request,
        first: other,
        reason: SelectReason::FailedUnsent,
        second: None,
        head_start: None,
        until,
        timer: None,
        otherwise: Some(error),
    }))
}

type Begun<I, T> = (
    Flight<<I as Service<Request<Body>>>::Future, <T as Service<Request<Body>>>::Future>,
    Selected,
    Option<Box<Spare<I, T>>>,
);

/// A wait is over: sends the call, or tells that it was in vain.
#[cold]
fn begin<I, T>(waited: Waited, waiting: Waiting<I, T>) -> Result<Begun<I, T>, BoxError>
where
    I: Service<Request<Body>>,
    T: Service<Request<Body>>,
    I::Error: Into<BoxError>,
    T::Error: Into<BoxError>,
{
    let Waiting {
        group,
        mut request,
        first,
        reason,
        second,
        ..
    } = waiting;
    let (mut service, spare, reason) = match (waited, second) {
        (Waited::Failed(error), _) => return Err(error),
        (Waited::First, second) => (first, second, reason),
        (Waited::Second, Some(second)) => (second, None, SelectReason::NotReady),
        // There is a second one where that was waited for.
        (Waited::Second, None) => (first, None, reason),
    };
    let selected = group.core.selected(service.arm(), reason);
    let spare = match spare {
        Some(other) => {
            let (spare, first) = keep(&group, other, request);
            request = first;
            Some(spare)
        }
        None => None,
    };
    group.core.decided(selected);
    let sample = Sample::new(group, selected.arm, Some(Instant::now()));
    Ok((service.call(request, sample), selected, spare))
}

/// Keeps what it takes to send a request over the other arm.
#[inline]
pub(super) fn keep<I, T>(
    group: &Arc<Group>,
    other: super::flight::One<I, T>,
    request: Request<Body>,
) -> (Box<Spare<I, T>>, Request<Body>) {
    let (kept, first) = Kept::new(request, group.core.config.max_buffered);
    let spare = Spare {
        group: group.clone(),
        other,
        kept,
    };
    (Box::new(spare), first)
}

impl<I, T> fmt::Debug for SelectFuture<I, T>
where
    I: Service<Request<Body>>,
    T: Service<Request<Body>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelectFuture")
            .field("selected", &self.selected)
            .finish_non_exhaustive()
    }
}
