//! A way to a TCP port that delays each byte, as the way of iroh's packets does.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

/// How many pieces of a connection are under way at most, in each direction.
const UNDER_WAY: usize = 256;

/// The way. Dropped, it ends with everything on it.
#[derive(Debug)]
pub(crate) struct TcpWay {
    addr: SocketAddr,
    forwarding: JoinHandle<()>,
}

impl TcpWay {
    /// A way from a free port to `target`, which takes so long in each direction.
    pub(crate) async fn to(target: SocketAddr, delay: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let forwarding = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(forward(near, target, delay));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { addr, forwarding })
    }

    /// Where to connect instead of the target.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for TcpWay {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}

async fn forward(near: TcpStream, target: SocketAddr, delay: Duration) -> io::Result<()> {
    let far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::try_join!(
        delayed(near_in, far_out, delay),
        delayed(far_in, near_out, delay)
    )?;
    Ok(())
}

async fn delayed(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
) -> io::Result<()> {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let reads = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = from.read(&mut buffer).await?;
            let piece = (Instant::now() + delay, buffer[..read].to_vec());
            if read == 0 || sender.send(piece).await.is_err() {
                drop(sender);
                return io::Result::Ok(());
            }
        }
    };
    let writes = async {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(reads, writes)?;
    Ok(())
}
