//! What a call asks of a connection, over whichever transport.

use super::{Link, Pooled, Use};
use crate::{
    Error,
    lane::{Http2, LaneSet, Opener},
    tcp::TcpLink,
};

/// A connection that calls travel on.
pub(crate) trait Carries: Pooled + Opener {
    fn lanes(&self) -> &LaneSet;

    /// What an HTTP/2 error on `lane` means for its call.
    fn explain(&self, error: h2::Error, lane: &Http2) -> Error;

    /// Whether the peer says with an error of its own that it has not taken the connection, and so none of its calls.
    fn refuses(&self, _: &h2::Error) -> bool {
        false
    }

    /// It takes no further call, and is good for those that it has.
    fn retire(&self);

    /// Whether the peer has what was sent before the handshake was complete.
    fn took_early_data(&self) -> bool {
        false
    }

    /// Keeps it for as long as a response goes on.
    fn held(link: Use<Self>) -> Held;
}

/// The connection of a response. The same type over both transports, so that the response is.
pub(crate) enum Held {
    Iroh(Use<Link>),
    Tcp(Use<TcpLink>),
}

impl Carries for Link {
    fn lanes(&self) -> &LaneSet {
        Link::lanes(self)
    }

    fn explain(&self, error: h2::Error, lane: &Http2) -> Error {
        Link::explain(self, error, lane)
    }

    fn retire(&self) {
        Link::retire(self);
    }

    fn took_early_data(&self) -> bool {
        Link::took_early_data(self)
    }

    fn held(link: Use<Self>) -> Held {
        Held::Iroh(link)
    }
}
