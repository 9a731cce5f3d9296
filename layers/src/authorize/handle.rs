use std::{
    fmt,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::{AccessPolicy, PolicyError, audit::Audit, limiter::Limiter};
use crate::mutex::Mutex;

/// The policy in force, to be exchanged while calls are open.
///
/// Clones are one handle. Layers that share a handle share everything: a peer's limits are one count over all servers and transports.
#[derive(Clone)]
pub struct PolicyHandle {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    current: ArcSwap<Versioned>,
    /// That of `current`, for a look that costs next to nothing.
    generation: AtomicU64,
    /// The last one that `reloaded` has told of: a little behind `generation` while a reload goes on.
    told: AtomicU64,
    /// Told of each reload.
    pub(super) reloaded: Arc<Notify>,
    reloading: Mutex<()>,
    pub(super) limiter: Arc<Limiter>,
    pub(super) audit: Audit,
}

pub(super) struct Versioned {
    pub(super) generation: u64,
    pub(super) policy: Arc<AccessPolicy>,
}

impl PolicyHandle {
    /// A handle with its first policy.
    pub fn new(policy: AccessPolicy) -> Self {
        let first = Versioned {
            generation: 1,
            policy: Arc::new(policy),
        };
        Self {
            shared: Arc::new(Shared {
                generation: AtomicU64::new(first.generation),
                told: AtomicU64::new(first.generation),
                current: ArcSwap::from_pointee(first),
                reloaded: Arc::default(),
                reloading: Mutex::new(()),
                limiter: Arc::default(),
                audit: Audit::new(),
            }),
        }
    }

    /// Puts another policy in force, all of it at once, and returns its generation.
    ///
    /// Calls that are open and would not be permitted any more end, whatever they wait for; one whose caller does not read its response,
    /// only when it does or its connection closes (see the [module's page](super)). What callers have used of their limits
    /// stays counted.
    pub fn reload(&self, policy: AccessPolicy) -> u64 {
        let shared = &*self.shared;
        let _reloading = shared.reloading.lock();
        let generation = shared.current.load().generation + 1;
        shared.current.store(Arc::new(Versioned {
            generation,
            policy: Arc::new(policy),
        }));
        shared.generation.store(generation, Ordering::Release);
        shared.limiter.sweep();
        shared.reloaded.notify_waiters();
        shared.told.store(generation, Ordering::Release);
        generation
    }

    /// Puts another policy in force, from TOML.
    ///
    /// # Errors
    /// [`PolicyError`]; then the old policy stays in force.
    pub fn reload_toml(&self, text: &str) -> Result<u64, PolicyError> {
        AccessPolicy::from_toml(text).map(|policy| self.reload(policy))
    }

    /// Puts another policy in force, from TOML, with `name` for the names of peers: see [`AccessPolicy::from_toml_with`].
    ///
    /// # Errors
    /// [`PolicyError`]; then the old policy stays in force.
    pub fn reload_toml_with(
        &self,
        text: &str,
        name: impl FnMut(&str) -> Result<String, String>,
    ) -> Result<u64, PolicyError> {
        AccessPolicy::from_toml_with(text, name).map(|policy| self.reload(policy))
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<AccessPolicy> {
        self.shared.current.load().policy.clone()
    }

    /// How many policies there have been: 1 for the first.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Waits until a policy is in force that came after `generation`, and returns its generation: at once, if there is one already. Cancel safe.
    ///
    /// To act on each reload, read [`generation`](Self::generation) first, then the [`policy`](Self::policy), and wait for what comes after that
    /// generation.
    pub async fn reloaded(&self, generation: u64) -> u64 {
        loop {
            let mut reloaded = pin!(self.shared.reloaded.notified());
            // Registered before the look, so that a reload in between is not missed.
            reloaded.as_mut().enable();
            let current = self.generation();
            if current > generation {
                return current;
            }
            reloaded.await;
        }
    }
}

impl Shared {
    pub(super) fn current(&self) -> arc_swap::Guard<Arc<Versioned>> {
        self.current.load()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn told(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }
}

impl fmt::Debug for PolicyHandle {
    /// Says which policy and how much there is of it, and not who may what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.shared.current();
        f.debug_struct("PolicyHandle")
            .field("generation", &current.generation)
            .field("peers", &current.policy.peers.len())
            .field("accounts", &self.shared.limiter.len())
            .finish_non_exhaustive()
    }
}
