//! QUIC bidi streams of iroh without HTTP/2, gRPC or tonic: what our transport could reach at most.
//!
//! One long-lived stream per caller on one connection. A request is `kind (1), length (4), payload`, a reply `length (4), payload`; kind 1
//! asks for a stream of messages and its payload says how many of which size.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use iroh::{
    Endpoint, EndpointAddr, TransportAddr,
    endpoint::{Connection, RecvStream, SendStream, VarInt, presets},
    protocol::{AcceptError, ProtocolHandler, Router},
};

use crate::shared::{
    Fault,
    transport::{Arm, Caller, Link, OnMessage},
};

const ALPN: &[u8] = b"tower-iroh/bench/raw";
const ECHO: u8 = 0;
const STREAM: u8 = 1;
/// Messages are gathered up to this before they are written, as h2 gathers its frames.
const GATHER: usize = 16 << 10;
/// The callers of the largest workload, and some: iroh allows 100 streams by itself.
const STREAMS: u32 = 1024;

/// Which windows the connections have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuned {
    /// Those of tower-iroh's `Channel`.
    AsOurs,
    /// iroh's.
    Not,
}

pub struct Raw {
    client: Endpoint,
    server: EndpointAddr,
    tuned: Tuned,
    _router: Router,
}

async fn endpoint(tuned: Tuned) -> Result<Endpoint, Fault> {
    let builder = match tuned {
        Tuned::AsOurs => Endpoint::builder(tower_iroh::presets::Offline),
        Tuned::Not => Endpoint::builder(presets::Minimal)
            .clear_ip_transports()
            .bind_addr("127.0.0.1:0")?,
    };
    Ok(builder.bind().await?)
}

fn tune(connection: &Connection, tuned: Tuned) {
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(STREAMS));
    if tuned == Tuned::AsOurs {
        // What tower-iroh sets at run time on a short path: `Tuning::short_window`.
        connection.set_receive_window(VarInt::from_u32(128 << 10));
    }
}

pub async fn start(tuned: Tuned) -> Result<Raw, Fault> {
    let server = endpoint(tuned).await?;
    let addresses = server.bound_sockets().into_iter().map(TransportAddr::Ip);
    Ok(Raw {
        server: EndpointAddr::new(server.id()).with_addrs(addresses),
        client: endpoint(tuned).await?,
        tuned,
        _router: Router::builder(server).accept(ALPN, Echo(tuned)).spawn(),
    })
}

impl Arm for Raw {
    type Link = RawLink;

    async fn link(&self) -> Result<RawLink, Fault> {
        let connection = self.client.connect(self.server.clone(), ALPN).await?;
        tune(&connection, self.tuned);
        Ok(RawLink(connection))
    }
}

pub struct RawLink(Connection);

impl Link for RawLink {
    type Caller = RawCaller;

    async fn caller(&self) -> Result<RawCaller, Fault> {
        let (send, recv) = self.0.open_bi().await?;
        Ok(RawCaller {
            send,
            replies: Reader::new(recv),
        })
    }

    async fn close(self) {
        self.0.close(VarInt::from_u32(0), b"");
    }
}

pub struct RawCaller {
    send: SendStream,
    replies: Reader,
}

impl RawCaller {
    async fn ask(&mut self, kind: u8, payload: Bytes) -> Result<(), Fault> {
        let mut head = BytesMut::with_capacity(5 + GATHER.min(payload.len()));
        head.put_u8(kind);
        head.put_u32(payload.len() as u32);
        write(&mut self.send, head, payload).await
    }

    async fn reply(&mut self) -> Result<Bytes, Fault> {
        self.replies.message().await?.ok_or_else(ended)
    }
}

impl Caller for RawCaller {
    async fn unary(&mut self, payload: Bytes) -> Result<Bytes, Fault> {
        self.ask(ECHO, payload).await?;
        self.reply().await
    }

    async fn server_stream(
        &mut self,
        count: u32,
        size: u32,
        on_message: &mut OnMessage<'_>,
    ) -> Result<(), Fault> {
        let mut wish = BytesMut::with_capacity(8);
        wish.put_u32(count);
        wish.put_u32(size);
        self.ask(STREAM, wish.freeze()).await?;
        for _ in 0..count {
            on_message(&self.reply().await?)?;
        }
        Ok(())
    }

    async fn ping_pong(
        &mut self,
        payload: Bytes,
        on_message: &mut OnMessage<'_>,
    ) -> Result<(), Fault> {
        while on_message(&self.unary(payload.clone()).await?)? {}
        Ok(())
    }
}

#[derive(Debug)]
struct Echo(Tuned);

impl ProtocolHandler for Echo {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        tune(&connection, self.0);
        while let Ok((send, recv)) = connection.accept_bi().await {
            tokio::spawn(async move {
                // It ends with its connection; the caller is the one who says so.
                let _ = serve(send, Reader::new(recv)).await;
            });
        }
        Ok(())
    }
}

async fn serve(mut send: SendStream, mut requests: Reader) -> Result<(), Fault> {
    while let Some(kind) = requests.kind().await? {
        let mut payload = requests.message().await?.ok_or_else(ended)?;
        match kind {
            ECHO => {
                let mut head = BytesMut::with_capacity(4 + GATHER.min(payload.len()));
                head.put_u32(payload.len() as u32);
                write(&mut send, head, payload).await?;
            }
            STREAM => {
                let count = payload.get_u32();
                let message = vec![0; payload.get_u32() as usize];
                let mut gathered = BytesMut::with_capacity(GATHER + message.len());
                for _ in 0..count {
                    gathered.put_u32(message.len() as u32);
                    gathered.put_slice(&message);
                    if gathered.len() >= GATHER {
                        send.write_all(&gathered).await?;
                        gathered.clear();
                    }
                }
                send.write_all(&gathered).await?;
            }
            other => return Err(format!("unknown kind {other}").into()),
        }
    }
    Ok(())
}

fn ended() -> Fault {
    "the stream ended within a message".into()
}

/// A small message goes out in one write, a big one without being copied.
async fn write(send: &mut SendStream, mut head: BytesMut, payload: Bytes) -> Result<(), Fault> {
    if payload.len() <= GATHER {
        head.put_slice(&payload);
        send.write_all(&head).await?;
    } else {
        send.write_all_chunks(&mut [head.freeze(), payload]).await?;
    }
    Ok(())
}

/// Reads whatever is there and cuts messages out of it.
struct Reader {
    recv: RecvStream,
    buffer: BytesMut,
}

impl Reader {
    fn new(recv: RecvStream) -> Self {
        Self {
            recv,
            buffer: BytesMut::new(),
        }
    }

    /// Until there are `length` bytes; false at the end of the stream.
    async fn fill(&mut self, length: usize) -> Result<bool, Fault> {
        while self.buffer.len() < length {
            self.buffer.reserve(length - self.buffer.len());
            match self.recv.read_chunk(usize::MAX).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn kind(&mut self) -> Result<Option<u8>, Fault> {
        Ok(match self.fill(1).await? {
            true => Some(self.buffer.get_u8()),
            false => None,
        })
    }

    async fn message(&mut self) -> Result<Option<Bytes>, Fault> {
        if !self.fill(4).await? {
            return Ok(None);
        }
        let length = self.buffer.get_u32() as usize;
        match self.fill(length).await? {
            true => Ok(Some(self.buffer.split_to(length).freeze())),
            false => Ok(None),
        }
    }
}
