use std::time::Duration;

use iroh::SecretKey;
use tokio::net::TcpListener;

use super::{super::tls::TlsIdentity, AcceptorConfig, Shared, TcpAcceptor, TcpIncoming};
use crate::pool::{Allowed, Lifetime, Limits};
use tower_iroh_layers::ConfigError;
#[cfg(feature = "authorize")]
use tower_iroh_layers::authorize::PolicyHandle;

/// Settings of a [`TcpAcceptor`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_iroh::tcp::TcpAcceptor;
///
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let key = iroh::SecretKey::generate();
/// let (acceptor, incoming) = TcpAcceptor::builder(key.clone()).max_connections_per_peer(8).build(listener)?;
/// # drop((acceptor, incoming));
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let refused = TcpAcceptor::builder(key).max_handshakes(0).build(listener).unwrap_err();
/// assert_eq!(refused.field(), "tcp.max_handshakes");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct TcpAcceptorBuilder {
    key: SecretKey,
    settings: AcceptorConfig,
}

impl TcpAcceptorBuilder {
    pub(super) fn new(key: SecretKey) -> Self {
        Self {
            key,
            settings: AcceptorConfig {
                limits: Limits {
                    connections: 4096,
                    per_peer: 64,
                    anonymous: 1024,
                },
                lifetime: Lifetime::default(),
                allowed: Allowed::default(),
                max_handshakes: 256,
                handshake_timeout: Duration::from_secs(10),
                drain_timeout: Duration::from_secs(10),
                keep_alive: Duration::from_secs(10),
                plaintext: false,
            },
        }
    }

