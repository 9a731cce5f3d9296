//! What the handle does.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, mpsc},
    task::{Context, Wake, Waker},
};

use http::Request;
use tower::Service;
use tower_iroh_layers::{
    Deadline, Incident,
    breaker::{Circuit, CircuitState, Rule},
};

use crate::peer::*;

#[tokio::test(start_paused = true)]
async fn a_force_holds_until_it_is_released() {
    let peer = Peer::default();
    let mut client = client(&peer, config());
    let circuit = client.circuit().clone();
    circuit.force_open();
    assert!(!is_ready(&mut client).await);
    tokio::time::advance(SECOND * 1000).await;
    assert!(!is_ready(&mut client).await);
    assert!(circuit.why().contains("forced open"));

    circuit.force_closed();
    peer.plays(vec![FAIL; 100]);
    calls(&mut client, 100).await;
    assert_eq!(circuit.state(), CircuitState::ForcedClosed);

    circuit.release();
    assert_eq!(circuit.state(), CircuitState::Closed);
    peer.plays(vec![FAIL; 4]);
    calls(&mut client, 4).await;
    assert_eq!(circuit.state(), CircuitState::Closed, "counts anew");
    peer.plays([FAIL]);
    call(&mut client).await;
    assert_eq!(circuit.state().name(), "open");
    circuit.release();
    assert_eq!(circuit.state().name(), "open", "there was no force");
    circuit.reset();
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn each_change_by_the_handle_wakes_who_waits() {
    for change in [0, 1, 2, 3] {
        let peer = Peer::default();
        let mut client = opened(&peer).await;
        let circuit = client.circuit().clone();
        let mut waits = tokio_test::task::spawn(ready(&mut client));
        assert!(waits.poll().is_pending());
        match change {
            0 => circuit.reset(),
            1 => circuit.force_closed(),
            2 => circuit.observe_only(true),
            _ => {
                circuit.force_open();
                circuit.release();
            }
        }
        assert!(waits.is_woken() && waits.poll().is_ready(), "{change}");
    }
}

#[tokio::test(start_paused = true)]
async fn watch_and_why_tell_the_story() {
    let peer = Peer::default();
    let mut client = client(&peer, config());
    let circuit = client.circuit().clone();
    let mut watch = circuit.watch();
    assert_eq!(*watch.borrow_and_update(), CircuitState::Closed);
    peer.plays(vec![FAIL; 5]);
    calls(&mut client, 5).await;
    watch.changed().await.expect("the circuit lives");
    let state = watch.borrow_and_update().clone();
    let CircuitState::Open { reason, .. } = state else {
        panic!("{state:?}");
    };
    assert_eq!(reason.rule(), Rule::Run(5));
    let why = circuit.why();
    assert!(
        why.starts_with("the circuit breaker is open: 5 failures in a row (Unavailable 5); the next probe is due in"),
        "{why}"
    );
    ready(&mut client).await;
    assert!(watch.has_changed().expect("the circuit lives"));
    assert_eq!(watch.borrow_and_update().name(), "half_open");
    assert!(circuit.why().contains("probe"));
    call(&mut client).await;
    assert_eq!(*watch.borrow_and_update(), CircuitState::Closed);
    let statistics = circuit.statistics();
    assert_eq!((statistics.opened, statistics.held), (1, 1));
    assert!(statistics.codes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn observe_only_enforces_nothing_and_says_what_it_would_do() {
    let peer = Peer::new(vec![FAIL; 100]);
    let mut client = client(&peer, config().observe_only(true));
    for _ in 0..100 {
        assert!(is_ready(&mut client).await);
        finish(client.call(Request::new(()))).await;
    }
    assert_eq!(peer.calls(), 100);
    let statistics = client.circuit().statistics();
    assert!(statistics.observe_only);
    assert_eq!(statistics.state.name(), "open");
    assert!(statistics.held > 0 && statistics.waiting == 0);
    // One that goes beside the probe has no say.
    tokio::time::advance(SECOND * 60).await;
    peer.plays([Reply::Hang, OK]);
    assert!(is_ready(&mut client).await);
    let probe = client.call(Request::new(()));
    call(&mut client).await;
    assert_eq!(client.circuit().state().name(), "half_open");
    drop(probe);
    call(&mut client).await;
    assert!(client.circuit().state().is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_sign_of_life_ends_the_wait_only_where_the_link_failed() {
    let peer = Peer::new([link(Incident::new()), link(Incident::new())]);
    let mut client = client(&peer, config());
    calls(&mut client, 2).await;
    let circuit = client.circuit().clone();
    assert_eq!(circuit.state().name(), "open");
    let mut waits = tokio_test::task::spawn(ready(&mut client));
    assert!(waits.poll().is_pending());
    circuit.sign_of_life();
    assert!(waits.is_woken() && waits.poll().is_ready());
    drop(waits);
    assert_eq!(circuit.state().name(), "half_open");
    // A dial that fails as the probe is the link's failure too.
    peer.plays([link(Incident::new())]);
    call(&mut client).await;
    assert!(!is_ready(&mut client).await);
    circuit.sign_of_life();
    assert!(is_ready(&mut client).await);

    let mut answered = opened(&peer).await;
    answered.circuit().sign_of_life();
    assert!(!is_ready(&mut answered).await);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_heard_again_ends_the_wait_only_where_nothing_answered() {
    let peer = Peer::new(vec![Reply::Hang; 5]);
    let mut client = client(&peer, config());
    for _ in 0..5 {
        assert!(is_ready(&mut client).await);
        let mut request = Request::new(());
        request.extensions_mut().insert(Deadline::after(SECOND));
        let unanswered = client.call(request);
        tokio::time::advance(SECOND).await;
        drop(unanswered);
    }
    let circuit = client.circuit().clone();
    assert_eq!(circuit.state().name(), "open");
    // That there is a connection says nothing: it was there all the time.
    circuit.sign_of_life();
    assert!(!is_ready(&mut client).await);
    circuit.heard_again();
    assert!(is_ready(&mut client).await);

    let mut answered = opened(&peer).await;
    answered.circuit().heard_again();
    assert!(!is_ready(&mut answered).await);
}

#[tokio::test(start_paused = true)]
async fn who_looks_sees_what_time_has_changed_though_nobody_calls() {
    let peer = Peer::default();
    let mut client = opened(&peer).await;
    let circuit = client.circuit().clone();
    let watch = circuit.watch();
    tokio::time::advance(SECOND * 2).await;
    assert_eq!(watch.borrow().name(), "open", "nobody has looked");
    assert_eq!(circuit.state().name(), "half_open");

    // The probe is a stream that goes well, and lasts.
    ready(&mut client).await;
    peer.plays([Reply::HangAfterHead]);
    let stream = client.call(Request::new(())).await.expect("a head");
    tokio::time::advance(SECOND / 2).await;
    assert_eq!(circuit.state().name(), "half_open");
    tokio::time::advance(SECOND).await;
    assert_eq!(watch.borrow().name(), "half_open");
    assert_eq!(circuit.statistics().state, CircuitState::Closed);
    assert_eq!(*watch.borrow(), CircuitState::Closed);
    drop(stream);
}

/// Foreign code that asks the circuit when it is told of a change.
struct Asks(Circuit, mpsc::Sender<&'static str>);

impl Wake for Asks {
    fn wake(self: Arc<Self>) {
        let _ = self.1.send(self.0.statistics().state.name());
    }
}

#[test]
fn who_is_told_of_a_change_may_ask_the_circuit() {
    let (sender, told) = mpsc::channel();
    // On a thread of its own: what goes wrong here is a deadlock.
    std::thread::spawn(move || {
        let circuit = Circuit::new(Default::default());
        let mut watch = circuit.watch();
        let waker = Waker::from(Arc::new(Asks(circuit.clone(), sender)));
        let mut changed = pin!(watch.changed());
        let polled = changed.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        circuit.force_open();
    });
    let state = told.recv_timeout(SECOND * 20).expect("no deadlock");
    assert_eq!(state, "forced_open");
}
