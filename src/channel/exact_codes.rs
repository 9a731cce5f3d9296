//! Exact gRPC codes on a tonic `Channel` whose connector is ours.

use std::{
    error::Error as StdError,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tower::{Layer, Service};

use super::details;
use crate::error::{Error, ErrorKind};
use tower_iroh_layers::{Fault, Origin, deadline::header as grpc_timeout, fault::chain};

type BoxError = Box<dyn StdError + Send + Sync>;

/// A layer for a tonic `Channel` over a [`Connector`](crate::Connector): gives callers the codes that tonic loses.
///
/// | what happened | tonic says | with this layer |
/// |---|---|---|
/// | the connection was lost during a call | Unknown | UNAVAILABLE |
/// | the timeout expired, on this side's clock or the server's | Cancelled | DEADLINE_EXCEEDED |
/// | a dial failed | Unavailable | the dial's code: PERMISSION_DENIED, RESOURCE_EXHAUSTED, ... |
///
/// ```no_run
/// # use tower_iroh_proto::echo::echo_client::EchoClient;
/// # fn example(channel: tonic::transport::Channel) {
/// use tower::ServiceBuilder;
/// use tower_iroh::ExactCodesLayer;
///
/// let channel = ServiceBuilder::new().layer(ExactCodesLayer).service(channel);
/// let client = EchoClient::new(channel);
/// # drop(client);
/// # }
/// ```
///
/// The layers of a [`Stack`](crate::Stack) also need it beneath them, over TCP too: it tells them whose failure a lost connection was, and whether
/// the peer may have begun the call.
///
/// Readiness and cancellation are the inner service's. The layer holds no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExactCodesLayer;

impl<S> Layer<S> for ExactCodesLayer {
    type Service = ExactCodes<S>;

    fn layer(&self, inner: S) -> ExactCodes<S> {
        ExactCodes { inner }
    }
}

/// The service that [`ExactCodesLayer`] makes.
#[derive(Clone, Debug)]
pub struct ExactCodes<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for ExactCodes<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<tonic::body::Body>;
    type Error = Error;
    type Future = ExactFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| exact(error.into()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let deadline = grpc_timeout::read(request.headers())
            .and_then(|limit| Instant::now().checked_add(limit));
        ExactFuture {
            inner: self.inner.call(request),
            deadline,
        }
    }
}

pin_project! {
    /// The future of [`ExactCodes`].
    #[derive(Debug)]
    pub struct ExactFuture<F> {
        #[pin]
        inner: F,
        deadline: Option<Instant>,
    }
}

impl<F, R, E> Future for ExactFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<tonic::body::Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let left = this
            .deadline
            .map(|at| at.saturating_duration_since(Instant::now()));
        Poll::Ready(match result {
            Ok(response)
                if left
                    .is_some_and(|left| grpc_timeout::ended_by_peer(response.headers(), left)) =>
            {
                Err(Error::new(ErrorKind::Deadline, "the timeout expired").perhaps_processed())
            }
            Ok(mut response) => {
                details::drop_unreadable(response.headers_mut());
                Ok(response.map(|inner| tonic::body::Body::new(ExactBody { inner })))
            }
            Err(error) => Err(exact(error.into())),
        })
    }
}

pin_project! {
    /// A response body whose errors have exact codes.
    struct ExactBody<R> {
        #[pin]
        inner: R,
    }
}

impl<R> Body for ExactBody<R>
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut frame = ready!(self.project().inner.poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            details::drop_unreadable(trailers);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| exact(error.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The exact error in the source chain of a tonic transport error.
fn exact(error: BoxError) -> Error {
    if let Some(ours) = Error::in_chain(&*error) {
        return ours.clone();
    }
    if chain(&*error).any(|cause| cause.is::<ConnectError>()) {
        // Nothing was sent.
        let deepest = chain(&*error).last().map(ToString::to_string);
        let message = format!("the dial failed: {}", deepest.unwrap_or_default());
        return Error::new(ErrorKind::DialFailed, message);
    }
    // A limit of this side's HTTP/2, such as that of the headers' size, says nothing of the peer.
    let ours = Fault::find(&*error).is_some_and(|fault| fault.origin() == Origin::Ours);
    let reset = |status| {
        let error = Error::with_status(ErrorKind::Reset, status).perhaps_processed();
        match ours {
            true => error.blamed_on(Origin::Ours),
            false => error,
        }
    };
    for current in chain(&*error) {
        if current.is::<TimeoutExpired>() {
            return Error::new(ErrorKind::Deadline, "the timeout expired").perhaps_processed();
        }
        if let Some(status) = current.downcast_ref::<Status>()
            && status.code() != Code::Unknown
        {
            return reset(status.clone());
        }
        // hyper shows either h2's error or, if an I/O error caused it, only that.
        let h2 = current.downcast_ref::<h2::Error>();
        let io = h2.and_then(h2::Error::get_io).or(current.downcast_ref());
        if let Some(io) = io {
            return Error::from_io(io).perhaps_processed();
        }
        if let Some(h2) = h2.filter(|h2| h2.is_go_away()) {
            return match h2.reason() {
                // Only calls that the peer has not begun get this error, RFC 9113 section 6.8.
                Some(h2::Reason::NO_ERROR) if h2.is_remote() => {
                    Error::new(ErrorKind::Draining, "the peer is shutting down")
                }
                Some(h2::Reason::ENHANCE_YOUR_CALM) if h2.is_remote() => {
                    Error::new(ErrorKind::Exhausted, "the peer finds the load excessive")
                        .blamed_on(Origin::Peer)
                        .perhaps_processed()
                }
                // By a limit of this side's, such as that of the headers' size.
                Some(h2::Reason::ENHANCE_YOUR_CALM) => {
                    let message = "a limit of this side's ended the connection";
                    Error::new(ErrorKind::Exhausted, message).perhaps_processed()
                }
                _ => Error::new(ErrorKind::Lost, "the connection was lost").perhaps_processed(),
            };
        }
        if let Some(hyper) = current.downcast_ref::<hyper::Error>() {
            let lost = || Error::new(ErrorKind::Lost, "the connection was lost");
            if hyper.is_canceled() {
                // hyper "cancels" requests that it has not sent, when their connection ends or takes no more.
                return lost();
            }
            if hyper.is_closed() || hyper.is_incomplete_message() {
                return lost().perhaps_processed();
            }
        }
    }
    reset(Status::from_error(error))
}
