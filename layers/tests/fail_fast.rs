//! Fail fast's contracts, over a service whose readiness the test decides.

use std::{
    future::{Ready, poll_fn, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};
use tower_iroh_layers::{
    BoxError, Fault, Origin,
    fail_fast::{FailFast, FailFastConfig, FailedFast},
    fault::code_of,
};

const SECOND: Duration = Duration::from_secs(1);
const WAIT: Duration = FailFastConfig::WAIT;

#[derive(Default)]
struct Gate {
    is_ready: AtomicBool,
    fails: AtomicBool,
    polls: AtomicU32,
    calls: AtomicU32,
    clone_panics: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Gate {
    fn set(&self, is_ready: bool) {
        self.is_ready.store(is_ready, Ordering::Relaxed);
        for waker in std::mem::take(&mut *self.wakers.lock().expect("no panic")) {
            waker.wake();
        }
    }

    fn polls(&self) -> u32 {
        self.polls.load(Ordering::Relaxed)
    }
}

/// Ready when its gate is; asserts that it was asked before it is called.
struct Inner {
    gate: Arc<Gate>,
    was_ready: bool,
}

impl Clone for Inner {
    fn clone(&self) -> Self {
        if self.gate.clone_panics.swap(false, Ordering::Relaxed) {
            panic!("as planned");
        }
        Self {
            gate: self.gate.clone(),
            was_ready: false,
        }
    }
}

impl Service<u32> for Inner {
    type Response = u32;
    type Error = BoxError;
    type Future = Ready<Result<u32, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.gate.polls.fetch_add(1, Ordering::Relaxed);
        if self.gate.fails.load(Ordering::Relaxed) {
            return Poll::Ready(Err(Status::internal("broken").into()));
        }
        if self.gate.is_ready.load(Ordering::Relaxed) {
            self.was_ready = true;
            return Poll::Ready(Ok(()));
        }
        let mut wakers = self.gate.wakers.lock().expect("no panic");
        wakers.push(cx.waker().clone());
        Poll::Pending
    }

    fn call(&mut self, request: u32) -> Self::Future {
        assert!(std::mem::take(&mut self.was_ready), "called unready");
        self.gate.calls.fetch_add(1, Ordering::Relaxed);
        ready(Ok(request))
    }
}

type Client = FailFast<Inner>;

fn client(is_ready: bool) -> (Client, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    gate.set(is_ready);
    let config = FailFastConfig::builder().reason(|| "gone fishing".into());
    let inner = Inner {
        gate: gate.clone(),
        was_ready: false,
    };
    let client = FailFast::new(inner, config.build().expect("accepted"));
    (client, gate)
}

async fn call(client: &mut Client) -> Result<u32, BoxError> {
    client.ready().await.expect("never an error").call(7).await
}

async fn is_ready(client: &mut Client) -> bool {
    poll_fn(|cx| Poll::Ready(client.poll_ready(cx).is_ready())).await
}

fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

async fn settle() {
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_fails_after_the_wait_with_the_reason_and_the_next_at_once() {
    let (mut client, gate) = client(false);
    let start = Instant::now();
    let error = call(&mut client).await.expect_err("not ready");
    assert_eq!(start.elapsed(), WAIT);
    let failed: &FailedFast = error.downcast_ref().expect("typed");
    assert_eq!(failed.waited(), WAIT);
    let fault = Fault::find(&*error).expect("a fault");
    assert!(fault.origin() == Origin::Ours && fault.not_processed());
    assert!(fault.is_temporary(), "a buffer above it waits");
    let status = Status::from_error(error);
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("2.0 s") && status.message().contains("gone fishing"));

    let start = Instant::now();
    call(&mut client.clone()).await.expect_err("at once");
    call(&mut client).await.expect_err("at once");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(gate.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_usual_reconnect_goes_through() {
    let (mut client, gate) = client(false);
    let calls = tokio::spawn(async move { call(&mut client).await });
    tokio::time::sleep(WAIT - Duration::from_millis(10)).await;
    gate.set(true);
    assert_eq!(calls.await.expect("no panic").expect("answered"), 7);
    assert_eq!(tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn recovery_is_noticed_without_a_caller() {
    let (mut client, gate) = client(false);
    call(&mut client).await.expect_err("not ready");
    assert!(client.is_failing() && tasks() == 1);
    gate.set(true);
    settle().await;
    assert!(!client.is_failing(), "nobody called");
    assert_eq!(tasks(), 0);
    assert_eq!(call(&mut client).await.expect("answered"), 7);
    // It happens again.
    gate.set(false);
    let start = Instant::now();
    call(&mut client).await.expect_err("not ready");
    assert_eq!(start.elapsed(), WAIT);
}

#[tokio::test(start_paused = true)]
async fn polls_stay_bounded_while_it_waits_and_while_it_fails() {
    let (client, gate) = client(false);
    let waiters: Vec<_> = (0..50)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { call(&mut client).await })
        })
        .collect();
    tokio::time::sleep(WAIT / 2).await;
    assert_eq!(gate.polls(), 50);
    for waiter in waiters {
        waiter.await.expect("no panic").expect_err("not ready");
    }
    // Each once more when its time was over, until the first of them noticed; and the task.
    let polls = gate.polls();
    assert!(polls <= 101, "{polls}");
    for _ in 0..1000 {
        call(&mut client.clone()).await.expect_err("fails");
        tokio::time::advance(SECOND).await;
    }
    assert_eq!(gate.polls(), polls, "only the task, and it sleeps");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_made_for_each_call_and_not_for_each_look_at_readiness() {
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let config = FailFastConfig::builder().reason(move || {
        count.fetch_add(1, Ordering::Relaxed);
        "away".into()
    });
    let inner = Inner {
        gate: Arc::default(),
        was_ready: false,
    };
    let mut client = FailFast::new(inner, config.build().expect("accepted"));
    for calls in 1..3 {
        // As a balancer does that picks another endpoint in the end.
        for _ in 0..10 {
            client.ready().await.expect("never an error");
        }
        call(&mut client).await.expect_err("away");
        assert_eq!(asked.load(Ordering::Relaxed), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_clone_ends_the_task() {
    let (mut client, gate) = client(false);
    let other = client.clone();
    call(&mut client).await.expect_err("not ready");
    drop(client);
    settle().await;
    assert_eq!(tasks(), 1, "one clone is left");
    drop(other);
    settle().await;
    assert_eq!(tasks(), 0);
    gate.set(true);
}

#[tokio::test(start_paused = true)]
async fn an_error_never_leaves_poll_ready() {
    let (mut client, gate) = client(true);
    gate.fails.store(true, Ordering::Relaxed);
    let error = call(&mut client).await.expect_err("broken");
    assert_eq!(code_of(&*error), Code::Internal);
    gate.fails.store(false, Ordering::Relaxed);
    call(&mut client).await.expect("healed");

    // One that the task meets is the next caller's.
    gate.set(false);
    call(&mut client).await.expect_err("not ready");
    gate.fails.store(true, Ordering::Relaxed);
    gate.set(false);
    settle().await;
    assert!(!client.is_failing() && tasks() == 0);
    let error = call(&mut client).await.expect_err("broken");
    assert_eq!(code_of(&*error), Code::Internal);
}

#[tokio::test(start_paused = true)]
async fn a_clone_carries_no_readiness_and_a_refused_one_does_not_call() {
    let (mut client, gate) = client(true);
    client.ready().await.expect("ready");
    let mut clone = client.clone();
    clone.ready().await.expect("ready");
    clone.call(1).await.expect("it asked for itself");
    client.call(2).await.expect("it asked before");

    // Told ready only to be refused: it recovers before the call, and the inner service was never asked.
    gate.set(false);
    call(&mut client).await.expect_err("not ready");
    client.ready().await.expect("ready to be refused");
    gate.set(true);
    settle().await;
    assert!(!client.is_failing());
    client.call(3).await.expect_err("refused");
    call(&mut client).await.expect("answered");
}

#[tokio::test(start_paused = true)]
async fn who_left_is_not_waiting() {
    let (mut client, gate) = client(false);
    let mut gone = client.clone();
    assert!(!is_ready(&mut gone).await);
    drop(gone);
    tokio::time::advance(WAIT - SECOND / 2).await;
    let start = Instant::now();
    call(&mut client).await.expect_err("not ready");
    assert_eq!(start.elapsed(), WAIT, "its own wait");
    gate.set(true);
    settle().await;
    gate.set(false);
    // A caller that left while its service stays, an hour ago.
    assert!(!is_ready(&mut client).await);
    tokio::time::advance(SECOND * 3600).await;
    let start = Instant::now();
    call(&mut client).await.expect_err("not ready");
    assert_eq!(start.elapsed(), WAIT);
}

#[tokio::test(start_paused = true)]
async fn somebody_s_readiness_begins_the_wait_anew_for_the_rest() {
    let (mut client, gate) = client(false);
    let mut other = client.clone();
    let start = Instant::now();
    let waits = tokio::spawn(async move { call(&mut client).await });
    tokio::time::sleep(SECOND).await;
    // Busy, not away: one gets through.
    gate.is_ready.store(true, Ordering::Relaxed);
    call(&mut other).await.expect("answered");
    gate.is_ready.store(false, Ordering::Relaxed);
    waits.await.expect("no panic").expect_err("not ready");
    assert_eq!(start.elapsed(), WAIT + SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_place_in_a_queue_is_given_back() {
    // A limit of one: who waited for the permit and was refused must not be given it.
    let (inner, gate) = client(true);
    drop(inner);
    let inner = Inner {
        gate,
        was_ready: false,
    };
    let limit = tower::ServiceBuilder::new()
        .concurrency_limit(1)
        .service(inner);
    let mut holder = limit.clone();
    ServiceExt::<u32>::ready(&mut holder).await.expect("ready");
    let mut client = FailFast::new(limit, FailFastConfig::default());
    let mut refused = client.clone();
    let call = |client: &mut FailFast<_>| {
        let mut client = std::mem::replace(client, client.clone());
        async move {
            let called = client.ready().await.expect("never an error").call(7).await;
            (client, called)
        }
    };
    let (kept, failed) = call(&mut refused).await;
    failed.expect_err("the permit is taken");
    drop(holder);
    settle().await;
    assert!(!client.is_failing());
    let (_, answered) = call(&mut client).await;
    assert_eq!(answered.expect("the permit is free"), 7);
    drop(kept);
}

#[cfg(feature = "breaker")]
mod over_a_breaker {
    use http::{Request, Response};
    use tower_iroh_layers::breaker::{Breaker, BreakerConfig, Circuit};

    use super::*;

    type Head = Response<http_body_util::Empty<bytes::Bytes>>;

    /// Answers with a head that is the status.
    fn peer(
        code: Arc<AtomicU32>,
        calls: Arc<AtomicU32>,
    ) -> impl Service<Request<()>, Response = Head, Error = std::convert::Infallible, Future: Send>
    + Clone
    + Send
    + 'static {
        tower::service_fn(move |_: Request<()>| {
            calls.fetch_add(1, Ordering::Relaxed);
            let mut head = Head::default();
            let code = code.load(Ordering::Relaxed);
            head.headers_mut().insert("grpc-status", code.into());
            ready(Ok(head))
        })
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_circuit_fails_fast_with_its_reason_and_the_next_caller_is_the_probe() {
        let (code, calls) = (Arc::new(AtomicU32::new(14)), Arc::new(AtomicU32::new(0)));
        let config = BreakerConfig::builder().first_wait(SECOND * 30);
        let circuit = Circuit::new(config.build().expect("accepted"));
        let why = circuit.clone();
        let config = FailFastConfig::builder()
            .wait(SECOND / 100)
            .reason(move || why.why());
        let breaker = Breaker::new(peer(code.clone(), calls.clone()), circuit.clone());
        let mut client = FailFast::new(breaker, config.build().expect("accepted"));
        for _ in 0..5 {
            let client = ServiceExt::<Request<()>>::ready(&mut client).await;
            let response = client.expect("ready").call(Request::new(())).await;
            drop(response.expect("a head"));
        }
        assert!(!circuit.state().is_closed());
        // Jitter may make the wait shorter than fail fast's: only a longer one is failed.
        circuit.force_open();
        let call = ServiceExt::<Request<()>>::ready(&mut client).await;
        let error = call.expect("ready").call(Request::new(())).await;
        let status = Status::from_error(error.map(drop).expect_err("open"));
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("forced open"), "{status:?}");
        assert!(client.is_failing());
        assert_eq!(calls.load(Ordering::Relaxed), 5);

        // Open again by its own rule, until half-open: the task notices, and does not call.
        circuit.release();
        settle().await;
        assert!(!client.is_failing());
        let mut tripped = client.clone();
        for _ in 0..5 {
            let client = ServiceExt::<Request<()>>::ready(&mut tripped).await;
            drop(client.expect("ready").call(Request::new(())).await);
        }
        let before = calls.load(Ordering::Relaxed);
        let mut refusals = 0;
        loop {
            let call = ServiceExt::<Request<()>>::ready(&mut client).await;
            if circuit.state().name() == "half_open" {
                break;
            }
            let refused = call.expect("ready").call(Request::new(())).await;
            let status = Status::from_error(refused.map(drop).expect_err("open"));
            assert!(status.message().contains("the next probe is due in"));
            refusals += 1;
            tokio::time::sleep(SECOND / 10).await;
        }
        assert_eq!(calls.load(Ordering::Relaxed), before, "nothing was sent");
        // Between the wait's end and here nobody but the task asked; the next call is the probe.
        code.store(0, Ordering::Relaxed);
        tokio::time::sleep(SECOND * 100).await;
        assert_eq!(circuit.state().name(), "half_open");
        let call = ServiceExt::<Request<()>>::ready(&mut client).await;
        let response = call.expect("ready").call(Request::new(())).await;
        drop(response.expect("the probe"));
        assert!(circuit.state().is_closed(), "after {refusals} refusals");
        assert_eq!(calls.load(Ordering::Relaxed), before + 1);
    }
}

/// What watches for readiness is a clone, and making one may panic.
#[tokio::test(start_paused = true)]
async fn a_clone_that_panics_does_not_make_calls_fail_for_ever() {
    let (mut client, gate) = client(false);
    assert!(!is_ready(&mut client).await);
    tokio::time::sleep(WAIT + SECOND).await;
    gate.clone_panics.store(true, Ordering::Relaxed);
    let polled =
        std::panic::AssertUnwindSafe(|| client.poll_ready(&mut Context::from_waker(Waker::noop())));
    std::panic::catch_unwind(polled).expect_err("as planned");
    assert!(!client.is_failing());
    assert!(!gate.clone_panics.load(Ordering::Relaxed));
}
