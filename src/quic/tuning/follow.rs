//! Samples a connection's path: sets its [`ReceiveWindow`], informs its [`Copies`], and counts its packets.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use iroh::endpoint::{Connection, VarInt};
use tokio::time::{Instant, sleep};

use super::{
    super::{
        copies::{Copies, LossSample},
        io::Activities,
    },
    FIRST_WINDOW, PathSample, ReceiveWindow, SHORT_PATH,
    budget::{WindowBudget, WindowShare},
    congestion::shortest_round_trip,
    packets::{Packets, Side},
};

/// How often a busy connection is sampled, a quiet one, and one on which nothing has moved for [`RESTS`] samples.
const BUSY: Duration = Duration::from_millis(100);
const QUIET: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(60);
/// How many quiet samples in a row it takes: by then the peer has acknowledged what was sent, or it is lost.
const RESTS: u32 = 3;

/// Adapts a connection's receive window and its copies to its path and its lanes. When it is dropped, it counts
/// the last packets.
pub(crate) struct Follow {
    connection: Connection,
    activities: Activities,
    packets: Packets,
    window: ReceiveWindow,
    /// Of an accepted connection.
    share: Option<WindowShare>,
    copies: Copies,
    set: Option<u64>,
    received: u64,
    /// How many samples in a row have found it quiet.
    quiet: u32,
    /// Until then the connection is sampled as a busy one, so that the handshake's estimate of the path is corrected before there is load.
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
            share: None,
            copies: copies.clone(),
            set: None,
            received: 0,
            quiet: 0,
            new_until: Instant::now() + QUIET,
        }
    }

    /// Keeps the window small until a handler has served a call, and then within a budget that other connections share.
    pub(crate) fn within(mut self, budget: &Arc<WindowBudget>) -> Self {
        self.share = Some(budget.share());
        self
    }

    /// Whether several streams suit the last sampled path.
    pub(crate) fn spreads(&self) -> bool {
        self.window.spreads()
    }

    /// Takes a sample. The future waits until the next is to be taken: of an idle connection once something moves on its lanes.
    pub(crate) fn tick(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let next = self.sample();
        let (activities, rests) = (self.activities.clone(), self.quiet >= RESTS);
        async move {
            let due = async {
                sleep(next).await;
                if rests {
                    activities.stirred(IDLE).await;
                }
            };
            tokio::select! {
                () = due => {}
                // The window may grow now.
                () = activities.first_served() => {}
            }
        }
    }

    /// Takes a sample. Returns how long the next has time.
    fn sample(&mut self) -> Duration {
        let Self {
            connection,
            activities,
            ..
        } = self;
        self.packets.count(connection);
        let received = connection.stats().udp_rx.bytes;
        let looked = activities.look();
        if activities.is_served() {
            self.copies.keep();
        }
        let stalled_lanes = looked.stalled;
        let paths = connection.paths();
        let path = paths.iter().find(|path| path.is_selected());
        if let Some(path) = path.or_else(|| paths.iter().next()) {
            let mut hasher = DefaultHasher::new();
            path.remote_addr().hash(&mut hasher);
            let path_hash = hasher.finish();
            let smoothed = path.rtt();
            // The smoothed round trip includes the handshake's computations, and under load it rises with our own queue.
            let shortest = (smoothed >= SHORT_PATH)
                .then(|| connection.congestion_state(path.id()))
                .flatten()
                .and_then(shortest_round_trip);
            let sample = PathSample {
                path: path_hash,
                now: std::time::Instant::now(),
                rtt: shortest.map_or(smoothed, |shortest| shortest.min(smoothed)),
                stalled_lanes,
            };
            let mut window = self.window.update(sample);
            if let Some(share) = &mut self.share {
                window = match activities.is_served() {
                    true => share.fit(window, looked.read, connection.remote_id()),
                    false => window.min(FIRST_WINDOW),
                };
            }
            let shortest = self.window.shortest().unwrap_or(sample.rtt);
            if self.set.replace(window) != Some(window) {
                connection.set_receive_window(VarInt::from_u64(window).unwrap_or(VarInt::MAX));
            }
            let stats = path.stats();
            self.copies.follow(LossSample {
                path: path_hash,
                shortest,
                lost: stats.lost_packets.saturating_sub(stats.lost_plpmtud_probes),
            });
        }
        let moved = received.saturating_sub(self.received);
        self.received = received;
        let now = Instant::now();
        // More than keep-alives, which are a few dozen bytes, or a stalled lane, which may hold up others.
        let busy = moved > 4096 || stalled_lanes > 0 || now < self.new_until;
        self.quiet = if busy {
            0
        } else {
            self.quiet.saturating_add(1)
        };
        if busy { BUSY } else { QUIET }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.packets.count(&self.connection);
    }
}
