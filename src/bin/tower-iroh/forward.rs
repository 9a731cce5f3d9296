//! Passes a call on as it is: no message is decoded, so any service and any compression goes through.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status, body::Body};
use tower::ServiceExt;
use tower_iroh::layers::BoxError;

use crate::connect::Service;

/// Says which of the two programs made an error, where it was not the peer or the backend.
pub(crate) const ERROR_FROM: HeaderName = HeaderName::from_static("x-iroh-error-from");

/// Headers that belong to one HTTP connection (RFC 9110 section 7.6.1, RFC 9113 section 8.2.2). `te: trailers` goes on, since gRPC asks for it.
const OF_ONE_CONNECTION: [HeaderName; 7] = [
    header::HOST,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::CONNECTION,
];

/// Takes out what belongs to the connection on which a request came. Headers for the next hop are set after this.
pub(crate) fn for_the_next_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    // RFC 9110 lets a sender name `te` here, and gRPC needs it.
    for name in named.iter().filter(|name| **name != header::TE) {
        headers.remove(name);
    }
    for name in OF_ONE_CONNECTION {
        headers.remove(name);
    }
}

/// How a call ended, as its caller was told.
#[derive(Debug)]
pub(crate) struct CallEnd {
    pub(crate) code: Code,
    /// Bytes of the response's body.
    pub(crate) bytes: u64,
    /// Whether this program made the status.
    pub(crate) ours: bool,
}

/// Sends the request to `service`. An error becomes a response that carries its gRPC code, and names this program as `by`. Calls `ended` exactly once.
pub(crate) async fn forward(
    service: Service,
    request: Request<Body>,
    by: &'static str,
    ended: impl FnOnce(CallEnd) + Send + 'static,
) -> Response<Body> {
    match service.oneshot(request).await {
        Ok(mut response) => {
            not_from(by, response.headers_mut());
            // The body's end may change: gRPC-Web has its trailers in the body, and a body that breaks off gets trailers.
            response.headers_mut().remove(header::CONTENT_LENGTH);
            observe(response, by, false, ended)
        }
        Err(error) => refuse(status_of(error), by, ended),
    }
}

/// Answers with a status that this program made.
pub(crate) fn refuse(
    status: Status,
    by: &'static str,
    ended: impl FnOnce(CallEnd) + Send + 'static,
) -> Response<Body> {
    let mut response = status.into_http();
    response
        .headers_mut()
        .insert(ERROR_FROM, HeaderValue::from_static(by));
    observe(response, by, true, ended)
}

/// Takes out a claim of the other side to be this program.
fn not_from(by: &'static str, headers: &mut HeaderMap) {
    if headers.get_all(ERROR_FROM).iter().any(|from| from == by) {
        headers.remove(ERROR_FROM);
    }
}

fn observe(
    response: Response<Body>,
    by: &'static str,
    ours: bool,
    ended: impl FnOnce(CallEnd) + Send + 'static,
) -> Response<Body> {
    // Trailers-only: the head is the end.
    let mut code = code_in(response.headers());
    if response.body().is_end_stream() {
        code.get_or_insert(Code::Unknown);
    }
    response.map(|inner| {
        Body::new(Observed {
            inner,
            by,
            is_over: false,
            end: EndReporter {
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
    struct Observed<F: FnOnce(CallEnd)> {
        #[pin]
        inner: Body,
        by: &'static str,
        is_over: bool,
        end: EndReporter<F>,
    }
}

/// Reports how the call ended, at the latest when it is dropped.
struct EndReporter<F: FnOnce(CallEnd)> {
    code: Option<Code>,
    bytes: u64,
    ours: bool,
    ended: Option<F>,
}

impl<F: FnOnce(CallEnd)> Drop for EndReporter<F> {
    fn drop(&mut self) {
        let end = CallEnd {
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

impl<F: FnOnce(CallEnd)> http_body::Body for Observed<F> {
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
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    not_from(this.by, trailers);
                }
                frame
            }
            None => {
                // The peer ended the response without a status.
                this.end.code.get_or_insert(Code::Unknown);
                return Poll::Ready(None);
            }
            Some(Err(status)) => {
                *this.is_over = true;
                let mut trailers = HeaderMap::new();
                // A status that is no header is told as the reset that it would have been.
                if let Err(status) = status.add_header(&mut trailers) {
                    return Poll::Ready(Some(Err(status)));
                }
                trailers.insert(ERROR_FROM, HeaderValue::from_static(this.by));
                this.end.ours = true;
                Frame::trailers(trailers)
            }
        };
        if let Some(data) = frame.data_ref() {
            this.end.bytes += data.len() as u64;
        }
        if let Some(code) = frame.trailers_ref().and_then(code_in) {
            this.end.code = Some(code);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.inner.is_end_stream()
    }

    /// Unknown, because the body may break off and get trailers.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
