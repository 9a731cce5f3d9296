//! The batching service's contracts. Time is paused.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use proptest::prelude::*;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status};
use tower::{Layer, Service, ServiceExt};
use tower_iroh_layers::{
    BoxError, Fault, Incident, Origin,
    batch::{Batch, BatchConfig, BatchConfigBuilder, BatchError, BatchLayer},
    fault::code_of,
};

const MILLI: Duration = Duration::from_millis(1);

/// What the service below does with a batch.
#[derive(Clone, Copy, Debug)]
enum Way {
    Answer,
    Fail(Code),
    Lose,
    Short,
    Hang,
    Panic,
}

/// Doubles each item, after a time, when it is let. A clone carries no readiness.
struct Doubler {
    seen: Arc<Mutex<Vec<Vec<u32>>>>,
    ways: Arc<Mutex<Vec<Way>>>,
    takes: Duration,
    open: Arc<Semaphore>,
    ready: bool,
}

impl Clone for Doubler {
    fn clone(&self) -> Self {
        Self {
            seen: self.seen.clone(),
            ways: self.ways.clone(),
            takes: self.takes,
            open: self.open.clone(),
            ready: false,
        }
    }
}

impl Doubler {
    fn new(takes: Duration) -> Self {
        Self {
            seen: Arc::default(),
            ways: Arc::default(),
            takes,
            open: Arc::new(Semaphore::new(1)),
            ready: false,
        }
    }

    fn seen(&self) -> Vec<Vec<u32>> {
        self.seen.lock().expect("lock").clone()
    }

    fn next(&self, ways: impl IntoIterator<Item = Way>) {
        self.ways.lock().expect("lock").extend(ways);
    }
}

impl Service<Vec<u32>> for Doubler {
    type Response = Vec<u32>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Vec<u32>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.open.is_closed() {
            return Poll::Ready(Err(Status::unavailable("closed").into()));
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, items: Vec<u32>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without readiness");
        self.seen.lock().expect("lock").push(items.clone());
        let way = {
            let mut ways = self.ways.lock().expect("lock");
            if ways.is_empty() {
                Way::Answer
            } else {
                ways.remove(0)
            }
        };
        let takes = self.takes;
        assert!(!matches!(way, Way::Panic), "as asked");
        Box::pin(async move {
            sleep(takes).await;
            match way {
                Way::Fail(code) => Err(Status::new(code, "said below").into()),
                Way::Lose => {
                    let origin = Origin::Link(Incident::new());
                    Err(Fault::perhaps_sent(origin, Status::unavailable("lost")).into())
                }
                Way::Short => Ok(items.iter().skip(1).map(|item| item * 2).collect()),
                Way::Hang => std::future::pending().await,
                _ => Ok(items.iter().map(|item| item * 2).collect()),
            }
        })
    }
}

fn batch(inner: &Doubler, config: BatchConfigBuilder) -> Batch<Doubler, u32, u32> {
    let config = config.build().expect("a configuration");
    // An item counts for as many bytes as its last digits say.
    BatchLayer::new(config, |item: &u32| (*item % 100) as usize).layer(inner.clone())
}

fn config() -> BatchConfigBuilder {
    BatchConfig::builder()
}

async fn ready<S: Service<u32, Error = BoxError>>(service: &mut S) -> &mut S {
    poll_fn(|cx| service.poll_ready(cx)).await.expect("ready");
    service
}

async fn at_rest() {
    sleep(MILLI).await;
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert_eq!(tasks, 0, "no worker without callers");
}

fn error(error: &BoxError) -> &BatchError {
    error.downcast_ref().expect("an error of the batch")
}

