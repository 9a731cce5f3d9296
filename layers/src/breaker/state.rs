//! What a circuit reports about itself.

use std::{fmt, time::Duration};

use tokio::time::Instant;
use tonic::Code;

/// What a circuit lets through.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CircuitState {
    /// All calls.
    Closed,
    /// None, until a point in time.
    Open {
        /// When a probe may go through.
        until: Instant,
        /// Why it opened.
        reason: OpenReason,
    },
    /// One call at a time, to find out.
    HalfOpen {
        /// Why it opened.
        reason: OpenReason,
    },
    /// None: [`Circuit::force_open`](super::Circuit::force_open).
    ForcedOpen,
    /// All calls, and nothing is counted: [`Circuit::force_closed`](super::Circuit::force_closed).
    ForcedClosed,
}

impl CircuitState {
    /// Whether all calls go through.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed | Self::ForcedClosed)
    }

    /// A name for a log or a metric: `closed`, `open`, `half_open`, `forced_open`, `forced_closed`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
        }
    }
}

/// Why a circuit opened.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenReason {
    pub(super) rule: Rule,
    pub(super) code: Code,
    /// The link failed, not the peer, so a sign of life disproves it.
    pub(super) link: bool,
    /// The last failure was a call whose time passed without any answer, so the link may be at fault.
    pub(super) unanswered: bool,
    pub(super) codes: Codes,
}

/// The rule that opened a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// This many failures in a row.
    Run(u32),
    /// This many link failures in a row.
    Link(u32),
    /// Too large a share of the calls in the window.
    Rate {
        /// This many failed,
        bad: u32,
        /// of this many,
        total: u32,
        /// within this.
        window: Duration,
    },
    /// The probe failed.
    Probe,
}

impl Rule {
    /// A name for a log or a metric: `run`, `link`, `rate`, `probe`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Link(_) => "link",
            Self::Rate { .. } => "rate",
            Self::Probe => "probe",
        }
    }
}

impl OpenReason {
    /// The rule.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// The code of the last failure.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Whether link failures opened it. Then [`Circuit::sign_of_life`](super::Circuit::sign_of_life) ends the wait.
    pub fn is_link(&self) -> bool {
        self.link
    }

    /// How often each code was counted against the peer since the circuit was last closed.
    pub fn codes(&self) -> Vec<(Code, u32)> {
        self.codes.iter().collect()
    }
}

impl fmt::Display for OpenReason {
    /// `5 failures in a row (Unavailable 5)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            Rule::Run(n) => write!(f, "{n} failures in a row")?,
            Rule::Link(n) => write!(f, "the connection failed {n} times in a row")?,
            Rule::Rate { bad, total, window } => {
                write!(f, "{bad} of {total} calls failed within {window:?}")?;
            }
            Rule::Probe => write!(f, "the probe failed with {:?}", self.code)?,
        }
        for (n, (code, times)) in self.codes.iter().enumerate() {
            write!(f, "{}{code:?} {times}", if n == 0 { " (" } else { ", " })?;
        }
        match self.codes.iter().next() {
            Some(_) => f.write_str(")"),
            None => Ok(()),
        }
    }
}

/// Counts by code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Codes([u32; 17]);

impl Codes {
    pub(super) fn add(&mut self, code: Code) {
        if let Some(count) = self.0.get_mut(code as usize) {
            *count = count.saturating_add(1);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Code, u32)> {
        let codes = self.0.into_iter().enumerate();
        codes
            .filter(|(_, times)| *times > 0)
            .map(|(code, times)| (Code::from_i32(code as i32), times))
    }
}

/// What [`Circuit::statistics`](super::Circuit::statistics) gives.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Statistics {
    /// What it lets through.
    pub state: CircuitState,
    /// Whether it only observes and enforces nothing.
    pub observe_only: bool,
    /// How often it opened.
    pub opened: u64,
    /// How many wait for it now: services that are not ready, and calls.
    pub waiting: usize,
    /// How often a caller had to wait. If it only observes, how often a call would have had to.
    pub held: u64,
    /// Calls in the window, while it is closed.
    pub calls: u32,
    /// Those of them that failed.
    pub failed: u32,
    /// How often each code was counted against the peer since the circuit was last closed.
    pub codes: Vec<(Code, u32)>,
}
