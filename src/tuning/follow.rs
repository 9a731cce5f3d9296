//! Applies a [`ReceiveWindow`] to a connection.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant as StdInstant},
};

use iroh::endpoint::{Connection, VarInt};
use tokio::time::Instant;

use super::{PathSample, ReceiveWindow};
use crate::io::Activities;

/// How often a busy connection is looked at, and one on which nothing moves.
const BUSY: Duration = Duration::from_millis(100);
const QUIET: Duration = Duration::from_secs(1);

/// Keeps a connection's receive window at what its path and its lanes ask for.
pub(crate) struct Follow {
    window: ReceiveWindow,
    set: Option<u64>,
    received: u64,
}

impl Follow {
    pub(crate) fn new(window: ReceiveWindow) -> Self {
        Self {
            window,
            set: None,
            received: 0,
        }
    }

    /// Looks once; when to look again.
    pub(crate) fn tick(&mut self, connection: &Connection, activities: &Activities) -> Instant {
        let received = connection.stats().udp_rx.bytes;
        let stalled_lanes = activities.stalled();
        let paths = connection.paths();
        let path = paths.iter().find(|path| path.is_selected());
        if let Some(path) = path.or_else(|| paths.iter().next()) {
            let mut hasher = DefaultHasher::new();
            path.remote_addr().hash(&mut hasher);
            let sample = PathSample {
                path: hasher.finish(),
                rtt: path.rtt(),
                received,
                stalled_lanes,
            };
            let window = self.window.update(StdInstant::now(), sample);
            if self.set.replace(window) != Some(window) {
                connection.set_receive_window(VarInt::from_u64(window).unwrap_or(VarInt::MAX));
            }
        }
        let moved = received.saturating_sub(self.received);
        self.received = received;
        // Keep-alives and their answers are a few dozen bytes; a stalled lane may hold up others.
        let busy = moved > 4096 || stalled_lanes > 0;
        Instant::now() + if busy { BUSY } else { QUIET }
    }
}
