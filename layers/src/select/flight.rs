//! An attempt over one of two arms, whose types differ.

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

use super::{Arm, SelectBody, group::Sample};
use crate::{
    BoxError, Deadline,
    classify::{Tracked, track},
};

pin_project! {
    #[project = FlightProj]
    pub(super) enum Flight<I, T> {
        First { #[pin] future: Tracked<I, Sample> },
        Second { #[pin] future: Tracked<T, Sample> },
    }
}

impl<I, T, R, E, F> Future for Flight<I, T>
where
    I: Future<Output = Result<Response<R>, E>>,
    T: Future<Output = Result<Response<R>, F>>,
    E: Into<BoxError>,
    F: Into<BoxError>,
    R: HttpBody,
{
    type Output = Result<Response<SelectBody<R>>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            FlightProj::First { future } => future.poll(cx),
            FlightProj::Second { future } => future.poll(cx),
        }
    }
}

/// A service of one of the arms.
pub(super) enum One<I, T> {
    First(I),
    Second(T),
}

impl<I, T> One<I, T>
where
    I: Service<Request<Body>>,
    T: Service<Request<Body>>,
    I::Error: Into<BoxError>,
    T::Error: Into<BoxError>,
{
    pub(super) fn arm(&self) -> Arm {
        match self {
            Self::First(_) => Arm::First,
            Self::Second(_) => Arm::Second,
        }
    }

    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::First(service) => service.poll_ready(cx).map_err(Into::into),
            Self::Second(service) => service.poll_ready(cx).map_err(Into::into),
        }
    }

    pub(super) fn call(
        &mut self,
        request: Request<Body>,
        sample: Sample,
    ) -> Flight<I::Future, T::Future> {
        match self {
            Self::First(service) => Flight::first(service, request, sample),
            Self::Second(service) => Flight::second(service, request, sample),
        }
    }
}

impl<A, B> Flight<A, B> {
    #[inline]
    pub(super) fn first<S>(service: &mut S, request: Request<Body>, sample: Sample) -> Self
    where
        S: Service<Request<Body>, Future = A>,
    {
        let deadline = Deadline::of(&request);
        let future = track(service.call(request), sample, deadline);
        Self::First { future }
    }

    #[inline]
    pub(super) fn second<S>(service: &mut S, request: Request<Body>, sample: Sample) -> Self
    where
        S: Service<Request<Body>, Future = B>,
    {
        let deadline = Deadline::of(&request);
        let future = track(service.call(request), sample, deadline);
        Self::Second { future }
    }
}
