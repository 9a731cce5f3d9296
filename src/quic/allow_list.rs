//! The allow-list as an iroh hook, for a whole endpoint.

use iroh::{
    EndpointAddr,
    endpoint::{AfterHandshakeOutcome, BeforeConnectOutcome, Connection, EndpointHooks},
};
use tower_iroh_layers::authorize::PolicyHandle;

use crate::{
    pool::{Allowed, admission},
    wire::{ALPN, close},
};

/// Refuses connections with peers to which a policy permits nothing, in both directions, as a hook of an iroh endpoint.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_iroh::{AllowList, layers::authorize::{AccessPolicy, PolicyHandle}, presets};
///
/// let friend = iroh::SecretKey::from_bytes(&[7; 32]).public();
/// let policy = AccessPolicy::builder().role("caller", ["*"]).peer(friend.to_string(), ["caller"]).build()?;
/// let policy = PolicyHandle::new(policy);
/// let endpoint = iroh::Endpoint::builder(presets::Offline)
///     .hooks(AllowList::new(&policy).alpn(b"/iroh-gossip/1"))
///     .bind()
///     .await?;
/// # drop(endpoint);
/// # Ok(())
/// # }
/// ```
///
/// A stranger's connection is closed with [`FORBIDDEN`](close::FORBIDDEN) when its handshake is complete, before any protocol sees it. The stranger sees
/// PERMISSION_DENIED. A dial to a stranger fails before anything is sent, with [`ErrorKind::NotAllowed`](crate::ErrorKind::NotAllowed).
///
/// By default the hook decides over connections of tower-iroh's own ALPN only, so that other protocols on the endpoint keep their own rules.
///
/// The policy in force counts at each connection. The hook does not close connections that are open when a reload shuts their peer out:
/// [`AcceptorBuilder::allow_list`](crate::AcceptorBuilder::allow_list) and [`LinksBuilder::allow_list`](crate::links::LinksBuilder::allow_list) do, and they
/// also apply where the endpoint is not yours to build. To have both is no error.
#[derive(Clone, Debug)]
pub struct AllowList {
    allowed: Allowed,
    /// `None` for all.
    alpns: Option<Vec<Vec<u8>>>,
}

impl AllowList {
    /// Decides by this policy, over connections of tower-iroh's own [`ALPN`].
    pub fn new(policy: &PolicyHandle) -> Self {
        Self {
            allowed: Allowed::by(policy),
            alpns: Some(vec![ALPN.to_vec()]),
        }
    }

    /// Decides over connections of this ALPN as well, such as one under which an [`Acceptor::bare`](crate::Acceptor::bare) is registered.
    pub fn alpn(mut self, alpn: impl Into<Vec<u8>>) -> Self {
        if let Some(alpns) = &mut self.alpns {
            alpns.push(alpn.into());
        }
        self
    }

    /// Decides over every connection of the endpoint, whatever its protocol.
    pub fn all_alpns(mut self) -> Self {
        self.alpns = None;
        self
    }

    fn decides_over(&self, alpn: &[u8]) -> bool {
        let alpns = self.alpns.as_ref();
        alpns.is_none_or(|alpns| alpns.iter().any(|one| one == alpn))
    }
}

impl EndpointHooks for AllowList {
    async fn before_connect<'a>(
        &'a self,
        remote: &'a EndpointAddr,
        alpn: &'a [u8],
    ) -> BeforeConnectOutcome {
        match self.decides_over(alpn) && !self.allowed.admits(Some(remote.id)) {
            true => BeforeConnectOutcome::Reject,
            false => BeforeConnectOutcome::Accept,
        }
    }

    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        let id = connection.remote_id();
        match self.decides_over(connection.alpn()) && !self.allowed.admits(Some(id)) {
            true => AfterHandshakeOutcome::Reject {
                error_code: close::FORBIDDEN,
                reason: admission::REFUSED.into(),
            },
            false => AfterHandshakeOutcome::Accept,
        }
    }
}
