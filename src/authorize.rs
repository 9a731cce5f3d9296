//! The policy of `layers::authorize`, by the identity that an iroh peer has proved.

use http::Extensions;
use tower_iroh_layers::authorize::{AuthorizeLayer, Identify, Identity, PolicyHandle};

use crate::PeerInfo;

/// Lets callers in by `policy`, each by the endpoint id that it has proved in the handshake, written as [`PeerInfo::id`] shows it.
///
/// A caller who came without one, over another transport of the same server, is anonymous to the policy.
///
/// ```
/// use tower_iroh::layers::authorize::{Policy, PolicyHandle};
/// # use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let friend = iroh::SecretKey::from_bytes(&[7; 32]).public();
/// let policy = Policy::builder()
///     .role("caller", ["/tower_iroh.echo.v1.Echo/*"])
///     .peer(friend.to_string(), ["caller"])
///     .try_build()?;
/// let policy = PolicyHandle::new(policy);
/// let server = tonic::transport::Server::builder()
///     .layer(tower_iroh::authorize(&policy))
///     .add_service(EchoServer::new(EchoService));
/// # drop(server);
/// // Nobody may call any more; streams that are open end.
/// policy.reload_toml("")?;
/// # Ok(())
/// # }
/// ```
///
/// Errors, limits, reload and cancel safety are the [layer's](tower_iroh_layers::authorize).
pub fn authorize(policy: &PolicyHandle) -> AuthorizeLayer<ByPeer> {
    AuthorizeLayer::new(policy.clone(), ByPeer)
}

/// Names a caller by its [`PeerInfo`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ByPeer;

impl Identify for ByPeer {
    fn identify(&self, extensions: &Extensions) -> Option<Identity> {
        let peer = extensions.get::<PeerInfo>()?;
        Some(Identity::new(peer.id().to_string()))
    }
}
