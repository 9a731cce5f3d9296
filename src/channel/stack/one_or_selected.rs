//! The arm that there is, or two and the choice between them: one type, so that what stands above is one too.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tonic::body::Body;
use tower::Service;
use tower_iroh_layers::{
    BoxError,
    classify::{Tracked, untracked},
    select::{Sample, Select, SelectBody, SelectFuture},
};

/// One service, or the choice between two. Readiness is the service's, or the choice's.
#[derive(Clone)]
pub enum OneOrSelected<S> {
    One(S),
    /// In a box, because a call takes a clone along, which is small where there is one.
    Two(Box<Select<S, S>>),
}

pin_project! {
    /// The future of either.
    #[project = ChosenProj]
    pub enum ChosenFuture<S>
    where
        S: Service<Request<Body>>,
    {
        One { #[pin] future: Tracked<S::Future, Sample> },
        Two { #[pin] future: SelectFuture<S, S> },
    }
}

impl<S, R> Service<Request<Body>> for OneOrSelected<S>
where
    S: Service<Request<Body>, Response = Response<R>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
    R: HttpBody,
    R::Error: Into<BoxError>,
{
    type Response = Response<SelectBody<R>>;
    type Error = BoxError;
    type Future = ChosenFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::One(service) => service.poll_ready(cx),
            Self::Two(select) => select.poll_ready(cx),
        }
    }

    fn call(&mut self, request: Request<Body>) -> ChosenFuture<S> {
        match self {
            Self::One(service) => ChosenFuture::One {
                future: untracked(service.call(request)),
            },
            Self::Two(select) => ChosenFuture::Two {
                future: select.call(request),
            },
        }
    }
}

impl<S, R> Future for ChosenFuture<S>
where
    S: Service<Request<Body>, Response = Response<R>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
    R: HttpBody,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<SelectBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ChosenProj::One { future } => future.poll(cx),
            ChosenProj::Two { future } => future.poll(cx),
        }
    }
}
