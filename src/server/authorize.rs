//! The policy of `layers::authorize`, by the identity that a peer has proved, over either transport.

use http::Extensions;
use iroh::EndpointId;
use tower_iroh_layers::authorize::{AuthorizeLayer, Identify, Identity, PolicyHandle};

use crate::peer::PeerInfo;

/// Authorizes calls by `policy`: each caller by the endpoint id that it proved in the handshake, written as [`PeerInfo::id`] shows it.
///
/// A peer has the same id over iroh and over [TCP](crate::tcp). To the policy, a caller without an id (over TCP without TLS) is anonymous. So is a call that is
/// answered before the handshake is complete (see [`AcceptorBuilder::early_data_policy`](crate::AcceptorBuilder::early_data_policy)).
///
/// ```
/// use tower_iroh::layers::authorize::{AccessPolicy, PolicyHandle};
/// # use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let friend = iroh::SecretKey::from_bytes(&[7; 32]).public();
/// let policy = AccessPolicy::builder()
///     .role("caller", ["/tower_iroh.echo.v1.Echo/*"])
///     .peer(friend.to_string(), ["caller"])
///     .build()?;
/// let policy = PolicyHandle::new(policy);
/// let server = tonic::transport::Server::builder()
///     .layer(tower_iroh::authorize(&policy))
///     .add_service(EchoServer::new(EchoService));
/// # drop(server);
/// // Revoke everything; open streams end.
/// policy.reload_toml("")?;
/// # Ok(())
/// # }
/// ```
///
/// Errors, limits, reload and cancel safety are the [layer's](tower_iroh_layers::authorize).
pub fn authorize(policy: &PolicyHandle) -> AuthorizeLayer<ByPeer> {
    AuthorizeLayer::new(policy.clone(), ByPeer)
}

/// The name of an iroh peer in a policy, from any spelling of an endpoint id. A policy that shuts a peer out must not fail because it spells the id in
/// another way.
///
/// ```
/// use tower_iroh::layers::authorize::{AccessPolicy, PolicyHandle};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let friend = iroh::SecretKey::from_bytes(&[7; 32]).public();
/// let text = format!("[peers.{:?}]\nroles = []", friend.to_string().to_uppercase());
/// let policy = PolicyHandle::new(AccessPolicy::from_toml_with(&text, tower_iroh::peer_name)?);
/// policy.reload_toml_with(&text, tower_iroh::peer_name)?;
///
/// let error = AccessPolicy::from_toml_with("[peers.alice]\nroles = []", tower_iroh::peer_name);
/// assert!(error.unwrap_err().to_string().contains("alice"));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A text that is not an endpoint id; the error says what one looks like.
pub fn peer_name(name: &str) -> Result<String, String> {
    let id = name.to_ascii_lowercase().parse::<EndpointId>();
    id.map(|id| id.to_string())
        .map_err(|error| format!("not an endpoint id, 64 hexadecimal digits: {error}"))
}

/// Names a caller by its [`PeerInfo`]. A caller that has proved nothing has no name.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByPeer;

impl Identify for ByPeer {
    fn identify(&self, extensions: &Extensions) -> Option<Identity> {
        let peer = extensions.get::<PeerInfo>()?;
        Some(Identity::new(peer.id()?.to_string()))
    }
}
