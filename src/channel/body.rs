//! A response's body, with what the call holds until it has ended.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{arm::InFlight, details};
use crate::error::Error;

/// The body of a response. It ends with its trailers or an error, and releases the call's permit then. Dropped before its end it resets the
/// call.
pub(super) struct ResponseBody {
    /// Gone once the body has ended, so that a call which the deadline ended is reset and not just unread.
    stream: Option<h2::RecvStream>,
    state: Part,
    held: Option<InFlight>,
}

enum Part {
    Data,
    Trailers,
}

impl ResponseBody {
    pub(super) fn new(stream: h2::RecvStream, held: InFlight) -> Self {
        Self {
            // A response without a body has ended; its permit is free at once.
            held: (!stream.is_end_stream()).then_some(held),
            stream: Some(stream),
            state: Part::Data,
        }
    }

    fn end(&mut self) {
        self.stream = None;
        self.held = None;
    }

    fn fail(&mut self, error: h2::Error) -> Error {
        let error = match &self.held {
            Some(held) => held.explain(error),
            None => Error::from_h2(error, None),
        };
        self.end();
        error
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        if let Part::Data = self.state {
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // It fails only for more than was received.
                    let _ = stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.fail(error)))),
                None => self.state = Part::Trailers,
            }
        }
        let mut trailers = match ready!(stream.poll_trailers(cx)) {
            Ok(trailers) => trailers,
            Err(error) => return Poll::Ready(Some(Err(self.fail(error)))),
        };
        if let Some(trailers) = &mut trailers {
            details::drop_unreadable(trailers);
        }
        let checked = match (&self.held, &trailers) {
            (Some(held), Some(trailers)) => held.check(trailers),
            _ => Ok(()),
        };
        self.end();
        Poll::Ready(match checked {
            Ok(()) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error)),
        })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.poll_stream(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.stream
            .as_ref()
            .is_none_or(h2::RecvStream::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
