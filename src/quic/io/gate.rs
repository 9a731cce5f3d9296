//! Holds back what arrives on a lane before the connection's handshake is complete.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::screen::{Permits, Screen};
use crate::peer::Proof;

/// A lane's reader until the handshake is over. Bytes that arrive earlier may be a replay, and their sender has proved nothing. Only calls that a
/// [`Screen`] passes are delivered. All others wait, and are dropped if the handshake fails.
///
/// The gate works beneath HTTP/2, so a server needs no layer for it and cannot forget one.
#[derive(Debug)]
pub(crate) struct Gate {
    screen: Screen,
    /// Bytes read from the stream and not yet delivered.
    held: BytesMut,
    /// How many of the held bytes may be delivered.
    passed: usize,
    /// Bytes arrived that must wait; the gate reads no more.
    shut: bool,
    /// Resolves when the handshake has succeeded or failed.
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    is_over: bool,
    proof: Proof,
}

/// The outcome of a poll of a gate's reader.
#[derive(Debug)]
pub(super) enum Through {
    /// Bytes were put into the buffer.
    Read,
    /// The gate is empty and holds nothing back: read the stream itself.
    Open,
}

impl Gate {
    /// `over` is cancelled when the handshake is over; by then `proof` is complete if it succeeded.
    pub(crate) fn new(permits: Permits, over: CancellationToken, proof: Proof) -> Self {
        Self {
            screen: Screen::new(permits),
            held: BytesMut::new(),
            passed: 0,
            shut: false,
            over: Box::pin(over.cancelled_owned()),
            is_over: false,
            proof,
        }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        recv: &mut (impl AsyncRead + Unpin),
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Through>> {
        loop {
            if !self.is_over && self.over.as_mut().poll(cx).is_ready() {
                self.is_over = true;
                self.passed = self.held.len();
            }
            if self.is_over && self.proof.id().is_none() {
                let error = "the handshake was not completed";
                let error = io::Error::new(io::ErrorKind::ConnectionAborted, error);
                return Poll::Ready(Err(error));
            }
            if self.passed > 0 {
                let read = self.passed.min(buf.remaining());
                buf.put_slice(&self.held[..read]);
                self.held.advance(read);
                self.passed -= read;
                return Poll::Ready(Ok(Through::Read));
            }
            if self.is_over {
                return Poll::Ready(Ok(Through::Open));
            }
            if self.shut {
                return Poll::Pending;
            }
            let mut bytes = [0; 4096];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(AsyncRead::poll_read(Pin::new(recv), cx, &mut read))?;
            if read.filled().is_empty() {
                // The end of the stream, and everything before it has passed.
                return Poll::Ready(Ok(Through::Open));
            }
            self.held.extend_from_slice(read.filled());
            self.passed = self.screen.pass(read.filled());
            self.shut = self.passed < self.held.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncWriteExt as _;
    use tokio_test::{assert_pending, assert_ready, task};

    use super::{
        super::screen::tests::{LISTED, OTHER, sent},
        *,
    };

    #[tokio::test]
    async fn what_waits_for_a_handshake_that_fails_is_never_seen() {
        let bytes = sent(&[(LISTED, 9, false), (OTHER, 9, false)]);
        let listed = sent(&[(LISTED, 9, false)]).len();
        let (mut recv, mut far) = tokio::io::duplex(1 << 16);
        far.write_all(&bytes).await.expect("room");

        let over = CancellationToken::new();
        let permits = Arc::new(|path: &str| path == LISTED);
        let mut gate = Gate::new(permits, over.clone(), Proof::default());
        let mut read = vec![0; bytes.len()];
        let mut read = ReadBuf::new(&mut read);
        let mut through = task::spawn(());
        while read.filled().len() < listed {
            let polled = through.enter(|cx, _| gate.poll_read(cx, &mut recv, &mut read));
            assert!(matches!(assert_ready!(polled), Ok(Through::Read)));
        }
        assert_eq!(read.filled(), &bytes[..listed]);
        assert_pending!(through.enter(|cx, _| gate.poll_read(cx, &mut recv, &mut read)));
        over.cancel();
        assert!(through.is_woken());
        for _ in 0..2 {
            let polled = through.enter(|cx, _| gate.poll_read(cx, &mut recv, &mut read));
            let error = assert_ready!(polled).err().expect("no handshake, no bytes");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        }
        assert_eq!(read.filled(), &bytes[..listed]);
    }
}
