//! Passes a call on as it is: no message is decoded, so any service and any compression goes through.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status, body::Body};
use tower::ServiceExt;
use tower_iroh::layers::BoxError;

use crate::connect::Service;

/// Says which of the two programs made an error, where it was not the peer or the backend.
const ERROR_FROM: HeaderName = HeaderName::from_static("x-iroh-error-from");

/// Headers that belong to one HTTP connection (RFC 9113 section 8.2.2). `te: trailers` goes on, since gRPC asks for it.
const OF_ONE_CONNECTION: [HeaderName; 5] = [
    header::CONNECTION,
    header::HOST,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// How a call ended, as its caller was told.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) code: Code,
    /// Bytes of the response's body.
    pub(crate) bytes: u64,
    /// Whether this program made the status.
    pub(crate) ours: bool,
}

/// Sends the request to `service`. An error becomes a response that carries its gRPC code, and names this program as `by`. `ended` is told once.
pub(crate) async fn forward(
    service: Service,
    mut request: Request<Body>,
    by: &'static str,
    ended: impl FnOnce(End) + Send + 'static,
) -> Response<Body> {
    for name in OF_ONE_CONNECTION {
        request.headers_mut().remove(name);
    }
    match service.oneshot(request).await {
        Ok(response) => observe(response, false, ended),
        Err(error) => refuse(status_of(error), by, ended),
    }
}

/// Answers with a status that this program made.
pub(crate) fn refuse(
    status: Status,
    by: &'static str,
    ended: impl FnOnce(End) + Send + 'static,
) -> Response<Body> {
    let mut response = status.into_http();
    response
        .headers_mut()
        .insert(ERROR_FROM, HeaderValue::from_static(by));
    observe(response, true, ended)
}

fn observe(
    response: Response<Body>,
    ours: bool,
    ended: impl FnOnce(End) + Send + 'static,
) -> Response<Body> {
    // Trailers-only: the head is the end.
    let code = code_in(response.headers());
    response.map(|inner| {
        Body::new(Observed {
            inner,
            is_over: false,
            watch: Watch {
                code,
                bytes: 0,
                ours,
                ended: Some(ended),
            },
        })
    })
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    let code = headers.get(Status::GRPC_STATUS)?;
    Some(Code::from_bytes(code.as_bytes()))
}

fn status_of(error: BoxError) -> Status {
    match error.downcast::<tower_iroh::Error>() {
        Ok(error) => error.status().clone(),
        Err(error) => Status::from_error(error),
    }
}

pin_project! {
    /// A response's body. Where it breaks off, the caller gets the status in trailers instead of a reset, which has no message and no exact code.
    struct Observed<F: FnOnce(End)> {
        #[pin]
        inner: Body,
        is_over: bool,
        watch: Watch<F>,
    }
}

/// Tells how the call ended, at the latest when it is dropped.
struct Watch<F: FnOnce(End)> {
    code: Option<Code>,
    bytes: u64,
    ours: bool,
    ended: Option<F>,
}

impl<F: FnOnce(End)> Drop for Watch<F> {
    fn drop(&mut self) {
        let end = End {
            // Dropped before its trailers: the caller has gone.
            code: self.code.unwrap_or(Code::Cancelled),
            bytes: self.bytes,
            ours: self.ours,
        };
        if let Some(ended) = self.ended.take() {
            ended(end);
        }
    }
}

impl<F: FnOnce(End)> http_body::Body for Observed<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        if *this.is_over {
            return Poll::Ready(None);
        }
        let frame = match ready!(this.inner.poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            None => return Poll::Ready(None),
            Some(Err(status)) => {
                *this.is_over = true;
                let mut trailers = HeaderMap::new();
                // A status that is no header is told as the reset that it would have been.
                if let Err(status) = status.add_header(&mut trailers) {
                    return Poll::Ready(Some(Err(status)));
                }
                this.watch.ours = true;
                Frame::trailers(trailers)
            }
        };
        if let Some(data) = frame.data_ref() {
            this.watch.bytes += data.len() as u64;
        }
        if let Some(code) = frame.trailers_ref().and_then(code_in) {
            this.watch.code = Some(code);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
