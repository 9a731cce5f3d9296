//! A link's one task: its window, its copies, its health, its peer's silence, its idleness, its end.

use std::{pin::pin, sync::Weak, time::Duration};

use iroh::endpoint::Connection;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    copies::Copies,
    io::Activities,
    link::Link,
    silence::{self, Look, Sign, Silence},
    tuning::{Follow, ReceiveWindow, Side},
};
use crate::{
    error::{Error, ErrorKind},
    http2::Carries,
    pool::{End, PoolHandle, Pooled, Used},
    wire::close,
};

/// How often idleness is looked at, at most.
const LOOK: Duration = Duration::from_secs(60);
/// How long one ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How many pings in a row may fail.
const PINGS: u32 = 2;

/// Watches over a connection. Holds the link weakly: the link owns this task.
pub(super) struct Driver {
    pub(super) link: Weak<Link>,
    pub(super) connection: Connection,
    pub(super) activities: Activities,
    pub(super) copies: Copies,
    pub(super) gone: PoolHandle<Link>,
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
        let mut tick = self.look(&mut follow);
        let idle_every = LOOK
            .min(self.idle_timeout / 4)
            .max(Duration::from_millis(1));
        let mut look = Instant::now() + idle_every;
        let mut closed = pin!(self.connection.closed());
        let mut health = pin!(self.watch_health());
        let mut copies = pin!(self.copies.run(&self.connection));
        let mut silence = pin!(self.watch_silence());
        loop {
            tokio::select! {
                _ = &mut closed => {
                    if let Some(link) = self.link.upgrade() {
                        self.gone.report(&link, link.fate());
                    }
                    return;
                }
                () = sleep_until(tick) => tick = self.look(&mut follow),
                () = sleep_until(look) => {
                    look = Instant::now() + idle_every;
                    if self.close_if_idle() {
                        return;
                    }
                }
                () = &mut health => return,
                never = &mut copies => match never {},
                () = &mut silence => return,
            }
        }
    }

    /// Looks at the path; when to look again.
    fn look(&self, follow: &mut Follow) -> Instant {
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
        let idle = link.uses().open() == 0 && link.uses().last().elapsed() >= self.idle_timeout;
        if idle && self.gone.report(&link, End::Idle) {
            link.end(close::IDLE, "idle");
            return true;
        }
        false
    }

    /// Knocks while the peer does not answer those who wait, and says when it is heard again. Ends when nobody holds the link any more.
    async fn watch_silence(&self) {
        let mut silence = Silence::default();
        loop {
            tokio::time::sleep(silence::LOOK).await;
            let Some(link) = self.link.upgrade() else {
                return;
            };
            let stats = self.connection.stats();
            let look = Look {
                now: std::time::Instant::now(),
                sent: stats.udp_tx.datagrams,
                received: stats.udp_rx.datagrams,
                rtt: link.rtt().unwrap_or_default(),
                waiting: link.uses().open() > 0,
            };
            match silence.look(look) {
                Sign::Nothing => {}
                // That it is sent is enough; whatever comes back is seen by the next look.
                Sign::Knock => {
                    self.gone.silent(&link);
                    drop(timeout(silence::LOOK, link.ping()).await);
                }
                Sign::Heard => self.gone.heard(&link),
            }
        }
    }

    /// Ends when the connection has been found dead and closed.
    async fn watch_health(&self) {
        let mut failed = 0;
        loop {
            tokio::time::sleep(self.health_interval).await;
            let ping = async { Some(self.link.upgrade()?.ping().await) };
            match timeout(PING_TIMEOUT.min(self.health_interval), ping).await {
                // Nobody holds the link any more: this task ends with it.
                Ok(None) => return,
                Ok(Some(Ok(_))) => failed = 0,
                Ok(Some(Err(_))) | Err(_) => failed += 1,
            }
            if failed >= PINGS {
                let Some(link) = self.link.upgrade() else {
                    return;
                };
                tracing::info!(peer = %link.peer().fmt_short(), "closing a connection that answers no ping");
                let end = if self.activities.alive() {
                    End::Closed
                } else {
                    End::Failed(Error::new(ErrorKind::Lost, "the peer answers no ping"))
                };
                self.gone.report(&link, end);
                link.end(close::UNHEALTHY, "no answer to pings");
                return;
            }
        }
    }
}
