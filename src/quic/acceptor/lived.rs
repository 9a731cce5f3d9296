//! When a server ends a connection by itself, and how it finds out that the peer of one is gone.

use std::time::Duration;

use bytes::Bytes;
use iroh::endpoint::{Connection, SendDatagramError};
use tokio::time::{sleep, timeout};

use super::{Shared, lanes::Lanes};
use crate::{
    peer::Path,
    pool::{OpenConnection, Probe, Why},
    wire::close,
};

/// How long a peer has to receive the last bytes of its lanes.
const FAREWELL: Duration = Duration::from_secs(1);

/// Waits until the connection is to end, and closes it with a code that says why.
pub(super) async fn outlived(
    shared: &Shared,
    open: &OpenConnection,
    lanes: Lanes,
    connection: &Connection,
) {
    let lifetime = shared.settings.lifetime.jittered(rand::random());
    let why = open.over(lifetime).await;
    // The lanes tell their clients which calls were not begun.
    let received = timeout(FAREWELL, lanes.finished()).await;
    let code = match why {
        // An answer may be lost, so no code may say that its call was not begun.
        _ if received.is_err() => close::CUT,
        Why::Unused | Why::Idle => close::UNUSED,
        Why::Evicted => close::EVICTED,
        Why::Aged => close::AGED,
        Why::AgeExpired | Why::Dead => close::CUT,
    };
    let peer = connection.remote_id();
    let reason = why.reason();
    shared.closings.add(reason, |suppressed| match why {
        Why::Evicted => {
            tracing::warn!(peer = %peer.fmt_short(), reason, suppressed, "closed a connection: {why}");
        }
        _ => {
            tracing::debug!(peer = %peer.fmt_short(), reason, suppressed, "closed a connection: {why}");
        }
    });
    connection.close(code, why.to_string().as_bytes());
}

/// The least time that a peer has to answer a probe, and the most.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(3));
/// Between two datagrams of one probe: one may be lost.
const AGAIN: Duration = Duration::from_millis(100);
/// Between two looks at what has come.
const LOOK: Duration = Duration::from_millis(10);

/// Asks the peer for a sign of life: an empty datagram, which its QUIC stack acknowledges and its reader ignores.
pub(super) fn probe(connection: &Connection) -> Box<Probe> {
    // The admission must not keep the connection open.
    let connection = connection.weak_handle();
    Box::new(move || {
        let connection = connection.upgrade();
        Box::pin(async move {
            match connection {
                Some(connection) => answers(&connection).await,
                None => false,
            }
        })
    })
}

async fn answers(connection: &Connection) -> bool {
    let heard = || connection.stats().udp_rx.datagrams;
    let before = heard();
    let (least, most) = PATIENCE;
    let patience = Path::of(connection).map_or(least, |(_, rtt)| (rtt * 3).clamp(least, most));
    let answer = async {
        loop {
            match connection.send_datagram(Bytes::new()) {
                Err(SendDatagramError::ConnectionLost(_)) => return false,
                // It cannot be asked.
                Err(_) => return true,
                Ok(()) => {}
            }
            for _ in 0..AGAIN.as_millis() / LOOK.as_millis() {
                sleep(LOOK).await;
                if heard() > before {
                    return true;
                }
            }
        }
    };
    timeout(patience, answer).await.unwrap_or(false)
}