#[tokio::test(start_paused = true)]
async fn an_idle_service_sends_at_once() {
    let inner = Doubler::new(Duration::ZERO);
    let start = Instant::now();
    let answer = batch(&inner, config())
        .oneshot(21)
        .await
        .expect("an answer");
    assert_eq!(answer, 42);
    assert!(start.elapsed() < MILLI * 2, "no window, no wait");
    at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_one_is_in_flight_is_the_next_batch() {
    let inner = Doubler::new(10 * MILLI);
    let mut service = batch(&inner, config().max_items(4).max_bytes(1000));
    let mut calls = vec![ready(&mut service).await.call(0)];
    sleep(MILLI).await;
    for item in 1..=6 {
        calls.push(ready(&mut service).await.call(item));
    }
    let answers: Vec<u32> = join_all(calls).await.into_iter().flatten().collect();
    assert_eq!(answers, [0, 2, 4, 6, 8, 10, 12]);
    assert_eq!(inner.seen(), [vec![0], vec![1, 2, 3, 4], vec![5, 6]]);
    at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn bytes_bound_a_batch_and_a_large_item_goes_alone() {
    let inner = Doubler::new(10 * MILLI);
    let mut service = batch(&inner, config().max_bytes(50));
    let mut calls = vec![ready(&mut service).await.call(0)];
    sleep(MILLI).await;
    for item in [20, 30, 10, 99, 1] {
        calls.push(ready(&mut service).await.call(item));
    }
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    let expected = [vec![0], vec![20, 30], vec![10], vec![99], vec![1]];
    assert_eq!(inner.seen(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_window_waits_for_company_and_no_longer_than_it_says() {
    let inner = Doubler::new(Duration::ZERO);
    let service = batch(&inner, config().window(10 * MILLI).max_items(3));
    let start = Instant::now();
    let calls = join_all([0, 1, 2].map(|n| {
        let service = service.clone();
        async move {
            sleep(n * MILLI).await;
            service.oneshot(n).await
        }
    }));
    let full = calls.await;
    assert!(full.iter().all(Result::is_ok));
    assert!(
        start.elapsed() <= 5 * MILLI,
        "full before the window was over"
    );
    let start = Instant::now();
    service.clone().oneshot(7).await.expect("an answer");
    assert!((10 * MILLI..=12 * MILLI).contains(&start.elapsed()));
    assert_eq!(inner.seen(), [vec![0, 1, 2], vec![7]]);
}

#[tokio::test(start_paused = true)]
async fn an_error_reaches_all_and_keeps_its_code() {
    let inner = Doubler::new(10 * MILLI);
    let mut service = batch(&inner, config());
    inner.next([Way::Answer, Way::Fail(Code::ResourceExhausted), Way::Lose]);
    let mut calls = vec![ready(&mut service).await.call(0)];
    sleep(MILLI).await;
    for item in 1..4 {
        calls.push(ready(&mut service).await.call(item));
    }
    let mut results = join_all(calls).await.into_iter();
    assert!(results.next().expect("four").is_ok());
    for result in results {
        let failed = result.expect_err("failed");
        assert!(matches!(error(&failed), BatchError::Failed(_)));
        assert_eq!(code_of(&*failed), Code::ResourceExhausted);
        assert_eq!(Status::from_error(failed).message(), "said below");
    }
    let lost = ready(&mut service).await.call(9).await.expect_err("lost");
    let fault = Fault::find(&*lost).expect("a fault");
    assert!(!fault.not_processed());
    // And the next is served.
    assert!(ready(&mut service).await.call(9).await.is_ok());
    at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn another_number_of_results_is_an_error_to_all() {
    let inner = Doubler::new(Duration::ZERO);
    inner.next([Way::Short]);
    let mut service = batch(&inner, config().window(MILLI));
    let calls = [1, 2, 3].map(|item| {
        let ready = poll_fn(|cx| service.poll_ready(cx)).now_or_never();
        ready.expect("room").expect("room");
        service.call(item)
    });
    for result in join_all(calls).await {
        let failed = result.expect_err("whose is whose?");
        assert_eq!(code_of(&*failed), Code::Internal);
        assert!(matches!(
            error(&failed),
            BatchError::Mismatch {
                items: 3,
                results: 2,
                ..
            }
        ));
        let fault = Fault::find(&*failed).expect("a fault");
        assert!(!fault.not_processed());
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_that_fails_fails_the_batch_and_not_the_service() {
    let inner = Doubler::new(Duration::ZERO);
    inner.open.close();
    let mut service = batch(&inner, config());
    let failed = ready(&mut service).await.call(1).await.expect_err("closed");
    assert_eq!(code_of(&*failed), Code::Unavailable);
    ready(&mut service).await;
    assert!(inner.seen().is_empty());
    drop(service);
    at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_takes_a_waiting_item_along() {
    let inner = Doubler::new(10 * MILLI);
    let mut service = batch(&inner, config().max_items(2).max_waiting(2));
    let first = ready(&mut service).await.call(1);
    sleep(MILLI).await;
    let leaves = ready(&mut service).await.call(2);
    let stays = ready(&mut service).await.call(3);
    assert!(
        poll_fn(|cx| service.poll_ready(cx))
            .now_or_never()
            .is_none()
    );
    drop(leaves);
    // Its room is free at once.
    let fills = ready(&mut service).await.call(4);
    // Leaving in flight is of no matter to the others.
    drop(first);
    assert_eq!(
        (
            stays.await.expect("an answer"),
            fills.await.expect("an answer")
        ),
        (6, 8)
    );
    assert_eq!(inner.seen(), [vec![1], vec![3, 4]]);
    at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_hangs_ends_with_its_last_caller() {
    let inner = Doubler::new(Duration::ZERO);
    inner.next([Way::Hang]);
    let mut service = batch(&inner, config().window(MILLI));
    let one = ready(&mut service).await.call(1);
    let two = ready(&mut service).await.call(2);
    sleep(5 * MILLI).await;
    let next = ready(&mut service).await.call(3);
    drop(one);
    sleep(5 * MILLI).await;
    assert_eq!(inner.seen().len(), 1, "somebody waits for it");
    drop(two);
    let next = timeout(5 * MILLI, next).await.expect("held up by nobody");
    assert_eq!(next.expect("an answer"), 6);
    at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_and_a_clone_carries_no_readiness() {
    let inner = Doubler::new(10 * MILLI);
    let mut service = batch(&inner, config().max_items(1).max_waiting(2));
    let flies = ready(&mut service).await.call(0);
    sleep(MILLI).await;
    let waits = ready(&mut service).await.call(1);
    // The last room is kept by the handle that was ready, not by its clone.
    ready(&mut service).await;
    let mut clone = service.clone();
    assert!(poll_fn(|cx| clone.poll_ready(cx)).now_or_never().is_none());
    let refused = clone.call(9).await.expect_err("no room");
    assert_eq!(code_of(&*refused), Code::ResourceExhausted);
    let mine = service.call(2);
    assert_eq!(flies.await.expect("an answer"), 0);
    // A handle that is dropped gives its room back.
    ready(&mut service.clone()).await;
    ready(&mut clone).await;
    assert_eq!(waits.await.expect("an answer"), 2);
    assert_eq!(mine.await.expect("an answer"), 4);
    drop((clone, service));
    at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn callers_outlive_the_service() {
    let inner = Doubler::new(10 * MILLI);
    let mut service = batch(&inner, config());
    let first = ready(&mut service).await.call(1);
    sleep(MILLI).await;
    let second = ready(&mut service).await.call(2);
    drop(service);
    assert_eq!(
        (
            first.await.expect("an answer"),
            second.await.expect("an answer")
        ),
        (2, 4)
    );
    at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_below_is_told_and_survived() {
    let inner = Doubler::new(10 * MILLI);
    let mut service = batch(&inner, config().max_items(2));
    inner.next([Way::Answer, Way::Panic]);
    let first = ready(&mut service).await.call(1);
    sleep(MILLI).await;
    let mut calls = Vec::new();
    for item in 2..6 {
        calls.push(ready(&mut service).await.call(item));
    }
    assert!(first.await.is_ok());
    let results = join_all(calls).await;
    let unsent = results.into_iter().map(|result| {
        let failed = result.expect_err("the worker is gone");
        assert!(matches!(error(&failed), BatchError::Stopped(_)));
        Fault::find(&*failed).expect("a fault").not_processed()
    });
    assert_eq!(unsent.collect::<Vec<_>>(), [false, false, true, true]);
    assert!(ready(&mut service).await.call(7).await.is_ok());
}

#[test]
fn without_a_runtime_it_says_so() {
    let inner = Doubler::new(Duration::ZERO);
    let mut service = batch(&inner, config());
    let failed = service.call(1).now_or_never().expect("at once");
    let failed = failed.expect_err("nobody sends");
    assert!(matches!(error(&failed), BatchError::Stopped(_)));
}

#[tokio::test(start_paused = true)]
async fn the_code_survives_tower_s_buffer_and_boxes() {
    let inner = Doubler::new(Duration::ZERO);
    inner.next([Way::Fail(Code::Aborted)]);
    let service = tower::buffer::Buffer::new(batch(&inner, config()), 4);
    let failed = tower::util::BoxService::new(service).oneshot(1).await;
    let failed = failed.expect_err("aborted");
    assert_eq!(code_of(&*failed), Code::Aborted);
    assert_eq!(Status::from_error(failed).code(), Code::Aborted);
}

#[tokio::test(start_paused = true)]
async fn sixty_idle_days() {
    let inner = Doubler::new(Duration::ZERO);
    let service = batch(&inner, config().window(MILLI));
    service.clone().oneshot(1).await.expect("an answer");
    at_rest().await;
    tokio::time::advance(Duration::from_secs(60 * 86_400)).await;
    assert_eq!(service.clone().oneshot(2).await.expect("an answer"), 4);
    at_rest().await;
}

#[derive(Clone, Debug)]
enum Op {
    Call(u32),
    Leave(prop::sample::Index),
    Pass(u64),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Each item is sent once or, if its caller left or its batch failed, at most once; in order; within the bounds; and each caller gets its own result.
    #[test]
    fn order_is_kept_and_nothing_is_lost_or_doubled(
        window in 0u64..4,
        ways in prop::collection::vec(0u8..8, 0..6),
        ops in prop::collection::vec(prop_oneof![
            6 => (0u32..60).prop_map(Op::Call),
            1 => any::<prop::sample::Index>().prop_map(Op::Leave),
            2 => (0u64..15).prop_map(Op::Pass),
        ], 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let inner = Doubler::new(7 * MILLI);
            let failing = ways.iter().any(|way| *way < 2);
            inner.next(ways.into_iter().map(|way| match way {
                0 => Way::Fail(Code::Internal),
                1 => Way::Short,
                _ => Way::Answer,
            }));
            let config = config().max_items(5).max_bytes(100).max_waiting(8).window(Duration::from_millis(window));
            let mut service = batch(&inner, config);
            let mut calls = Vec::new();
            let mut made = Vec::new();
            let mut left = Vec::new();
            for (n, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Call(bytes) => {
                        let item = n as u32 * 100 + bytes;
                        made.push(item);
                        calls.push((item, tokio::spawn(ready(&mut service).await.call(item))));
                    }
                    Op::Leave(index) if !calls.is_empty() => {
                        let (item, call) = calls.remove(index.index(calls.len()));
                        left.push(item);
                        call.abort();
                    }
                    Op::Leave(_) => {}
                    Op::Pass(millis) => sleep(Duration::from_millis(millis)).await,
                }
            }
            drop(service);
            let mut answered = Vec::new();
            for (item, call) in calls {
                match call.await.expect("joined") {
                    Ok(answer) => {
                        prop_assert_eq!(answer, item * 2);
                        answered.push(item);
                    }
                    Err(error) => {
                        prop_assert!(failing);
                        prop_assert_eq!(code_of(&*error), Code::Internal);
                        left.push(item);
                    }
                }
            }
            let seen = inner.seen();
            for batch in &seen {
                let bytes: u32 = batch.iter().map(|item| item % 100).sum();
                prop_assert!(!batch.is_empty() && batch.len() <= 5 && bytes <= 100);
            }
            let sent: Vec<u32> = seen.concat();
            prop_assert!(sent.is_sorted() && sent.windows(2).all(|pair| pair[0] != pair[1]));
            for item in &answered {
                prop_assert!(sent.contains(item));
            }
            prop_assert_eq!(answered.len() + left.len(), made.len());
            sleep(50 * MILLI).await;
            prop_assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
            Ok(())
        })?;
    }
}

/// The layer makes a service of any that clones, with closures too.
#[tokio::test]
async fn a_closure_will_do() {
    let inner = tower::service_fn(async |items: Vec<&'static str>| {
        Ok::<_, Infallible>(items.iter().map(|item| item.len()).collect::<Vec<_>>())
    });
    let layer = BatchLayer::new(BatchConfig::default(), |item: &&'static str| item.len());
    let answer = layer.layer(inner).oneshot("four").await;
    assert_eq!(answer.expect("an answer"), 4);
}
