//! A view as rows of text, and as JSON.

use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use super::{
    rates::{Peer, Rates, View},
    scrape::Kind,
};

/// The columns after the name.
pub(super) const COLUMNS: [&str; 6] = ["calls/s", "errors/s", "in flight", "p50", "p99", "codes"];

/// How wide they are, but for the last one.
pub(super) const WIDTHS: [usize; 5] = [8, 8, 9, 8, 8];

/// What rows are sorted by. The largest is first; names are in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Sort {
    #[default]
    Calls,
    Errors,
    InFlight,
    P50,
    P99,
    Name,
}

impl Sort {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Calls => Self::Errors,
            Self::Errors => Self::InFlight,
            Self::InFlight => Self::P50,
            Self::P50 => Self::P99,
            Self::P99 => Self::Name,
            Self::Name => Self::Calls,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            column => COLUMNS[column as usize],
        }
    }

    /// Methods have no calls in flight of their own; their rate takes its place.
    fn key(self, rates: &Rates, in_flight: Option<f64>) -> f64 {
        match self {
            Self::Calls => rates.calls,
            Self::Errors => rates.errors,
            Self::InFlight => in_flight.unwrap_or(rates.calls),
            Self::P50 => rates.p50.unwrap_or_default(),
            Self::P99 => rates.p99.unwrap_or_default(),
            Self::Name => 0.0,
        }
    }
}

/// A peer, or one of its methods below it.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) is_peer: bool,
    pub(super) has_errors: bool,
    pub(super) cells: [String; 6],
}

/// Each peer with its methods. Rows that are equal by `sort` are in the order of their names.
pub(super) fn rows(view: &View, sort: Sort) -> Vec<Row> {
    let largest_first = |a: f64, b: f64| b.partial_cmp(&a).unwrap_or(Ordering::Equal);
    let mut peers: Vec<&Peer> = view.peers.iter().collect();
    let of_peer = |peer: &Peer| sort.key(&peer.total, Some(peer.in_flight));
    peers.sort_by(|a, b| largest_first(of_peer(a), of_peer(b)));
    let mut rows = Vec::new();
    for peer in peers {
        let name = format!("{} {}", peer.role.name(), short(&peer.name));
        let name = name.trim_end().to_owned();
        rows.push(row(name, &peer.total, Some(peer.in_flight)));
        let mut methods: Vec<_> = peer.methods.iter().collect();
        methods.sort_by(|a, b| largest_first(sort.key(&a.1, None), sort.key(&b.1, None)));
        rows.extend(
            methods
                .into_iter()
                .map(|(name, rates)| row(format!("  {name}"), rates, None)),
        );
    }
    rows
}

/// An endpoint id as its first ten digits, which is how the logs have it.
fn short(name: &str) -> &str {
    let is_id = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { &name[..10] } else { name }
}

fn row(name: String, rates: &Rates, in_flight: Option<f64>) -> Row {
    let codes: Vec<_> = rates
        .codes
        .iter()
        .map(|(code, calls)| format!("{code} {calls:.1}"))
        .collect();
    let in_flight = in_flight
        .map(|calls| format!("{calls:.0}"))
        .unwrap_or_default();
    Row {
        name,
        is_peer: !in_flight.is_empty(),
        has_errors: rates.errors > 0.0,
        cells: [
            format!("{:.1}", rates.calls),
            format!("{:.1}", rates.errors),
            in_flight,
            time(rates.p50),
            time(rates.p99),
            codes.join(", "),
        ],
    }
}

fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 0.01 => format!("{:.2} ms", seconds * 1000.0),
        Some(seconds) if seconds < 1.0 => format!("{:.0} ms", seconds * 1000.0),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

/// What the meters say, and whether it is a cause for alarm; that comes first.
pub(super) fn meters(view: &View) -> Vec<(String, bool)> {
    let mut shown: Vec<_> = view
        .meters
        .iter()
        .map(|(meter, label, value)| {
            let label = match label.as_str() {
                "" => String::new(),
                label => format!(" ({label})"),
            };
            let text = match meter.kind {
                Kind::Rate => format!("{}{label}: {value:.1}/s", meter.what),
                Kind::Level | Kind::Alarm => format!("{}{label}: {value:.0}", meter.what),
            };
            (text, meter.kind == Kind::Alarm && *value > 0.0)
        })
        .collect();
    shown.sort_by_key(|(_, is_alarm)| !is_alarm);
    shown
}

/// What a table without rows says in their place.
pub(super) const NO_CALLS: &str = "no calls yet";

