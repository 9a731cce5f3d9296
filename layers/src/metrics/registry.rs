//! All series of a layer, by peer and method.

use std::sync::{Arc, OnceLock};

use http::Extensions;
use metrics::Label;
use tonic::Code;

use super::{
    capped::Capped,
    layer::Config,
    series::{MethodSeries, OTHER, PeerSeries, Role},
};

pub(super) type PeerName = Arc<dyn Fn(&Extensions) -> Option<Arc<str>> + Send + Sync>;

pub(super) struct Registry {
    config: Config,
    /// Made by the first call, when a recorder is likely to be there.
    peers: OnceLock<Capped<Peer>>,
}

/// What is recorded of one peer.
pub(super) struct Peer {
    role: Role,
    labels: Vec<Label>,
    series: Arc<PeerSeries>,
    methods: Capped<MethodSeries>,
}

/// The method of a call that has begun.
pub(super) enum Method {
    Known(Arc<MethodSeries>),
    /// In a box, since what is rare should not make every future larger.
    New(Box<New>),
}

/// What was not known when a call of it began.
pub(super) struct New {
    registry: Arc<Registry>,
    /// The caller's, or that of all others.
    peer: Arc<Peer>,
    /// The peer's name, where that is not known either.
    name: Option<Box<str>>,
    path: Box<str>,
}

impl Method {
    pub(super) fn peer(&self) -> &PeerSeries {
        match self {
            Self::Known(series) => &series.peer,
            Self::New(new) => &new.peer.series,
        }
    }

    /// The series for a call that ended with `code`.
    pub(super) fn ended(self, code: Code) -> Arc<MethodSeries> {
        match self {
            Self::Known(series) => series,
            Self::New(new) => new.ended(code),
        }
    }
}

impl New {
    /// Only a handler says OK. Any other code may answer an invented path, or an unknown caller.
    fn ended(self, code: Code) -> Arc<MethodSeries> {
        let config = &self.registry.config;
        let is_ok = code == Code::Ok;
        let peer = match &self.name {
            Some(name) if is_ok || config.role == Role::Client => self.registry.peer(name),
            _ => self.peer,
        };
        if is_ok || !config.methods_from_ok {
            return peer.learn(&self.path);
        }
        let known = peer.methods.get(method_of(&self.path));
        known.unwrap_or_else(|| peer.methods.other().clone())
    }
}

impl Registry {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            peers: OnceLock::new(),
        }
    }

    /// The series of a call to `path`.
    pub(super) fn method(
        self: &Arc<Self>,
        fixed: Option<&Arc<str>>,
        extensions: &Extensions,
        path: &str,
    ) -> Method {
        let peers = self.peers();
        if self.config.peers.is_none() {
            return self.of_peer(peers.other(), None, path);
        }
        let found;
        let name = match (fixed, &self.config.peer_of) {
            (Some(name), _) => &**name,
            (None, Some(peer_of)) => {
                found = peer_of(extensions);
                found.as_deref().unwrap_or_default()
            }
            (None, None) => "",
        };
        match peers.get(name) {
            Some(peer) => self.of_peer(&peer, None, path),
            // A client calls whom it chose to.
            None if self.config.role != Role::Server => self.of_peer(&self.peer(name), None, path),
            None => self.of_peer(peers.other(), Some(name), path),
        }
    }

    fn of_peer(self: &Arc<Self>, peer: &Arc<Peer>, unknown: Option<&str>, path: &str) -> Method {
        match peer.methods.get(method_of(path)) {
            Some(series) if unknown.is_none() => Method::Known(series),
            _ => Method::New(Box::new(New {
                registry: self.clone(),
                peer: peer.clone(),
                name: unknown.map(Into::into),
                path: path.into(),
            })),
        }
    }

    fn peers(&self) -> &Capped<Peer> {
        self.peers.get_or_init(|| {
            self.config.role.describe();
            Capped::new(self.config.peers.unwrap_or(0), self.make(OTHER))
        })
    }

    /// The peer of this name, which is known from now on.
    fn peer(&self, name: &str) -> Arc<Peer> {
        self.peers().learn(name, || self.make(name))
    }

    fn make(&self, name: &str) -> Peer {
        let Config { role, methods, .. } = self.config;
        let mut labels = Vec::new();
        labels.extend(self.config.transport.map(|it| Label::new("transport", it)));
        if self.config.peers.is_some() {
            labels.push(Label::new("peer", name.to_owned()));
        }
        let series = Arc::new(PeerSeries::register(role, &labels));
        let other = MethodSeries::new(role, series.clone(), &labels, OTHER);
        Peer {
            role,
            series,
            methods: Capped::new(methods, other),
            labels,
        }
    }
}

impl Peer {
    /// The series of the method at `path`, which is known from now on.
    fn learn(&self, path: &str) -> Arc<MethodSeries> {
        let name = method_of(path);
        self.methods.learn(name, || {
            MethodSeries::new(self.role, self.series.clone(), &self.labels, name)
        })
    }
}

/// OpenTelemetry's `rpc.method` is the path without its first slash.
fn method_of(path: &str) -> &str {
    path.strip_prefix('/').unwrap_or(path)
}
