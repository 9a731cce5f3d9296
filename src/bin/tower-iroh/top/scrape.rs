//! What one answer of a metrics address says, and the rates between two of them.

use std::collections::BTreeMap;

use super::{
    parse::Sample,
    rates::{Peer, Tally, View, sum_up},
};
use crate::failure::printable;

/// Which side of its calls the program was on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Client,
    Server,
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// A series of which the sum is shown as it is, or as its rate.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) series: &'static str,
    pub(super) what: &'static str,
    /// The label by which it is told apart; empty where it is not.
    label: &'static str,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Rate,
    Level,
    /// A level that should be 0.
    Alarm,
}

macro_rules! meters {
    ($($kind:ident $series:literal $label:literal $what:literal;)*) => {
        /// In the order in which they are shown.
        const METERS: &[Meter] = &[$(Meter { series: $series, what: $what, label: $label, kind: Kind::$kind }),*];
    };
}

meters! {
    Alarm "tower_iroh_breaker_not_closed" "transport" "breakers open";
    Alarm "tower_iroh_fail_fast_failing" "" "channels failing fast";
    Alarm "tower_iroh_config_restart_pending" "" "configuration waits for a restart";
    Rate "tower_iroh_client_attempt_duration_seconds_count" "transport" "attempts";
    Rate "tower_iroh_client_attempt_errors_total" "transport" "failed attempts";
    Level "tower_iroh_client_attempts_in_flight" "transport" "attempts in flight";
    Rate "tower_iroh_retry_retries_total" "" "retries";
    Level "tower_iroh_buffer_waiting" "" "calls waiting for their peer";
    Rate "tower_iroh_client_lane_waits_total" "" "long waits for a lane";
    Rate "tower_iroh_select_fallbacks_total" "to" "fallbacks";
    Rate "tower_iroh_breaker_opened_total" "transport" "breakers opening";
    Rate "tower_iroh_authorize_denied_total" "" "calls denied";
    Rate "tower_iroh_quic_refused_total" "" "QUIC connections refused";
    Rate "tower_iroh_tcp_refused_total" "" "TCP connections refused";
    Rate "tower_iroh_client_packets_sent_total" "" "packets sent as client";
    Rate "tower_iroh_client_packets_lost_total" "" "packets lost as client";
    Rate "tower_iroh_server_packets_sent_total" "" "packets sent as server";
    Rate "tower_iroh_server_packets_lost_total" "" "packets lost as server";
}

/// The series of one answer that are shown.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    calls: BTreeMap<Key, Calls>,
    in_flight: BTreeMap<(Role, String), f64>,
    /// By their place in [`METERS`] and the label's value.
    meters: BTreeMap<(usize, String), f64>,
    /// Whether there were series, and none of them was tower-iroh's.
    pub(super) is_foreign: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    role: Role,
    peer: String,
    method: String,
    code: String,
}

/// The calls that ended with one code.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls {
    pub(super) is_error: bool,
    pub(super) count: f64,
    /// How many took no longer than the bound, by the bound in seconds.
    pub(super) buckets: Vec<(f64, f64)>,
}

/// Each role with its series.
const ROLES: [(Role, &str, &str); 2] = [
    (
        Role::Client,
        "tower_iroh_client_calls_in_flight",
        "rpc_client_call_duration",
    ),
    (
        Role::Server,
        "tower_iroh_server_calls_in_flight",
        "rpc_server_call_duration",
    ),
];

/// No program has more of anything, and the sum of many is still exact enough and finite.
const LARGEST: f64 = 1e15;

impl Key {
    fn of(role: Role, sample: &Sample<'_>) -> Self {
        Self {
            role,
            peer: shown(sample.label("peer")),
            method: shown(sample.label("rpc_method")),
            code: shown(sample.label("rpc_response_status_code")),
        }
    }
}

