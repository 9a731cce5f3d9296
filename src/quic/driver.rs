//! A link's task: watches the path, copies, health, the peer's silence, idleness and the connection's end.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use iroh::endpoint::Connection;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    copies::Copies,
    io::Activities,
    link::Link,
    ping::{patience, ping},
    tuning::{Follow, ReceiveWindow, Side},
};
use crate::{
    error::{Error, ErrorKind},
    http2::{Carries, GateGuard},
    peer::Path,
    pool::{End, Look, Patience, PoolHandle, Pooled, Sign, Silence, Uses},
    wire::close,
};

/// The longest time between two looks at a connection that nobody uses.
const LOOK: Duration = Duration::from_secs(60);
/// How many health pings in a row may fail.
const PINGS: u32 = 2;
/// One look may have found only an acknowledgement of ours, which nobody answers.
const SILENCE: Patience = Patience {
    least: Duration::from_millis(500),
    looks: 2,
};
/// How long a silent connection has, and round trips beside, once another has reached its peer. After a cut the path works for both, and each look pings.
const SUPERSEDED: Duration = Duration::from_secs(1);
/// With which ping a connection that has changed its path counts as silent: after 1.5 s, on a long path six round trips.
const MOVING: u32 = 3;
/// How long it has after it has changed its path. QUIC sends what the old path lost once it has given that path up, which may take seconds
/// (`docs/decisions/after-a-change-of-address.md`).
const SUPERSEDED_MOVING: Duration = Duration::from_secs(5);
/// How long the driver waits for the answer to a ping that breaks a silence. The next look sees whatever comes later.
const SILENCE_PING: Duration = Duration::from_millis(250);

/// Watches over a connection. It holds the link weakly, and never while it waits: the link owns this task, and its last caller ends both.
pub(super) struct Driver {
    pub(super) link: Weak<Link>,
    pub(super) uses: Uses,
    /// A link that nobody watches over takes no further call: its connection or its runtime has ended.
    pub(super) _gate: GateGuard,
    pub(super) connection: Connection,
    pub(super) activities: Activities,
    pub(super) copies: Copies,
    pub(super) gone: PoolHandle<Link>,
    pub(super) knock: Arc<Notify>,
    pub(super) window: ReceiveWindow,
    pub(super) health_interval: Duration,
    pub(super) idle_timeout: Duration,
}

impl Driver {
    pub(super) async fn run(self) {
        let mut follow = Follow::new(
            &self.connection,
            &self.activities,
            &self.copies,
            self.window.clone(),
            Side::Client,
        );
        let mut path_due = pin!(self.look(&mut follow));
        let idle_every = LOOK
            .min(self.idle_timeout / 4)
            .max(Duration::from_millis(1));
        let mut look = Instant::now() + idle_every;
        let mut closed = pin!(self.connection.closed());
        let mut health = pin!(self.watch_health());
        let mut copies = pin!(self.copies.run(&self.connection));
        let mut silence = pin!(self.watch_silence());
        let mut knocks = pin!(self.answer_knocks());
        let mut revoked = pin!(self.gone.revoked());
        loop {
            tokio::select! {
                _ = &mut closed => {
                    if let Some(link) = self.link.upgrade() {
                        self.gone.report(&link, link.fate());
                    }
                    return;
                }
                () = &mut path_due => path_due.set(self.look(&mut follow)),
                () = sleep_until(look) => {
                    look = Instant::now() + idle_every;
                    if self.close_if_idle() {
                        return;
                    }
                }
                () = &mut health => return,
                never = &mut copies => match never {},
                () = &mut silence => return,
                never = &mut knocks => match never {},
                () = &mut revoked => return self.end_revoked(),
            }
        }
    }

    /// Looks at the path. The future waits until it is to be looked at again.
    fn look(&self, follow: &mut Follow) -> impl Future<Output = ()> + Send + use<> {
        let next = follow.tick();
        if let Some(link) = self.link.upgrade() {
            link.lanes().spread(follow.spreads());
        }
        next
    }

