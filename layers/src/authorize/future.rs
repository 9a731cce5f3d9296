use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use pin_project_lite::pin_project;
use tonic::Status;

use super::{
    AuthorizedBody,
    limiter::Permit,
    watch::{Look, Watch},
};
use crate::BoxError;

pin_project! {
    /// The future of an [`Authorize`](super::Authorize). A denial is a response and never an error.
    ///
    /// It holds the call's place among those that its caller has open; the response's body holds it after.
    #[must_use = "futures do nothing unless polled"]
    pub struct AuthorizeFuture<F> {
        #[pin]
        state: State<F>,
        permit: Option<Permit>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Admitted { #[pin] inner: F, #[pin] watch: Watch },
        Denied { status: Option<Status> },
    }
}

impl<F> AuthorizeFuture<F> {
    pub(super) fn denied(status: Status) -> Self {
        Self {
            state: State::Denied {
                status: Some(status),
            },
            permit: None,
        }
    }

    pub(super) fn admitted(inner: F, watch: Watch, permit: Option<Permit>) -> Self {
        Self {
            state: State::Admitted { inner, watch },
            permit,
        }
    }
}

impl<F, R, E> Future for AuthorizeFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<AuthorizedBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let status = match this.state.as_mut().project() {
                StateProj::Denied { status } => {
                    // Polled again after its end, it has nothing better to say.
                    let status = status.take().unwrap_or_else(|| Status::unknown(""));
                    return Poll::Ready(Ok(status.into_http()));
                }
                StateProj::Admitted { inner, mut watch } => {
                    if let Look::Revoked(generation) = watch.as_mut().look() {
                        watch.call().revoke(generation)
                    } else {
                        match inner.poll(cx) {
                            Poll::Ready(Ok(response)) => {
                                let watch = Watch::new(watch.call().clone(), watch.generation());
                                let permit = this.permit.take();
                                return Poll::Ready(Ok(
                                    response.map(|body| AuthorizedBody::new(body, watch, permit))
                                ));
                            }
                            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                            Poll::Pending if watch.as_mut().wait(cx) => continue,
                            Poll::Pending => return Poll::Pending,
                        }
                    }
                }
            };
            // This drops the handler, wherever it waits.
            this.state.set(State::Denied {
                status: Some(status),
            });
            *this.permit = None;
        }
    }
}
