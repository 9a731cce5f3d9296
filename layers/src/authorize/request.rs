//! The request's body, as the handler gets it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Status, body::Body};

use super::{
    DenialReason,
    watch::{Look, Watch},
};
use crate::message_size::Messages;

pin_project! {
    /// Ends with an error when the permission is gone or a message is too large: what a handler spawned may hold it long after
    /// the response is over.
    pub(super) struct GuardedBody {
        // Absent once it has failed.
        inner: Option<Body>,
        #[pin]
        watch: Watch,
        messages: Messages,
        // Of the caller, by the policy.
        max: Option<u32>,
        // Of all callers.
        max_of_all: u32,
        // Waits behind the data that came before it.
        error: Option<Status>,
    }
}

impl GuardedBody {
    pub(super) fn new(inner: Body, watch: Watch, max: Option<u32>, max_of_all: u32) -> Self {
        Self {
            inner: Some(inner),
            watch,
            messages: Messages::default(),
            max,
            max_of_all,
            error: None,
        }
    }
}

impl http_body::Body for GuardedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        loop {
            if let Some(error) = this.error.take() {
                *this.inner = None;
                return Poll::Ready(Some(Err(error)));
            }
            let Some(inner) = this.inner.as_mut() else {
                return Poll::Ready(None);
            };
            match this.watch.as_mut().look() {
                Look::Same => {}
                Look::Reloaded(limits) => *this.max = limits.max_message_bytes,
                Look::Revoked(generation) => {
                    *this.error = Some(this.watch.call().revoke(generation));
                    continue;
                }
            }
            let frame = match Pin::new(inner).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending if this.watch.as_mut().wait(cx) => continue,
                Poll::Pending => return Poll::Pending,
            };
            let data = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return Poll::Ready(other),
            };
            // Without a limit too: a reload may set one in the middle of a message.
            let (max, who) = match *this.max {
                Some(max) if max < *this.max_of_all => (max, "this caller may send"),
                _ => (*this.max_of_all, "this server accepts"),
            };
            match this.messages.pass(&data, max) {
                Ok(()) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(large) => {
                    let generation = this.watch.generation();
                    this.watch
                        .call()
                        .note(DenialReason::MessageSize, generation);
                    *this.error = Some(Status::resource_exhausted(format!(
                        "a message of {} bytes is above the {max} that {who}; send it in parts",
                        large.len
                    )));
                    if large.at > 0 {
                        return Poll::Ready(Some(Ok(Frame::data(data.slice(..large.at)))));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.error.is_none()
            && self
                .inner
                .as_ref()
                .is_none_or(|inner| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
