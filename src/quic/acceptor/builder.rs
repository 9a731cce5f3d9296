use std::time::Duration;

#[cfg(feature = "authorize")]
use tower_iroh_layers::authorize::PolicyHandle;
use tower_iroh_layers::{ConfigError, MethodSet};

use super::{super::Tuning, Acceptor, AcceptorConfig, Incoming, early::EarlyData};
use crate::pool::{Allowed, Lifetime, Limits};

/// Settings of an [`Acceptor`].
///
/// ```
/// use tower_iroh::Acceptor;
///
/// let (acceptor, incoming) = Acceptor::builder().max_connections_per_peer(2).build()?;
/// # drop((acceptor, incoming));
/// let refused = Acceptor::builder().max_lanes_per_connection(0).build().unwrap_err();
/// assert_eq!(refused.field(), "acceptor.max_lanes_per_connection");
/// # Ok::<(), tower_iroh::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct AcceptorBuilder {
    settings: AcceptorConfig,
    early_data: Vec<String>,
    #[cfg(feature = "authorize")]
    early_data_policy: Option<PolicyHandle>,
}

impl Default for AcceptorBuilder {
    fn default() -> Self {
        Self {
            settings: AcceptorConfig {
                limits: Limits {
                    connections: 4096,
                    per_peer: 16,
                    // QUIC has no callers without an identity.
                    anonymous: 0,
                },
                lifetime: Lifetime::default(),
                allowed: Allowed::default(),
                max_lanes_per_connection: 64,
                window_budget: 1 << 30,
                max_handshakes: 256,
                handshake_timeout: Duration::from_secs(10),
                preamble_timeout: Duration::from_secs(5),
                drain_timeout: Duration::from_secs(10),
                copies: true,
                tuning: Tuning::default(),
                early_data: None,
            },
            early_data: Vec::new(),
            #[cfg(feature = "authorize")]
            early_data_policy: None,
        }
    }
}

