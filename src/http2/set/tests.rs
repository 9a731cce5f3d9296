use std::{
    sync::{Mutex, atomic::AtomicUsize},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout};
use tokio_test::{assert_pending, assert_ready, task};

use super::*;
use crate::{
    http2::{Explain, LaneConfig, REOPENING},
    lock::lock,
};

/// Knows of what is beneath whether the peer has refused it.
#[derive(Debug)]
struct Beneath {
    refused: bool,
}

impl Explain for Beneath {
    fn explain(&self, error: h2::Error) -> Error {
        match self.refused {
            true => Error::new(ErrorKind::Exhausted, "too many").caused_by(error),
            false => Error::from_h2(error, None),
        }
    }

    fn is_refused(&self, _: &h2::Error) -> bool {
        self.refused
    }
}

/// How the next openings end.
#[derive(Clone, Copy)]
enum Plan {
    Open,
    /// The connection opens, and its peer takes some calls at once and answers none.
    Serve,
    /// The connection opens, and its peer closes it at once.
    Refuse,
    Fail,
    Panic,
}

/// Counts how often it was asked, and opens connections as planned.
struct Opens {
    count: AtomicUsize,
    takes: Duration,
    plan: Mutex<Plan>,
    runtime: Runtime,
    peers: Mutex<Vec<tokio::io::DuplexStream>>,
}