    fn close_if_idle(&self) -> bool {
        let Some(link) = self.link.upgrade() else {
            return true;
        };
        let idle = self.uses.open() == 0 && self.uses.last().elapsed() >= self.idle_timeout;
        if idle && self.gone.report(&link, End::Idle) {
            link.end(close::IDLE, "idle");
            return true;
        }
        false
    }

    /// Pings while the peer does not answer calls that wait, and reports that it is silent or answers again.
    async fn watch_silence(&self) {
        let mut silence = Silence::new(SILENCE);
        loop {
            let Some(next) = silence.next_look(self.uses.open() > 0) else {
                self.uses.used().await;
                continue;
            };
            sleep(next).await;
            // Of the path in use: iroh keeps others alive beside it, on which no call is answered.
            let (path, sent, received) = Path::datagrams(&self.connection);
            let now = std::time::Instant::now();
            let sign = silence.look(Look {
                now,
                path,
                sent,
                received,
                rtt: self.rtt(),
                waiting: self.uses.open() > 0,
            });
            let superseded = self.link.upgrade().and_then(|link| link.superseded());
            match (sign, superseded) {
                (_, Some(since)) if silence.is_silent() => {
                    let patience = match silence.moves(now) {
                        true => SUPERSEDED_MOVING,
                        false => SUPERSEDED,
                    };
                    if since.elapsed() >= patience + self.rtt() * 2 {
                        return self.end_dead("another connection reached the peer, and nothing came back on this one");
                    }
                    self.ping_silence().await;
                }
                (Sign::Nothing, _) => {}
                (Sign::Ping, _) => {
                    if silence.pings() >= MOVING || !silence.moves(now) {
                        self.report(|gone, link| gone.silent(link));
                    }
                    self.ping_silence().await;
                }
                (Sign::Heard, _) => self.report(|gone, link| gone.heard(link)),
            }
        }
    }

    /// Pings whenever the link is asked to.
    async fn answer_knocks(&self) -> Infallible {
        loop {
            self.knock.notified().await;
            self.ping_silence().await;
        }
    }

    async fn ping_silence(&self) {
        let ping = ping(&self.connection, &self.activities);
        let _ = timeout(SILENCE_PING, ping).await;
    }

    fn report(&self, tell: impl FnOnce(&PoolHandle<Link>, &Arc<Link>)) {
        if let Some(link) = self.link.upgrade() {
            tell(&self.gone, &link);
        }
    }

    /// The smoothed round trip of the path in use, as far as it is known.
    fn rtt(&self) -> Duration {
        Path::of(&self.connection).map_or(Duration::ZERO, |(_, rtt)| rtt)
    }

    /// Ends once it has found the connection dead and closed it.
    async fn watch_health(&self) {
        let mut failed = 0;
        while failed < PINGS {
            sleep(self.health_interval).await;
            let most = patience(self.health_interval, self.rtt());
            let ping = ping(&self.connection, &self.activities);
            match timeout(most, ping).await {
                Ok(Some(took)) => {
                    failed = 0;
                    self.report(|_, link| link.answered_after(took));
                }
                Ok(None) | Err(_) => failed += 1,
            }
        }
        self.end_dead("no answer to pings");
    }

    /// Closes a connection whose peer is not allowed any more.
    fn end_revoked(&self) {
        if let Some(link) = self.link.upgrade() {
            self.gone.report(&link, End::Closed);
            link.end(
                close::FORBIDDEN,
                "the policy of this side permits nothing to this key any more",
            );
        }
    }

    /// Closes a connection whose peer does not answer.
    fn end_dead(&self, reason: &'static str) {
        let Some(link) = self.link.upgrade() else {
            return;
        };
        tracing::info!(peer = %link.peer().fmt_short(), reason, "closing a connection");
        let end = if self.activities.alive() {
            End::Closed
        } else {
            End::Failed(Error::new(ErrorKind::Lost, "the peer answers no ping"))
        };
        self.gone.report(&link, end);
        link.end(close::UNHEALTHY, reason);
    }
}
