//! The pool under virtual time, with connections that only count.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use tokio::time::{advance, sleep, timeout};
use tokio_test::{assert_pending, assert_ready, task};

use super::{shared::REMEMBERED, *};
use crate::peer::Peer;

#[derive(Debug)]
struct Fake {
    uses: Uses,
    closed: AtomicBool,
    number: usize,
    refused: bool,
    pool: std::sync::OnceLock<PoolHandle<Self>>,
}

impl Used for Fake {
    fn uses(&self) -> &Uses {
        &self.uses
    }
}

impl Pooled for Fake {
    fn usable(&self) -> bool {
        !self.closed.load(Ordering::SeqCst)
    }
    fn fate(&self) -> End {
        match &self.refused {
            true => End::Failed(Error::new(ErrorKind::Forbidden, "refused")),
            false => End::Closed,
        }
    }
    fn retire(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
    fn stats(&self) -> Option<PeerStats> {
        None
    }
    fn rtt(&self) -> Option<Duration> {
        None
    }
    fn evict(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
    fn installed(self: &Arc<Self>, pool: PoolHandle<Self>) {
        self.pool.set(pool).expect("once");
    }
}

impl Fake {
    fn pool(&self) -> &PoolHandle<Self> {
        self.pool.get().expect("installed")
    }
}

/// What the next dials do.
#[derive(Clone, Copy)]
enum Plan {
    Succeed,
    Fail,
    Hang,
    Panic,
    /// Accept, and close before anything came back.
    Refuse,
}

struct FakeDialer {
    plan: Mutex<Plan>,
    takes: Duration,
    dials: Arc<AtomicUsize>,
    dialling: Arc<AtomicUsize>,
}

struct Count(Arc<AtomicUsize>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Dialer for FakeDialer {
    type Connection = Fake;

    fn know(&self, _: &Peer) -> Known {
        Known::Addr
    }

    fn forget(&self, _: EndpointId) {}

    fn dial(
        &self,
        _: EndpointId,
        uses: Uses,
        _: Announce<Fake>,
    ) -> BoxFuture<'static, Result<Arc<Fake>, Error>> {
        let number = self.dials.fetch_add(1, Ordering::SeqCst);
        self.dialling.fetch_add(1, Ordering::SeqCst);
        let count = Count(self.dialling.clone());
        let plan = *lock(&self.plan);
        let takes = self.takes;
        async move {
            let _count = count;
            // Even a sleep of no time takes a millisecond of tokio's timer.
            match takes.is_zero() {
                true => tokio::task::yield_now().await,
                false => sleep(takes).await,
            }
            match plan {
                Plan::Succeed => Ok(Arc::new(Fake {
                    uses,
                    closed: AtomicBool::new(false),
                    number,
                    refused: false,
                    pool: Default::default(),
                })),
                Plan::Refuse => Ok(Arc::new(Fake {
                    uses,
                    closed: AtomicBool::new(true),
                    number,
                    refused: true,
                    pool: Default::default(),
                })),
                Plan::Fail => Err(Error::new(ErrorKind::DialFailed, "as planned")),
                Plan::Hang => std::future::pending().await,
                Plan::Panic => panic!("as planned"),
            }
        }
        .boxed()
    }
}

fn pool(max_connections: usize, plan: Plan) -> Pool<FakeDialer> {
    pool_that_takes(max_connections, plan, Duration::from_millis(5))
}

fn pool_that_takes(max_connections: usize, plan: Plan, takes: Duration) -> Pool<FakeDialer> {
    on(Runtime::new(None), max_connections, plan, takes)
}

fn on(runtime: Runtime, max_connections: usize, plan: Plan, takes: Duration) -> Pool<FakeDialer> {
    let dialer = FakeDialer {
        plan: Mutex::new(plan),
        takes,
        dials: Arc::default(),
        dialling: Arc::default(),
    };
    let config = PoolConfig {
        max_connections,
        ..PoolConfig::default()
    };
    Pool::new(dialer, config, runtime)
}

impl Pool<FakeDialer> {
    fn dials(&self) -> usize {
        self.dialer().dials.load(Ordering::SeqCst)
    }
    fn dialling(&self) -> usize {
        self.dialer().dialling.load(Ordering::SeqCst)
    }
    fn plan(&self, plan: Plan) {
        *lock(&self.dialer().plan) = plan;
    }
    fn state(&self, id: EndpointId) -> State {
        *self.watch(id).borrow()
    }
}

fn id(n: u8) -> EndpointId {
    iroh::SecretKey::from_bytes(&[n; 32]).public()
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_at_once_share_one_dial() {
    let pool = pool(10, Plan::Succeed);
    let uses = join_all((0..1000).map(|_| pool.get(id(1)))).await;
    assert!(uses.iter().all(Result::is_ok));
    assert_eq!(pool.dials(), 1);
    assert_eq!(pool.slots_taken(), 1);
    assert_eq!(pool.peek(id(1)).expect("there").uses.open(), 1000);
    drop(uses);
    let connection = pool.peek(id(1)).expect("there");
    assert_eq!((connection.uses.open(), connection.uses.total()), (0, 1000));
}

/// Who looks for a connection and then asks for one is to be told how its own dial ended, also if that took no time.
#[tokio::test(start_paused = true)]
async fn looking_for_a_connection_dials_nothing() {
    let pool = pool_that_takes(10, Plan::Fail, Duration::ZERO);
    assert!(pool.get_now(id(1)).is_none());
    sleep(Duration::from_millis(1)).await;
    assert_eq!(pool.dials(), 0);
    let error = pool.get(id(1)).await.expect_err("as planned");
    assert_eq!(error.kind(), ErrorKind::DialFailed);
    assert!(pool.get_now(id(1)).is_none());
    assert_eq!(pool.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_calls_to_a_dead_peer_make_two_dials_at_most_in_100_ms() {
    let pool = pool(10, Plan::Fail);
    let start = Instant::now();
    let mut failed = 0;
    while start.elapsed() < Duration::from_millis(100) {
        for result in join_all((0..20).map(|_| pool.get(id(1)))).await {
            let error = result.expect_err("dead");
            assert_eq!(error.status().code(), tonic::Code::Unavailable);
            failed += 1;
        }
        sleep(Duration::from_millis(1)).await;
    }
    assert!(failed >= 1000, "{failed}");
    assert!(pool.dials() <= 2, "{} dials", pool.dials());
    assert_eq!(pool.slots_taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_comes_back_is_found_beside_an_attempt_that_hangs() {
    let pool = pool(1, Plan::Hang);
    let began = Instant::now();
    let waits = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get(id(1)).await.map(|used| used.number) }
    });
    sleep(Duration::from_millis(3500)).await;
    assert_eq!((pool.dials(), pool.dialling()), (3, 3));
    pool.plan(Plan::Succeed);
    let number = waits.await.expect("no panic").expect("it is back");
    assert_eq!(number, 3);
    assert!(began.elapsed() < Duration::from_millis(3800));
    // The others end with it.
    tokio::task::yield_now().await;
    assert_eq!((pool.dials(), pool.dialling()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_asks_dials_each_second_whatever_the_backoff() {
    let pool = pool(1, Plan::Fail);
    let mut waits = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        while pool.get(id(1)).await.expect_err("dead").kind() == ErrorKind::Backoff {
            sleep(Duration::from_millis(10)).await;
        }
        waits.push(began.elapsed().as_millis());
    }
    assert!((1200..1300).contains(&waits[9]), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_was_started_again_is_found_beside_its_silent_connection() {
    let pool = pool(2, Plan::Succeed);
    let old = pool.get(id(1)).await.expect("there");
    pool.plan(Plan::Hang);
    old.pool().silent(old.connection());
    sleep(Duration::from_secs(3)).await;
    assert_eq!((pool.dials(), pool.dialling()), (4, 3));
    assert_eq!(pool.state(id(1)), State::Silent);
    // A call that is not sent yet waits.
    let mut waits = tokio_test::task::spawn(pool.get(id(1)));
    assert_pending!(waits.poll());
    pool.plan(Plan::Succeed);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(pool.state(id(1)), State::Ready);
    assert!(!old.usable(), "superseded");
    let new = assert_ready!(waits.poll()).expect("there");
    drop(waits);
    assert_eq!((new.number, pool.dialling(), pool.slots_taken()), (4, 0, 1));
    // Late news of the old one change nothing.
    old.pool().silent(old.connection());
    old.pool().report(old.connection(), End::Closed);
    assert_eq!(pool.state(id(1)), State::Ready);
    assert!(new.usable());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_heard_again_stays() {
    let pool = pool_that_takes(2, Plan::Succeed, Duration::from_millis(500));
    let old = pool.get(id(1)).await.expect("there");
    old.pool().silent(old.connection());
    sleep(Duration::from_millis(100)).await;
    let mut waits = tokio_test::task::spawn(pool.get(id(1)));
    assert_pending!(waits.poll());
    old.pool().heard(old.connection());
    assert_eq!(assert_ready!(waits.poll()).expect("there").number, 0);
    sleep(Duration::from_secs(2)).await;
    assert_eq!((pool.dials(), pool.dialling()), (2, 0));
    assert!(old.usable());
    assert_eq!((pool.state(id(1)), pool.slots_taken()), (State::Ready, 1));
    assert_eq!(pool.get(id(1)).await.expect("there").number, 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_dials_beside_a_silent_connection_that_nobody_uses() {
    let pool = pool(2, Plan::Succeed);
    let old = pool.get(id(1)).await.expect("there");
    pool.plan(Plan::Hang);
    let connection = old.connection().clone();
    connection.pool().silent(&connection);
    drop(old);
    sleep(Duration::from_secs(60)).await;
    assert_eq!((pool.dials(), pool.dialling()), (2, 0));
    assert_eq!(pool.state(id(1)), State::Silent);
    // The next who asks dials.
    let asks = timeout(Duration::from_secs(2), pool.get(id(1)));
    asks.await.expect_err("nobody answers");
    assert_eq!(pool.dials(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_dead_peers_share_a_budget() {
    let pool = pool(1000, Plan::Hang);
    let ids = (0..1000u16).map(|n| {
        let mut bytes = [7; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        iroh::SecretKey::from_bytes(&bytes).public()
    });
    let ids: Vec<_> = ids.collect();
    let calls = ids.iter().map(|id| pool.get(*id));
    let _ = timeout(Duration::from_millis(9900), join_all(calls)).await;
    // Each once, and then 50 each time that all of them are due.
    assert_eq!(pool.dials(), 1000 + 7 * 50);
}

#[tokio::test(start_paused = true)]
async fn while_backing_off_calls_fail_at_once_and_say_when() {
    let pool = pool(10, Plan::Fail);
    let mut last = Duration::ZERO;
    for n in 0..12 {
        let error = pool.get(id(1)).await.expect_err("dead");
        assert_eq!(error.kind(), ErrorKind::DialFailed, "dial {n}");
        assert_eq!(pool.state(id(1)), State::TransientFailure);
        let start = Instant::now();
        let error = pool.get(id(1)).await.expect_err("not yet");
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(error.kind(), ErrorKind::Backoff);
        assert!(error.status().message().contains("next is due in"));
        let wait = pool.shared.entry(id(1)).lock().backoff.wait(Instant::now());
        let wait = wait.expect("not due");
        assert!(wait <= Duration::from_secs(30));
        assert!(n < 2 || wait > last || wait > Duration::from_secs(20));
        last = wait;
        advance(wait).await;
    }
    assert_eq!(pool.dials(), 12);
    pool.plan(Plan::Succeed);
    drop(pool.get(id(1)).await.expect("back"));
    assert_eq!(pool.state(id(1)), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn news_of_a_peer_end_the_wait() {
    let pool = pool(10, Plan::Fail);
    pool.get(id(1)).await.expect_err("dead");
    advance(Duration::from_millis(100)).await;
    pool.get(id(1)).await.expect_err("dead");
    pool.plan(Plan::Succeed);
    pool.get(id(1)).await.expect_err("backing off");
    pool.forgive(id(1));
    pool.get(id(1)).await.expect("at once");
}

#[tokio::test(start_paused = true)]
async fn who_paces_himself_does_not_wait_and_nothing_is_forgotten() {
    let pool = pool(10, Plan::Fail);
    for _ in 0..5 {
        let error = pool.get(id(1)).await.expect_err("dead");
        assert_eq!(error.kind(), ErrorKind::DialFailed);
        pool.hurry(id(1));
        advance(Duration::from_millis(100)).await;
    }
    pool.get(id(1)).await.expect_err("dead");
    let wait = pool.shared.entry(id(1)).lock().backoff.wait(Instant::now());
    assert!(
        wait.expect("not due") > Duration::from_secs(2),
        "the sixth failure"
    );
}

#[tokio::test(start_paused = true)]
async fn calls_shorter_than_the_dial_find_the_connection_later() {
    let pool = pool_that_takes(10, Plan::Succeed, Duration::from_millis(200));
    let mut succeeded = Vec::new();
    for n in 0..10 {
        if let Ok(used) = timeout(Duration::from_millis(50), pool.get(id(1))).await {
            used.expect("dialled");
            succeeded.push(n);
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(succeeded, (1..10).collect::<Vec<_>>());
    assert_eq!(pool.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dial_outlives_its_callers_and_ends_with_the_pool() {
    let pool = pool(1, Plan::Hang);
    let mut first = task::spawn(pool.get(id(1)));
    assert_pending!(first.poll());
    sleep(Duration::from_millis(10)).await;
    drop(first);
    sleep(Duration::from_secs(1)).await;
    assert_eq!((pool.dialling(), pool.slots_taken()), (1, 1));
    assert_eq!(pool.state(id(1)), State::Connecting);
    let (dialling, clone) = (pool.dialer().dialling.clone(), pool.clone());
    drop(pool);
    tokio::task::yield_now().await;
    assert_eq!(dialling.load(Ordering::SeqCst), 1, "a handle is left");
    drop(clone);
    tokio::task::yield_now().await;
    assert_eq!(dialling.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_nobody_waits_for_ends_in_time_and_counts() {
    let pool = pool(1, Plan::Hang);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        let _ = timeout(Duration::from_millis(10), pool.get(id(1))).await;
    }
    assert_eq!(
        pool.dials(),
        4,
        "one dial, with further attempts while they ask"
    );
    sleep(Duration::from_secs(6)).await;
    assert_eq!((pool.dialling(), pool.slots_taken()), (0, 0));
    assert_eq!(pool.state(id(1)), State::TransientFailure);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_removed_is_forgotten_and_its_dial_ends() {
    let pool = pool(2, Plan::Fail);
    pool.get(id(1)).await.expect_err("dead");
    pool.remove(id(1));
    assert_eq!(lock(&pool.shared.peers).len(), 0);
    // No backoff is left, nor is the dial.
    pool.plan(Plan::Hang);
    let mut waiting = task::spawn(pool.get(id(1)));
    assert_pending!(waiting.poll());
    sleep(Duration::from_millis(10)).await;
    assert_eq!(pool.dialling(), 1);
    let watched = pool.watch(id(1));
    pool.plan(Plan::Succeed);
    pool.remove(id(1));
    // The waiting caller dials anew, and a watcher still sees it.
    drop(waiting.await.expect("dialled"));
    assert_eq!(pool.dialling(), 0);
    assert_eq!(*watched.borrow(), State::Ready);
    let connection = pool.peek(id(1)).expect("there");
    pool.remove(id(1));
    assert!(!connection.usable() && pool.peek(id(1)).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_calls_and_refuses_new_ones() {
    let pool = pool(3, Plan::Succeed);
    let used = pool.get(id(1)).await.expect("dialled");
    drop(pool.get(id(2)).await.expect("dialled"));
    let mut shutdown = task::spawn(pool.shut_down());
    assert_pending!(shutdown.poll());
    let refused = pool.get(id(1)).await.expect_err("shut down");
    assert_eq!(refused.kind(), ErrorKind::Closed);
    assert!(used.usable(), "a call is on it");
    // Cancelled and asked again it goes on.
    drop(shutdown);
    let mut shutdown = task::spawn(pool.shut_down());
    assert_pending!(shutdown.poll());
    drop(used);
    assert!(shutdown.is_woken());
    assert_ready!(shutdown.poll());
    assert_eq!(pool.slots_taken(), 0);
}

/// A runtime in a thread of its own, and what ends it.
fn elsewhere() -> (tokio::runtime::Handle, impl FnOnce()) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let end = std::thread::spawn;
    (runtime.handle().clone(), move || {
        end(move || drop(runtime)).join().expect("no panic");
    })
}

#[tokio::test]
async fn a_runtime_that_ends_takes_its_dials_along_and_callers_elsewhere_go_on() {
    let (handle, end) = elsewhere();
    let takes = Duration::from_millis(5);
    let pool = on(Runtime::new(Some(handle)), 2, Plan::Hang, takes);
    let mut waiting = task::spawn(pool.get(id(1)));
    assert_pending!(waiting.poll());
    while pool.dialling() == 0 {
        tokio::task::yield_now().await;
    }
    pool.plan(Plan::Succeed);
    end();
    let used = timeout(Duration::from_secs(5), waiting).await;
    drop(used.expect("in time").expect("dialled here"));
    assert_eq!((pool.dials(), pool.dialling()), (2, 0));
}

/// A first poll that is dropped must not take along the wake of others: https://github.com/rust-lang/futures-rs/issues/2706.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_takes_nobodys_wake_along() {
    for _ in 0..20_000 {
        let pool = pool_that_takes(1, Plan::Succeed, Duration::ZERO);
        let leaves = pool.clone();
        let leaves = tokio::spawn(async move { drop(pool_get_once(&leaves)) });
        let used = timeout(Duration::from_secs(20), pool.get(id(1))).await;
        used.expect("in time").expect("dialled");
        leaves.await.expect("no panic");
    }
}

fn pool_get_once(pool: &Pool<FakeDialer>) -> Option<Result<Use<Fake>, Error>> {
    pool.get(id(1)).now_or_never()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pool_of_idle_connections_never_refuses() {
    let pool = pool_that_takes(2, Plan::Succeed, Duration::ZERO);
    for round in 0..10_000_u32 {
        let get = |n: u32| {
            let pool = pool.clone();
            let peer = id(u8::try_from((round * 2 + n) % 4).expect("small"));
            tokio::spawn(async move { timeout(Duration::from_secs(20), pool.get(peer)).await })
        };
        // Held until both are there: nothing that falls unused helps.
        let (first, second) = tokio::join!(get(0), get(1));
        for got in [first, second] {
            let used = got.expect("no panic").expect("in time");
            used.expect("a place");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_panics_fails_its_waiters_and_returns_its_slot() {
    let pool = pool(1, Plan::Panic);
    let results = join_all((0..3).map(|_| pool.get(id(1)))).await;
    for result in results {
        assert_eq!(result.expect_err("panicked").kind(), ErrorKind::Internal);
    }
    assert_eq!(pool.slots_taken(), 0);
    pool.plan(Plan::Succeed);
    advance(Duration::from_secs(1)).await;
    pool.get(id(1)).await.expect("no lasting harm");
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_hangs_ends_at_its_deadline() {
    let pool = pool(1, Plan::Hang);
    let start = Instant::now();
    let error = pool.get(id(1)).await.expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::DialTimeout);
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(pool.slots_taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_makes_room_and_the_used_stay() {
    let pool = pool(3, Plan::Succeed);
    let used = pool.get(id(1)).await.expect("dialled");
    for n in [2, 3, 2] {
        drop(pool.get(id(n)).await.expect("dialled"));
        advance(Duration::from_secs(1)).await;
    }
    assert_eq!(pool.dials(), 3);
    let fourth = pool.get(id(4)).await.expect("dialled");
    assert!(pool.peek(id(3)).is_none(), "the least recently used is out");
    assert!(pool.peek(id(1)).is_some() && pool.peek(id(2)).is_some());
    assert!(used.usable());
    assert_eq!(pool.slots_taken(), 3);
    drop((used, fourth));
}

#[tokio::test(start_paused = true)]
async fn a_full_pool_lets_a_dial_wait_and_then_says_so() {
    let pool = pool(1, Plan::Succeed);
    let used = pool.get(id(1)).await.expect("dialled");
    let start = Instant::now();
    let error = pool.get(id(2)).await.expect_err("full");
    assert_eq!(error.status().code(), tonic::Code::ResourceExhausted);
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(pool.state(id(2)), State::Idle, "the peer is not to blame");

    let mut waiting = task::spawn(pool.get(id(2)));
    assert_pending!(waiting.poll());
    sleep(Duration::from_millis(1)).await;
    assert_pending!(waiting.poll());
    assert_eq!(pool.late(id(2)).kind(), ErrorKind::Exhausted);
    drop(used);
    sleep(Duration::from_millis(10)).await;
    assert!(waiting.is_woken());
    drop(assert_ready!(waiting.poll()).expect("dialled"));
    assert!(pool.peek(id(1)).is_none());
    assert_eq!(pool.slots_taken(), 1);
}

#[tokio::test(start_paused = true)]
async fn many_peers_take_turns_in_a_small_pool() {
    let pool = pool(2, Plan::Succeed);
    let calls = (0..50u8).map(|n| {
        let pool = pool.clone();
        async move {
            let used = pool.get(id(n)).await?;
            assert!(pool.slots_taken() <= 2);
            sleep(Duration::from_millis(20)).await;
            drop(used);
            Ok::<_, Error>(())
        }
    });
    let results = timeout(Duration::from_secs(60), join_all(calls)).await;
    let results = results.expect("nobody waits for ever");
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert!(pool.slots_taken() <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ended_is_dialled_again_and_late_news_of_it_change_nothing() {
    let pool = pool(2, Plan::Succeed);
    let first = pool.get(id(1)).await.expect("dialled").connection().clone();
    first.close();
    pool.shared.ended(id(1), &first, End::Closed);
    assert_eq!((pool.slots_taken(), pool.state(id(1))), (0, State::Idle));
    let second = pool.get(id(1)).await.expect("dialled").connection().clone();
    assert_eq!((first.number, second.number), (0, 1));
    let late = End::Failed(Error::new(ErrorKind::Lost, "late"));
    pool.shared.ended(id(1), &first, late);
    assert!(Arc::ptr_eq(&pool.peek(id(1)).expect("there"), &second));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_came_to_life_counts_as_a_failed_dial() {
    let pool = pool(2, Plan::Succeed);
    let connection = pool.get(id(1)).await.expect("dialled").connection().clone();
    let refused = Error::new(ErrorKind::Forbidden, "no");
    pool.shared.ended(id(1), &connection, End::Failed(refused));
    let error = pool.get(id(1)).await.expect_err("backing off");
    assert_eq!(error.kind(), ErrorKind::Backoff);
    assert_eq!(error.status().code(), tonic::Code::PermissionDenied);
}

#[tokio::test(start_paused = true)]
async fn what_failed_before_a_connection_that_we_ended_is_forgotten() {
    for evicted in [false, true] {
        let pool = pool(1, Plan::Fail);
        for _ in 0..9 {
            pool.get(id(1)).await.expect_err("as planned");
            advance(Duration::from_secs(31)).await;
        }
        pool.plan(Plan::Succeed);
        drop(pool.get(id(1)).await.expect("dialled"));
        match evicted {
            true => drop(pool.get(id(2)).await.expect("in its place")),
            false => pool.close(id(1)),
        }
        pool.plan(Plan::Fail);
        pool.get(id(1)).await.expect_err("as planned");
        // What a first failure makes wait, at most.
        advance(Duration::from_millis(250)).await;
        let error = pool.get(id(1)).await.expect_err("as planned");
        assert_eq!(error.kind(), ErrorKind::DialFailed, "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_a_call_finds_before_the_driver_does_counts_all_the_same() {
    let pool = pool(2, Plan::Refuse);
    let error = timeout(Duration::from_secs(1), pool.get(id(1))).await;
    let error = error.expect("no loop of dials").expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Backoff);
    assert_eq!(error.status().code(), tonic::Code::PermissionDenied);
    assert_eq!((pool.dials(), pool.slots_taken()), (1, 0));
    assert_eq!(pool.state(id(1)), State::TransientFailure);
}

#[tokio::test(start_paused = true)]
async fn whoever_watches_a_peer_keeps_watching_it() {
    let pool = pool(1, Plan::Succeed);
    let watched = pool.watch(id(1));
    for n in 0..3_000u32 {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        let _ = pool.watch(iroh::SecretKey::from_bytes(&key).public());
    }
    drop(pool.get(id(1)).await.expect("dialled"));
    assert_eq!(*watched.borrow(), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_found_a_user_stays() {
    let pool = pool(2, Plan::Succeed);
    let used = pool.get(id(1)).await.expect("dialled");
    let connection = used.connection().clone();
    assert!(!pool.shared.ended(id(1), &connection, End::Idle));
    drop(used);
    assert!(pool.shared.ended(id(1), &connection, End::Idle));
    assert_eq!(pool.slots_taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn peers_that_are_only_names_are_forgotten() {
    let pool = pool(1, Plan::Fail);
    for n in 0..5_000u32 {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        let id = iroh::SecretKey::from_bytes(&key).public();
        let _ = pool.get(id).await;
        advance(Duration::from_millis(200)).await;
    }
    assert!(lock(&pool.shared.peers).len() <= 1 + REMEMBERED);
}