impl Opens {
    fn new() -> Self {
        Self {
            count: AtomicUsize::new(0),
            takes: Duration::ZERO,
            plan: Mutex::new(Plan::Open),
            runtime: Runtime::new(None),
            peers: Mutex::default(),
        }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

impl Opener for Opens {
    fn open(self: &Arc<Self>, new: NewStream) -> BoxFuture<'static, Result<Http2, Error>> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let opens = Arc::downgrade(self);
        let takes = self.takes;
        async move {
            tokio::task::yield_now().await;
            sleep(takes).await;
            let opens = opens.upgrade().expect("held by the test");
            let plan = *lock(&opens.plan);
            match plan {
                Plan::Open | Plan::Serve | Plan::Refuse => {}
                Plan::Fail => return Err(Error::new(ErrorKind::DialFailed, "nobody is there")),
                Plan::Panic => panic!("as planned"),
            }
            let (io, peer) = tokio::io::duplex(64 * 1024);
            let refused = matches!(plan, Plan::Refuse);
            let mut closes = None;
            match plan {
                Plan::Serve => drop(tokio::spawn(serve(peer))),
                // Kept so that the connection stays open.
                Plan::Open => lock(&opens.peers).push(peer),
                _ => closes = Some(peer),
            }
            let beneath = Arc::new(Beneath { refused });
            let confirm = new.confirm;
            let begun = Http2::handshake(io, beneath, &opens.runtime, new).await;
            let (http2, pings) = begun?;
            drop(closes);
            if confirm {
                http2.confirmed(&mut pings.expect("one")).await?;
            }
            Ok(http2)
        }
        .boxed()
    }
}

/// A server that takes ten calls at once, and answers none of them.
async fn serve(io: tokio::io::DuplexStream) {
    let mut server = h2::server::Builder::new();
    let server = server
        .max_concurrent_streams(10)
        .handshake::<_, bytes::Bytes>(io);
    let mut server = server.await.expect("HTTP/2");
    let mut held = Vec::new();
    while let Some(call) = server.accept().await {
        held.push(call);
    }
}

/// One lane, whose peer has not said how many calls it takes.
fn untold(streams: usize, calls: usize) -> LaneSet {
    let lane = LaneConfig::new(0..=7)
        .max_streams(streams)
        .calls_per_stream(calls);
    LaneSet::new(Lanes::new([lane]), Runtime::new(None))
}

/// One lane, whose peer takes as many calls as come.
fn lanes(streams: usize, calls: usize) -> LaneSet {
    let lanes = untold(streams, calls);
    lanes.lanes[0].permits.limit(0, || Some(usize::MAX));
    lanes
}

async fn acquire(lanes: &LaneSet) -> LanePermit {
    let permit = lanes.acquire(Urgency::BULK, None).await;
    permit.expect("a permit")
}

fn kind<T>(result: Result<T, NoStream>) -> ErrorKind {
    match result {
        Err(NoStream::Failed(error)) => error.kind(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("no failure"),
    }
}

#[tokio::test]
async fn a_second_stream_opens_when_the_first_is_full_and_is_opened_once() {
    let lanes = lanes(2, 3);
    let opener = Arc::new(Opens::new());
    let mut tickets = Vec::new();
    for _ in 0..6 {
        tickets.push(acquire(&lanes).await);
    }
    let opened = tickets[..3].iter().map(|ticket| ticket.http2(&opener));
    let opened = futures_util::future::join_all(opened).await;
    assert_eq!(opener.count(), 1, "three at once, one stream");
    let second = tickets[3].http2(&opener).await.expect("open");
    assert!(!Arc::ptr_eq(opened[0].as_ref().expect("open"), &second));
    assert_eq!(opener.count(), 2);
    // A seventh call waits until another one ends, and takes the permit that became free.
    let mut seventh = task::spawn(lanes.acquire(Urgency::HIGHEST, None));
    assert_pending!(seventh.poll());
    tickets.remove(0);
    let seventh = assert_ready!(seventh.poll()).expect("a permit");
    let again = seventh.http2(&opener).await.expect("open");
    assert!(Arc::ptr_eq(opened[1].as_ref().expect("open"), &again));
}

#[tokio::test]
async fn on_a_long_path_calls_are_spread_over_the_streams() {
    let lane = LaneConfig::new(0..=7).max_streams(3).calls_per_stream(2);
    let lanes = LaneSet::new(Lanes::new([lane.spread(true)]), Runtime::new(None));
    let near = [acquire(&lanes).await, acquire(&lanes).await];
    assert_eq!(near.each_ref().map(|ticket| ticket.permit.stream()), [0, 0]);
    drop(near);
    lanes.spread(true);
    let mut far = Vec::new();
    for _ in 0..6 {
        far.push(acquire(&lanes).await);
    }
    let seats: Vec<_> = far.iter().map(|ticket| ticket.permit.stream()).collect();
    assert_eq!(seats, [0, 1, 2, 0, 1, 2]);
    // And where there are fewest.
    far.remove(4);
    assert_eq!(acquire(&lanes).await.permit.stream(), 1);
}

#[tokio::test]
async fn an_ended_stream_is_replaced_once() {
    let lanes = lanes(1, 10);
    let opener = Arc::new(Opens::new());
    let one = acquire(&lanes).await;
    let two = acquire(&lanes).await;
    let ended = one.http2(&opener).await.expect("open");
    one.replace(&ended);
    let fresh = one.http2(&opener).await.expect("open");
    // A call that noticed late does not throw the fresh one away.
    two.replace(&ended);
    let same = two.http2(&opener).await.expect("open");
    assert!(Arc::ptr_eq(&fresh, &same));
    assert_eq!(opener.count(), 2);
}

#[tokio::test]
async fn an_opening_goes_on_without_its_callers() {
    let lanes = lanes(1, 10);
    let opener = Arc::new(Opens::new());
    let ticket = acquire(&lanes).await;
    {
        let mut dropped = task::spawn(ticket.http2(&opener));
        assert_pending!(dropped.poll());
    }
    ticket.http2(&opener).await.expect("open");
    assert_eq!(opener.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_with_a_shorter_deadline_than_the_opening_find_it_open_the_next_time() {
    let lanes = lanes(1, 10);
    let opener = Arc::new(Opens {
        takes: Duration::from_millis(200),
        ..Opens::new()
    });
    let call = async || {
        let ticket = acquire(&lanes).await;
        let open = timeout(Duration::from_millis(50), ticket.http2(&opener));
        open.await.is_ok_and(|opened| opened.is_ok())
    };
    let mut answered = Vec::new();
    for _ in 0..10 {
        answered.push(call().await);
        sleep(Duration::from_secs(1)).await;
    }
    assert!(
        !answered[0] && answered[1..].iter().all(|it| *it),
        "{answered:?}"
    );
    assert_eq!(opener.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_opening_fails_those_who_wait_and_the_next_is_paced() {
    for (plan, expected) in [
        (Plan::Fail, ErrorKind::DialFailed),
        (Plan::Panic, ErrorKind::Internal),
    ] {
        let lanes = lanes(1, 10);
        let opener = Arc::new(Opens::new());
        *lock(&opener.plan) = plan;
        let calls = [acquire(&lanes).await, acquire(&lanes).await];
        let failed = calls.iter().map(|call| call.http2(&opener));
        for failed in futures_util::future::join_all(failed).await {
            assert_eq!(kind(failed), expected);
        }
        // However many call in a second: it is asked for less and less often.
        let began = Instant::now();
        let mut told = 0;
        while began.elapsed() < Duration::from_secs(1) {
            let failed = kind(calls[0].http2(&opener).await);
            told += usize::from(failed == ErrorKind::Backoff);
            sleep(Duration::from_millis(1)).await;
        }
        assert!(told > 900, "{told}");
        let asked = opener.count();
        assert!((3..=5).contains(&asked), "{asked}");
        *lock(&opener.plan) = Plan::Open;
        sleep(REOPENING.max).await;
        calls[0].http2(&opener).await.expect("open");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_peer_refuses_is_opened_again_after_a_while() {
    let lanes = lanes(1, 10);
    let opener = Arc::new(Opens::new());
    *lock(&opener.plan) = Plan::Refuse;
    let call = acquire(&lanes).await;
    let refused = call.http2(&opener).await.expect("open so far");
    sleep(Duration::from_millis(1)).await;
    assert!(refused.ready().is_err());
    call.replace(&refused);
    assert_eq!(kind(call.http2(&opener).await), ErrorKind::Backoff);
    assert_eq!(opener.count(), 1);
    sleep(REOPENING.min * 2).await;
    // From now on the peer is asked before a call goes on a stream.
    assert_eq!(kind(call.http2(&opener).await), ErrorKind::Exhausted);
    assert_eq!(opener.count(), 2);
    *lock(&opener.plan) = Plan::Serve;
    sleep(REOPENING.max).await;
    call.http2(&opener).await.expect("open");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_refused_long_ago_does_not_make_the_next_call_wait() {
    let lanes = lanes(1, 10);
    let opener = Arc::new(Opens::new());
    *lock(&opener.plan) = Plan::Refuse;
    let call = acquire(&lanes).await;
    let refused = call.http2(&opener).await.expect("open so far");
    sleep(REOPENING.max).await;
    *lock(&opener.plan) = Plan::Serve;
    call.replace(&refused);
    call.http2(&opener).await.expect("open");
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_the_open_stream_while_a_further_one_cannot_be_opened() {
    let lanes = lanes(2, 1);
    let opener = Arc::new(Opens::new());
    let first = acquire(&lanes).await;
    first.http2(&opener).await.expect("open");
    *lock(&opener.plan) = Plan::Fail;
    let second = acquire(&lanes).await;
    let paused = second.http2(&opener).await;
    assert!(matches!(paused, Err(NoStream::Paused(_))), "{paused:?}");
    drop(second);
    // There is a place on the second stream, and nobody is let onto it.
    let mut waiting = task::spawn(lanes.acquire(Urgency::BULK, None));
    assert_pending!(waiting.poll());
    drop(first);
    let third = assert_ready!(waiting.poll()).expect("a permit");
    assert_eq!(third.permit.stream(), 0);
    let mut waiting = task::spawn(lanes.acquire(Urgency::BULK, None));
    assert_pending!(waiting.poll());
    *lock(&opener.plan) = Plan::Open;
    sleep(REOPENING.min * 2).await;
    let fourth = assert_ready!(waiting.poll()).expect("a permit");
    assert_eq!(fourth.permit.stream(), 1);
    fourth.http2(&opener).await.expect("open");
    assert_eq!(opener.count(), 3);
}

#[tokio::test]
async fn closed_lanes_let_go_of_all_who_wait() {
    let lanes = lanes(1, 1);
    let opener = Arc::new(Opens {
        takes: Duration::from_secs(3600),
        ..Opens::new()
    });
    let ticket = acquire(&lanes).await;
    let mut opening = task::spawn(ticket.http2(&opener));
    assert_pending!(opening.poll());
    let mut waiting = task::spawn(lanes.acquire(Urgency::HIGHEST, None));
    assert_pending!(waiting.poll());
    drop(lanes.gate().clone().close_on_drop());
    assert!(lanes.gate().is_closed());
    assert!(opening.is_woken() && waiting.is_woken());
    assert!(matches!(
        assert_ready!(opening.poll()),
        Err(NoStream::Closed)
    ));
    assert!(matches!(
        assert_ready!(waiting.poll()),
        Err(NoStream::Closed)
    ));
    assert_eq!(Error::from(NoStream::Closed).kind(), ErrorKind::Lost);
}

#[tokio::test]
async fn an_opening_ends_with_its_lanes() {
    let lanes = lanes(1, 1);
    let opener = Arc::new(Opens {
        takes: Duration::from_secs(3600),
        ..Opens::new()
    });
    lanes.warm(&opener);
    tokio::task::yield_now().await;
    assert_eq!(opener.count(), 1);
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    drop(lanes);
    tokio::task::yield_now().await;
    assert!(tasks() < before, "{} of {before}", tasks());
}

/// Settles all tasks that have something to do.
async fn settled() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_peers_limit_counts_when_a_stream_is_chosen() {
    let lanes = untold(4, 100);
    let opener = Arc::new(Opens::new());
    *lock(&opener.plan) = Plan::Serve;
    let mut calls = Vec::new();
    for _ in 0..30 {
        // The eleventh waits here until the peer's SETTINGS have come.
        let call = acquire(&lanes).await;
        call.http2(&opener).await.expect("open");
        calls.push(call);
    }
    assert_eq!(opener.count(), 3);
    settled().await;
    for stream in 0..3 {
        let here = calls.iter().filter(|call| call.permit.stream() == stream);
        assert_eq!(here.count(), 10);
    }
    // All that the lane may have. Beyond that calls wait here, and the urgent pass.
    for _ in 30..40 {
        calls.push(acquire(&lanes).await);
    }
    let mut bulk = task::spawn(lanes.acquire(Urgency::BULK, None));
    let mut urgent = task::spawn(lanes.acquire(Urgency::HIGHEST, None));
    assert_pending!(bulk.poll());
    assert_pending!(urgent.poll());
    calls.pop();
    assert!(urgent.is_woken() && !bulk.is_woken());
}

fn other() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let mut runtime = { runtime };
    runtime
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Ends a runtime, and waits until all of its tasks are gone.
fn end(runtime: tokio::runtime::Runtime) {
    let ended = std::thread::spawn(move || drop(runtime));
    ended.join().expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_or_opening_that_ends_with_its_runtime_is_replaced_on_another() {
    for takes in [Duration::ZERO, Duration::from_secs(3600)] {
        let away = other();
        let runtime = Runtime::new(Some(away.handle().clone()));
        let lane = LaneConfig::new(0..=7);
        let lanes = LaneSet::new(Lanes::new([lane]), runtime.clone());
        let opener = Arc::new(Opens {
            takes,
            runtime,
            ..Opens::new()
        });
        let here = Arc::new(Opens::new());
        let ticket = acquire(&lanes).await;
        if takes.is_zero() {
            let open = ticket.http2(&opener).await.expect("open");
            assert!(open.ready().is_ok());
            end(away);
            assert!(open.ready().is_err(), "nobody moves its frames");
            ticket.replace(&open);
        } else {
            let mut waiting = task::spawn(ticket.http2(&opener));
            assert_pending!(waiting.poll());
            drop(waiting);
            end(away);
        }
        let open = timeout(Duration::from_secs(5), ticket.http2(&here));
        let open = open.await.expect("no hang").expect("open");
        assert!(open.ready().is_ok());
        assert_eq!((opener.count(), here.count()), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_for_an_opening_goes_on_when_its_runtime_ends() {
    let away = other();
    let runtime = Runtime::new(Some(away.handle().clone()));
    let lanes = LaneSet::new(Lanes::new([LaneConfig::new(0..=7)]), runtime.clone());
    let opener = Arc::new(Opens {
        takes: Duration::from_secs(2),
        runtime,
        ..Opens::new()
    });
    let ticket = acquire(&lanes).await;
    let waits = async {
        let open = ticket.http2(&opener).await.expect("open");
        assert!(open.ready().is_ok());
    };
    let ends = async {
        sleep(Duration::from_millis(50)).await;
        tokio::task::spawn_blocking(move || end(away))
            .await
            .expect("no panic");
    };
    let both = async { tokio::join!(waits, ends) };
    timeout(Duration::from_secs(20), both)
        .await
        .expect("no hang");
    // Once more where the runtime ended between its choice and its use.
    assert!((2..=3).contains(&opener.count()), "{}", opener.count());
}
