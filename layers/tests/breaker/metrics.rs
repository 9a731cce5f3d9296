//! What the breaker reports.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Request, Response};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::runtime::Runtime;
use tower::{Layer as _, Service as _, service_fn};
use tower_iroh_layers::{
    BoxError,
    breaker::{BreakerLayer, Circuit},
    metrics::MetricsLayer,
};

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

fn paused() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let builder = builder.enable_time().start_paused(true);
    builder.build().expect("a runtime")
}

#[test]
fn each_opening_is_counted_by_its_rule_and_the_gauge_comes_back_to_zero() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let gauge = || change(&snapshotter, "tower_iroh_breaker_not_closed");
    let runtime = paused();
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

/// How many attempts ended with a code.
fn ended(snapshotter: &Snapshotter, code: &str) -> usize {
    let all = snapshotter.snapshot().into_vec();
    all.into_iter()
        .filter(|(key, ..)| key.key().labels().any(|label| label.value() == code))
        .map(|(.., value)| match value {
            DebugValue::Histogram(values) => values.len(),
            _ => 0,
        })
        .sum()
}

#[test]
fn what_is_recorded_beside_the_circuit_is_each_attempt_however_it_ends() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let in_flight = || change(&snapshotter, "tower_iroh_client_attempts_in_flight");
    let runtime = paused();
    let _entered = runtime.enter();
    metrics::with_local_recorder(&recorder, || {
        let circuit = Circuit::new(Default::default());
        let wait = Duration::from_millis(10);
        let layer = BreakerLayer::new(circuit.clone())
            .max_wait(wait)
            .recording(MetricsLayer::attempt("tcp").recorder());
        let mut cx = Context::from_waker(Waker::noop());
        let request = || Request::new(());

        // It was ready when the circuit opened, so the call waits: to its end, or until it is dropped.
        let mut client = layer.layer(Peer::default());
        let mut ready = || {
            circuit.reset();
            assert!(client.poll_ready(&mut cx).is_ready());
            circuit.force_open();
            client.call(request())
        };
        let waited = runtime.block_on(ready());
        assert!(waited.is_err(), "refused");
        assert_eq!(ended(&snapshotter, "UNAVAILABLE"), 1, "and recorded");
        drop(ready());
        let mut polled = Box::pin(ready());
        assert!(
            polled
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        drop(polled);
        assert_eq!(ended(&snapshotter, "CANCELLED"), 2);

        // Readiness that fails, of a call whose future nobody polls: recorded, and counted by the circuit.
        let peer = Peer::default();
        let mut client = layer.layer(peer.clone());
        circuit.reset();
        peer.unready.store(1, std::sync::atomic::Ordering::Relaxed);
        assert!(client.poll_ready(&mut cx).is_ready());
        drop(client.call(request()));
        assert_eq!(ended(&snapshotter, "UNAVAILABLE"), 1);
        assert_eq!(circuit.statistics().failed, 1);

        // A call that panics.
        let panics = service_fn(
            |_: Request<()>| -> std::future::Ready<Result<Response<Script>, BoxError>> {
                panic!("on purpose")
            },
        );
        let mut client = layer.layer(panics);
        let Poll::Ready(Ok(())) = client.poll_ready(&mut cx) else {
            panic!("ready");
        };
        let call = AssertUnwindSafe(|| drop(client.call(request())));
        assert!(catch_unwind(call).is_err());
        assert_eq!(in_flight(), 0.0);
    });
}
