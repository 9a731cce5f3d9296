//! An HTTP/2 connection over one stream, as its client.
//!
//! h2 is called directly. hyper's client stands on h2 too and adds a queue, a task and a oneshot channel to every call
//! (`docs/decisions/h2-without-hyper.md`).

use std::{
    convert::Infallible,
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use tower_iroh_layers::peek::Peeked;

use super::{
    driver,
    header_list::HeaderListLimit,
    set::{NewStream, StreamLimit, UNTOLD},
};
use crate::{error::Error, pool::Runtime};

/// How much a lane's peer may send ahead of its readers: on one call, and on all of them together. They bound what a slow reader makes us hold, and eight readers
/// that stand still hold up no other call. They are not the knob for the network's speed; the QUIC windows beneath are.
const CALL_WINDOW: u32 = 2 * 1024 * 1024;
const LANE_WINDOW: u32 = 16 * 1024 * 1024;
/// What h2 allows for the cost of frames below 256 bytes that nobody has read: a million of them. By itself h2 allows a few thousand, and ends the connection for
/// more. So the windows hold back a peer that sends messages of 16 bytes and more.
const SMALL_FRAMES: usize = 1024 * 1024 * 256;
/// How many calls that this side reset are remembered, so that late frames for them are not an error.
const RESET_CALLS: usize = 1000;

/// What the transport beneath an HTTP/2 connection knows of that connection alone.
pub(crate) trait Explain: fmt::Debug + Send + Sync {
    /// What an HTTP/2 error means for its call. A link that its peer is leaving takes no further call from then on.
    fn explain(&self, error: h2::Error) -> Error;

    /// Whether the peer has said that it took none of the calls on this connection.
    fn is_refused(&self, error: &h2::Error) -> bool;
}

/// The client's side of an HTTP/2 connection. When the last clone of its `Arc` is dropped, the task that moves its frames says goodbye and ends.
#[derive(Debug)]
pub(crate) struct Http2 {
    requests: h2::client::SendRequest<Bytes>,
    beneath: Arc<dyn Explain>,
    limit: StreamLimit,
    header_list: HeaderListLimit,
    ended: Arc<OnceLock<Instant>>,
    _used: oneshot::Sender<Infallible>,
}

impl Http2 {
    /// Begins a connection for a new stream on `runtime`, with a handle to ping the peer. Sends the preface and waits for nothing.
    pub(crate) async fn handshake<IO>(
        io: IO,
        beneath: Arc<dyn Explain>,
        runtime: &Runtime,
        new: NewStream,
    ) -> Result<(Self, Option<h2::PingPong>), Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = h2::client::Builder::new()
            .initial_window_size(CALL_WINDOW)
            .initial_connection_window_size(LANE_WINDOW)
            .max_header_list_size(new.header_list.held())
            // Calls that were dropped may still be answered for a moment; what is remembered of them is not held against us.
            .max_concurrent_reset_streams(RESET_CALLS)
            .enable_push(false)
            .initial_max_send_streams(UNTOLD)
            .data_frame_budget(SMALL_FRAMES)
            .handshake(io);
        let (requests, mut connection) = handshake.await.map_err(|error| beneath.explain(error))?;
        let pings = connection.ping_pong();
        let (used, unused) = oneshot::channel();
        let ended = Arc::<OnceLock<_>>::default();
        let note_end = NoteEnd(ended.clone());
        let told = new.limit.clone();
        let driver = runtime.spawn(async move {
            let _note_end = note_end;
            driver::drive(connection, unused, told).await;
        })?;
        // It ends by itself, soon after `used` is dropped.
        drop(driver.detach());
        let http2 = Self {
            requests,
            beneath,
            limit: new.limit,
            header_list: new.header_list,
            ended,
            _used: used,
        };
        Ok((http2, pings))
    }

    /// Waits until the peer has answered a ping, and so has taken the connection.
    ///
    /// # Errors
    /// Why it has not.
    pub(crate) async fn confirmed(&self, pings: &mut h2::PingPong) -> Result<(), Error> {
        let Err(error) = pings.ping(h2::Ping::opaque()).await else {
            return Ok(());
        };
        // The connection knows more of its end than the ping does.
        Err(self.explain(self.ready().err().unwrap_or(error)))
    }

    /// Why the peer took none of the calls on this connection, and when it said so.
    pub(super) fn refusal(&self) -> Option<(Error, Instant)> {
        let Err(error) = self.ready() else {
            return None;
        };
        let at = self.ended.get().copied().unwrap_or_else(Instant::now);
        let is_refused = self.beneath.is_refused(&error);
        is_refused.then(|| (self.explain(error), at))
    }

    /// What an error of this connection means for its call.
    pub(crate) fn explain(&self, error: h2::Error) -> Error {
        self.beneath.explain(error)
    }

    /// What an error means for a call that has left, which the peer may have begun unless it says that it has not.
    pub(crate) fn explain_sent(&self, error: h2::Error) -> Error {
        let not_begun = match error.reason() {
            _ if self.beneath.is_refused(&error) => true,
            Some(h2::Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
            Some(h2::Reason::REFUSED_STREAM) => {
                // The peer takes fewer calls than came. The call's retry may be faster than the driver, which sets the limit too.
                self.limit.set(|| self.requests.current_max_send_streams());
                error.is_reset() && error.is_remote()
            }
            _ => false,
        };
        let error = self.explain(error);
        match not_begun {
            true => error,
            false => error.perhaps_processed(),
        }
    }

    /// How large header lists may be.
    pub(crate) fn header_list(&self) -> HeaderListLimit {
        self.header_list
    }

    /// Whether the connection takes another request, and the handle to send it with.
    ///
    /// # Errors
    /// Why it takes none. Nothing has been sent.
    pub(crate) fn ready(&self) -> Result<Ready, h2::Error> {
        let mut requests = self.requests.clone();
        // A clone waits for nobody, so this only tells whether the connection is still good.
        match requests.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(Ready { requests }),
        }
    }
}

