//! The bytes and codes that two peers agree on; `docs/wire.md` tells them in prose.
//!
//! Under [`ALPN`] each bidirectional QUIC stream begins with a preamble of three bytes: version, kind, urgency. After
//! it a stream of kind [`Kind::Http2`] is an HTTP/2 connection from the client preface on, and one of kind
//! [`Kind::Ping`] carries eight bytes that the acceptor sends back.
//!
//! A QUIC datagram is a copy of some of a stream's bytes; a peer that ignores it loses nothing.

use iroh::endpoint::VarInt;
use tower_iroh_layers::Urgency;

mod copy;

pub(crate) use copy::StreamCopy;

/// The ALPN of the protocol: HTTP/2 lanes behind preambles.
///
/// It also fixes that neither side gives a stream more than [`MAX_STREAM_WINDOW`] bytes of receive window.
pub const ALPN: &[u8] = b"tower-iroh/h2/1";

/// The largest receive window a stream may have, in bytes.
///
/// Two things hang on it: a sender can work out how many lanes its send window carries, and a stream cannot pile up
/// so many small unread frames that QUIC gives up the whole connection.
pub const MAX_STREAM_WINDOW: u64 = 1_250_000;

/// The preamble's version.
pub const VERSION: u8 = 1;

/// How many bytes a preamble has.
pub const PREAMBLE_LEN: usize = 3;

/// How many bytes a ping carries.
pub const PING_LEN: usize = 8;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// An HTTP/2 connection.
    Http2,
    /// Eight bytes to be echoed, answered by the acceptor itself and never counted as use.
    Ping,
}

/// The first bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// What the stream is for.
    pub kind: Kind,
    /// How soon its bytes should go, in both directions.
    pub urgency: Urgency,
}

impl Preamble {
    /// The bytes on the wire.
    pub const fn encode(self) -> [u8; PREAMBLE_LEN] {
        let kind = match self.kind {
            Kind::Http2 => 0,
            Kind::Ping => 1,
        };
        [VERSION, kind, self.urgency.get()]
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// [`PreambleError`], naming the byte, for a version, kind or urgency that is not known.
    pub const fn decode(bytes: [u8; PREAMBLE_LEN]) -> Result<Self, PreambleError> {
        let [version, kind, urgency] = bytes;
        if version != VERSION {
            return Err(PreambleError::Version(version));
        }
        let kind = match kind {
            0 => Kind::Http2,
            1 => Kind::Ping,
            other => return Err(PreambleError::Kind(other)),
        };
        match Urgency::new(urgency) {
            Ok(urgency) => Ok(Self { kind, urgency }),
            Err(_) => Err(PreambleError::Urgency(urgency)),
        }
    }
}

/// A preamble that is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PreambleError {
    /// The first byte.
    #[error("preamble version {0}: only 1 is known")]
    Version(u8),
    /// The second byte.
    #[error("preamble kind {0}: 0 (HTTP/2) and 1 (ping) are known")]
    Kind(u8),
    /// The third byte.
    #[error("preamble urgency {0}: 0 to 7 are known")]
    Urgency(u8),
}

/// Why a connection was closed: QUIC application error codes of `CONNECTION_CLOSE`.
pub mod close {
    use super::VarInt;

    /// The endpoint went away without saying more; iroh's own code when it closes.
    pub const GONE: VarInt = VarInt::from_u32(0);
    /// Nobody used the connection for its idle time, or the pool needed its place.
    pub const IDLE: VarInt = VarInt::from_u32(0x100);
    /// The client closed the channel or its links.
    pub const CLIENT_CLOSED: VarInt = VarInt::from_u32(0x101);
    /// The client replaced the connection after a GOAWAY and its last call has ended.
    pub const RETIRED: VarInt = VarInt::from_u32(0x102);
    /// The connection did not answer its health pings.
    pub const UNHEALTHY: VarInt = VarInt::from_u32(0x103);
    /// The server is shutting down and takes no new connection.
    pub const DRAINING: VarInt = VarInt::from_u32(0x110);
    /// The server has shut down and everything in flight was finished.
    pub const DRAINED: VarInt = VarInt::from_u32(0x111);
    /// The server has shut down and the time for finishing was over.
    pub const DRAIN_EXPIRED: VarInt = VarInt::from_u32(0x112);
    /// The server ended the connection at its maximum age, and everything in flight was finished.
    pub const AGED: VarInt = VarInt::from_u32(0x113);
    /// The server ended the connection, perhaps with calls in flight: the grace after its maximum age was over, or the client did not receive what was sent.
    pub const CUT: VarInt = VarInt::from_u32(0x114);
    /// No lane was opened on the connection in time, or no call was in flight for the server's idle time.
    pub const UNUSED: VarInt = VarInt::from_u32(0x121);
    /// The server was full, and gave the place of this connection, which was not in use, to another.
    pub const EVICTED: VarInt = VarInt::from_u32(0x122);
    /// This peer has as many connections as it may.
    pub const TOO_MANY_CONNECTIONS: VarInt = VarInt::from_u32(0x120);
    /// Refused by policy: the peer is known and may not. What an iroh hook should reject with.
    pub const FORBIDDEN: VarInt = VarInt::from_u32(403);
    /// Refused by policy: the peer is not known. What an iroh hook should reject with.
    pub const UNAUTHENTICATED: VarInt = VarInt::from_u32(401);

    /// Whether the code says that the server has begun none of the calls that are in flight on the client's side.
    pub fn is_unused(code: VarInt) -> bool {
        [AGED, UNUSED, EVICTED].contains(&code)
    }
}

/// Why a stream was reset or stopped: QUIC application error codes of `RESET_STREAM` and `STOP_SENDING`.
pub mod reset {
    use super::VarInt;

    /// The reader or writer was dropped; nothing is wrong.
    pub const DROPPED: VarInt = VarInt::from_u32(0);
    /// The preamble was not understood or did not come in time.
    pub const BAD_PREAMBLE: VarInt = VarInt::from_u32(0x200);
    /// The connection has as many lanes as it may.
    pub const TOO_MANY_LANES: VarInt = VarInt::from_u32(0x201);
    /// The server is shutting down and takes no new lane.
    pub const DRAINING: VarInt = VarInt::from_u32(0x202);

    /// The stream is unidirectional, and the protocol has none.
    pub const UNIDIRECTIONAL: VarInt = VarInt::from_u32(0x203);

    /// Whether the code says that the server never took the lane, and so none of its calls.
    pub fn is_refusal(code: VarInt) -> bool {
        [BAD_PREAMBLE, TOO_MANY_LANES, DRAINING].contains(&code)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_the_documented_ones() {
        let http2 = Preamble {
            kind: Kind::Http2,
            urgency: Urgency::INTERACTIVE,
        };
        assert_eq!(http2.encode(), [1, 0, 3]);
        let ping = Preamble {
            kind: Kind::Ping,
            urgency: Urgency::HIGHEST,
        };
        assert_eq!(ping.encode(), [1, 1, 0]);
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes_and_refuses_the_rest(bytes in any::<[u8; PREAMBLE_LEN]>()) {
            match Preamble::decode(bytes) {
                Ok(preamble) => prop_assert_eq!(preamble.encode(), bytes),
                Err(PreambleError::Version(v)) => prop_assert!(v != VERSION),
                Err(PreambleError::Kind(k)) => prop_assert!(k > 1),
                Err(PreambleError::Urgency(u)) => prop_assert!(u > 7),
            }
        }
    }
}
