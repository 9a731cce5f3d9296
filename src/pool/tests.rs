//! The pool under virtual time, with connections that only count.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use tokio::time::{advance, sleep};
use tokio_test::{assert_pending, assert_ready, task};

use super::{backoff::Bounds, *};

#[derive(Debug)]
struct Fake {
    uses: Uses,
    closed: AtomicBool,
    number: usize,
    refused: bool,
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
    fn evict(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
    fn installed(self: &Arc<Self>, _: PoolHandle<Self>) {}
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
            sleep(takes).await;
            match plan {
                Plan::Succeed => Ok(Arc::new(Fake {
                    uses,
                    closed: AtomicBool::new(false),
                    number,
                    refused: false,
                })),
                Plan::Refuse => Ok(Arc::new(Fake {
                    uses,
                    closed: AtomicBool::new(true),
                    number,
                    refused: true,
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
    let dialer = FakeDialer {
        plan: Mutex::new(plan),
        takes: Duration::from_millis(5),
        dials: Arc::default(),
        dialling: Arc::default(),
    };
    let settings = PoolConfig {
        max_connections,
        dial_timeout: Duration::from_secs(10),
        backoff: Bounds {
            min: Duration::from_millis(100),
            max: Duration::from_secs(30),
        },
        idle_timeout: Duration::from_secs(300),
        health_interval: Duration::from_secs(30),
    };
    Pool::new(dialer, settings, Runtime::new(None))
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
    assert_eq!(pool.peek(&id(1)).expect("there").uses.open(), 1000);
    drop(uses);
    let connection = pool.peek(&id(1)).expect("there");
    assert_eq!((connection.uses.open(), connection.uses.total()), (0, 1000));
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
async fn a_dial_ends_with_its_last_waiter_and_leaves_nothing() {
    let pool = pool(1, Plan::Hang);
    let mut first = task::spawn(pool.get(id(1)));
    let mut second = task::spawn(pool.get(id(1)));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    advance(Duration::from_millis(1)).await;
    assert_pending!(first.poll());
    assert_eq!((pool.dialling(), pool.slots_taken()), (1, 1));
    assert_eq!(pool.state(id(1)), State::Connecting);
    drop(first);
    assert_eq!(pool.dialling(), 1, "the second still waits");
    drop(second);
    assert_eq!((pool.dialling(), pool.slots_taken()), (0, 0));
    assert_eq!(pool.state(id(1)), State::Idle);
    // The next is not held up by what was abandoned for longer than dials are apart.
    pool.plan(Plan::Succeed);
    let start = Instant::now();
    pool.get(id(1)).await.expect("dialled");
    assert!(start.elapsed() <= Duration::from_millis(110));
    assert_eq!(pool.dials(), 2);
}

#[tokio::test(start_paused = true)]
async fn calls_that_give_up_early_do_not_make_a_dial_each() {
    let pool = pool(1, Plan::Hang);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        let _ = timeout(Duration::from_millis(10), pool.get(id(1))).await;
    }
    assert!(pool.dials() <= 11, "{} dials in a second", pool.dials());
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
    assert!(
        pool.peek(&id(3)).is_none(),
        "the least recently used is out"
    );
    assert!(pool.peek(&id(1)).is_some() && pool.peek(&id(2)).is_some());
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
    advance(Duration::from_millis(1)).await;
    assert_pending!(waiting.poll());
    assert_eq!(pool.late(id(2)).kind(), ErrorKind::Exhausted);
    drop(used);
    assert!(waiting.is_woken());
    assert_pending!(waiting.poll());
    advance(Duration::from_millis(10)).await;
    drop(assert_ready!(waiting.poll()).expect("dialled"));
    assert!(pool.peek(&id(1)).is_none());
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
    pool.gone(id(1), &first, None);
    assert_eq!((pool.slots_taken(), pool.state(id(1))), (0, State::Idle));
    let second = pool.get(id(1)).await.expect("dialled").connection().clone();
    assert_eq!((first.number, second.number), (0, 1));
    pool.gone(id(1), &first, Some(Error::new(ErrorKind::Lost, "late")));
    assert!(Arc::ptr_eq(&pool.peek(&id(1)).expect("there"), &second));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_came_to_life_counts_as_a_failed_dial() {
    let pool = pool(2, Plan::Succeed);
    let connection = pool.get(id(1)).await.expect("dialled").connection().clone();
    let refused = Error::new(ErrorKind::Forbidden, "no");
    pool.gone(id(1), &connection, Some(refused));
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
            false => pool.close(&id(1)),
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