impl Snapshot {
    /// Reads an answer; `None` if it is not in Prometheus' text format. A line that cannot be read is left out where others can.
    pub(super) fn read(text: &str) -> Option<Self> {
        let mut read = Self::default();
        let (mut samples, mut others, mut ours) = (0_u32, 0_u32, 0_u32);
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match Sample::read(line) {
                None => others += 1,
                Some(sample) => {
                    samples += 1;
                    ours += u32::from(read.take(&sample));
                }
            }
        }
        read.is_foreign = samples > 0 && ours == 0;
        for calls in read.calls.values_mut() {
            sum_up(&mut calls.buckets);
        }
        (samples > 0 || others == 0).then_some(read)
    }

    /// Returns whether the series is tower-iroh's, or one that it shares with OpenTelemetry.
    fn take(&mut self, sample: &Sample<'_>) -> bool {
        let name = sample.name;
        let value = match sample.value.is_finite() {
            true => sample.value.clamp(0.0, LARGEST),
            false => 0.0,
        };
        if let Some(index) = METERS.iter().position(|meter| meter.series == name) {
            let label = shown(sample.label(METERS[index].label));
            *self.meters.entry((index, label)).or_default() += value;
            return true;
        }
        for (role, in_flight, duration) in ROLES {
            if name == in_flight {
                let key = (role, shown(sample.label("peer")));
                *self.in_flight.entry(key).or_default() += value;
                return true;
            }
            let Some(part) = name.strip_prefix(duration) else {
                continue;
            };
            // OpenTelemetry's own exporter puts the unit there.
            let part = part.strip_prefix("_seconds").unwrap_or(part);
            if part == "_count" || part == "_bucket" {
                let calls = self.calls.entry(Key::of(role, sample)).or_default();
                calls.is_error |= !sample.label("error_type").is_empty();
                match sample.label("le").parse() {
                    _ if part == "_count" => calls.count += value,
                    Ok(bound) if bound >= 0.0 => calls.buckets.push((bound, value)),
                    _ => {}
                }
            }
            return true;
        }
        name.starts_with("tower_iroh_")
    }

    /// What happened between an earlier answer and this one.
    pub(super) fn since(&self, before: &Self, seconds: f64) -> View {
        let seconds = seconds.max(0.001);
        let mut peers: BTreeMap<(Role, &str), BTreeMap<&str, Tally>> = BTreeMap::new();
        for (role, peer) in self.in_flight.keys() {
            peers.entry((*role, peer)).or_default();
        }
        for (key, now) in &self.calls {
            let methods = peers.entry((key.role, &key.peer)).or_default();
            let more = now.since(before.calls.get(key));
            methods
                .entry(&key.method)
                .or_default()
                .add(&key.code, &more);
        }
        let peers = peers.into_iter().filter_map(|((role, name), methods)| {
            let in_flight = self.in_flight.get(&(role, name.to_owned()));
            let in_flight = in_flight.copied().unwrap_or_default();
            // What is counted together for all others begins with the first call of anybody.
            if methods.is_empty() && in_flight == 0.0 {
                return None;
            }
            let mut total = Tally::default();
            for tally in methods.values() {
                total.merge(tally);
            }
            let rates = |(name, tally): (&str, Tally)| (name.to_owned(), tally.into_rates(seconds));
            Some(Peer {
                role,
                name: name.to_owned(),
                in_flight,
                methods: methods.into_iter().map(rates).collect(),
                total: total.into_rates(seconds),
            })
        });
        let meters = self.meters.iter().map(|(key, now)| {
            let meter = &METERS[key.0];
            let value = match meter.kind {
                Kind::Rate => grown(*now, before.meters.get(key).copied()) / seconds,
                Kind::Level | Kind::Alarm => *now,
            };
            (meter, key.1.clone(), value)
        });
        View {
            seconds,
            peers: peers.collect(),
            meters: meters.collect(),
        }
    }
}

/// A peer's text as one line that no terminal obeys.
fn shown(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// By how much a counter grew. One that is smaller than before began again at 0, with its program.
fn grown(now: f64, before: Option<f64>) -> f64 {
    match before {
        Some(before) if before <= now => now - before,
        _ => now.max(0.0),
    }
}

impl Calls {
    fn bucket(&self, bound: f64) -> f64 {
        let at = self.buckets.binary_search_by(|it| it.0.total_cmp(&bound));
        at.map_or(0.0, |at| self.buckets[at].1)
    }

    /// The calls since `before`. The counts of a series begin again together, so one that shrank means that all did.
    fn since(&self, before: Option<&Self>) -> Self {
        let before = before.filter(|before| {
            let shrank = |(bound, now): &(f64, f64)| *now < before.bucket(*bound);
            self.count >= before.count && !self.buckets.iter().any(shrank)
        });
        let Some(before) = before else {
            return self.clone();
        };
        let more = |(bound, now): &(f64, f64)| (*bound, now - before.bucket(*bound));
        Self {
            is_error: self.is_error,
            count: self.count - before.count,
            buckets: self.buckets.iter().map(more).collect(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
