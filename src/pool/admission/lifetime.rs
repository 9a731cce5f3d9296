//! How long a connection may live: without a lane, without a call, and at all.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tower_iroh_layers::ConfigError;

use super::open_connection::{OpenConnection, Why};

/// How long a connection may take until something begins on it.
pub(crate) const FIRST_USE: Duration = Duration::from_secs(10);

/// How long calls of a client that has been asked to begin no further one are still served: they were on their way.
const LINGER: Duration = Duration::from_secs(1);

/// When a server ends a connection by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// How long no call may be in flight.
    pub(crate) idle: Duration,
    pub(crate) age: Option<Duration>,
    /// How long calls may go on after that.
    pub(crate) grace: Option<Duration>,
}

impl Default for Lifetime {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(600),
            age: None,
            grace: None,
        }
    }
}

impl Lifetime {
    /// This one for one connection: the age is between 90 and 110 % of the setting, by a share from 0 to 1. Else connections that began together, after
    /// a restart for example, would all end together.
    pub(crate) fn jittered(self, share: f64) -> Self {
        Self {
            age: self.age.map(|age| age.mul_f64(0.9 + 0.2 * share)),
            ..self
        }
    }

    /// Checks each part, which is called so.
    ///
    /// # Errors
    /// For a time of zero, and one above a year.
    pub(crate) fn check(
        self,
        idle: &'static str,
        age: &'static str,
        grace: &'static str,
    ) -> Result<(), ConfigError> {
        ConfigError::lasting(idle, self.idle)?;
        self.age
            .map_or(Ok(()), |time| ConfigError::lasting(age, time))?;
        self.grace
            .map_or(Ok(()), |time| ConfigError::lasting(grace, time))
    }

