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
    New(Box<(Arc<Peer>, Box<str>)>),
}

impl Method {
    pub(super) fn peer(&self) -> &PeerSeries {
        match self {
            Self::Known(series) => &series.peer,
            Self::New(new) => &new.0.series,
        }
    }

    /// The series for a call that ended with `code`.
    pub(super) fn ended(self, code: Code) -> Arc<MethodSeries> {
        match self {
            Self::Known(series) => series,
            Self::New(new) => new.0.learn(&new.1, code),
        }
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
        &self,
        fixed: Option<&Arc<str>>,
        extensions: &Extensions,
        path: &str,
    ) -> Method {
        let peers = self.peers.get_or_init(|| {
            self.config.role.describe();
            Capped::new(self.config.peers.unwrap_or(0), self.make(OTHER))
        });
        if self.config.peers.is_none() {
            return peers.other().method(path);
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
        let peer = peers.get(name);
        peer.unwrap_or_else(|| peers.learn(name, || self.make(name)))
            .method(path)
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
    fn method(self: &Arc<Self>, path: &str) -> Method {
        match self.methods.get(name(path)) {
            Some(series) => Method::Known(series),
            None => Method::New(Box::new((self.clone(), path.into()))),
        }
    }

    /// The series for a method that was not known when a call of it began, and ended with `code`.
    fn learn(&self, path: &str, code: Code) -> Arc<MethodSeries> {
        if self.role == Role::Server && !is_of_a_handler(code) {
            return self.methods.other().clone();
        }
        let name = name(path);
        self.methods.learn(name, || {
            MethodSeries::new(self.role, self.series.clone(), &self.labels, name)
        })
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
