//! The time that a verb may take, of all its calls together.

use std::time::{Duration, Instant};

use tonic::Status;

use crate::failure::Failure;

/// `-max-time`, from the start of the verb.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<(Instant, Duration)>);

impl Deadline {
    pub(crate) fn begin(limit: Option<Duration>) -> Self {
        /// `grpc-timeout` has eight digits of hours.
        const MOST: Duration = Duration::from_secs(99_999_999 * 3600 - 1);
        // A time that neither the clock nor a header can hold never comes.
        let limit = limit.filter(|limit| *limit <= MOST);
        Self(limit.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit))))
    }

    /// What is left; `None` without a limit.
    pub(crate) fn left(&self) -> Option<Duration> {
        let (end, _) = self.0?;
        // Zero is no timeout that a header could carry.
        Some(
            end.saturating_duration_since(Instant::now())
                .max(Duration::from_micros(1)),
        )
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_some_and(|(end, _)| Instant::now() >= end)
    }

    /// The failure of what the deadline ended.
    pub(crate) fn missed(&self) -> Failure {
        let limit = self.0.map(|it| it.1.as_secs_f64()).unwrap_or_default();
        Status::deadline_exceeded(format!("`-max-time {limit}` is over")).into()
    }

    /// Ends the work with DEADLINE_EXCEEDED when the time is over. Work that prints is to be a task of its own, because a full pipe blocks it.
    pub(crate) async fn bound<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        // The call's own deadline is as soon, and its error knows more.
        const GRACE: Duration = Duration::from_millis(250);
        match self.0 {
            None => work.await,
            Some((end, _)) => {
                let end = end.checked_add(GRACE).unwrap_or(end);
                let ended = tokio::time::timeout_at(end.into(), work).await;
                ended.unwrap_or_else(|_| Err(self.missed()))
            }
        }
    }
}