/// Notes when a connection ended, however it did.
struct NoteEnd(Arc<OnceLock<Instant>>);

impl Drop for NoteEnd {
    fn drop(&mut self) {
        let _ = self.0.set(Instant::now());
    }
}

/// A connection that takes a request.
pub(crate) struct Ready {
    requests: h2::client::SendRequest<Bytes>,
}

/// A request on its way.
pub(crate) struct Sent<B: Body> {
    pub(crate) response: h2::client::ResponseFuture,
    /// Moves what is left of the body.
    pub(crate) pump: Option<Pump<B>>,
    /// Set when the body fails, before the call is reset for it.
    pub(crate) body_failure: Arc<OnceLock<B::Error>>,
}

impl Ready {
    /// Sends a request.
    pub(crate) fn send<B>(
        mut self,
        head: Request<()>,
        mut body: Peeked<B>,
    ) -> Result<Sent<B>, h2::Error>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Unpin,
    {
        let end = body.is_end_stream();
        let (response, mut stream) = self.requests.send_request(head, end)?;
        let body_failure = Arc::default();
        let pump = if end {
            None
        } else if let Some(data) = body.take_single() {
            // A body that is one frame and whole is handed over as it is: h2 holds the caller's own bytes until the peer's
            // window takes them, and END_STREAM goes with the last of them.
            if stream.send_data(data, true).is_err() {
                // The peer has reset the call already, or the message is more than h2 counts (2 GiB). Without a reset of ours
                // the call would wait for ever.
                stream.send_reset(h2::Reason::INTERNAL_ERROR);
            }
            None
        } else {
            Some(Pump {
                body,
                stream,
                chunk: None,
                failure: Arc::clone(&body_failure),
            })
        };
        Ok(Sent {
            response,
            pump,
            body_failure,
        })
    }
}

/// Moves a streaming body into its call as the peer takes it. Ends by itself when the body or the call does; dropped
/// before that it resets the call.
pub(crate) struct Pump<B: Body> {
    body: Peeked<B>,
    stream: h2::SendStream<Bytes>,
    /// What was taken from the body and waits for the peer's window.
    chunk: Option<Bytes>,
    failure: Arc<OnceLock<B::Error>>,
}

impl<B> Future for Pump<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Unpin,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            // The peer may end the call before the body does.
            if this.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(());
            }
            if let Some(chunk) = this.chunk.take() {
                // One byte is enough to be told of room; `send_data` asks for the rest, and a call that waits claims nothing
                // of the window that others could use.
                this.stream.reserve_capacity(1);
                if this.stream.capacity() == 0 {
                    match this.stream.poll_capacity(cx) {
                        Poll::Pending => {
                            this.chunk = Some(chunk);
                            return Poll::Pending;
                        }
                        Poll::Ready(Some(Ok(0))) => {
                            this.chunk = Some(chunk);
                            continue;
                        }
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                    }
                }
                let end = this.body.is_end_stream();
                // h2 keeps what exceeds the window: one message at a time, because the next waits for capacity again.
                if this.stream.send_data(chunk, end).is_err() {
                    this.stream.send_reset(h2::Reason::INTERNAL_ERROR);
                    return Poll::Ready(());
                }
                if end {
                    return Poll::Ready(());
                }
                continue;
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => this.chunk = Some(data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            let _ = this.stream.send_trailers(trailers);
                            return Poll::Ready(());
                        }
                    }
                },
                Some(Err(error)) => {
                    // The caller's own stream failed: the call is over, and the peer is told so.
                    let _ = this.failure.set(error);
                    this.stream.send_reset(h2::Reason::CANCEL);
                    return Poll::Ready(());
                }
                None => {
                    let _ = this.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(());
                }
            }
        }
    }
}

impl<B> Pump<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Unpin + Send + Sync,
{
    /// Moves what is ready now; what is left goes on in a task that ends with the handle.
    pub(crate) async fn start(mut self) -> Option<AbortOnDropHandle<()>> {
        let done = poll_fn(|cx| Poll::Ready(Pin::new(&mut self).poll(cx).is_ready())).await;
        (!done).then(|| AbortOnDropHandle::new(tokio::spawn(self)))
    }
}
