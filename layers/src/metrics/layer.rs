use std::{fmt, sync::Arc};

use http::Extensions;
use tower::Layer;

use super::{
    registry::{PeerName, Registry},
    series::Role,
    service::{Metrics, MetricsRecorder},
};

/// Records each call that passes: see the [module's page](super).
///
/// Clones, and the services that they make, share one set of series and one count of names, so caps hold for all of them together. A setter
/// returns a layer that shares with no other.
#[derive(Clone)]
pub struct MetricsLayer {
    config: Config,
    registry: Arc<Registry>,
    disabled: bool,
    /// The peer of all calls, if it is always the same.
    peer: Option<Arc<str>>,
}

#[derive(Clone)]
pub(super) struct Config {
    pub(super) role: Role,
    pub(super) transport: Option<&'static str>,
    pub(super) methods: usize,
    /// Whether a method's name is learnt only from a call that ended with OK.
    pub(super) methods_from_ok: bool,
    pub(super) peers: Option<usize>,
    pub(super) peer_of: Option<PeerName>,
}

impl MetricsLayer {
    /// How many names of methods are told apart by default.
    pub const METHOD_CAP: usize = 256;

    /// For a client's calls: above a retry layer.
    pub fn client() -> Self {
        Self::with_role(Role::Client)
    }

    /// For a client's attempts over one transport (`"iroh"`, `"tcp"`): below a retry layer and below what selects the transport.
    pub fn attempt(transport: &'static str) -> Self {
        Self::with_role(Role::Attempt).transport(transport)
    }

    /// For a server's calls: outermost, so that calls that other layers refuse are recorded too.
    pub fn server() -> Self {
        Self::with_role(Role::Server)
    }

    /// Records nothing; takes the place of a layer that would.
    pub fn disabled() -> Self {
        Self {
            disabled: true,
            ..Self::client()
        }
    }

    fn with_role(role: Role) -> Self {
        let config = Config {
            role,
            transport: None,
            methods: Self::METHOD_CAP,
            methods_from_ok: role == Role::Server,
            peers: None,
            peer_of: None,
        };
        Self {
            registry: Arc::new(Registry::new(config.clone())),
            config,
            disabled: false,
            peer: None,
        }
    }

    /// The changed configuration with its own series and caps.
    fn reset(self) -> Self {
        Self {
            registry: Arc::new(Registry::new(self.config.clone())),
            ..self
        }
    }

    /// Labels everything with `transport`. Default: no such label, but for [`attempt`](Self::attempt).
    pub fn transport(mut self, transport: &'static str) -> Self {
        self.config.transport = Some(transport);
        self.reset()
    }

    /// How many method names are recorded, for each peer if there is a peer label; further calls have the method `_OTHER`. Default:
    /// [`METHOD_CAP`](Self::METHOD_CAP). With 0 there is `_OTHER` only.
    pub fn method_cap(mut self, cap: usize) -> Self {
        self.config.methods = cap;
        self.reset()
    }

    /// Learns a method's name only from a call that ended with OK, as a server does. For a client that passes on the calls of others, who may invent paths.
    /// Default for a client: from every call.
    pub fn methods_from_ok(mut self) -> Self {
        self.config.methods_from_ok = true;
        self.reset()
    }

    /// Labels everything with the peer, `cap` of them by name and all others as `_OTHER`. Default: no such label.
    ///
    /// A server learns a peer's name from a call of it that ended with OK.
    ///
    /// There may be `cap` times the method cap times seventeen codes of histograms. The name comes from [`for_peer`](Self::for_peer), else from
    /// [`peer_from`](Self::peer_from), else it is empty.
    pub fn peer_label(mut self, cap: usize) -> Self {
        self.config.peers = Some(cap);
        self.reset()
    }

    /// Finds the peer's name in a request's extensions. Called once per call, and only with a [`peer_label`](Self::peer_label).
    pub fn peer_from<F>(mut self, name: F) -> Self
    where
        F: Fn(&Extensions) -> Option<Arc<str>> + Send + Sync + 'static,
    {
        self.config.peer_of = Some(Arc::new(name));
        self.reset()
    }

    /// This layer for one peer: it shares all series and caps with `self`. Changes nothing without a [`peer_label`](Self::peer_label).
    pub fn for_peer(&self, name: impl Into<Arc<str>>) -> Self {
        Self {
            peer: Some(name.into()),
            ..self.clone()
        }
    }

    /// Records the same series in a layer that follows the calls itself.
    pub fn recorder(&self) -> MetricsRecorder {
        MetricsRecorder {
            registry: (!self.disabled).then(|| self.registry.clone()),
            peer: self.peer.clone(),
        }
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = Metrics<S>;

    fn layer(&self, inner: S) -> Metrics<S> {
        Metrics::new(inner, self.recorder())
    }
}

impl fmt::Debug for MetricsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsLayer")
            .field("role", &self.config.role)
            .field("transport", &self.config.transport)
            .field("method_cap", &self.config.methods)
            .field("peer_label", &self.config.peers)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