impl AcceptorBuilder {
    /// How many connections may be open, of all peers together. Default 4,096: a key costs nothing. For the next one the
    /// acceptor closes the oldest connection that never had a call, or one that is not in use, with [`EVICTED`](crate::wire::close::EVICTED). Without any such it
    /// closes the new one with [`TOO_MANY_CONNECTIONS`](crate::wire::close::TOO_MANY_CONNECTIONS), which its client sees as RESOURCE_EXHAUSTED.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.limits.connections = connections;
        self
    }

    /// How many connections one peer may have. Default 16. For the next one the acceptor closes one of the peer's that is not in use, or the oldest that
    /// gives no sign of life; without any such it closes the new one with the same code.
    pub fn max_connections_per_peer(mut self, connections: usize) -> Self {
        self.settings.limits.per_peer = connections;
        self
    }

    /// How many lanes a connection may have. Default 64: a [`Channel`](crate::Channel) has up to 8, and each tonic channel over a [`Connector`](crate::Connector) one.
    /// The acceptor resets the next lane with [`TOO_MANY_LANES`](crate::wire::reset::TOO_MANY_LANES). Pings are no lanes and have a limit of their own.
    ///
    /// [`Tuning::send_window`] carries 16 lanes that are all full of unsent bytes. While more than that are, priorities among them have no effect.
    pub fn max_lanes_per_connection(mut self, lanes: usize) -> Self {
        self.settings.max_lanes_per_connection = lanes;
        self
    }

    /// How many bytes of receive window all connections together may have, beyond the 256 KiB of each. Default 1 GiB.
    ///
    /// A window is what a peer can make this side hold by sending to lanes that nobody reads. A connection has 256 KiB until a handler has served a call of it: sent
    /// a message, or read 512 KiB of a request. Then it has the window of its [tuning](Self::tuning), but of this budget at most an eighth of what the others leave. So
    /// strangers have at most 256 KiB times [`max_connections`](Self::max_connections), and when the budget is used up windows are small and calls are slower;
    /// none fails. The endpoint must have been bound with the preset of the same tuning: iroh's own first window has no bound.
    pub fn window_budget(mut self, bytes: u64) -> Self {
        self.settings.window_budget = bytes;
        self
    }

    /// How many handshakes may be in flight, of all peers. Default 256. [`Acceptor::router`] refuses further connections before they cost anything, and from a
    /// quarter on it asks for proof of an address and limits each source: see [`Acceptor::incoming_filter`].
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.settings.max_handshakes = handshakes;
        self
    }

    /// How long a handshake may take. Default 10 s. For that long a peer that has proved nothing can count against
    /// [`max_handshakes`](Self::max_handshakes).
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handshake_timeout = timeout;
        self
    }

    /// Answers calls to these methods before the caller's handshake is complete: TLS 1.3's early data, QUIC's 0-RTT. A method is `/pkg.Svc/Method`, all methods
    /// of a service are `/pkg.Svc/*`. Default none. It saves a caller that [sends early](crate::LinksBuilder::early_data) a round trip.
    ///
    /// List a method only if both are acceptable:
    ///
    /// - The call may be executed twice: an attacker who recorded the caller's first packets can send them again.
    /// - Anybody may make the call: the handshake has proved nothing yet. [`PeerInfo::id`](crate::PeerInfo::id) is `None`, an `authorize` layer treats the
    ///   caller as anonymous, and neither iroh's hooks nor [`max_connections_per_peer`](Self::max_connections_per_peer) have been applied. With a policy see
    ///   `early_data_policy`.
    ///
    /// Early calls to any other method wait for the handshake; if the handshake fails, no service ever sees them. So do the calls beyond 200 or 64 KiB on one
    /// lane. This happens beneath HTTP/2, on the bytes that [`Incoming`] yields: it needs no layer, and a caller's own claims about its methods do not count.
    ///
    /// ```
    /// use tower_iroh::Acceptor;
    ///
    /// let (acceptor, incoming) = Acceptor::builder()
    ///     .early_data(["/grpc.health.v1.Health/Check", "/shop.v1.Stock/Get"])
    ///     .build()?;
    /// # drop((acceptor, incoming));
    /// # Ok::<(), tower_iroh::ConfigError>(())
    /// ```
    pub fn early_data<M: Into<String>>(mut self, methods: impl IntoIterator<Item = M>) -> Self {
        self.early_data.extend(methods.into_iter().map(Into::into));
        self
    }

    /// Answers a method of [`early_data`](Self::early_data) early only if the policy in force lets anonymous callers call it. Calls to the others wait for
    /// the handshake and are then judged by the identity that it proved. Without this setting, an [`authorize`](crate::authorize()) layer refuses them.
    #[cfg(feature = "authorize")]
    pub fn early_data_policy(mut self, policy: &PolicyHandle) -> Self {
        self.early_data_policy = Some(policy.clone());
        self
    }

    /// Takes connections only of callers to whom this policy permits a call at all, by name or by its entry for authenticated peers. A stranger is refused
    /// when its handshake is complete and costs no HTTP/2: the acceptor closes the connection with [`FORBIDDEN`](crate::wire::close::FORBIDDEN), which its
    /// client sees as PERMISSION_DENIED. Default: every caller that proves a key is taken.
    ///
    /// A reload that shuts a caller out closes its connections with the same code within a second, also where the caller reads nothing. Calls have half a
    /// second to end with a status. Calls answered as [early data](Self::early_data) come before the handshake, so they are not affected.
    ///
    /// An [`authorize`](crate::authorize()) layer is needed all the same: it decides over each call.
    #[cfg(feature = "authorize")]
    pub fn allow_list(mut self, policy: &PolicyHandle) -> Self {
        self.settings.allowed = Allowed::by(policy);
        self
    }

    /// How long a stream's preamble may take to arrive. Default 5 s.
    pub fn preamble_timeout(mut self, timeout: Duration) -> Self {
        self.settings.preamble_timeout = timeout;
        self
    }

    /// After how long without a call in flight the server closes a connection. Default 10 minutes. Pings are no use of a connection. Its client connects again
    /// with its next call. A connection without any lane is closed after 10 s.
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

    /// How long calls in flight may take to finish once the shutdown has begun. Default 10 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.settings.drain_timeout = timeout;
        self
    }

    /// Whether small writes of lanes above bulk are sent again, as QUIC datagrams, on paths that lose packets, and whether clients' copies are used;
    /// see [`LaneConfig::copies`](crate::LaneConfig::copies). Default true. It has no effect under the ALPNs of [`Acceptor::bare`], whose peers may not know of
    /// copies.
    pub fn copies(mut self, copies: bool) -> Self {
        self.settings.copies = copies;
        self
    }

    /// The windows of accepted connections. Default [`Tuning::auto`]. An endpoint fixes some settings when it is bound, above all congestion control and the
    /// send window; bind it with the preset of the same tuning.
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.settings.tuning = tuning;
        self
    }

    /// Checks the settings and makes the acceptor.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting, its value, and what is accepted.
    pub fn build(mut self) -> Result<(Acceptor, Incoming), ConfigError> {
        let early_data = MethodSet::try_new("acceptor.early_data", &self.early_data)?;
        if !self.early_data.is_empty() {
            self.settings.early_data = Some(EarlyData {
                methods: early_data,
                #[cfg(feature = "authorize")]
                policy: self.early_data_policy.take(),
            });
        }
        let settings = &self.settings;
        ConfigError::nonzero("acceptor.max_connections", settings.limits.connections)?;
        ConfigError::nonzero(
            "acceptor.max_connections_per_peer",
            settings.limits.per_peer,
        )?;
        ConfigError::nonzero(
            "acceptor.max_lanes_per_connection",
            settings.max_lanes_per_connection,
        )?;
        ConfigError::nonzero("acceptor.max_handshakes", settings.max_handshakes)?;
        ConfigError::lasting("acceptor.handshake_timeout", settings.handshake_timeout)?;
        ConfigError::lasting("acceptor.preamble_timeout", settings.preamble_timeout)?;
        ConfigError::lasting("acceptor.drain_timeout", settings.drain_timeout)?;
        settings.lifetime.check(
            "acceptor.idle_timeout",
            "acceptor.max_connection_age",
            "acceptor.max_connection_age_grace",
        )?;
        settings.tuning.validate()?;
        Ok(self.build_valid())
    }

    pub(super) fn build_valid(self) -> (Acceptor, Incoming) {
        Acceptor::with(self.settings)
    }
}
