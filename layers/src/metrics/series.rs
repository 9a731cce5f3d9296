//! The names and labels of what is recorded, and handles that are looked up once.

use std::{
    array,
    sync::{Arc, OnceLock},
};

use metrics::{Counter, Gauge, Histogram, Label, Unit};
use tonic::Code;

use crate::{
    Origin,
    classify::{
        Ending, Outcome,
        head::{CODES, is_server_error},
    },
    meter::{Distribution, labelled_histogram},
};

/// The name above a cap, or of an unknown method: OpenTelemetry's word for it.
pub(super) const OTHER: &str = "_OTHER";

/// Where a layer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Attempt,
    Server,
}

impl Role {
    fn duration(self) -> Distribution {
        match self {
            Self::Client => Distribution::CLIENT_CALLS,
            Self::Attempt => Distribution::ATTEMPTS,
            Self::Server => Distribution::SERVER_CALLS,
        }
    }

    fn in_flight(self) -> &'static str {
        match self {
            Self::Client => "tower_iroh_client_calls_in_flight",
            Self::Attempt => "tower_iroh_client_attempts_in_flight",
            Self::Server => "tower_iroh_server_calls_in_flight",
        }
    }

    /// `None` on a server: the caller decides whose failure a call was.
    fn errors(self) -> Option<&'static str> {
        match self {
            Self::Client => Some("tower_iroh_client_call_errors_total"),
            Self::Attempt => Some("tower_iroh_client_attempt_errors_total"),
            Self::Server => None,
        }
    }

    /// Tells the recorder units and meanings.
    pub(super) fn describe(self) {
        let what = match self {
            Self::Client => {
                "Duration of outgoing calls, to the end of the stream, with all retries."
            }
            Self::Attempt => {
                "Duration of each attempt of outgoing calls, to the end of the stream."
            }
            Self::Server => "Duration of incoming calls, to the end of the stream.",
        };
        metrics::describe_histogram!(self.duration().name(), Unit::Seconds, what);
        let what = match self {
            Self::Client => "Outgoing calls that have not ended.",
            Self::Attempt => "Attempts of outgoing calls that have not ended.",
            Self::Server => "Incoming calls that have not ended.",
        };
        metrics::describe_gauge!(self.in_flight(), Unit::Count, what);
        if let Some(errors) = self.errors() {
            let what = "Those that failed, by whose failure it was.";
            metrics::describe_counter!(errors, Unit::Count, what);
        }
    }
}

/// The series of one peer, or of all where there is no label for peers: what has no method.
pub(super) struct PeerSeries {
    pub(super) in_flight: Gauge,
    /// By [`origin_index`].
    errors: Option<[Counter; ORIGINS.len()]>,
}

impl PeerSeries {
    pub(super) fn register(role: Role, labels: &[Label]) -> Self {
        Self {
            in_flight: metrics::gauge!(role.in_flight(), labels.to_vec()),
            errors: role.errors().map(|name| {
                ORIGINS.map(|origin| metrics::counter!(name, with(labels, "origin", origin)))
            }),
        }
    }

    pub(super) fn count_error(&self, outcome: &Outcome) {
        if let Some(errors) = &self.errors
            && let Some(index) = origin_index(outcome)
        {
            errors[index].increment(1);
        }
    }
}

/// A method's durations, by code. A code's series comes to be with its first call.
pub(super) struct MethodSeries {
    role: Role,
    /// What is recorded of the same call without its method.
    pub(super) peer: Arc<PeerSeries>,
    /// With the method's.
    labels: Vec<Label>,
    durations: [OnceLock<Histogram>; CODES.len()],
}

impl MethodSeries {
    pub(super) fn new(role: Role, peer: Arc<PeerSeries>, labels: &[Label], method: &str) -> Self {
        let mut labels = with(labels, "rpc.system.name", "grpc");
        labels.push(Label::new("rpc.method", method.to_owned()));
        Self {
            role,
            peer,
            labels,
            durations: array::from_fn(|_| OnceLock::new()),
        }
    }

    pub(super) fn duration(&self, code: Code) -> &Histogram {
        let index = (code as usize).min(CODES.len() - 1);
        self.durations[index].get_or_init(|| {
            let mut labels = with(&self.labels, "rpc.response.status_code", CODES[index]);
            if is_error(self.role, code) {
                labels.push(Label::new("error.type", CODES[index]));
            }
            labelled_histogram(self.role.duration(), labels)
        })
    }
}

fn with(labels: &[Label], key: &'static str, value: &'static str) -> Vec<Label> {
    let mut labels = labels.to_vec();
    labels.push(Label::new(key, value));
    labels
}

/// Whether a code is an error: on a client all but OK; on a server its own failures, as OpenTelemetry defines them.
pub(super) fn is_error(role: Role, code: Code) -> bool {
    match role {
        Role::Client | Role::Attempt => code != Code::Ok,
        Role::Server => is_server_error(code),
    }
}

const ORIGINS: [&str; 5] = ["peer", "refused", "link", "ours", "unknown"];

/// `None` for an end that is no error; a caller that left is not one either.
fn origin_index(outcome: &Outcome) -> Option<usize> {
    if outcome.code() == Code::Ok {
        return None;
    }
    Some(match (outcome.origin(), outcome.ending()) {
        (Some(Origin::Peer), _) => 0,
        (Some(Origin::Refused), _) => 1,
        (Some(Origin::Link(_)), _) => 2,
        (Some(Origin::Ours), _) => 3,
        (None, Ending::FutureDropped | Ending::BodyDropped { .. }) => return None,
        (None, Ending::Error | Ending::BodyError) => 4,
        // The peer said so, or ended the call without saying anything.
        (None, _) => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_name() {
        for (index, name) in CODES.into_iter().enumerate() {
            let code = Code::from_i32(i32::try_from(index).expect("small"));
            assert_eq!(code as usize, index);
            assert_eq!(crate::classify::head::name_of(code), name);
            assert_eq!(format!("{code:?}").to_uppercase(), name.replace('_', ""));
        }
    }
}
