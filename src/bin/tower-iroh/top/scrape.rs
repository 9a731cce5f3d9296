//! What one answer of a metrics address says, and the rates between two of them.

use std::collections::BTreeMap;

use super::parse::Sample;
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
struct Calls {
    is_error: bool,
    count: f64,
    /// How many took no longer than the bound, by the bound in seconds.
    buckets: Vec<(f64, f64)>,
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

/// Sorts by bound, and sums up what has the same one.
fn sum_up(buckets: &mut Vec<(f64, f64)>) {
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    buckets.dedup_by(|later, kept| {
        let is_same = later.0 == kept.0;
        if is_same {
            kept.1 += later.1;
        }
        is_same
    });
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

/// The calls of one method, or of all of a peer.
#[derive(Debug, Default)]
struct Tally {
    calls: f64,
    errors: f64,
    codes: BTreeMap<String, f64>,
    /// How many took as long as that, and longer than the bound below.
    durations: Vec<(f64, f64)>,
}

impl Tally {
    fn add(&mut self, code: &str, calls: &Calls) {
        self.calls += calls.count;
        if calls.is_error {
            self.errors += calls.count;
        }
        if code != "OK" {
            *self.codes.entry(code.to_owned()).or_default() += calls.count;
        }
        let mut below = 0.0;
        for (bound, up_to) in &calls.buckets {
            self.durations.push((*bound, (up_to - below).max(0.0)));
            below = up_to.max(below);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.errors += other.errors;
        for (code, calls) in &other.codes {
            *self.codes.entry(code.clone()).or_default() += calls;
        }
        self.durations.extend(&other.durations);
    }

    fn into_rates(mut self, seconds: f64) -> Rates {
        sum_up(&mut self.durations);
        let per_second = |calls: f64| calls / seconds;
        Rates {
            calls: per_second(self.calls),
            errors: per_second(self.errors),
            p50: quantile(&self.durations, 0.5),
            p99: quantile(&self.durations, 0.99),
            codes: self
                .codes
                .into_iter()
                .filter(|(_, calls)| *calls > 0.0)
                .map(|(code, calls)| (code, per_second(calls)))
                .collect(),
        }
    }
}

/// The duration that a share of the calls did not exceed, as Prometheus' `histogram_quantile` finds it: evenly spread within a bucket, and the largest bound for
/// what exceeds all.
fn quantile(durations: &[(f64, f64)], share: f64) -> Option<f64> {
    let rank = durations.iter().map(|it| it.1).sum::<f64>() * share;
    let (mut lower, mut below) = (0.0, 0.0);
    for (upper, calls) in durations.iter().copied() {
        if calls > 0.0 && below + calls >= rank {
            let part = ((rank - below) / calls).clamp(0.0, 1.0);
            return Some(match upper.is_infinite() {
                true => lower,
                false => lower + (upper - lower) * part,
            });
        }
        below += calls;
        lower = upper.max(0.0);
    }
    None
}

/// What is shown of one interval.
#[derive(Debug)]
pub(super) struct View {
    pub(super) seconds: f64,
    pub(super) peers: Vec<Peer>,
    /// With the label's value, and the rate or the level.
    pub(super) meters: Vec<(&'static Meter, String, f64)>,
}

/// A peer in one role; its name is empty where peers are not told apart.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) role: Role,
    pub(super) name: String,
    pub(super) in_flight: f64,
    pub(super) total: Rates,
    pub(super) methods: Vec<(String, Rates)>,
}

/// Calls per second, and how long they took.
#[derive(Debug)]
pub(super) struct Rates {
    pub(super) calls: f64,
    pub(super) errors: f64,
    /// Every code but OK. A server's errors are its own failures alone, as OpenTelemetry defines them.
    pub(super) codes: BTreeMap<String, f64>,
    /// In seconds.
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Snapshot {
        Snapshot::read(text).expect("Prometheus' text")
    }

    /// A method's calls that ended with a code: how many took up to 1 ms, up to 10 ms, and longer.
    fn calls(method: &str, code: &str, [fast, slow, slower]: [u32; 3]) -> String {
        let error = if code == "OK" {
            String::new()
        } else {
            format!(",error_type=\"{code}\"")
        };
        let labels = format!(
            "peer=\"db\",rpc_method=\"{method}\",rpc_response_status_code=\"{code}\"{error}"
        );
        let (name, all) = ("rpc_client_call_duration", fast + slow + slower);
        format!(
            "{name}_bucket{{{labels},le=\"0.001\"}} {fast}\n{name}_bucket{{{labels},le=\"0.01\"}} {}\n\
             {name}_bucket{{{labels},le=\"+Inf\"}} {all}\n{name}_sum{{{labels}}} 1\n{name}_count{{{labels}}} {all}\n",
            fast + slow
        )
    }

    /// What a gateway with two peers might say, and say again two seconds later.
    pub(in super::super) fn view() -> View {
        let levels = "tower_iroh_client_calls_in_flight{peer=\"db\"} 3\n\
                      tower_iroh_client_calls_in_flight{peer=\"_OTHER\"} 0\n\
                      tower_iroh_server_calls_in_flight 1\n\
                      tower_iroh_breaker_not_closed{transport=\"iroh\"} 1\n";
        let packets = |count| format!("tower_iroh_client_packets_sent_total {count}\n");
        let before =
            levels.to_owned() + &packets(100) + &calls("shop.v1.Stock/Get", "OK", [10, 0, 0]);
        let now = levels.to_owned()
            + &packets(500)
            + &calls("shop.v1.Stock/Get", "OK", [30, 20, 0])
            + &calls("shop.v1.Stock/Get", "UNAVAILABLE", [0, 0, 10])
            + &calls("shop.v1.Orders/Place", "OK", [2, 0, 0]);
        read(&now).since(&read(&before), 2.0)
    }

    #[test]
    fn rates_and_percentiles_are_of_the_interval() {
        let view = view();
        let [db, server] = &view.peers[..] else {
            panic!("{view:?}")
        };
        assert_eq!(
            (db.role, db.name.as_str(), db.in_flight),
            (Role::Client, "db", 3.0)
        );
        assert_eq!((server.role, server.in_flight), (Role::Server, 1.0));
        assert!(server.methods.is_empty());
        let (name, get) = &db.methods[1];
        assert_eq!(name, "shop.v1.Stock/Get");
        assert_eq!((get.calls, get.errors), (25.0, 5.0));
        assert_eq!(get.codes, BTreeMap::from([("UNAVAILABLE".to_owned(), 5.0)]));
        // 20 calls up to 1 ms and 20 up to 10 ms: the 25th of 50 is the fifth of those.
        assert!((get.p50.expect("calls") - 0.003_25).abs() < 1e-9, "{get:?}");
        assert_eq!(get.p99, Some(0.01), "the largest bound for what exceeds it");
        assert_eq!((db.total.calls, db.total.errors), (26.0, 5.0));
        let meters: Vec<_> = view
            .meters
            .iter()
            .map(|(meter, label, value)| (meter.what, label.as_str(), *value))
            .collect();
        assert_eq!(
            meters,
            [
                ("breakers open", "iroh", 1.0),
                ("packets sent as client", "", 200.0)
            ]
        );
    }

    #[test]
    fn a_program_that_began_again_has_no_negative_rates() {
        let before = read(&calls("a/B", "OK", [50, 50, 50]));
        let now = read(&calls("a/B", "OK", [0, 151, 0]));
        let peers = now.since(&before, 1.0).peers;
        assert_eq!(
            peers[0].total.calls, 151.0,
            "a bucket shrank, so all calls are new"
        );
        assert!(peers[0].total.p50.expect("calls") > 0.001);
        let gone = read("").since(&before, 1.0);
        assert!(gone.peers.is_empty(), "{gone:?}");
    }

    #[test]
    fn what_is_not_prometheus_is_told_from_what_is_not_ours() {
        for text in ["<html>\n<body>\n", "ok\n", "{\"a\": 1}"] {
            assert!(Snapshot::read(text).is_none(), "{text}");
        }
        assert!(!read("").is_foreign, "no call yet");
        assert!(!read("# HELP a b\n").is_foreign);
        assert!(read("node_load1 0.5\n<oops>\n").is_foreign);
        for ours in [
            "tower_iroh_batch_items_sum 1",
            "rpc_server_call_duration_seconds_sum{a=\"b\"} 1",
        ] {
            assert!(!read(ours).is_foreign, "{ours}");
        }
    }

    #[test]
    fn a_name_moves_no_cursor_and_begins_no_line() {
        let text = calls("\u{1b}[2J\\nx", "OK", [1, 0, 0]);
        let view = read(&text).since(&Snapshot::default(), 1.0);
        assert_eq!(view.peers[0].methods[0].0, "\\u001b[2J x");
    }

    /// Lines of which some are samples that are shown.
    fn text() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            (0..1000_u32).prop_map(|it| it.to_string()),
            any::<f64>().prop_map(|it| it.to_string()),
            ".{0,5}",
        ];
        let name = prop_oneof![
            Just("rpc_client_call_duration_count{peer=\"a\",rpc_method=\"b\"}".to_owned()),
            any::<f64>().prop_map(|le| format!(
                "rpc_client_call_duration_bucket{{peer=\"a\",rpc_method=\"b\",le=\"{le}\"}}"
            )),
            (0..4_u32).prop_map(|le| format!("rpc_server_call_duration_bucket{{le=\"{le}\"}}")),
            Just("tower_iroh_client_calls_in_flight".to_owned()),
            Just("tower_iroh_client_packets_sent_total".to_owned()),
            ".{0,20}",
        ];
        let line = (name, value).prop_map(|(name, value)| format!("{name} {value}\n"));
        proptest::collection::vec(line, 0..40).prop_map(|lines| lines.concat())
    }

    proptest! {
        #[test]
        fn any_two_answers_have_rates_from_zero_up(before in text(), now in text(), seconds in 0.0..10.0) {
            let (Some(before), Some(now)) = (Snapshot::read(&before), Snapshot::read(&now)) else {
                return Ok(());
            };
            let view = now.since(&before, seconds);
            for peer in &view.peers {
                let of_methods = peer.methods.iter().map(|(_, rates)| rates);
                for rates in of_methods.chain([&peer.total]) {
                    let numbers = [rates.calls, rates.errors, rates.p50.unwrap_or_default(), rates.p99.unwrap_or_default()];
                    for number in numbers.iter().chain(rates.codes.values()) {
                        prop_assert!(number.is_finite() && *number >= 0.0, "{rates:?}");
                    }
                }
            }
            for (_, _, value) in &view.meters {
                prop_assert!(value.is_finite() && *value >= 0.0);
            }
        }
    }
}
