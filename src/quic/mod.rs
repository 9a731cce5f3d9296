//! iroh's half of the transport: one QUIC connection per peer, with lanes on its streams, and what accepts them.
//!
//! [`Links`] finds or dials a peer's connection; a [`Link`](link::Link) is one connection with its lanes, its driver watches over window, health and
//! idleness. [`Acceptor`] is the server's side. [`tcp`](crate::tcp) has the same parts under the same names.

mod acceptor;
#[cfg(feature = "authorize")]
mod allow_list;
mod builder;
mod carrier;
mod connector;
mod copies;
mod dialer;
mod driver;
mod io;
mod link;
mod links;
mod ping;
pub mod presets;
mod tuning;

pub use acceptor::{Acceptor, AcceptorBuilder, BareAcceptor, Incoming};
#[cfg(feature = "authorize")]
pub use allow_list::AllowList;
pub use builder::{LinksBuilder, QuicSettings};
pub use connector::{Connector, ConnectorIo};
pub use dialer::QuicDialer;
pub use io::QuicIo;
pub use links::Links;
pub use tuning::Tuning;

#[cfg(any(test, fuzzing))]
pub use copies::fuzzing::copies;
#[cfg(any(test, fuzzing))]
pub use io::screen;
