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
    pub(super) series: PeerSeries,
    methods: Capped<MethodSeries>,
}

impl Registry {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            peers: OnceLock::new(),
        }
    }

    pub(super) fn peer(&self, fixed: Option<&Arc<str>>, extensions: &Extensions) -> Arc<Peer> {
        let peers = self.peers.get_or_init(|| {
            self.config.role.describe();
            Capped::new(self.config.peers.unwrap_or(0), self.make(OTHER))
        });
        if self.config.peers.is_none() {
            return peers.other().clone();
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
            Some(peer) => peer,
            None => peers.learn(name, || self.make(name)),
        }
    }

    fn make(&self, name: &str) -> Peer {
        let Config { role, methods, .. } = self.config;
        let mut labels = Vec::new();
        labels.extend(self.config.transport.map(|it| Label::new("transport", it)));
        if self.config.peers.is_some() {
            labels.push(Label::new("peer", name.to_owned()));
        }
        Peer {
            role,
            series: PeerSeries::register(role, &labels),
            methods: Capped::new(methods, MethodSeries::new(role, &labels, OTHER)),
            labels,
        }
    }
}

impl Peer {
    /// `None` for a method that is not known yet.
    pub(super) fn method(&self, path: &str) -> Option<Arc<MethodSeries>> {
        self.methods.get(name(path))
    }

    /// The series for a method that was not known when a call of it began, and ended with `code`.
    pub(super) fn learn(&self, path: &str, code: Code) -> Arc<MethodSeries> {
        if self.role == Role::Server && !is_of_a_handler(code) {
            return self.methods.other().clone();
        }
        let name = name(path);
        self.methods
            .learn(name, || MethodSeries::new(self.role, &self.labels, name))
    }
}

/// OpenTelemetry's `rpc.method` is the path without its first slash.
fn name(path: &str) -> &str {
    path.strip_prefix('/').unwrap_or(path)
}

/// Whether a call that ended so has been in a handler, so that its path is a method's and not somebody's invention. What else is
/// said of a path that nobody serves: that it is not implemented, or not permitted, or too much, or too late.
fn is_of_a_handler(code: Code) -> bool {
    !matches!(
        code,
        Code::Unimplemented
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::ResourceExhausted
            | Code::Cancelled
            | Code::DeadlineExceeded
    )
}
