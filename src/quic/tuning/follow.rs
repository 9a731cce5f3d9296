//! Applies a [`ReceiveWindow`] to a connection, lets its [`Copies`] know what is seen of the path, and counts its packets.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use iroh::endpoint::{Connection, VarInt};
use tokio::time::Instant;

use super::{
    super::{
        copies::{Copies, LossSample},
        io::Activities,
    },
    PathSample, ReceiveWindow, SHORT_PATH,
    congestion::shortest_round_trip,
    packets::{Packets, Side},
};

/// How often a busy connection is looked at, and one on which nothing moves.
const BUSY: Duration = Duration::from_millis(100);
const QUIET: Duration = Duration::from_secs(1);

/// Keeps a connection's receive window, and whether it sends copies, at what its path and its lanes ask for. Dropped, it counts
/// what was sent last.
pub(crate) struct Follow {
    connection: Connection,
    activities: Activities,
    packets: Packets,
    window: ReceiveWindow,
    copies: Copies,
    set: Option<u64>,
    received: u64,
    /// Looked at as a busy one until then: what the handshake says of the path is to be corrected before there is a load.
    new_until: Instant,
}

impl Follow {
    pub(crate) fn new(
        connection: &Connection,
        activities: &Activities,
        copies: &Copies,
        window: ReceiveWindow,
        side: Side,
    ) -> Self {
        Self {
            connection: connection.clone(),
            activities: activities.clone(),
            packets: Packets::new(side),
            window,
            copies: copies.clone(),
            set: None,
            received: 0,
            new_until: Instant::now() + QUIET,
        }
    }

    /// Whether the path that was seen last is one for several streams.
    pub(crate) fn spreads(&self) -> bool {
        self.window.spreads()
    }

    /// Looks once; when to look again.
    pub(crate) fn tick(&mut self) -> Instant {
        let Self {
            connection,
            activities,
            ..
        } = self;
        self.packets.count(connection);
        let received = connection.stats().udp_rx.bytes;
        let stalled_lanes = activities.stalled();
        let paths = connection.paths();
        let path = paths.iter().find(|path| path.is_selected());
        if let Some(path) = path.or_else(|| paths.iter().next()) {
            let mut hasher = DefaultHasher::new();
            path.remote_addr().hash(&mut hasher);
            let path_hash = hasher.finish();
            let smoothed = path.rtt();
            // It begins with the handshake's computations, and under load it rises with our own queue.
            let shortest = (smoothed >= SHORT_PATH)
                .then(|| connection.congestion_state(path.id()))
                .flatten()
                .and_then(shortest_round_trip);
            let sample = PathSample {
                path: path_hash,
                rtt: shortest.map_or(smoothed, |shortest| shortest.min(smoothed)),
                stalled_lanes,
            };
            let window = self.window.update(sample);
            if self.set.replace(window) != Some(window) {
                connection.set_receive_window(VarInt::from_u64(window).unwrap_or(VarInt::MAX));
            }
            let stats = path.stats();
            self.copies.follow(LossSample {
                path: path_hash,
                shortest: self.window.shortest(),
                lost: stats.lost_packets.saturating_sub(stats.lost_plpmtud_probes),
            });
        }
        let moved = received.saturating_sub(self.received);
        self.received = received;
        let now = Instant::now();
        // Keep-alives and their answers are a few dozen bytes; a stalled lane may hold up others.
        let busy = moved > 4096 || stalled_lanes > 0 || now < self.new_until;
        now + if busy { BUSY } else { QUIET }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.packets.count(&self.connection);
    }
}
