//! Whom a policy lets connect at all, and who loses that by a reload.

#[cfg(feature = "authorize")]
use std::time::Duration;

use iroh::EndpointId;
#[cfg(feature = "authorize")]
use tower_iroh_layers::authorize::{Identity, PolicyHandle};

use crate::error::{Error, ErrorKind};

/// How long a connection goes on once a reload has shut its peer out. Calls end in that time with a status that says why; a stream that the peer does not
/// read ends with the connection.
#[cfg(feature = "authorize")]
const GRACE: Duration = Duration::from_millis(500);

/// Who may have a connection: everybody without a policy, and with one, everybody whom the policy in force permits any call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowed {
    #[cfg(feature = "authorize")]
    policy: Option<PolicyHandle>,
}

impl Allowed {
    #[cfg(feature = "authorize")]
    pub(crate) fn by(policy: &PolicyHandle) -> Self {
        Self {
            policy: Some(policy.clone()),
        }
    }

    /// Whether this peer, or a caller without an identity, may have a connection.
    pub(crate) fn admits(&self, peer: Option<EndpointId>) -> bool {
        #[cfg(feature = "authorize")]
        if let Some(policy) = &self.policy {
            let identity = peer.map(|id| Identity::new(id.to_string()));
            return policy.policy().admits(identity.as_ref());
        }
        let _ = peer;
        true
    }

    /// Waits until the policy does not admit this peer any more, and for a moment after that. Without a policy it waits for ever.
    pub(crate) async fn revoked(self, peer: Option<EndpointId>) {
        #[cfg(feature = "authorize")]
        if let Some(policy) = &self.policy {
            loop {
                let generation = policy.generation();
                if self.admits(peer) {
                    policy.reloaded(generation).await;
                    continue;
                }
                tokio::time::sleep(GRACE).await;
                if !self.admits(peer) {
                    return;
                }
            }
        }
        let _ = peer;
        std::future::pending().await
    }

    /// Refuses a dial to a peer that the policy does not admit.
    pub(crate) fn check(&self, peer: EndpointId) -> Result<(), Error> {
        match self.admits(Some(peer)) {
            true => Ok(()),
            false => Err(not_allowed()),
        }
    }
}

/// What a caller here is told of a peer that this side's policy does not admit.
pub(crate) fn not_allowed() -> Error {
    Error::new(
        ErrorKind::NotAllowed,
        "the policy of this side permits nothing to the peer, so it is not dialled; add the peer's id to the policy",
    )
}

/// What a server tells a caller that its policy does not admit.
pub(crate) const REFUSED: &str =
    "the server's policy permits nothing to this key; ask its operator to add the key's id";

/// What a server tells a caller that a reload has shut out.
pub(crate) const REVOKED: &str = "the server's policy permits nothing to this key any more";

#[cfg(all(test, feature = "authorize"))]
mod tests {
    use iroh::SecretKey;
    use tokio_test::{assert_pending, assert_ready, task};
    use tower_iroh_layers::authorize::AccessPolicy;

    use super::*;

    fn policy(peers: &[EndpointId], anonymous: bool) -> AccessPolicy {
        let mut policy = AccessPolicy::builder().role("caller", ["*"]);
        for id in peers {
            policy = policy.peer(id.to_string(), ["caller"]);
        }
        if anonymous {
            policy = policy.anonymous(["caller"]);
        }
        policy.build().expect("valid")
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_reaches_those_whom_it_shuts_out_and_no_others() {
        let [kept, lost] = [1, 2].map(|seed| SecretKey::from_bytes(&[seed; 32]).public());
        let handle = PolicyHandle::new(policy(&[kept, lost], true));
        let allowed = Allowed::by(&handle);
        let mut waits =
            [Some(kept), Some(lost), None].map(|peer| task::spawn(allowed.clone().revoked(peer)));
        for wait in &mut waits {
            assert_pending!(wait.poll());
        }
        handle.reload(policy(&[kept], false));
        tokio::time::advance(Duration::from_millis(10)).await;
        for wait in &mut waits {
            assert_pending!(wait.poll(), "its calls have a moment");
        }
        tokio::time::advance(GRACE).await;
        let [keeps, loses, nobody] = &mut waits;
        assert_pending!(keeps.poll());
        assert_ready!(loses.poll());
        assert_ready!(nobody.poll());
        assert!(allowed.check(kept).is_ok());
        let refused = allowed.check(lost).expect_err("shut out");
        assert_eq!(refused.kind(), ErrorKind::NotAllowed);
        assert!(refused.not_processed());
    }

    /// For an operator who removes a line by mistake and restores it at once.
    #[tokio::test(start_paused = true)]
    async fn who_is_let_in_again_within_the_moment_stays() {
        let peer = SecretKey::from_bytes(&[3; 32]).public();
        let handle = PolicyHandle::new(policy(&[peer], false));
        let mut wait = task::spawn(Allowed::by(&handle).revoked(Some(peer)));
        assert_pending!(wait.poll());
        handle.reload(policy(&[], false));
        assert_pending!(wait.poll());
        handle.reload(policy(&[peer], false));
        tokio::time::advance(GRACE * 2).await;
        assert_pending!(wait.poll());
        handle.reload(policy(&[], false));
        assert_pending!(wait.poll());
        tokio::time::advance(GRACE * 2).await;
        assert_ready!(wait.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_policy_everybody_is_admitted() {
        let allowed = Allowed::default();
        assert!(allowed.admits(None));
        let mut wait = task::spawn(allowed.revoked(None));
        assert_pending!(wait.poll());
    }
}
