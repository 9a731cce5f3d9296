//! What a call asks of a connection, over whichever transport.

use super::{LaneSet, Opener};
use crate::pool::Pooled;

/// A connection that calls travel on.
pub(crate) trait Carries: Pooled + Opener {
    fn lanes(&self) -> &LaneSet;

    /// Whether the peer has what was sent before the handshake was complete.
    fn took_early_data(&self) -> bool {
        false
    }
}
