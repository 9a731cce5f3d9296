//! Servers and clients from a configuration.

use std::{path::PathBuf, sync::Arc};

use iroh::{Endpoint, EndpointId};
use tonic::transport::Server as Tonic;
use tower::layer::util::{Identity, Stack};
use tower_iroh_layers::{
    ConfigError,
    authorize::{AuthorizeLayer, PolicyHandle},
};

use super::{
    Config, ConfigReader, ConfigWatch, ConfigWatchBuilder, apply::Applier, in_force::InForce,
};
use crate::{
    peers::Peers,
    server::{ByPeer, authorize},
};

/// Both transports of a program, made from its [`Config`]: the channels to its peers, the policies in force, and one identity, which the
/// [`Server`](crate::Server) that is made with it shares.
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
/// **Reload.** [`follow`](Self::follow) puts changes of the file in force: which call goes where, groups, peers, and the policy of who may call what. A reload
/// applies all changes or none: a mistake in the policy, for example, leaves everything as it is. A change that needs a restart is reported as such, for example
/// a mode whose transport was not bound at the start. When a mode is taken back the server's ports stay open, so that each client moves at its own pace.
///
/// **End.** The endpoint ends with the server; without a server, [`close`](Self::close) ends it.
#[derive(Clone, Debug)]
pub struct Transport {
    pub(super) id: EndpointId,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) peers: Peers,
    pub(super) policy: PolicyHandle,
    /// The configuration of the start.
    pub(super) config: Arc<Config>,
    pub(super) in_force: Arc<InForce>,
}

impl Transport {
    /// The identity that is proved over both transports.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// The endpoint; `None` where the mode is TCP alone, or iroh could not be bound and was not required.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }

    /// The peers, with a channel to each.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The policy of who may call what on the server. Without a policy file every call is permitted.
    pub fn authorization(&self) -> &PolicyHandle {
        &self.policy
    }

    /// Begins tonic's server with what the configuration says of all its services: the [policy](Self::authorization) of who may call what, and the
    /// [largest message](Config::max_message_size) of a request. A server that begins with [`Tonic::builder`] has neither.
    pub fn tonic(&self) -> Tonic<Stack<AuthorizeLayer<ByPeer>, Identity>> {
        let layer = authorize(&self.policy).max_message_bytes(self.config.message_bytes());
        Tonic::builder().layer(layer)
    }

    /// The configuration of the start. [`ConfigWatch::current`] has the last one that was reloaded.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Follows a configuration file with the default settings: see [`watch`](Self::watch).
    ///
    /// # Errors
    /// [`ConfigError`] while another [`ConfigWatch`] of this transport lives.
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

    /// Follows a configuration file, and puts changes in force. Dropping the [`ConfigWatch`] ends that.
    ///
    /// One watch at a time follows for a transport and its clones. A watch that begins after another one ended compares the file with what is in force, also
    /// with what the other one reloaded.
    ///
    /// # Errors
    /// [`ConfigError`] while another [`ConfigWatch`] of this transport lives, and for settings of the watch that are not accepted.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch(
        &self,
        path: impl Into<PathBuf>,
        configure: impl FnOnce(ConfigWatchBuilder) -> ConfigWatchBuilder,
    ) -> Result<ConfigWatch, ConfigError> {
        let accepted = self.in_force.accepted.borrow().clone();
        let watch = configure(ConfigWatch::builder(path, accepted));
        let applier = Applier {
            peers: self.peers.clone(),
            authorization: self.policy.clone(),
        };
        watch.start_in(self.in_force.clone(), applier)
    }

    /// Closes the endpoint, and with it all connections over iroh. A program with a [`Server`](crate::Server) leaves that to the server.
    pub async fn close(&self) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.close().await;
        }
    }
}
