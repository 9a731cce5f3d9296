//! Connections to the server that speak whatever they like.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use iroh::{
    Endpoint, SecretKey,
    endpoint::{BindOpts, Connection},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;
use tower_iroh::{
    Urgency,
    presets::Offline,
    wire::{Kind, Preamble},
};

use super::Target;
use crate::Error;

/// A transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Quic,
    Tcp,
}

/// Whether the policy permits an attacker to call anything.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who {
    Stranger,
    Insider,
}

/// The address of an attacker, by its number. Linux has all of 127.0.0.0/8; the honest callers are 127.0.0.1.
pub(super) fn source(number: u32) -> Ipv4Addr {
    // Neither a network's address nor a broadcast one.
    Ipv4Addr::new(
        127,
        1 + (number / 62_500 % 250) as u8,
        (number / 250 % 250) as u8,
        2 + (number % 250) as u8,
    )
}

/// Bytes in both directions.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

impl Target {
    /// The key of an attacker. Every stranger has another one.
    pub(super) fn key(&self, who: Who) -> SecretKey {
        match who {
            Who::Stranger => SecretKey::generate(),
            Who::Insider => self.insider.clone(),
        }
    }

    /// Where the server's endpoint is.
    pub(super) fn udp(&self) -> Result<SocketAddr, Error> {
        Ok(*self.peer.addr().ip_addrs().next().ok_or("no UDP address")?)
    }

    /// Where the server's TCP port is.
    pub(super) fn tcp(&self) -> Result<SocketAddr, Error> {
        Ok(self
            .peer
            .tcp()
            .ok_or("no TCP address")?
            .to_string()
            .parse()?)
    }

    /// A TCP connection from an address, before anything is said.
    pub(super) async fn socket(&self, from: Ipv4Addr) -> Result<TcpStream, Error> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(self.tcp()?).await?;
        self.spent.opened();
        Ok(stream)
    }

    /// A connection over TLS on which nothing of HTTP/2 was said.
    pub(super) async fn tls(
        &self,
        key: &SecretKey,
        from: Ipv4Addr,
    ) -> Result<impl Bytes + use<>, Error> {
        let connector = TlsConnector::from(Arc::new(tls(key)?));
        let name = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(connector.connect(name, self.socket(from).await?).await?)
    }

    /// An endpoint at an address. The address's network is all that it sends to.
    pub(super) async fn endpoint(&self, key: SecretKey, from: Ipv4Addr) -> Result<Endpoint, Error> {
        let builder = Endpoint::builder(Offline)
            .secret_key(key)
            .clear_ip_transports();
        let opts = BindOpts::default().set_prefix_len(8);
        Ok(builder.bind_addr_with_opts((from, 0), opts)?.bind().await?)
    }

    /// A connection over QUIC on which no stream was opened.
    pub(super) async fn quic(&self, endpoint: &Endpoint) -> Result<Connection, Error> {
        let addr = self.peer.addr().clone();
        let connection = endpoint.connect(addr, tower_iroh::ALPN).await?;
        self.spent.opened();
        Ok(connection)
    }
}

/// A stream on which HTTP/2 may begin.
pub(super) async fn lane(connection: &Connection) -> Result<impl Bytes + use<>, Error> {
    let (mut send, recv) = connection.open_bi().await?;
    let preamble = Preamble {
        kind: Kind::Http2,
        urgency: Urgency::INTERACTIVE,
    };
    send.write_all(&preamble.encode()).await?;
    Ok(tokio::io::join(recv, send))
}

/// Writes for as long as the other side takes it.
pub(super) async fn write(
    target: &Target,
    to: &mut (impl AsyncWrite + Unpin),
    frames: u64,
    bytes: &[u8],
) -> io::Result<()> {
    to.write_all(bytes).await?;
    target.spent.sent(frames, bytes.len());
    Ok(())
}

/// Proves the key, and takes any server.
fn tls(key: &SecretKey) -> Result<ClientConfig, Error> {
    // An Ed25519 key as PKCS #8 has it (RFC 8410, section 7).
    let mut der = vec![
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    der.extend(key.to_bytes());
    let key = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(der))?;
    let spki = key.public_key().ok_or("no public key")?.to_vec();
    let certified = CertifiedKey::new(vec![spki.into()], key);
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::new(
            certified,
        ))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
