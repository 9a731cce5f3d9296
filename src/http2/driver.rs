//! What moves an HTTP/2 connection's frames.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::timeout,
};

use super::set::{StreamLimit, UNTOLD};

/// How long a connection that nobody uses any more may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Moves the frames of a connection until it ends. Once the sender of `unused` is dropped, h2 says GOAWAY and shuts the byte stream down, for which
/// it has [`GOODBYE`]: so the task outlives the connection's users by no more than that.
pub(super) async fn drive<IO>(
    connection: h2::client::Connection<IO, Bytes>,
    unused: oneshot::Receiver<Infallible>,
    limit: StreamLimit,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (mut connection, mut unused) = (pin!(connection), pin!(unused));
    let mut told = UNTOLD;
    let ended = poll_fn(|cx| {
        let polled = connection.as_mut().poll(cx);
        // It comes with the peer's SETTINGS, which h2 tells nobody about.
        let most = connection.max_concurrent_send_streams();
        if most != told {
            told = most;
            limit.set(|| connection.max_concurrent_send_streams());
        }
        match polled {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending => Pin::new(&mut unused).poll(cx).map(|_| None),
        }
    })
    .await;
    let ended = match ended {
        Some(ended) => Ok(ended),
        None => timeout(GOODBYE, connection).await,
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an HTTP/2 connection ended"),
        Err(_) => tracing::debug!("an HTTP/2 connection was cut: the peer takes no goodbye"),
    }
}
