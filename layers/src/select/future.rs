use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderName, Request, Response};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tonic::body::Body;
use tower::Service;

use super::{
    Arm, SELECTED, SelectBody, SelectReason, Selected,
    flight::Flight,
    kept::Spare,
    waiting::{Wait, Waiting},
};
use crate::{BoxError, unsent::again};

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
        pub(super) state: State<I, T, I::Future, T::Future>,
        pub(super) selected: Selected,
        // Whether the response says over which arm it came.
        pub(super) header: bool,
        // Whether the error of a call that never left carries its request.
        pub(super) returned: bool,
        // What a further attempt is made of; nothing where there is to be none.
        pub(super) spare: Option<Spare<I, T>>,
    }
}

pin_project! {
    #[project = StateProj]
    pub(super) enum State<I, T, A, B>
    where
        I: Service<Request<Body>>,
        T: Service<Request<Body>>,
    {
        Flight { #[pin] flight: Flight<A, B> },
        // In a box, so that the future of all others is no larger for it.
        Waiting { waiting: Waiting<I, T> },
        Failed { error: Option<BoxError> },
    }
}

impl<I, T, R> Future for SelectFuture<I, T>
where
    I: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    T: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
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
                    let from = this.selected.arm;
                    let waiting = fall_back(this.spare.take(), from, *this.returned, error)?;
                    this.state.set(State::Waiting { waiting });
                }
                StateProj::Waiting { waiting } => match ready!(waiting.as_mut().poll(cx)) {
                    Ok((flight, selected, spare)) => {
                        *this.selected = selected;
                        *this.spare = spare;
                        this.state.set(State::Flight { flight });
                    }
                    Err(error) => {
                        this.state.set(State::Failed { error: None });
                        return Poll::Ready(Err(error));
                    }
                },
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
    returned: bool,
    error: BoxError,
) -> Result<Waiting<I, T>, BoxError>
where
    I: Service<Request<Body>> + Clone + Send + 'static,
    T: Service<Request<Body>> + Clone + Send + 'static,
    I::Error: Into<BoxError>,
    T::Error: Into<BoxError>,
{
    let Some(mut spare) = spare else {
        return Err(error);
    };
    let (error, request) = spare.take_back(error)?;
    let (arm, reason) = (from.other(), SelectReason::FailedUnsent);
    tracing::debug!(target: "tower_iroh::select", %from, to = %arm, %reason, %error, "falls back");
    let Some(request) = again(request) else {
        return Err(error);
    };
    let wait = Wait {
        group: spare.group,
        templates: spare.templates,
        request,
        arm,
        reason,
        either: false,
        returned,
        otherwise: Some(error),
    };
    Ok(wait.begin())
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
