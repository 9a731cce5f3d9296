//! Which calls are served before a connection's handshake is complete.

use tokio_util::sync::{CancellationToken, DropGuard};
use tower_iroh_layers::MethodSet;
#[cfg(feature = "authorize")]
use tower_iroh_layers::authorize::{Decision, PolicyHandle};

use super::super::io::{Gate, Permits};
use crate::peer::Proof;

/// The methods that may be answered to any caller, as often as the call arrives.
#[derive(Clone, Debug)]
pub(super) struct EarlyData {
    pub(super) methods: MethodSet,
    #[cfg(feature = "authorize")]
    pub(super) policy: Option<PolicyHandle>,
}

impl EarlyData {
    fn permits(&self, path: &str) -> bool {
        #[cfg(feature = "authorize")]
        if let Some(policy) = &self.policy
            && policy.policy().decide(None, path) != Decision::Allowed
        {
            return false;
        }
        self.methods.contains(path)
    }
}

/// The gates of one connection's lanes.
pub(super) struct Gates {
    permits: Permits,
    over: CancellationToken,
    /// tonic owns the lanes, and their gates must learn of the end.
    _over: DropGuard,
}

impl Gates {
    pub(super) fn new(early_data: &EarlyData) -> Self {
        let early_data = early_data.clone();
        let over = CancellationToken::new();
        Self {
            permits: std::sync::Arc::new(move |path| early_data.permits(path)),
            _over: over.clone().drop_guard(),
            over,
        }
    }

    /// A gate for another lane. It opens when this is dropped, if `proof` is complete by then.
    pub(super) fn gate(&self, proof: &Proof) -> Gate {
        Gate::new(self.permits.clone(), self.over.clone(), proof.clone())
    }
}
