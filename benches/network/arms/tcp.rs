//! tonic's `Channel` and `Server` over TCP and TLS 1.3, each socket with the congestion control that is asked for.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use futures_util::TryStreamExt;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};
use tonic::{
    Status,
    transport::{
        Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig,
        server::TcpIncoming,
    },
};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

use super::{End, Seen, Service, Session, any_port, clients, service};
use crate::{bed::Bed, cipher, fault::Fault};

/// The kernel's congestion control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    Bbr,
    Cubic,
}

impl Kernel {
    pub const ALL: [Self; 2] = [Self::Bbr, Self::Cubic];

    /// As the kernel calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bbr => "bbr",
            Self::Cubic => "cubic",
        }
    }

    /// Sets it on a socket, and asks whether it is so.
    fn set(self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_congestion(self.name().as_bytes())?;
        let set = socket.tcp_congestion()?;
        // The kernel's answer is filled up with zeros.
        let set = set.split(|byte| *byte == 0).next().unwrap_or_default();
        if set != self.name().as_bytes() {
            return Err(io::Error::other(format!(
                "the kernel took {} for {}",
                String::from_utf8_lossy(set),
                self.name()
            )));
        }
        // Closing resets: what one measurement left in a socket must not burden the next one's link.
        socket.set_linger(Some(Duration::ZERO))
    }
}

/// How TCP is used.
#[derive(Clone, Copy, Debug)]
pub struct Tcp {
    pub control: Kernel,
    /// One for everything, or a second for bulk.
    pub channels: usize,
}

/// The server's task.
pub struct Listening(JoinHandle<()>);

impl Listening {
    pub fn end(self) {
        self.0.abort();
    }
}

/// A server that listens, and how to get to it.
pub struct Listener {
    pub endpoint: Endpoint,
    control: Kernel,
    certificate: String,
    pub carried: Arc<AtomicU64>,
    pub seen: Arc<Seen>,
    pub listening: Listening,
}

impl Tcp {
    pub fn start(self, bed: &Bed) -> Result<Session, Fault> {
        let listener = self.listen(bed)?;
        let connect = |listener: &Listener| {
            let (endpoint, control) = (listener.endpoint.clone(), listener.control);
            bed.client().block_on(connect(endpoint, control))
        };
        let small = connect(&listener)?;
        let bulk = match self.channels {
            1 => small.clone(),
            _ => connect(&listener)?,
        };
        let (small, bulk) = clients(small, bulk, &listener.carried);
        Ok(Session {
            small,
            bulk,
            carried: listener.carried,
            seen: listener.seen,
            end: End::Tcp(listener.listening),
        })
    }

    /// Starts the server.
    pub fn listen(self, bed: &Bed) -> Result<Listener, Fault> {
        let key = rcgen::generate_simple_self_signed([String::from("localhost")])?;
        let certificate = key.cert.pem();
        let identity = Identity::from_pem(&certificate, key.signing_key.serialize_pem());
        let (carried, seen) = (Arc::default(), Arc::default());
        let tls = ServerTlsConfig::new().identity(identity);
        let router = service::router(Server::builder().tls_config(tls)?, &carried, &seen);
        let any = any_port(bed.server());
        let control = self.control;
        let (address, task) = bed.server().block_on(async move {
            let listener = TcpListener::bind(any).await?;
            control.set(&SockRef::from(&listener))?;
            let address = listener.local_addr()?;
            let incoming = TcpIncoming::from(listener)
                .with_nodelay(Some(true))
                .and_then(move |stream| async move {
                    control.set(&SockRef::from(&stream))?;
                    Ok(stream)
                });
            let task = tokio::spawn(async move {
                if let Err(error) = router.serve_with_incoming(incoming).await {
                    eprintln!("  a TCP server ended: {error}");
                }
            });
            io::Result::Ok((address, task))
        })?;
        Ok(Listener {
            endpoint: endpoint(address, &certificate)?,
            control,
            certificate,
            carried,
            seen,
            listening: Listening(task),
        })
    }
}

impl Listener {
    /// The cipher suite that is agreed on, read off the wire.
    pub fn cipher(&self, bed: &Bed) -> Result<String, Fault> {
        let certificate = self.certificate.clone();
        let server = self.endpoint.uri().authority().map(ToString::to_string);
        let server: SocketAddr = server.unwrap_or_default().parse()?;
        bed.client().block_on(async move {
            let to = |address| endpoint(address, &certificate);
            cipher::negotiated(server, to).await
        })
    }
}

fn endpoint(address: SocketAddr, certificate: &str) -> Result<Endpoint, tonic::transport::Error> {
    Endpoint::from_shared(format!("https://{address}"))?.tls_config(
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(certificate))
            .domain_name("localhost"),
    )
}

/// A channel of its own, and so a connection of its own.
pub async fn connect(endpoint: Endpoint, control: Kernel) -> Result<Service, Fault> {
    let connector = service_fn(move |uri: http::Uri| dial(uri, control));
    let channel: Channel = endpoint.connect_with_connector(connector).await?;
    Ok(BoxCloneSyncService::new(
        channel.map_err(|error| Status::from_error(error.into())),
    ))
}

async fn dial(uri: http::Uri, control: Kernel) -> io::Result<TokioIo<TcpStream>> {
    let address = uri.authority().map(ToString::to_string).unwrap_or_default();
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let socket = TcpSocket::new_v4()?;
    control.set(&SockRef::from(&socket))?;
    socket.set_nodelay(true)?;
    Ok(TokioIo::new(socket.connect(address).await?))
}
