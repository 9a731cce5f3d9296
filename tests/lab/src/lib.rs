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
//! internet     hosts behind NATs and firewalls
//! memory       links without a kernel, for iroh alone, where namespaces are not allowed
//! check        measures a link before it is believed
//! suite        runs tests that need all this, and says why it ignored a test
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
//! # How to write a case
//!
//! A [`Case`] is a function that makes its own [`Network`] and ends with an [`Outcome`]; [`suite`] runs a list of them as the `main` of a test
//! binary with `harness = false`. What happens on a host is a future that the host runs: [`Host::block_on`] for the case itself, mostly on
//! the client, and [`Host::spawn`] for a server, whose handle can be awaited from there. A [`Network`] can be cloned into the future, to
//! cut a [`Link`] in the middle of calls:
//!
//! ```no_run
//! use tower_iroh_lab::{Case, Network, Outcome, suite};
//!
//! fn main() -> std::process::ExitCode {
//!     suite([Case::new("a_datagram_arrives", a_datagram_arrives)])
//! }
//!
//! fn a_datagram_arrives() -> Outcome {
//!     let network = Network::new(["client", "server"])?;
//!     let shared = network.clone();
//!     network.host("client").block_on(async move {
//!         let server = shared.host("server");
//!         let address = server.address();
//!         let socket = server.spawn(tokio::net::UdpSocket::bind((address, 7)));
//!         let socket = socket.await??;
//!         let ours = tokio::net::UdpSocket::bind("0.0.0.0:0").await?;
//!         ours.send_to(b"hello", (address, 7)).await?;
//!         let mut buffer = [0; 5];
//!         socket.recv(&mut buffer).await?;
//!         assert_eq!(&buffer, b"hello");
//!         Ok(())
//!     })
//! }
//! ```
//!
//! Cases run one after the other, on machines that others use too. So wait for what is to happen, under a bound that only a failing case
//! reaches, and assert a time only where it is the promise. A case behind NATs has an [`Internet`] instead and says
//! [`needs("nft")`](Case::needs); one that needs no privilege is made with [`Case::anywhere`], over [`Memory`]. `tests/network` of the root package has
//! them all.
//!
//! The kernel's own emulation (netem) is not in every kernel; this one needs `/dev/net/tun`, namespaces, and the program `ip`
//! (`tests/lab/install`).

mod check;
mod conditions;
mod enter;
mod error;
mod host;
mod internet;
mod memory;
mod network;
mod shaper;
mod suite;
mod wire;

pub use check::Measured;
pub use conditions::{Conditions, Loss, Protocol, Stalls};
pub use enter::enter;
pub use error::LabError;
pub use host::Host;
pub use internet::{Gateway, Internet, Site};
pub use memory::Memory;
pub use network::{Direction, Link, Network};
pub use shaper::{Fate, Shaper};
pub use suite::{Case, Outcome, side_by_side, suite};
pub use wire::Counts;
