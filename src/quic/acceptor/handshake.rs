//! From an accepted connection to a served one: completes the handshake, admits the peer.

use std::{io, sync::Arc, time::Instant};

use iroh::{
    EndpointId,
    endpoint::{Accepting, Connection, Incoming, IncomingAddr},
    protocol::{AcceptError, IncomingFilterOutcome},
};
use tokio::time::sleep;

use super::{Shared, connection::Serving, early::EarlyData, lived, reservations::Unfinished};
use crate::{
    lock::lock,
    pool::{Admitted, Busy, HandshakePermit, OpenConnection, Source, admission},
    wire::close,
};

/// One handshake in flight, and when it has to be complete.
struct Handshake {
    permit: HandshakePermit,
    since: Instant,
}

impl Shared {
    /// What the router does with a connection of which the first packet has come.
    ///
    /// A refusal is sent only to an address that its caller has proved: to others goes a Retry packet, which is smaller than what they sent.
    pub(super) fn filter(&self, incoming: &Incoming) -> IncomingFilterOutcome {
        let from = incoming.remote_addr();
        let source = match incoming.remote_addr_validated() {
            true => source(&from),
            false => Source::Unproven,
        };
        let is_whole = || {
            let hello = incoming.decrypt();
            hello.and_then(|hello| hello.alpns()).is_some()
        };
        let now = Instant::now();
        let (unfinished, reserved) = {
            let mut reservations = lock(&self.reservations);
            let unfinished = reservations.expire(now);
            (
                unfinished,
                reservations.reserve(from, source, is_whole, now),
            )
        };
        self.given_up(unfinished);
        match reserved {
            Ok(()) => IncomingFilterOutcome::Accept,
            Err(Busy::Unproven) => {
                metrics::counter!("tower_iroh_quic_retries_total").increment(1);
                IncomingFilterOutcome::Retry
            }
            Err(busy) => {
                self.busy(busy, &incoming.remote_addr());
                IncomingFilterOutcome::Reject
            }
        }
    }

    fn begin(&self, from: &IncomingAddr) -> Result<Handshake, Busy> {
        let now = Instant::now();
        let (unfinished, claimed) = {
            let mut reservations = lock(&self.reservations);
            let claimed = reservations.claim(from, now);
            (reservations.expire(now), claimed)
        };
        self.given_up(unfinished);
        let (permit, since) = claimed.inspect_err(|busy| self.busy(*busy, from))?;
        Ok(Handshake { permit, since })
    }

    fn busy(&self, busy: Busy, from: &IncomingAddr) {
        let reason = busy.reason();
        self.refusals.add(reason, |suppressed| {
            tracing::warn!(?from, reason, suppressed, "refused a connection: {busy}");
        });
    }

    fn given_up(&self, Unfinished(count): Unfinished) {
        for _ in 0..count {
            self.late();
        }
    }

    /// Completes the handshake. With early data it also serves the connection to its end: the streams that begin before the handshake go on after it.
    pub(super) async fn shake_hands(
        self: &Arc<Self>,
        accepting: Accepting,
        bare: bool,
    ) -> Result<Connection, AcceptError> {
        let handshake = self
            .begin(&accepting.remote_addr())
            .map_err(|busy| AcceptError::from_err(io::Error::other(busy.to_string())))?;
        if let Some(early_data) = &self.settings.early_data {
            return self
                .serve_early(early_data, accepting, bare, handshake)
                .await;
        }
        let from = accepting.remote_addr();
        tokio::select! {
            connection = accepting => Ok(connection?),
            error = self.over(&handshake, &from) => Err(error),
        }
    }

    /// Waits until a handshake has taken too long, or another source has taken its permit.
    async fn over(&self, handshake: &Handshake, from: &IncomingAddr) -> AcceptError {
        let most = self.settings.handshake_timeout;
        tokio::select! {
            () = sleep(most.saturating_sub(handshake.since.elapsed())) => self.late(),
            busy = handshake.permit.displaced() => {
                self.busy(busy, from);
                AcceptError::from_err(io::Error::other(busy.to_string()))
            }
        }
    }

    async fn serve_early(
        self: &Arc<Self>,
        early_data: &EarlyData,
        accepting: Accepting,
        bare: bool,
        handshake: Handshake,
    ) -> Result<Connection, AcceptError> {
        let _running = self.connections.token();
        let from = accepting.remote_addr();
        let early = accepting.into_0rtt();
        let mut serving = Serving::early(self.clone(), early_data, bare);
        let connection = tokio::select! {
            connection = serving.shake_hands(&early) => connection?,
            error = self.over(&handshake, &from) => {
                early.close(close::GONE, error.to_string().as_bytes());
                return Err(error);
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
        if !self.settings.allowed.admits(Some(id)) {
            self.refusals.add("policy", |suppressed| {
                tracing::info!(peer = %id.fmt_short(), suppressed, "refused a connection: the policy permits nothing to the caller");
            });
            connection.close(close::FORBIDDEN, admission::REFUSED.as_bytes());
            return None;
        }
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

    /// Waits until a reload shuts the peer out, and closes the connection.
    pub(super) async fn revoked(&self, connection: &Connection) {
        let id = connection.remote_id();
        self.settings.allowed.clone().revoked(Some(id)).await;
        self.refusals.add("revoked", |suppressed| {
            tracing::info!(peer = %id.fmt_short(), suppressed, "closing a connection: a reload of the policy shuts the caller out");
        });
        connection.close(close::FORBIDDEN, admission::REVOKED.as_bytes());
    }

    fn late(&self) -> AcceptError {
        let most = self.settings.handshake_timeout;
        let error = format!("the handshake was not complete within {most:?}");
        self.refusals.add("timeout", |suppressed| {
            tracing::debug!(suppressed, "refused a connection: {error}");
        });
        AcceptError::from_err(io::Error::new(io::ErrorKind::TimedOut, error))
    }
}

/// The source that a connection counts for.
///
/// A relay is one source with a larger share: it tells us the caller's key and not its address, and keys cost nothing. Of a transport that iroh does not know
/// itself nothing is known about what an address costs, so each such transport is one source too.
fn source(from: &IncomingAddr) -> Source {
    match from {
        IncomingAddr::Ip(addr) => Source::address(addr.ip()),
        IncomingAddr::Relay { url, .. } => Source::Via(url.to_string()),
        IncomingAddr::Custom(addr) => Source::Via(format!("custom transport {}", addr.id())),
        // The type may grow.
        _ => Source::Via("other".to_owned()),
    }
}
