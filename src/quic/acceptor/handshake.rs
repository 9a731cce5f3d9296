//! From an accepted connection to a served one: completes the handshake, admits the peer.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use iroh::{
    EndpointId,
    endpoint::{Accepting, Connection},
    protocol::AcceptError,
};

use super::{Shared, connection::Serving, early::EarlyData, lived};
use crate::{
    pool::{Admitted, OpenConnection},
    wire::close,
};

/// One handshake of the [`max_handshakes`](super::AcceptorBuilder::max_handshakes) in flight.
struct Handshake<'a>(&'a Shared);

impl<'a> Handshake<'a> {
    fn begin(shared: &'a Shared) -> Option<Self> {
        // Made first, so that a refusal is uncounted as well.
        let begun = Self(shared);
        let before = shared.handshakes.fetch_add(1, Ordering::AcqRel);
        (before < shared.settings.max_handshakes).then_some(begun)
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    /// Whether another handshake may begin. One that may not is counted as refused.
    pub(super) fn has_room(&self) -> bool {
        let has_room = self.handshakes.load(Ordering::Acquire) < self.settings.max_handshakes;
        if !has_room {
            self.too_many_handshakes();
        }
        has_room
    }

    fn too_many_handshakes(&self) {
        let most = self.settings.max_handshakes;
        self.refusals.add("handshakes", |suppressed| {
            tracing::warn!(
                most,
                suppressed,
                "refused a connection: too many handshakes are in flight"
            );
        });
    }

    /// Completes the handshake. With early data it also serves the connection to its end: the streams that begin before the handshake go on after it.
    pub(super) async fn shake_hands(
        self: &Arc<Self>,
        accepting: Accepting,
        bare: bool,
    ) -> Result<Connection, AcceptError> {
        let Some(handshake) = Handshake::begin(self) else {
            self.too_many_handshakes();
            return Err(AcceptError::from_err(io::Error::other(
                "too many handshakes are in flight",
            )));
        };
        if let Some(early_data) = &self.settings.early_data {
            return self
                .serve_early(early_data, accepting, bare, handshake)
                .await;
        }
        let most = self.settings.handshake_timeout;
        match tokio::time::timeout(most, accepting).await {
            Ok(connection) => Ok(connection?),
            Err(_) => Err(self.late(most)),
        }
    }

    async fn serve_early(
        self: &Arc<Self>,
        early_data: &EarlyData,
        accepting: Accepting,
        bare: bool,
        handshake: Handshake<'_>,
    ) -> Result<Connection, AcceptError> {
        let _running = self.connections.token();
        let early = accepting.into_0rtt();
        let mut serving = Serving::early(self.clone(), early_data, bare);
        let most = self.settings.handshake_timeout;
        let connection = match tokio::time::timeout(most, serving.shake_hands(&early)).await {
            Ok(connection) => connection?,
            Err(_) => {
                early.close(close::GONE, b"the handshake took too long");
                return Err(self.late(most));
            }
        };
        drop((handshake, early));
        if let Some(_admitted) = self.admit(&connection, serving.open()).await {
            serving.run(connection.clone()).await;
        }
        Ok(connection)
    }

    /// Serves a connection whose handshake is complete.
    pub(super) async fn serve(self: &Arc<Self>, connection: Connection, bare: bool) {
        // With early data it has been served by now.
        if connection.close_reason().is_some() {
            return;
        }
        let _running = self.connections.token();
        let serving = Serving::new(self.clone(), bare);
        if let Some(_admitted) = self.admit(&connection, serving.open()).await {
            serving.run(connection).await;
        }
    }

    /// Admits the peer, or closes the connection with a code that says why not.
    async fn admit(
        &self,
        connection: &Connection,
        open: &Arc<OpenConnection>,
    ) -> Option<Admitted<EndpointId>> {
        let id = connection.remote_id();
        open.probed_by(lived::probe(connection));
        let admitted = match self.admission.admit_over_dead(id, open).await {
            Ok(admitted) => admitted,
            Err(full) => {
                self.refusals.add("limit", |suppressed| {
                    tracing::warn!(peer = %id.fmt_short(), suppressed, "refused a connection: {full}");
                });
                connection.close(close::TOO_MANY_CONNECTIONS, full.to_string().as_bytes());
                return None;
            }
        };
        if self.draining.is_cancelled() {
            connection.close(close::DRAINING, b"shutting down");
            return None;
        }
        Some(admitted)
    }

    fn late(&self, most: Duration) -> AcceptError {
        let error = format!("the handshake was not complete within {most:?}");
        self.refusals.add("timeout", |suppressed| {
            tracing::debug!(suppressed, "refused a connection: {error}");
        });
        AcceptError::from_err(io::Error::new(io::ErrorKind::TimedOut, error))
    }
}
