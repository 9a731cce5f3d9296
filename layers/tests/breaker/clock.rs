//! Waiting costs nothing but a timer each.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use http::Request;
use tokio::runtime::{Builder, Runtime};
use tower::Service;

use crate::peer::*;

/// Counts how often a task is woken, and so how often it would be polled.
#[derive(Default)]
struct Polls(AtomicU32);

impl Wake for Polls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn polls_stay_bounded_while_open() {
    let peer = Peer::default();
    let mut client = opened(&peer).await;
    // Open for ten seconds or more.
    client.circuit().reset();
    peer.plays(vec![FAIL; 5]);
    calls(&mut client, 4).await;
    peer.script.lock().expect("no panic").clear();
    client.circuit().reset();
    let mut client = {
        let config = config().min_calls(1).recovery(SECOND * 10);
        peer.plays([Reply::Pushback(SECOND * 10)]);
        let mut client = crate::peer::client(&peer, config);
        call(&mut client).await;
        client
    };
    let inner_polls = peer.polls.load(Ordering::Relaxed);
    let polls = Arc::new(Polls::default());
    let waker = Waker::from(polls.clone());
    let mut cx = Context::from_waker(&waker);
    let mut waiting: Vec<_> = (0..100).map(|_| client.clone()).collect();
    let poll =
        |client: &mut Client, cx: &mut Context<'_>| Service::<Request<()>>::poll_ready(client, cx);
    for waiter in &mut waiting {
        assert!(poll(waiter, &mut cx).is_pending());
    }
    // A dropped waiter leaves.
    waiting.truncate(50);
    assert_eq!(client.circuit().statistics().waiting, 50);
    for _ in 0..900 {
        tokio::time::advance(SECOND / 100).await;
    }
    assert_eq!(polls.0.load(Ordering::Relaxed), 0, "nobody is woken");
    assert_eq!(peer.polls.load(Ordering::Relaxed), inner_polls);
    tokio::time::advance(SECOND * 2).await;
    assert_eq!(polls.0.load(Ordering::Relaxed), 50, "each of them once");
    assert!(waiting.iter_mut().all(|w| poll(w, &mut cx).is_ready()));
    assert_eq!(client.circuit().statistics().waiting, 0);
    assert!(matches!(poll(&mut client, &mut cx), Poll::Ready(Ok(()))));
}

#[tokio::test(start_paused = true)]
async fn who_waits_first_may_leave_and_the_rest_are_still_woken() {
    let peer = Peer::default();
    let mut client = opened(&peer).await;
    let mut first = client.clone();
    assert!(!is_ready(&mut first).await);
    let waits = tokio::spawn(async move { wait(&mut client).await });
    tokio::task::yield_now().await;
    drop(first);
    assert!(waits.await.expect("no panic") <= SECOND * 11 / 10);
}

#[tokio::test(start_paused = true)]
async fn sixty_idle_days() {
    let day = SECOND * 86_400;
    let peer = Peer::default();
    // One that is closed and has half of a run behind it, and one that is open.
    let mut closed = client(&peer, config());
    calls(&mut closed, 100).await;
    peer.plays(vec![FAIL; 4]);
    calls(&mut closed, 4).await;
    let mut open = opened(&peer).await;
    let mut waited = open.clone();
    assert!(!is_ready(&mut waited).await);
    // Nobody waits, so there is no timer: the clock may jump, and nothing runs.
    drop(waited);
    let timers = || {
        let metrics = tokio::runtime::Handle::current().metrics();
        metrics.num_alive_tasks()
    };
    let before = timers();
    let watch = open.circuit().watch();
    tokio::time::advance(day * 60).await;
    assert_eq!(timers(), before);
    assert_eq!(watch.borrow().name(), "open", "nobody asked");
    assert_eq!(open.circuit().state().name(), "half_open");
    assert_eq!(watch.borrow().name(), "half_open");
    assert_eq!(closed.circuit().statistics().calls, 0, "the window slid");

    assert!(is_ready(&mut open).await);
    call(&mut open).await;
    assert!(open.circuit().state().is_closed());
    peer.plays(vec![FAIL; 10]);
    call(&mut closed).await;
    assert!(!closed.circuit().state().is_closed(), "five in a row");
    assert!(wait(&mut closed).await <= SECOND * 11 / 10);
}

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    builder.build().expect("a runtime")
}

/// Opens it for ten seconds or more.
async fn open_for_ten(client: &mut Client, peer: &Peer) {
    peer.plays([Reply::Pushback(SECOND * 10)]);
    call(client).await;
    assert_eq!(client.circuit().state().name(), "open");
}

fn overloaded() -> (Peer, Client) {
    let peer = Peer::default();
    let client = client(&peer, config().min_calls(1));
    (peer, client)
}

#[test]
fn a_circuit_outlives_the_runtime_whose_timer_it_had() {
    let (peer, mut client) = overloaded();
    let first = runtime();
    first.block_on(async {
        open_for_ten(&mut client, &peer).await;
        assert!(!is_ready(&mut client).await);
        // It closes before the time has come, and who waited goes by the way of a closed one.
        client.circuit().reset();
        assert!(is_ready(&mut client).await);
    });
    drop(first);
    runtime().block_on(async {
        open_for_ten(&mut client, &peer).await;
        let waited = wait(&mut client).await;
        assert!((10..=12).contains(&waited.as_secs()), "{waited:?}");
    });
}

#[test]
fn who_waits_on_another_runtime_is_woken_though_the_first_is_gone_or_stands_still() {
    for gone in [true, false] {
        let (peer, mut client) = overloaded();
        let mut other = client.clone();
        let (first, second) = (runtime(), runtime());
        first.block_on(async {
            open_for_ten(&mut client, &peer).await;
            assert!(!is_ready(&mut client).await);
        });
        let mut waits = tokio_test::task::spawn(ready(&mut other));
        second.block_on(async { assert!(waits.poll().is_pending()) });
        let mut first = Some(first);
        if gone {
            // Its timers all ring at its end, so whoever waits looks again.
            first = None;
        }
        let waited = second.block_on(async {
            let start = tokio::time::Instant::now();
            tokio::time::timeout(SECOND * 60, waits)
                .await
                .expect("woken");
            start.elapsed()
        });
        assert!((9..=12).contains(&waited.as_secs()), "{waited:?}");
        drop((client, first));
    }
}

#[test]
fn a_waiter_of_each_runtime_has_a_timer_there() {
    let (peer, mut client) = overloaded();
    let mut other = client.clone();
    let (first, second) = (runtime(), runtime());
    first.block_on(async {
        open_for_ten(&mut client, &peer).await;
        assert!(!is_ready(&mut client).await);
    });
    second.block_on(async { assert!(!is_ready(&mut other).await) });
    // The one that armed last goes away; the first one's timer is still there.
    drop((other, second));
    let waited = first.block_on(wait(&mut client));
    assert!((9..=12).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!(client.circuit().statistics().waiting, 0);
}
