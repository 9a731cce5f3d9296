//! Servers and clients from a configuration.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use iroh::{Endpoint, EndpointId};
use tonic::transport::Server as Tonic;
use tower::layer::util::{Identity, Stack};
use tower_iroh_layers::{
    ConfigError,
    authorize::{AuthorizeLayer, PolicyError, PolicyHandle},
};

use super::{Config, ConfigReader, ConfigWatch, ConfigWatchBuilder};
use crate::{
    peer::identity::IdentityError,
    peers::Peers,
    server::{BindError, ByPeer, Server, ServerError, authorize},
};

mod apply;
mod builder;
mod policy;

use apply::Applier;
pub use builder::TransportBuilder;

/// What a program has of both transports, made from its [`Config`]: the channels to its peers, the policies in force, and with the [`Server`] that is made with
/// it one identity.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use tower_iroh_proto::{EchoService, echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer}};
/// use tower_iroh::{Transport, config::Config};
///
/// let config = Config::from_toml(r#"
///     transport.grpc.bind_address = "127.0.0.1:0"
///     transport.iroh.bind_ip = "127.0.0.1"
/// "#)?;
/// let (ours, server) = Transport::from_config(config).await?;
/// let (addresses, handle) = (server.addresses()?, server.handle());
/// let services = ours.tonic().add_service(EchoServer::new(EchoService));
/// let serving = tokio::spawn(server.serve(|incoming, stopped| services.serve_with_incoming_shutdown(incoming, stopped)));
///
/// // Another program, which has no server.
/// let config = Config::builder().iroh_bind_ip(Some([127, 0, 0, 1].into())).peer("node-1", addresses).build()?;
/// let theirs = Transport::builder(config).connect().await?;
/// let mut client = EchoClient::new(theirs.peers().channel("node-1")?);
/// client.echo(EchoRequest { payload: "hello".into() }).await?;
///
/// theirs.close().await;
/// handle.shutdown();
/// serving.await??;
/// # Ok(())
/// # }
/// ```
///
/// Clones are one transport.
///
/// **Reload.** [`follow`](Self::follow) puts in force what changes in the file: which call goes where, groups, peers, and the policy of who may call what. All of it
/// or nothing: a policy with a mistake, for one, leaves everything as it is. What it cannot take while it runs, such as a mode whose transport was not there at
/// the start, is told as needing a restart. A mode that is taken back leaves the server's ports open, so that each client moves at its own pace.
///
/// **End.** The endpoint ends with the server; without one [`close`](Self::close) ends it.
#[derive(Clone, Debug)]
pub struct Transport {
    id: EndpointId,
    endpoint: Option<Endpoint>,
    peers: Peers,
    policy: PolicyHandle,
    /// As it was read at the start.
    policy_text: Option<String>,
    config: Arc<Config>,
}

impl Transport {
    /// Binds what a configuration says: the transport, and the server that is to serve.
    ///
    /// # Errors
    /// [`TransportError`], naming what cannot be. Nothing stays bound.
    pub async fn from_config(
        config: impl Into<Arc<Config>>,
    ) -> Result<(Self, Server), TransportError> {
        Self::builder(config).bind().await
    }

    /// Begins with what a configuration does not say.
    pub fn builder(config: impl Into<Arc<Config>>) -> TransportBuilder {
        TransportBuilder::new(config.into())
    }

    /// The identity that is proved over both transports.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// The endpoint, where there is iroh.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }

    /// The peers, with a channel to each.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Who may call what on the server. Without a file that says so it is everybody and everything.
    pub fn authorization(&self) -> &PolicyHandle {
        &self.policy
    }

    /// Begins tonic's server with the [authorization](Self::authorization) before all services. Whoever begins with [`Tonic::builder`] instead has none.
    pub fn tonic(&self) -> Tonic<Stack<AuthorizeLayer<ByPeer>, Identity>> {
        Tonic::builder().layer(authorize(&self.policy))
    }

    /// The configuration that it was made from. Of what has been reloaded since, [`ConfigWatch::current`] knows.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Follows a configuration file with the default settings: see [`watch`](Self::watch).
    ///
    /// # Errors
    /// None that a default setting leads to.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn follow(
        &self,
        path: impl Into<PathBuf>,
        reader: ConfigReader,
    ) -> Result<ConfigWatch, ConfigError> {
        self.watch(path, |watch| watch.reader(reader))
    }

    /// Follows a configuration file, and puts in force what changes in it. Dropping the [`ConfigWatch`] ends that.
    ///
    /// # Errors
    /// [`ConfigError`] for settings of the watch that cannot be.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch(
        &self,
        path: impl Into<PathBuf>,
        configure: impl FnOnce(ConfigWatchBuilder) -> ConfigWatchBuilder,
    ) -> Result<ConfigWatch, ConfigError> {
        let watch = ConfigWatch::builder(path, self.config.clone());
        let watch = configure(watch.policy(self.policy_text.clone()));
        watch.start(Applier::new(self.clone()))
    }

    /// Closes the endpoint, and with it all connections over iroh. For a program without a [`Server`], which does that itself.
    pub async fn close(&self) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.close().await;
        }
    }
}

/// Why there is no [`Transport`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A setting cannot be.
    #[error("the transport's settings are not valid")]
    Config(#[from] ConfigError),
    /// The identity file cannot be used.
    #[error("there is no identity")]
    Identity(#[from] IdentityError),
    /// The policy cannot be read.
    #[error("cannot read the policy {}", path.display())]
    ReadPolicy {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The policy is none.
    #[error("the policy {} is not valid", path.display())]
    Policy {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: PolicyError,
    },
    /// A transport could not be bound.
    #[error(transparent)]
    Bind(BindError),
    /// The server could not be made.
    #[error("there is no server")]
    Server(#[from] ServerError),
}

impl TransportError {
    fn policy(path: &Path, source: PolicyError) -> Self {
        let path = path.to_owned();
        Self::Policy { path, source }
    }
}
