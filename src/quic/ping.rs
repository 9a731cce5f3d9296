//! Measures the way to a peer's acceptor and back. It holds the connection and no link, so an unanswered ping keeps no link open.

use std::time::Duration;

use iroh::endpoint::Connection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};
use tower_iroh_layers::Urgency;

use super::io::{Activities, QuicIo};
use crate::{
    peer::{PeerInfo, Proof},
    wire::{self, Kind, Preamble},
};

/// The longest time that one ping may take, unless the path itself is slower.
const MOST: Duration = Duration::from_secs(10);
/// The shortest time that one ping is given, and how many round trips on a longer path.
const LEAST: Duration = Duration::from_secs(1);
const ROUND_TRIPS: u32 = 4;

/// How long one ping may take if there is one in each `interval`: less than the interval, but never so little that a healthy path is too slow.
pub(super) fn patience(interval: Duration, rtt: Duration) -> Duration {
    let least = LEAST.max(rtt.saturating_mul(ROUND_TRIPS));
    MOST.min(interval).max(least)
}

/// Sends a ping and waits for its answer: how long it took, or `None` if none came. Not a use of the connection.
pub(super) async fn ping(connection: &Connection, activities: &Activities) -> Option<Duration> {
    let preamble = Preamble {
        kind: Kind::Ping,
        urgency: Urgency::HIGHEST,
    };
    let started = Instant::now();
    let stream = connection.open_bi().await.ok()?;
    let info = PeerInfo::new(Proof::of(connection), preamble.urgency);
    let mut stream = QuicIo::new(stream, info, activities);
    let sent: [u8; wire::PING_LEN] = rand::random();
    let mut echoed = [0; wire::PING_LEN];
    let exchange = async {
        stream.write_all(&preamble.encode()).await?;
        stream.write_all(&sent).await?;
        stream.read_exact(&mut echoed).await
    };
    let answered = exchange.await.is_ok() && echoed == sent;
    // A peer that refuses the stream, because it drains or is busy, has answered as well.
    (answered || stream.activity().code().is_some()).then(|| started.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_interval_leaves_a_ping_time_for_its_path() {
        let millis = Duration::from_millis;
        for (interval, rtt, expected) in [
            (millis(30_000), millis(40), millis(10_000)),
            (millis(3_000), millis(40), millis(3_000)),
            (millis(500), millis(40), millis(1_000)),
            (millis(500), millis(600), millis(2_400)),
            (millis(1), Duration::ZERO, millis(1_000)),
            (millis(30_000), millis(5_000), millis(20_000)),
            (Duration::MAX, Duration::MAX, Duration::MAX),
        ] {
            assert_eq!(patience(interval, rtt), expected, "{interval:?} {rtt:?}");
        }
    }
}