    /// How many connections may be open, of all callers together. Default 4,096: a key costs nothing, and each connection is a file descriptor.
    /// For the next one the server closes the oldest connection that never had a call, or one that is not in use; without any such it refuses it, which its client sees
    /// as RESOURCE_EXHAUSTED.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.limits.connections = connections;
        self
    }

    /// How many connections one peer may have. Default 64: a [`Channel`](crate::Channel) has up to 8, one for each stream of its lanes. For the
    /// next one the server closes one of the peer's that is not in use, or refuses it, which its client sees as RESOURCE_EXHAUSTED.
    pub fn max_connections_per_peer(mut self, connections: usize) -> Self {
        self.settings.limits.per_peer = connections;
        self
    }

    /// How many connections without TLS may be open, of all callers together, if [`plaintext`](Self::plaintext) lets them in. Default 1,024.
    pub fn max_plaintext_connections(mut self, connections: usize) -> Self {
        self.settings.limits.anonymous = connections;
        self
    }

    /// How many handshakes may be in flight, of all callers. Default 256. From a caller's first byte on it counts, and it has 2 s for that byte.
    ///
    /// - **Silent sockets** take no handshake. There may be as many of them as handshakes; for one more, the oldest is closed.
    /// - **One source** is an IPv4 address or the first 64 bits of an IPv6 address. While more than a quarter of the handshakes are in flight, a source gets an
    ///   eighth of them, and at least two. Until then no source is limited, so many clients behind one NAT are served in normal times.
    /// - **Further callers** wait, as many as handshakes and with the same share for each source, until [`handshake_timeout`](Self::handshake_timeout). Others
    ///   are refused: their connection is closed.
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.settings.max_handshakes = handshakes;
        self
    }

    /// How long a handshake may take, counted from the connection, and after the handshake HTTP/2's preface. Default 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handshake_timeout = timeout;
        self
    }

    /// After how long without a call in flight the server closes a connection. Default 10 minutes. Pings are no use of a connection. Its client connects again
    /// with its next call. A connection without any call is closed after 10 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.lifetime.idle = timeout;
        self
    }

    /// After how long the server asks a client to make its further calls on a new connection. Default none. Each connection has its own age, up to 10 % more or
    /// less. Calls in flight go on; the connection is closed once they have ended, or after [`max_connection_age_grace`](Self::max_connection_age_grace).
    pub fn max_connection_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.settings.lifetime.age = age.into();
        self
    }

    /// How long calls may go on after [`max_connection_age`](Self::max_connection_age); then they are cut. Default none: as long as they take.
    pub fn max_connection_age_grace(mut self, grace: impl Into<Option<Duration>>) -> Self {
        self.settings.lifetime.grace = grace.into();
        self
    }

    /// How long calls in flight may take to finish once the shutdown has begun. Default 10 s. Connections that are open then are cut.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.settings.drain_timeout = timeout;
        self
    }

    /// After how long without a byte the kernel probes the caller. Default 10 s. A caller whose kernel does not answer for twice that long is given up (on Linux;
    /// elsewhere the system's own count of probes applies). The kernel counts in whole seconds.
    ///
    /// A caller whose kernel answers keeps its connection, even if the program stands still. While a caller owes an acknowledgement the kernel does not probe it
    /// and gives up after its own time, about 15 minutes on Linux. tonic's `http2_keepalive_interval` finds a lost caller sooner, and a stopped program as well.
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.settings.keep_alive = interval;
        self
    }

    /// Whether callers without TLS are served too, on the same port, for clients that are being moved to TLS. Default false.
    ///
    /// The first byte tells the two apart: `16` begins a TLS record, `P` HTTP/2's preface. A caller without TLS has no identity: its
    /// [`PeerInfo::id`](crate::PeerInfo::id) stays `None`, and an [`authorize`](crate::authorize()) layer treats it as anonymous. Without such a layer **anybody
    /// may make every call, and anybody on the network path can read and change the calls**. The first such caller is logged as a warning.
    pub fn plaintext(mut self, plaintext: bool) -> Self {
        self.settings.plaintext = plaintext;
        self
    }

    /// Takes connections only of callers to whom this policy permits a call at all, by name or by its entry for authenticated peers. A stranger is refused
    /// when it has proved its key and costs no HTTP/2; its client sees PERMISSION_DENIED. With [`plaintext`](Self::plaintext), callers without TLS are
    /// taken only if the policy permits anonymous callers a call; others see UNAUTHENTICATED. Default: every caller that proves a key is taken.
    ///
    /// A reload that shuts a caller out closes its connections within a second, also where the caller reads nothing. Calls have half a second to end with a
    /// status; a call that is cut after that ends with UNAVAILABLE.
    ///
    /// An [`authorize`](crate::authorize()) layer is needed all the same: it decides over each call.
    #[cfg(feature = "authorize")]
    pub fn allow_list(mut self, policy: &PolicyHandle) -> Self {
        self.settings.allowed = Allowed::by(policy);
        self
    }

    /// Checks the settings and makes the acceptor.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting, its value, and what is accepted.
    pub fn build(self, listener: TcpListener) -> Result<(TcpAcceptor, TcpIncoming), ConfigError> {
        let settings = self.settings;
        ConfigError::nonzero("tcp.max_connections", settings.limits.connections)?;
        ConfigError::nonzero("tcp.max_connections_per_peer", settings.limits.per_peer)?;
        ConfigError::nonzero("tcp.max_plaintext_connections", settings.limits.anonymous)?;
        ConfigError::nonzero("tcp.max_handshakes", settings.max_handshakes)?;
        ConfigError::lasting("tcp.handshake_timeout", settings.handshake_timeout)?;
        ConfigError::lasting("tcp.drain_timeout", settings.drain_timeout)?;
        settings.lifetime.check(
            "tcp.idle_timeout",
            "tcp.max_connection_age",
            "tcp.max_connection_age_grace",
        )?;
        crate::tcp::builder::check_keep_alive(settings.keep_alive)?;
        let local_addr = listener.local_addr().map_err(|error| {
            ConfigError::new("tcp.listener", error, "a bound listener is accepted")
        })?;
        let tls = TlsIdentity::new(self.key).server().map_err(|error| {
            ConfigError::new("tcp.key", error, "a key that TLS can sign with is accepted")
        })?;
        Ok(TcpAcceptor::with(
            listener,
            Shared::new(settings, local_addr, tls),
        ))
    }
}
