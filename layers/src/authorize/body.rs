use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    limiter::Permit,
    watch::{Look, Watch},
};
use crate::BoxError;

pin_project! {
    /// The response's body of an [`Authorize`](super::Authorize): the inner one's frames, and if the permission is gone before it ends,
    /// trailers that say so.
    pub struct AuthorizedBody<B> {
        #[pin]
        state: State<B>,
        permit: Option<Permit>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<B> {
        Open { #[pin] inner: B, #[pin] watch: Watch },
        Ended,
    }
}

impl<B> AuthorizedBody<B> {
    pub(super) fn new(inner: B, watch: Watch, permit: Option<Permit>) -> Self {
        Self {
            state: State::Open { inner, watch },
            permit,
        }
    }
}

impl<B> Default for AuthorizedBody<B> {
    /// An empty body.
    fn default() -> Self {
        Self {
            state: State::Ended,
            permit: None,
        }
    }
}

impl<B> Body for AuthorizedBody<B>
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
        let mut this = self.project();
        loop {
            let StateProj::Open { inner, mut watch } = this.state.as_mut().project() else {
                return Poll::Ready(None);
            };
            // What has nothing left to say but its end may say it.
            let revoked = match watch.as_mut().look() {
                Look::Revoked(generation) if !inner.is_end_stream() => {
                    Some(watch.call().revoke(generation))
                }
                _ => None,
            };
            if let Some(status) = revoked {
                // This drops what the handler streams from.
                this.state.set(State::Ended);
                *this.permit = None;
                let mut trailers = HeaderMap::new();
                return Poll::Ready(Some(match status.add_header(&mut trailers) {
                    Ok(()) => Ok(Frame::trailers(trailers)),
                    Err(status) => Err(status.into()),
                }));
            }
            match inner.poll_frame(cx) {
                Poll::Ready(frame) => {
                    let is_last = frame
                        .as_ref()
                        .is_none_or(|frame| frame.as_ref().map_or(true, Frame::is_trailers));
                    if is_last {
                        *this.permit = None;
                    }
                    return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
                }
                Poll::Pending if watch.as_mut().wait(cx) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Open { inner, .. } => inner.is_end_stream(),
            State::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Open { inner, .. } => inner.size_hint(),
            State::Ended => SizeHint::with_exact(0),
        }
    }
}

impl<B> fmt::Debug for AuthorizedBody<B> {
    /// Says how far it is and not what it holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizedBody")
            .field("is_open", &matches!(self.state, State::Open { .. }))
            .finish_non_exhaustive()
    }
}
