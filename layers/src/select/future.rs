use std::{
    fmt,
    future::Future,
    pin::Pin,
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
    group::Sample,
    kept::Spare,
    waiting::{Waited, Waiting},
};
use crate::{
    BoxError,
    unsent::{Unsent, again},
};

pin_project! {
    /// The future of a [`Select`](super::Select)'s call.
    ///
    /// Dropping it drops the current attempt or wait, and the kept request. Nothing is left behind.
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
        // Whether the error of a call that never left carries its request.
        returned: bool,
        // What a further attempt is made of; nothing where there is to be none.
        spare: Option<Spare<I, T>>,
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
        returned: bool,
        spare: Option<Spare<I, T>>,
    ) -> Self {
        Self {
            state: State::Flight { flight },
            selected,
            header,
            returned,
            spare,
        }
    }

    pub(super) fn waiting(
        waiting: Box<Waiting<I, T>>,
        selected: Selected,
        header: bool,
        returned: bool,
    ) -> Self {
        Self {
            state: State::Waiting {
                waiting: Some(waiting),
            },
            selected,
            header,
            returned,
            spare: None,
        }
    }

    pub(super) fn failed(error: BoxError, selected: Selected) -> Self {
        Self {
            state: State::Failed { error: Some(error) },
            selected,
            header: false,
            returned: false,
            spare: None,
        }
    }
}

impl<I, T, R> Future for SelectFuture<I, T>
where
    I: Service<Request<Body>, Response = Response<R>> + Clone,
    T: Service<Request<Body>, Response = Response<R>> + Clone,
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
                                spare.commit();
                            }
                            return polled;
                        }
                        Poll::Ready(Err(_)) => {}
                    }
                    let Poll::Ready(Err(error)) = polled else {
                        return polled;
                    };
                    match fall_back(this.spare.take(), this.selected.arm, error) {
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
                    match begin(waited, *waited_for, *this.returned) {
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

/// An attempt has failed: waits for the other arm, if it may go there.
#[cold]
fn fall_back<I, T>(
    spare: Option<Spare<I, T>>,
    from: Arm,
    error: BoxError,
) -> Result<Box<Waiting<I, T>>, BoxError>
where
    I: Service<Request<Body>> + Clone,
    T: Service<Request<Body>> + Clone,
    I::Error: Into<BoxError>,
    T::Error: Into<BoxError>,
{
    let Some(mut spare) = spare else {
        return Err(error);
    };
    let (error, request) = spare.take_back(error)?;
    let Spare {
        group, templates, ..
    } = spare;
    let to = from.other();
    tracing::debug!(target: "tower_iroh::select", %from, %to, reason = %SelectReason::FailedUnsent, %error, "falls back");
    let Some(request) = again(request) else {
        return Err(error);
    };
    let until = group.core.until(to, false, Instant::now());
    Ok(Box::new(Waiting {
        group,
        request,
        first: templates.one(to),
        reason: SelectReason::FailedUnsent,
        second: None,
        templates,
        head_start: None,
        until,
        timer: None,
        otherwise: Some(error),
    }))
}

type Begun<I, T> = (
    Flight<<I as Service<Request<Body>>>::Future, <T as Service<Request<Body>>>::Future>,
    Selected,
    Option<Spare<I, T>>,
);

/// A wait is over: sends the call, or tells that it was in vain.
#[cold]
fn begin<I, T>(
    waited: Waited,
    waiting: Waiting<I, T>,
    returned: bool,
) -> Result<Begun<I, T>, BoxError>
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
        templates,
        ..
    } = waiting;
    let (mut service, either, reason) = match (waited, second) {
        (Waited::Failed(error), _) if returned => return Err(Unsent::wrap(error, request)),
        (Waited::Failed(error), _) => return Err(error),
        (Waited::First, second) => (first, second.is_some(), reason),
        (Waited::Second, Some(second)) => (second, false, SelectReason::NotReady),
        // There is a second one where that was waited for.
        (Waited::Second, None) => (first, false, reason),
    };
    let selected = group.core.selected(service.arm(), reason);
    let spare = match (either, returned) {
        (false, _) => None,
        (true, true) => Some(Spare::returned(group.clone(), templates)),
        (true, false) => {
            let (spare, first) = Spare::keep(group.clone(), templates, request);
            request = first;
            Some(spare)
        }
    };
    group.core.decided(selected);
    let sample = Sample::new(group, selected.arm, Some(Instant::now()));
    Ok((service.call(request, sample), selected, spare))
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
