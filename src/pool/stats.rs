use std::{
    fmt,
    time::{Duration, SystemTime},
};

use crate::peer::{Path, TransportKind};

/// What is known of the connection to one peer.
///
/// Each side counts what it sends: the server's own figures are in [`PeerInfo`](crate::PeerInfo). Of all connections together, sent and lost
/// packets are metrics too, on either side: see [`Links`](crate::Links) and [`Acceptor`](crate::Acceptor).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PeerStats {
    /// What the connection is. Over TCP its rules differ: see [`TcpLinks`](crate::tcp::TcpLinks).
    pub transport: TransportKind,
    /// When the handshake was over.
    pub established_at: SystemTime,
    /// When a call last began or ended.
    pub last_used: SystemTime,
    /// UDP payload sent on this connection, in bytes, handshake and retransmissions included.
    pub bytes_sent: u64,
    /// UDP payload received on this connection, in bytes.
    pub bytes_received: u64,
    /// Packets sent that the peer did not acknowledge in time, path probes included.
    ///
    /// 0 over TCP, whose kernel is not asked. Not all of them were lost in the network: with receive windows larger than [`Tuning`](crate::Tuning)'s for a short path, iroh 1.4
    /// drops some before they reach the socket, when its task has used up tokio's cooperative budget (`docs/upstream/budget-loss`).
    pub lost_packets: u64,
    /// Packets sent. 0 over TCP.
    pub sent_packets: u64,
    /// Second copies of small writes that were sent; see [`LaneConfig::copies`](crate::LaneConfig::copies).
    pub copies_sent: u64,
    /// Second copies that came and were read before the bytes themselves.
    pub copies_used: u64,
    /// The way that bytes take now.
    pub path: Option<Path>,
    /// The smoothed round-trip time of that path.
    pub rtt: Option<Duration>,
    /// The round trip of the last health ping, through the peer's acceptor and back.
    pub ping: Option<Duration>,
    /// What became of the data that was sent before the handshake was complete; `None` where none could be, because that is not
    /// switched on or there was no session to resume.
    pub early_data: Option<EarlyData>,
    /// Calls and connections of tonic channels that are open now.
    pub open_calls: usize,
    /// Calls that wait for a permit of their lane now: see [`LaneConfig::calls_per_stream`](crate::LaneConfig::calls_per_stream).
    pub waiting_calls: usize,
    /// Calls and connections of tonic channels since the connection was established.
    pub calls: u64,
}

/// Whether the peer took the data that could be sent before the handshake was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EarlyData {
    /// It did, be it that it served it at once or that it kept it until the handshake was complete.
    Accepted,
    /// It did not: it has forgotten the session, for instance with a restart. What was sent was sent again.
    Rejected,
}

impl fmt::Display for PeerStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{path}")?,
            None => f.write_str("no path")?,
        }
        if let Some(rtt) = self.rtt {
            write!(f, ", RTT {:.2} ms", rtt.as_secs_f64() * 1000.0)?;
        }
        write!(
            f,
            ", {} calls ({} open, {} waiting), {} bytes out, {} in",
            self.calls, self.open_calls, self.waiting_calls, self.bytes_sent, self.bytes_received
        )?;
        if self.transport == TransportKind::Tcp {
            return f.write_str(", TCP");
        }
        write!(
            f,
            ", {} of {} packets lost, {} copies out, {} in used",
            self.lost_packets, self.sent_packets, self.copies_sent, self.copies_used
        )
    }
}
