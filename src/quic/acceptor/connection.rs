//! One accepted connection: takes its streams, follows its path, sends and takes copies, drains.

use std::{pin::pin, sync::Arc};

use iroh::{
    endpoint::{Connection, IncomingZeroRttConnection},
    protocol::AcceptError,
};
use tokio::time::timeout;

use super::{
    super::tuning::{Follow, Side},
    Shared,
    early::{EarlyData, Gates},
    lanes::Lanes,
    lived::outlived,
    streams::Streams,
};
use crate::{pool::OpenConnection, wire::close};

/// Serves one connection; everything that it starts ends with it.
pub(super) struct Serving {
    shared: Arc<Shared>,
    streams: Streams,
}

impl Serving {
    pub(super) fn new(shared: Arc<Shared>, bare: bool) -> Self {
        Self {
            streams: Streams::new(shared.clone(), bare, None),
            shared,
        }
    }

    /// A connection whose lanes may bring calls before its handshake is complete.
    pub(super) fn early(shared: Arc<Shared>, early_data: &EarlyData, bare: bool) -> Self {
        Self {
            streams: Streams::new(shared.clone(), bare, Some(Gates::new(early_data))),
            shared,
        }
    }

    /// Waits for the handshake. Lanes that come meanwhile are opened behind their gates.
    pub(super) async fn shake_hands(
        &mut self,
        connection: &IncomingZeroRttConnection,
    ) -> Result<Connection, AcceptError> {
        // iroh's hooks run in it, so it is polled from the start.
        let mut completed = pin!(connection.handshake_completed());
        tokio::select! {
            biased;
            connection = &mut completed => return Ok(connection?),
            () = self.streams.run(connection) => {}
        }
        // The connection is closed, and the handshake's error says why.
        Ok(completed.await?)
    }

    /// What the admission knows of the connection.
    pub(super) fn open(&self) -> &Arc<OpenConnection> {
        &self.streams.open
    }

    /// Runs until the connection is closed, by either side. The peer has been admitted.
    pub(super) async fn run(mut self, connection: Connection) {
        let Self { shared, streams } = &mut self;
        // In this order: a gate opens only if something is proved.
        streams.proof.complete(&connection);
        streams.gates = None;
        let copies = streams.copies.clone();
        let mut follow = Follow::new(
            &connection,
            &streams.activities,
            &copies,
            shared.settings.tuning.receive_window(),
            Side::Server,
        )
        .within(&shared.windows);
        let mut tick = pin!(follow.tick());
        let mut drained = pin!(drained(shared, streams.lanes.clone(), &connection));
        let open = streams.open.clone();
        let mut outlived = pin!(outlived(shared, &open, streams.lanes.clone(), &connection));
        let mut closed = pin!(connection.closed());
        let mut revoked = pin!(shared.revoked(&connection));
        // Not before the handshake: a datagram could be a replay as well.
        let mut copies = pin!(copies.run(&connection));
        let mut streams = pin!(streams.run(&connection));
        loop {
            tokio::select! {
                _ = &mut closed => return,
                () = &mut drained => return,
                () = &mut outlived => return,
                () = &mut streams => return,
                () = &mut revoked => return,
                never = &mut copies => match never {},
                () = &mut tick => tick.set(follow.tick()),
            }
        }
    }
}

/// Once the shutdown has begun: waits until the lanes have ended, and closes the connection with a code that says how it went.
async fn drained(shared: &Shared, lanes: Lanes, connection: &Connection) {
    shared.draining.cancelled().await;
    let finished = timeout(shared.settings.drain_timeout, lanes.finished());
    let (code, reason) = match finished.await {
        Ok(()) => (close::DRAINED, "shut down"),
        Err(_) => (
            close::DRAIN_EXPIRED,
            "shut down before all calls were finished",
        ),
    };
    connection.close(code, reason.as_bytes());
}
