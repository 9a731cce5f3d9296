//! What `-v` shows beside grpcurl's lines: the way to the peer, and where the time went.

use std::time::Duration;

use serde_json::{Value, json};
use tower_iroh::{PeerStats, Urgency};

use super::invoke::CallStats;

/// What is known of a call and of its connection.
pub(crate) struct Extras<'a> {
    pub(crate) peer: &'a str,
    pub(crate) stats: Option<PeerStats>,
    pub(crate) urgency: Option<Urgency>,
    pub(crate) lookup: Option<Duration>,
    pub(crate) dial: Option<Duration>,
    pub(crate) schema: Option<Duration>,
    /// `None` for a verb that only looks.
    pub(crate) call: Option<&'a CallStats>,
}

impl Extras<'_> {
    fn values(&self) -> [(&'static str, Option<String>); 11] {
        let stats = self.stats.as_ref();
        let path = stats.and_then(|it| it.path.as_ref());
        [
            ("peer", Some(self.peer.to_owned())),
            (
                "transport",
                Some(stats.map_or("tcp".to_owned(), |it| {
                    format!("{:?}", it.transport).to_lowercase()
                })),
            ),
            ("path", path.map(ToString::to_string)),
            ("rtt", stats.and_then(|it| it.rtt).map(milliseconds)),
            ("urgency", self.urgency.map(|it| it.to_string())),
            ("attempts", self.call.map(|it| it.attempts.to_string())),
            ("lookup", self.lookup.map(milliseconds)),
            ("dial", self.dial.map(milliseconds)),
            ("schema", self.schema.map(milliseconds)),
            (
                "first byte",
                self.call.and_then(|it| it.first_byte).map(milliseconds),
            ),
            ("last byte", self.call.map(|it| milliseconds(it.last_byte))),
        ]
    }

    /// Prints it on standard error: it is not what a program asked for.
    pub(crate) fn print(&self, json: bool) {
        match json {
            true => eprintln!("{}", self.json()),
            false => eprintln!("\n{}", self.text()),
        }
    }

    /// One line for each value.
    fn text(&self) -> String {
        let lines = self.values().into_iter().filter_map(|(name, value)| {
            let value = value?;
            Some(format!("{name:<11}{value}"))
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The same as one JSON object.
    fn json(&self) -> Value {
        let values = self.values().into_iter();
        let values =
            values.filter_map(|(name, value)| Some((name.replace(' ', "_"), json!(value?))));
        Value::Object(values.collect())
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
