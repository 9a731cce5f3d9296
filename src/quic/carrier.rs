//! A QUIC connection of which the handshake may still be under way.

use std::{sync::OnceLock, time::SystemTime};

use iroh::endpoint::{
    Connection, ConnectionError, OpenBi, OutgoingZeroRttConnection, VarInt, ZeroRttStatus,
};

use crate::pool::EarlyData;

/// The connection beneath a link.
#[derive(Debug)]
pub(super) enum Carrier {
    Complete(Complete),
    /// Calls may leave on it before its handshake is complete. It stays the same connection after that.
    Early(OutgoingZeroRttConnection, OnceLock<Complete>),
}

/// What there is once the handshake is complete.
#[derive(Debug)]
pub(super) struct Complete {
    pub(super) connection: Connection,
    pub(super) at: SystemTime,
    pub(super) early_data: Option<EarlyData>,
}

impl Complete {
    fn new(connection: Connection, early_data: Option<EarlyData>) -> Self {
        Self {
            connection,
            at: SystemTime::now(),
            early_data,
        }
    }
}

impl Carrier {
    pub(super) fn complete(connection: Connection) -> Self {
        Self::Complete(Complete::new(connection, None))
    }

    pub(super) fn early(connection: OutgoingZeroRttConnection) -> Self {
        Self::Early(connection, OnceLock::new())
    }

    /// The handshake of an early one is complete.
    pub(super) fn completed(&self, status: ZeroRttStatus) {
        let (connection, early_data) = match status {
            ZeroRttStatus::Accepted(connection) => (connection, EarlyData::Accepted),
            ZeroRttStatus::Rejected(connection) => (connection, EarlyData::Rejected),
        };
        if let Self::Early(_, complete) = self {
            complete.get_or_init(|| Complete::new(connection, Some(early_data)));
        }
    }

    /// Nothing while the handshake is under way.
    pub(super) fn get(&self) -> Option<&Complete> {
        match self {
            Self::Complete(complete) => Some(complete),
            Self::Early(_, complete) => complete.get(),
        }
    }

    pub(super) fn open_bi(&self) -> OpenBi<'_> {
        match self {
            Self::Complete(complete) => complete.connection.open_bi(),
            Self::Early(connection, _) => connection.open_bi(),
        }
    }

    pub(super) fn close_reason(&self) -> Option<ConnectionError> {
        match self {
            Self::Complete(complete) => complete.connection.close_reason(),
            Self::Early(connection, _) => connection.close_reason(),
        }
    }

    pub(super) fn close(&self, code: VarInt, reason: &[u8]) {
        match self {
            Self::Complete(complete) => complete.connection.close(code, reason),
            Self::Early(connection, _) => connection.close(code, reason),
        }
    }
}