/// The whole view as lines, as wide as they need to be.
pub(super) fn plain(view: &View) -> String {
    let rows = rows(view, Sort::default());
    let longest = rows.iter().map(|row| row.name.chars().count()).max();
    let width = longest.unwrap_or_default();
    let line = |name: &str, cells: [&str; 6]| {
        let mut line = format!("{name:<width$}");
        for (cell, width) in cells.iter().zip(WIDTHS) {
            line += &format!("  {cell:>width$}");
        }
        line = format!("{line}  {}", cells[5]);
        line.trim_end().to_owned()
    };
    let mut lines = Vec::new();
    match rows.is_empty() {
        true => lines.push(NO_CALLS.to_owned()),
        false => lines.push(line("", COLUMNS)),
    }
    for row in &rows {
        lines.push(line(&row.name, row.cells.each_ref().map(String::as_str)));
    }
    lines.extend(meters(view).into_iter().map(|(text, _)| text));
    lines.join("\n")
}

/// The whole view, with names that are not shortened.
pub(super) fn json(view: &View) -> Map<String, Value> {
    let rates = |rates: &Rates| {
        let ms = |seconds: f64| seconds * 1000.0;
        let mut object = Map::new();
        object.insert("calls_per_s".to_owned(), rates.calls.into());
        object.insert("errors_per_s".to_owned(), rates.errors.into());
        object.insert("codes_per_s".to_owned(), json!(rates.codes));
        object.insert("p50_ms".to_owned(), rates.p50.map(ms).into());
        object.insert("p99_ms".to_owned(), rates.p99.map(ms).into());
        object
    };
    let peers = view.peers.iter().map(|peer| {
        let methods = peer.methods.iter().map(|(name, of_method)| {
            let mut object = rates(of_method);
            object.insert("method".to_owned(), name.as_str().into());
            object
        });
        let mut object = rates(&peer.total);
        object.insert("role".to_owned(), peer.role.name().into());
        object.insert("peer".to_owned(), peer.name.as_str().into());
        object.insert("in_flight".to_owned(), peer.in_flight.into());
        object.insert("methods".to_owned(), methods.collect());
        object
    });
    let meters = view.meters.iter().map(|(meter, label, value)| {
        let unit = if meter.kind == Kind::Rate {
            "per_s"
        } else {
            "value"
        };
        json!({ "series": meter.series, "label": label, unit: value })
    });
    let mut object = Map::new();
    object.insert("seconds".to_owned(), view.seconds.into());
    object.insert("peers".to_owned(), peers.collect());
    object.insert("meters".to_owned(), meters.collect());
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::scrape::tests::view;

    #[test]
    fn the_table_has_a_line_for_each_peer_and_each_method() {
        let expected = [
            "                         calls/s  errors/s  in flight       p50       p99  codes",
            "client db                   26.0       5.0          3   2.80 ms     10 ms  UNAVAILABLE 5.0",
            "  shop.v1.Stock/Get         25.0       5.0              3.25 ms     10 ms  UNAVAILABLE 5.0",
            "  shop.v1.Orders/Place       1.0       0.0              0.50 ms   0.99 ms",
            "server                       0.0       0.0          1         -         -",
            "breakers open (iroh): 1",
            "packets sent as client: 200.0/s",
        ];
        assert_eq!(plain(&view()), expected.join("\n"));
    }

    #[test]
    fn each_column_sorts() {
        let view = view();
        let mut sort = Sort::default();
        let mut orders = Vec::new();
        loop {
            let names: Vec<_> = rows(&view, sort).into_iter().map(|row| row.name).collect();
            orders.push((sort.name(), names[1].trim() == "shop.v1.Stock/Get"));
            sort = sort.next();
            if sort == Sort::default() {
                break;
            }
        }
        let orders: Vec<_> = orders
            .iter()
            .map(|(name, is_first)| (*name, *is_first))
            .collect();
        let expected = [
            ("calls/s", true),
            ("errors/s", true),
            ("in flight", true),
            ("p50", true),
            ("p99", true),
            ("name", false),
        ];
        assert_eq!(orders, expected);
    }

    #[test]
    fn json_has_names_and_numbers() {
        let object = json(&view());
        let get = &object["peers"][0]["methods"][1];
        assert_eq!(
            (&get["method"], &get["calls_per_s"]),
            (&"shop.v1.Stock/Get".into(), &25.0.into())
        );
        assert_eq!(get["codes_per_s"]["UNAVAILABLE"], 5.0);
        assert_eq!(object["peers"][1]["p50_ms"], Value::Null);
        let meter =
            json!({ "series": "tower_iroh_breaker_not_closed", "label": "iroh", "value": 1.0 });
        assert_eq!(object["meters"][0], meter);
    }

    #[test]
    fn an_id_is_shortened_and_a_name_is_not() {
        assert_eq!(short(&"0123456789abcdef".repeat(4)), "0123456789");
        assert_eq!(short("db"), "db");
    }
}
