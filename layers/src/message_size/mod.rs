//! A bound on the messages of a gRPC body, at their size on the wire.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use bytes::Bytes;
//! use http::Response;
//! use http_body_util::{BodyExt, Full};
//! use tower_iroh_layers::message_size;
//!
//! let body = Full::new(Bytes::from_static(b"\0\0\0\0\x02hi"));
//! let response = Response::builder().header("content-type", "application/grpc").body(body).unwrap();
//! let mut body = message_size::limit(response, 1).into_body();
//! let error = body.frame().await.unwrap().unwrap_err();
//! let status = error.downcast_ref::<tonic::Status>().unwrap();
//! assert_eq!(status.code(), tonic::Code::ResourceExhausted);
//! # }
//! ```
//!
//! A message above the bound ends the body with RESOURCE_EXHAUSTED before its bytes are taken in; the messages before it are not lost. A compressed message
//! counts at its compressed size. `max_decoding_message_size` of generated code bounds the size after decompression.
//!
//! On a server [`AuthorizeLayer::max_message_bytes`](crate::authorize::AuthorizeLayer::max_message_bytes) does the same to requests.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;

use crate::BoxError;

mod prefixes;

pub(crate) use prefixes::Messages;

/// Bounds the messages of a response to `max` bytes each. A response that is not gRPC has no messages and passes unchanged.
pub fn limit<B>(response: Response<B>, max: u32) -> Response<LimitedBody<B>> {
    let max = if is_grpc(response.headers()) {
        max
    } else {
        u32::MAX
    };
    response.map(|inner| LimitedBody {
        inner,
        messages: Messages::default(),
        max,
        failure: Failure::None,
    })
}

/// Whether a body has gRPC's prefixes as they are, and not as text.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes());
    kind.is_some_and(|kind| {
        kind.starts_with(b"application/grpc") && !kind.starts_with(b"application/grpc-web-text")
    })
}

pin_project! {
    /// A body whose messages have a bound: see [`limit`].
    pub struct LimitedBody<B> {
        #[pin]
        inner: B,
        messages: Messages,
        max: u32,
        failure: Failure,
    }
}

enum Failure {
    None,
    /// It waits behind the data that came before it.
    Due(Status),
    Told,
}

impl<B> Body for LimitedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        match std::mem::replace(this.failure, Failure::None) {
            Failure::None => {}
            Failure::Due(status) => {
                *this.failure = Failure::Told;
                return Poll::Ready(Some(Err(status.into())));
            }
            Failure::Told => {
                *this.failure = Failure::Told;
                return Poll::Ready(None);
            }
        }
        let data = match ready!(this.inner.poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            },
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        let Err(large) = this.messages.pass(&data, *this.max) else {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        };
        let status = Status::resource_exhausted(format!(
            "a message of {} bytes was received, and at most {} are accepted; send it in parts",
            large.len, this.max
        ));
        if large.at > 0 {
            *this.failure = Failure::Due(status);
            return Poll::Ready(Some(Ok(Frame::data(data.slice(..large.at)))));
        }
        *this.failure = Failure::Told;
        Poll::Ready(Some(Err(status.into())))
    }

    fn is_end_stream(&self) -> bool {
        match self.failure {
            Failure::None => self.inner.is_end_stream(),
            Failure::Due(_) => false,
            Failure::Told => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    fn body(kind: &str, max: u32) -> LimitedBody<Full<Bytes>> {
        let two = Full::new(Bytes::from_static(b"\0\0\0\0\x01a\0\0\0\0\x02bc"));
        let response = Response::builder().header(CONTENT_TYPE, kind).body(two);
        limit(response.expect("valid"), max).into_body()
    }

    #[tokio::test]
    async fn messages_before_a_large_one_are_not_lost() {
        let mut body = body("application/grpc+proto", 1);
        let frame = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), "\0\0\0\0\x01a");
        assert!(!body.is_end_stream());
        let error = body
            .frame()
            .await
            .expect("an error")
            .expect_err("too large");
        let status = error.downcast_ref::<Status>().expect("a status");
        assert_eq!(
            status.message(),
            "a message of 2 bytes was received, and at most 1 are accepted; send it in parts"
        );
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }

    #[tokio::test]
    async fn what_is_small_enough_or_not_grpc_passes() {
        for (kind, max) in [
            ("application/grpc", 2),
            ("text/html", 1),
            ("application/grpc-web-text", 1),
        ] {
            let whole = body(kind, max).collect().await.expect(kind).to_bytes();
            assert_eq!(whole.len(), 13, "{kind}");
        }
    }
}
