//! A server on both transports, attackers, and the honest callers beside them.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use iroh::{Endpoint, SecretKey, endpoint::Connection};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service as _;
use tower_iroh::{
    Channel, Connector, Links, Peer, Server, ServerBuilder, ServerHandle, TransportKind, Urgency,
    presets::Offline,
    tcp::{TcpConnector, TcpLinks},
    wire::{Kind, Preamble},
};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer},
};

pub use crate::waiting::soon;

pub const ECHO: &str = "/tower_iroh.echo.v1.Echo/Echo";

/// What the log and the metrics have, of all tests of this process.
pub struct Witness {
    pub metrics: PrometheusHandle,
    lines: Arc<Mutex<Vec<u8>>>,
}

#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Witness {
    pub fn get() -> &'static Self {
        static WITNESS: OnceLock<Witness> = OnceLock::new();
        WITNESS.get_or_init(|| {
            let lines = Lines(Arc::default());
            let write = lines.clone();
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::WARN)
                .with_ansi(false)
                .with_writer(move || write.clone())
                .init();
            let recorder = PrometheusBuilder::new().install_recorder();
            Self {
                metrics: recorder.expect("none before"),
                lines: lines.0,
            }
        })
    }

    /// The lines that have all of these.
    pub fn lines(&self, with: &[&str]) -> Vec<String> {
        let lines = self.lines.lock().expect("no panic");
        let lines = String::from_utf8_lossy(&lines);
        let has = |line: &&str| with.iter().all(|with| line.contains(with));
        lines.lines().filter(has).map(str::to_owned).collect()
    }

    /// The counter of refusals.
    pub fn refused(&self, transport: TransportKind, reason: &str) -> u64 {
        let name = match transport {
            TransportKind::Tcp => "tcp",
            _ => "quic",
        };
        let counter = format!("tower_iroh_{name}_refused_total{{reason=\"{reason}\"}} ");
        let text = self.metrics.render();
        let value = text.lines().find_map(|line| line.strip_prefix(&counter));
        value.map_or(0, |value| value.parse().expect("a number"))
    }
}

/// A server with its defaults, on both transports.
pub struct World {
    pub peer: Peer,
    handle: ServerHandle,
}

impl World {
    pub async fn start() -> Self {
        Self::with(|server| server).await
    }

    pub async fn with(configure: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        Witness::get();
        let builder = Server::builder()
            .endpoint(offline().await)
            .tcp(([127, 0, 0, 1], 0).into());
        let server = configure(builder).bind().await.expect("bound");
        let peer = server.addresses().expect("dialable");
        let handle = server.handle();
        let services = tonic::transport::Server::builder()
            .add_service(EchoServer::new(EchoService).max_decoding_message_size(64 << 20));
        tokio::spawn(server.serve(move |incoming, stopped| {
            services.serve_with_incoming_shutdown(incoming, stopped)
        }));
        Self { peer, handle }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

pub async fn offline() -> Endpoint {
    Endpoint::bind(Offline).await.expect("127.0.0.1 is there")
}

pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Io for S {}

/// Somebody with a key of its own and bad manners.
pub struct Attacker {
    key: SecretKey,
    /// Over TCP each connection has links of its own: those that were ended would wait.
    iroh: Option<Connector>,
    peer: Peer,
}

impl Attacker {
    pub async fn new(transport: TransportKind, world: &World) -> Self {
        let key = SecretKey::generate();
        let mut iroh = None;
        if transport == TransportKind::Iroh {
            let endpoint = Endpoint::builder(Offline)
                .secret_key(key.clone())
                .bind()
                .await;
            let links = Links::builder(endpoint.expect("bound"))
                .build()
                .expect("valid");
            links.add_peer(world.peer.clone());
            iroh = Some(Connector::with_links(links));
        }
        Self {
            key,
            iroh,
            peer: world.peer.clone(),
        }
    }

    /// A lane, or a TCP connection, on which nothing was said.
    pub async fn io(&mut self) -> Box<dyn Io> {
        let uri = self.peer.uri();
        let Some(iroh) = &mut self.iroh else {
            let links = TcpLinks::builder(self.key.clone()).build().expect("valid");
            links.add_peer(self.peer.clone());
            let dial = TcpConnector::with_links(links).call(uri);
            let io = soon("a connection", dial).await;
            return Box::new(TokioIo::new(io.expect("connected")));
        };
        let io = soon("a lane", iroh.call(uri)).await;
        Box::new(TokioIo::new(io.expect("connected")))
    }

    /// Its name in logs.
    pub fn name(&self) -> String {
        self.key.public().fmt_short().to_string()
    }
}

/// A raw connection under our ALPN, with windows of the test's own.
pub async fn raw(peer: &Peer) -> (Endpoint, Connection) {
    let endpoint = offline().await;
    let dial = endpoint.connect(peer.addr().clone(), tower_iroh::ALPN);
    let connection = soon("a connection", dial).await.expect("connected");
    (endpoint, connection)
}

pub fn preamble() -> [u8; 3] {
    let (kind, urgency) = (Kind::Http2, Urgency::INTERACTIVE);
    Preamble { kind, urgency }.encode()
}

/// Honest callers over both transports.
pub struct Honest {
    callers: [EchoClient<Channel>; 2],
}

impl Honest {
    pub async fn new(world: &World) -> Self {
        let iroh = Channel::builder(offline().await).peer(world.peer.clone());
        let tcp = Channel::tcp(SecretKey::generate()).peer(world.peer.clone());
        let callers = [iroh.build(), tcp.build()];
        let callers = callers.map(|channel| EchoClient::new(channel.expect("valid")));
        let mut honest = Self { callers };
        honest.call_for(Duration::from_millis(1)).await;
        honest
    }

    /// Calls over both for that long, and longer until there were a hundred calls. Each must be answered. Returns the 99th percentile.
    pub async fn call_for(&mut self, time: Duration) -> Duration {
        let began = Instant::now();
        let mut took = Vec::new();
        while began.elapsed() < time || took.len() < 100 {
            for caller in &mut self.callers {
                let call = Instant::now();
                let payload = bytes::Bytes::from_static(&[7; 64]);
                let answer = soon("an answer", caller.echo(EchoRequest { payload })).await;
                answer.expect("an honest call is answered");
                took.push(call.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        took.sort();
        took[took.len() * 99 / 100]
    }
}

/// What the p99 may be beside an attack. Of a hundred calls it is the slowest, and others use the machine too: the siege is the one that measures.
pub fn assert_unhurt(idle: Duration, beside: Duration) {
    println!("honest p99: {idle:?} alone, {beside:?} beside the attack");
    assert!(
        beside < (3 * idle).max(Duration::from_secs(2)),
        "{idle:?}, {beside:?}"
    );
}
