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
    let labels =
        format!("peer=\"db\",rpc_method=\"{method}\",rpc_response_status_code=\"{code}\"{error}");
    let (name, all) = ("rpc_client_call_duration", fast + slow + slower);
    format!(
        "{name}_bucket{{{labels},le=\"0.001\"}} {fast}\n{name}_bucket{{{labels},le=\"0.01\"}} {}\n\
         {name}_bucket{{{labels},le=\"+Inf\"}} {all}\n{name}_sum{{{labels}}} 1\n{name}_count{{{labels}}} {all}\n",
        fast + slow
    )
}

/// What a gateway with two peers might say, and say again two seconds later.
pub(in crate::top) fn view() -> View {
    let levels = "tower_iroh_client_calls_in_flight{peer=\"db\"} 3\n\
                  tower_iroh_client_calls_in_flight{peer=\"_OTHER\"} 0\n\
                  tower_iroh_server_calls_in_flight 1\n\
                  tower_iroh_breaker_not_closed{transport=\"iroh\"} 1\n";
    let packets = |count| format!("tower_iroh_client_packets_sent_total {count}\n");
    let before = levels.to_owned() + &packets(100) + &calls("shop.v1.Stock/Get", "OK", [10, 0, 0]);
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
    let negative =
        read("rpc_server_call_duration_bucket{le=\"-1\"} 7\n").since(&Snapshot::default(), 1.0);
    assert_eq!(
        negative.peers[0].total.p50, None,
        "no call took less than no time"
    );
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
