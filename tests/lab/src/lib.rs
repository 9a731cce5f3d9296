//! The network lab: what happens on real, bad networks, on one machine.
//!
//! A [`Network`] has hosts, each a network namespace with a tokio runtime of its own, whose packets pass through links that this
//! process emulates: TCP and UDP of the real kernel, and between them delay, jitter, loss, reordering, a rate with a queue, and
//! cuts, for each direction by itself and changeable while it runs.
//!
//! ```text
//! enter        whether this process may make namespaces, and how
//! conditions   what a direction of a link does to packets, and the links that people have
//! shaper       decides when a packet arrives, or that it doesn't; pure
//! wire         moves packets between the hosts' TUN devices as the shapers say
//! host         a namespace, its device and its runtime
//! network      hosts and the links between them
//! check        measures a link before it is believed
//! suite        runs tests that need all this, and says which were skipped where it can't be had
//! ```
//!
//! A process enters the lab before it has threads, so a test of it has its own `main`:
//!
//! ```no_run
//! use std::time::Duration;
//! use tower_iroh_lab::{Conditions, Network, enter};
//!
//! enter()?;
//! let network = Network::new(["client", "server"])?;
//! let link = network.link("client", "server");
//! link.set(Conditions::wan(Duration::from_millis(40)));
//! link.check()?;
//! link.cut();
//! # Ok::<(), tower_iroh_lab::LabError>(())
//! ```
//!
//! The kernel's own emulation (netem) is not in every kernel; this one needs `/dev/net/tun`, namespaces, and the program `ip`.

mod check;
mod conditions;
mod enter;
mod error;
mod host;
mod network;
mod shaper;
mod suite;
mod wire;

pub use check::Measured;
pub use conditions::{Conditions, Loss, Stalls};
pub use enter::enter;
pub use error::LabError;
pub use host::Host;
pub use network::{Direction, Link, Network};
pub use shaper::{Fate, Shaper};
pub use suite::{Case, Outcome, suite};
pub use wire::Counts;
