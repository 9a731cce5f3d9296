//! What the breaker reports.

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tower_iroh_layers::breaker::Circuit;

use crate::peer::*;

/// How a gauge has changed since it was last asked: the debugging recorder begins anew with each snapshot.
fn change(snapshotter: &Snapshotter, gauge: &str) -> f64 {
    let all = snapshotter.snapshot().into_vec();
    all.into_iter()
        .filter(|(key, ..)| key.key().name() == gauge)
        .map(|(.., value)| match value {
            DebugValue::Gauge(value) => value.into_inner(),
            _ => f64::NAN,
        })
        .sum()
}

#[test]
fn each_opening_is_counted_by_its_rule_and_the_gauge_comes_back_to_zero() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let gauge = || change(&snapshotter, "tower_iroh_breaker_not_closed");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let peer = Peer::new(vec![FAIL; 6]);
            let circuit = Circuit::builder(Default::default())
                .transport("iroh")
                .build();
            let mut client = Client::new(peer.clone(), circuit);
            // Five in a row, and the probe that fails.
            calls(&mut client, 6).await;
            assert_eq!(gauge(), 1.0);
            call(&mut client).await;
            assert_eq!(gauge(), -1.0);
            client.circuit().force_open();
            assert_eq!(gauge(), 1.0);
            drop(client);
            assert_eq!(gauge(), -1.0, "a circuit that is gone holds nobody");

            let peer = Peer::new(vec![FAIL; 6]);
            let circuit = Circuit::builder(Default::default())
                .transport("tcp")
                .build();
            let mut client = Client::new(peer.clone(), circuit);
            calls(&mut client, 7).await;
        });
    });
    let all = snapshotter.snapshot().into_vec();
    let count = |name: &str, label: &str| {
        let found = all.iter().find(|(key, ..)| {
            let mut labels = key.key().labels();
            let tcp = key.key().labels().any(|own| own.value() == "tcp");
            key.key().name() == name && tcp && labels.any(|own| own.value() == label)
        });
        found.map(|(.., value)| match value {
            DebugValue::Counter(count) => *count,
            _ => 0,
        })
    };
    assert_eq!(count("tower_iroh_breaker_opened_total", "run"), Some(1));
    assert_eq!(count("tower_iroh_breaker_opened_total", "probe"), Some(1));
    assert_eq!(count("tower_iroh_breaker_opened_total", "rate"), Some(0));
    assert_eq!(count("tower_iroh_breaker_closed_total", "tcp"), Some(1));
}
