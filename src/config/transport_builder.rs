use std::{fmt, sync::Arc};

use iroh::{Endpoint, SecretKey, endpoint};
use tower_iroh_layers::{authorize::PolicyHandle, select};

use super::{
    Config, Mode, Transport, TransportError, apply::begin_rollouts, authorization,
    in_force::InForce,
};
use crate::{
    peer::{TransportKind, identity},
    peers::{Peers, PeersBuilder},
    server::{BindError, Server, ServerBuilder},
};

impl Transport {
    /// Binds what a configuration says: the transport, and the server that is to serve.
    ///
    /// # Errors
    /// [`TransportError`], naming the cause. Nothing stays bound.
    pub async fn from_config(
        config: impl Into<Arc<Config>>,
    ) -> Result<(Self, Server), TransportError> {
        Self::builder(config).bind().await
    }

    /// Begins a transport with settings that a configuration does not have.
    pub fn builder(config: impl Into<Arc<Config>>) -> TransportBuilder {
        TransportBuilder {
            config: config.into(),
            key: None,
            endpoint: Vec::new(),
            peers: Vec::new(),
            server: Vec::new(),
        }
    }
}

/// Settings of a [`Transport`] beyond its configuration.
#[must_use]
pub struct TransportBuilder {
    config: Arc<Config>,
    key: Option<SecretKey>,
    endpoint: Vec<Hook<endpoint::Builder>>,
    peers: Vec<Hook<PeersBuilder>>,
    server: Vec<Hook<ServerBuilder>>,
}

type Hook<B> = Box<dyn FnOnce(B) -> B + Send>;

fn through<B>(hooks: Vec<Hook<B>>, builder: B) -> B {
    hooks
        .into_iter()
        .fold(builder, |builder, hook| hook(builder))
}

impl TransportBuilder {
    /// The secret key of the identity. Default: the key in `transport.identity_file`; without that file, each start makes a new key.
    pub fn key(mut self, key: SecretKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Any other setting of the endpoint: an address lookup, for example.
    pub fn endpoint(
        mut self,
        configure: impl FnOnce(endpoint::Builder) -> endpoint::Builder + Send + 'static,
    ) -> Self {
        self.endpoint.push(Box::new(configure));
        self
    }

    /// Any other setting of the peers: their channels' stacks, for example.
    pub fn peers(
        mut self,
        configure: impl FnOnce(PeersBuilder) -> PeersBuilder + Send + 'static,
    ) -> Self {
        self.peers.push(Box::new(configure));
        self
    }

    /// Any other setting of the server: further protocols of the endpoint, for example.
    pub fn server(
        mut self,
        configure: impl FnOnce(ServerBuilder) -> ServerBuilder + Send + 'static,
    ) -> Self {
        self.server.push(Box::new(configure));
        self
    }

    /// Binds the transport, and the server that is to serve.
    ///
    /// It reads the files that the configuration names, and blocks for as long as that takes.
    ///
    /// # Errors
    /// [`TransportError`], naming the cause. Nothing stays bound.
    pub async fn bind(mut self) -> Result<(Transport, Server), TransportError> {
        let (config, key) = (self.config.clone(), self.take_key()?);
        let (policy, policy_text) = authorization::read(&config)?;
        let policy = PolicyHandle::new(policy);
        let mode = config.effective_mode();
        let on_tcp = config.clone();
        let mut server = Server::builder()
            .key(key.clone())
            .acceptor(|_| config.acceptor())
            .tcp_acceptor(move |acceptor| on_tcp.on_tcp(acceptor))
            .allow_list(&policy);
        if mode != Mode::Grpc {
            let endpoint = through(std::mem::take(&mut self.endpoint), config.endpoint()?);
            server = server.iroh(endpoint);
        }
        if mode != Mode::Iroh {
            server = server.tcp(config.grpc_bind_address());
        }
        let server = server.require(config.require());
        let server = through(std::mem::take(&mut self.server), server);
        let server = server.bind().await?;
        let endpoint = server.endpoint().cloned();
        let transport = self.finish(key, endpoint, (policy, policy_text))?;
        Ok((transport, server))
    }

    /// Binds the transport of a program that only calls.
    ///
    /// It reads the files that the configuration names, and blocks for as long as that takes.
    ///
    /// # Errors
    /// [`TransportError`], naming the cause. Nothing stays bound.
    pub async fn connect(mut self) -> Result<Transport, TransportError> {
        let (config, key) = (self.config.clone(), self.take_key()?);
        let (policy, policy_text) = authorization::read(&config)?;
        let policy = (PolicyHandle::new(policy), policy_text);
        let endpoint = match config.effective_mode() {
            Mode::Grpc => None,
            Mode::Iroh | Mode::Dual => {
                let builder = through(std::mem::take(&mut self.endpoint), config.endpoint()?);
                let bound = builder.secret_key(key.clone()).bind().await;
                let id = key.public().fmt_short();
                Some(bound.map_err(|error| {
                    TransportError::Bind(BindError::new(TransportKind::Iroh, id, error))
                })?)
            }
        };
        self.finish(key, endpoint, policy)
    }

    fn take_key(&mut self) -> Result<SecretKey, TransportError> {
        match (self.key.take(), self.config.identity_file()) {
            (Some(key), _) => Ok(key),
            (None, Some(path)) => Ok(identity::load_or_create(path)?),
            (None, None) => Ok(SecretKey::generate()),
        }
    }

    fn finish(
        self,
        key: SecretKey,
        endpoint: Option<Endpoint>,
        (policy, policy_text): (PolicyHandle, Option<String>),
    ) -> Result<Transport, TransportError> {
        let config = self.config;
        let id = key.public();
        let mut calls = config.policy()?;
        let mut peers = Peers::builder().breaker(config.breaker()?);
        match &endpoint {
            Some(endpoint) => peers = peers.iroh(config.links(endpoint.clone()).build()?),
            // Not bound, and not required.
            None => calls = select::SelectPolicy::from(select::Arm::Second),
        }
        if config.effective_mode() != Mode::Iroh {
            peers = peers.tcp(config.tcp_links(key).build()?);
        }
        let buffer = config.buffer()?;
        let methods = config.methods()?;
        let max_message_size = config.message_bytes();
        let peers = peers.policy(calls).channel(move |_, channel| {
            let (buffer, methods) = (buffer.clone(), methods.clone());
            channel
                .max_message_size(max_message_size)
                .stack(move |stack| stack.buffer(buffer).methods(methods))
        });
        let peers = through(self.peers, peers).build();
        for (name, peer) in config.peers() {
            peers.add(name, peer.clone());
        }
        let transport = Transport {
            id,
            endpoint,
            peers,
            policy,
            in_force: InForce::new(config.clone(), policy_text),
            config,
        };
        if transport.endpoint.is_some() && transport.config.rolls_out() {
            begin_rollouts(&transport.peers, transport.config.clone());
        }
        Ok(transport)
    }
}

impl fmt::Debug for TransportBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