    /// What is due on a connection at this time.
    fn due(&self, connection: &OpenConnection, now: Instant) -> Due {
        let began = connection.began();
        if let Some(age) = self.age
            && now >= began + age
        {
            return Due::End(Why::Aged);
        }
        let (at, why) = match connection.unused_for(now) {
            _ if !connection.has_opened() => {
                let first = began + FIRST_USE;
                // Nothing wakes this when something begins, and a shorter idle time counts from then on.
                let look = if first > now {
                    first.min(now + self.idle)
                } else {
                    first
                };
                (look, Why::Unused)
            }
            Some(unused) => (now + self.idle.saturating_sub(unused), Why::Idle),
            // It is unused at the earliest from now on.
            None => (now + self.idle, Why::Idle),
        };
        if at <= now {
            return Due::End(why);
        }
        Due::LookAt(self.age.map_or(at, |age| at.min(began + age)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    End(Why),
    LookAt(Instant),
}

impl OpenConnection {
    /// Waits until the connection is to end, and says why. From then on no call begins, and none is in flight unless the reason says so. Before that the client
    /// is asked to begin no further call. Cancel safe.
    pub(crate) async fn over(&self, lifetime: Lifetime) -> Why {
        let shut = async { self.is_shut().await.unwrap_or(Why::Evicted) };
        tokio::select! {
            biased;
            why = shut => why,
            why = self.expired(lifetime) => why,
        }
    }

    /// Waits for ever if somebody else has ended the connection, an eviction for example: `over` has that reason.
    async fn unless_shut(&self) {
        if self.begins_no_more() {
            std::future::pending().await
        }
    }

    async fn expired(&self, lifetime: Lifetime) -> Why {
        loop {
            let why = match lifetime.due(self, Instant::now()) {
                Due::LookAt(at) => {
                    sleep_until(at).await;
                    continue;
                }
                Due::End(Why::Unused) => {
                    if self.shut_unused(Why::Unused) {
                        return Why::Unused;
                    }
                    self.unless_shut().await;
                    continue;
                }
                Due::End(why) => why,
            };
            self.leave();
            let finish = async {
                sleep(LINGER).await;
                while !self.shut_unused(why) {
                    self.unless_shut().await;
                    self.is_unused().await;
                }
            };
            // A call that comes while the connection leaves as idle may go on as long as in any other.
            let old = match why {
                Why::Aged => Some(Instant::now()),
                _ => lifetime.age.map(|age| self.began() + age),
            };
            match old.zip(lifetime.grace) {
                None => finish.await,
                Some((old, grace)) => {
                    if timeout_at(old + grace, finish).await.is_err() {
                        // Without calls in flight nothing is cut.
                        if !self.shut_unused(why) {
                            self.unless_shut().await;
                            self.cut(Why::AgeExpired);
                            return Why::AgeExpired;
                        }
                    }
                }
            }
            return why;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready_eq, task};

    use super::{super::open_connection::Stage, *};

    const LIFETIME: Lifetime = Lifetime {
        idle: Duration::from_secs(60),
        age: None,
        grace: None,
    };

    async fn after(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        // Timers fire in whole milliseconds.
        tokio::time::advance(Duration::from_millis(2)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_opens_nothing_has_ten_seconds() {
        let connection = OpenConnection::new(Instant::now());
        let mut over = task::spawn(connection.over(LIFETIME));
        assert_pending!(over.poll());
        after(9).await;
        assert_pending!(over.poll());
        after(1).await;
        assert_ready_eq!(over.poll(), Why::Unused);
        assert!(!connection.begin(), "no call begins any more");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_time_below_ten_seconds_is_kept() {
        let lifetime = Lifetime {
            idle: Duration::from_secs(1),
            ..LIFETIME
        };
        let connection = OpenConnection::new(Instant::now());
        let mut over = task::spawn(connection.over(lifetime));
        assert_pending!(over.poll());
        assert!(connection.begin());
        connection.end(1, Instant::now());
        after(1).await;
        assert_pending!(over.poll());
        assert_eq!(connection.stage(), Stage::Leaving);
        after(1).await;
        assert_ready_eq!(over.poll(), Why::Idle);
    }

    /// It used to ask again without end.
    #[tokio::test(start_paused = true)]
    async fn one_that_somebody_else_has_ended_is_left_to_them() {
        let connection = OpenConnection::new(Instant::now());
        let mut unused = task::spawn(connection.expired(LIFETIME));
        assert_pending!(unused.poll());
        assert!(connection.shut_unused(Why::Evicted));
        after(10).await;
        assert_pending!(unused.poll());

        let connection = OpenConnection::new(Instant::now());
        assert!(connection.begin());
        let grace = Some(Duration::from_secs(30));
        let aged = Lifetime {
            age: Some(Duration::from_secs(5)),
            grace,
            ..LIFETIME
        };
        let mut old = task::spawn(connection.expired(aged));
        assert_pending!(old.poll());
        after(5).await;
        assert_pending!(old.poll());
        connection.end(1, Instant::now());
        assert!(connection.shut_unused(Why::Evicted));
        after(1).await;
        assert_pending!(old.poll());
        after(30).await;
        assert_pending!(old.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_counts_from_the_end_of_the_last_call() {
        let connection = OpenConnection::new(Instant::now());
        let mut over = task::spawn(connection.over(LIFETIME));
        assert_pending!(over.poll());
        assert!(connection.begin());
        after(600).await;
        assert_pending!(over.poll());
        connection.end(1, Instant::now());
        after(59).await;
        assert_pending!(over.poll());
        assert!(connection.begin());
        connection.end(1, Instant::now());
        after(59).await;
        assert_pending!(over.poll());
        assert_eq!(connection.stage(), Stage::Open);
        after(1).await;
        assert_pending!(over.poll());
        assert_eq!(connection.stage(), Stage::Leaving);
        // A call that was on its way is served to its end.
        assert!(connection.begin());
        after(100).await;
        assert_pending!(over.poll());
        connection.end(1, Instant::now());
        assert_ready_eq!(over.poll(), Why::Idle);
        assert_eq!(connection.stage(), Stage::Shut);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_one_ends_with_its_calls_or_with_its_grace() {
        for (grace, why) in [(None, Why::Aged), (Some(30), Why::AgeExpired)] {
            let lifetime = Lifetime {
                age: Some(Duration::from_secs(5)),
                grace: grace.map(Duration::from_secs),
                ..LIFETIME
            };
            let connection = OpenConnection::new(Instant::now());
            let mut over = task::spawn(connection.over(lifetime));
            assert!(connection.begin());
            assert_pending!(over.poll());
            after(5).await;
            assert_pending!(over.poll());
            assert_eq!(connection.stage(), Stage::Leaving);
            after(1).await;
            assert_pending!(over.poll());
            after(29).await;
            if why == Why::Aged {
                assert_pending!(over.poll());
                connection.end(1, Instant::now());
            }
            assert_ready_eq!(over.poll(), why);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_leaves_as_idle_has_its_age_too() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let lifetime = Lifetime {
            age: seconds(100),
            grace: seconds(30),
            ..LIFETIME
        };
        let connection = OpenConnection::new(Instant::now());
        let mut over = task::spawn(connection.over(lifetime));
        assert!(connection.begin());
        connection.end(1, Instant::now());
        assert_pending!(over.poll());
        after(60).await;
        assert_pending!(over.poll());
        assert!(connection.begin(), "on its way");
        after(69).await;
        assert_pending!(over.poll());
        after(1).await;
        assert_ready_eq!(over.poll(), Why::AgeExpired);
    }

    #[test]
    fn ages_are_spread_by_a_tenth_each_way() {
        let lifetime = Lifetime {
            age: Some(Duration::from_secs(100)),
            ..LIFETIME
        };
        let ages = [0.0, 0.5, 1.0].map(|share| lifetime.jittered(share).age);
        let seconds = ages.map(|age| age.expect("set").as_secs_f64().round());
        assert_eq!(seconds, [90.0, 100.0, 110.0]);
    }
}
