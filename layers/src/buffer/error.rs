use std::{fmt, time::Duration};

use tonic::{Code, Status};

use super::entry::{Full, Late};
use crate::{Fault, Origin};

/// Why the buffer ended a call itself.
///
/// Its source is a [`Fault`] of this side, whose source is the [`Status`] that a caller sees. The status's message includes the last
/// attempt's message, if there was an attempt. The peer has not begun the call, unless the call is idempotent and an earlier attempt may
/// have arrived: [`Fault::not_processed`] tells.
#[derive(Debug, thiserror::Error)]
#[error("{}", describe(reason, fault.not_processed()))]
pub struct BufferError {
    reason: BufferReason,
    #[source]
    fault: Fault,
}

/// Which limit a call hit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BufferReason {
    /// No capacity: as many calls were held as may be, waiting or in flight. The call was refused, or went straight through without being
    /// held and came back. RESOURCE_EXHAUSTED.
    TooManyCalls {
        /// How many calls may be held.
        limit: usize,
    },
    /// No capacity, as with [`TooManyCalls`](Self::TooManyCalls): with this call more bytes would have been held than may be.
    /// RESOURCE_EXHAUSTED.
    TooManyBytes {
        /// How many bytes may be held.
        limit: usize,
    },
    /// No capacity, as with [`TooManyCalls`](Self::TooManyCalls): this call alone is larger than the buffer may hold. RESOURCE_EXHAUSTED.
    TooLarge {
        /// Its size.
        bytes: usize,
        /// How many bytes may be held.
        limit: usize,
    },
    /// It waited and was dropped for another call, by the overflow policy. RESOURCE_EXHAUSTED.
    Displaced {
        /// How long it had waited.
        waited: Duration,
    },
    /// Its time to live was over while it waited, or when it came back. UNAVAILABLE.
    Expired {
        /// How long it waited, attempts included.
        waited: Duration,
        /// How long a call may wait.
        ttl: Duration,
    },
    /// Its deadline passed while it waited, or before it came back. DEADLINE_EXCEEDED.
    DeadlinePassed {
        /// How long it waited, attempts included.
        waited: Duration,
    },
    /// The allowed number of attempts may have reached the peer. UNAVAILABLE.
    Attempts {
        /// How many attempts are allowed.
        limit: u32,
    },
    /// Somebody cleared the buffer. UNAVAILABLE.
    Cleared {
        /// The reason that was given.
        why: String,
    },
    /// No task can deliver it: the tokio runtime that it waited on has ended, or there is none, or the service below panicked.
    /// UNAVAILABLE.
    Stopped,
}

/// The history of a call that ends here.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) attempts: u32,
    /// An attempt may have reached the peer.
    pub(super) perhaps_processed: bool,
    /// The message of the last attempt.
    pub(super) last: Option<String>,
}

impl BufferReason {
    pub(super) fn full(full: Full, bytes: usize, calls_limit: usize, bytes_limit: usize) -> Self {
        match full {
            Full::Calls => Self::TooManyCalls { limit: calls_limit },
            Full::Bytes => Self::TooManyBytes { limit: bytes_limit },
            Full::TooLarge => Self::TooLarge {
                bytes,
                limit: bytes_limit,
            },
        }
    }

    pub(super) fn late(late: Late, waited: Duration, ttl: Duration) -> Self {
        match late {
            Late::Ttl => Self::Expired { waited, ttl },
            Late::Deadline => Self::DeadlinePassed { waited },
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::TooManyCalls { .. }
            | Self::TooManyBytes { .. }
            | Self::TooLarge { .. }
            | Self::Displaced { .. } => Code::ResourceExhausted,
            Self::DeadlinePassed { .. } => Code::DeadlineExceeded,
            Self::Expired { .. } | Self::Attempts { .. } | Self::Cleared { .. } | Self::Stopped => {
                Code::Unavailable
            }
        }
    }
}

impl BufferError {
    pub(super) fn new(reason: BufferReason, history: &History) -> Self {
        let mut message = describe(&reason, !history.perhaps_processed);
        if let Some(last) = &history.last {
            let n = history.attempts;
            message = format!("{message}; attempts: {n}, the last one: {last}");
        }
        let status = Status::new(reason.code(), message);
        let fault = match history.perhaps_processed {
            true => Fault::perhaps_sent(Origin::Ours, status),
            false => Fault::unsent(Origin::Ours, status),
        };
        Self { reason, fault }
    }

    /// Which limit it was.
    pub fn reason(&self) -> &BufferReason {
        &self.reason
    }
}

impl fmt::Display for BufferReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyCalls { limit } => write!(
                f,
                "the buffer is full, it holds {limit} calls, waiting or in flight (max_calls); try again later"
            ),
            Self::TooManyBytes { limit } => write!(
                f,
                "the buffer is full, it may hold {limit} bytes (max_bytes); try again later"
            ),
            Self::TooLarge { bytes, limit } => write!(
                f,
                "{bytes} bytes are more than the buffer may hold, {limit} (max_bytes)"
            ),
            Self::Displaced { waited } => write!(
                f,
                "waited {} and was dropped from the full buffer for another call (overflow)",
                Seconds(*waited)
            ),
            Self::Expired { waited, ttl } => write!(
                f,
                "waited {} for the peer (TTL {})",
                Seconds(*waited),
                Seconds(*ttl)
            ),
            Self::DeadlinePassed { waited } => write!(
                f,
                "waited {} for the peer, until the deadline",
                Seconds(*waited)
            ),
            Self::Attempts { limit } => write!(
                f,
                "{limit} attempts may have reached the peer and none was answered (max_attempts)"
            ),
            Self::Cleared { why } => write!(f, "the buffer was cleared: {why}"),
            Self::Stopped => f.write_str(
                "nothing delivers it: the tokio runtime has ended, or the service below panicked",
            ),
        }
    }
}

/// A duration in the usual form: `300 s`, `1.5 s`.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = (self.0.as_secs_f64() * 1000.0).round();
        write!(f, "{} s", millis / 1000.0)
    }
}

/// If an attempt may have arrived, the text must not say that nothing was sent.
fn describe(reason: &BufferReason, unsent: bool) -> String {
    let what = if unsent { "not sent" } else { "no answer" };
    format!("{what}: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BoxError, fault::code_of};

    #[test]
    fn the_message_says_which_limit_and_what_was_tried() {
        let reason = BufferReason::Expired {
            waited: Duration::from_millis(301_500),
            ttl: Duration::from_secs(300),
        };
        let history = History {
            attempts: 2,
            perhaps_processed: false,
            last: Some("no route".into()),
        };
        let error: BoxError = Box::new(BufferError::new(reason, &history));
        assert_eq!(
            error.to_string(),
            "not sent: waited 301.5 s for the peer (TTL 300 s)"
        );
        assert_eq!(code_of(&*error), Code::Unavailable);
        let fault = Fault::find(&*error).expect("a fault");
        assert!(fault.not_processed());
        assert_eq!(
            fault.status().message(),
            "not sent: waited 301.5 s for the peer (TTL 300 s); attempts: 2, the last one: no route"
        );
    }

    #[test]
    fn what_may_have_arrived_is_not_said_to_be_unprocessed() {
        let history = History {
            perhaps_processed: true,
            ..History::default()
        };
        let error = BufferError::new(BufferReason::Stopped, &history);
        assert!(
            error
                .to_string()
                .starts_with("no answer: nothing delivers it")
        );
        assert!(!Fault::find(&error).expect("a fault").not_processed());
    }
}
