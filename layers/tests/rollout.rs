//! The rollout controller's contracts, with calls over two arms under paused time.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep},
};
use tonic::{Code, Status, body::Body};
use tower::{BoxError, Service, ServiceExt, service_fn, util::BoxCloneService};
use tower_iroh_layers::{
    rollout::{Gates, Phase, Rollout, RolloutConfig, RolloutConfigBuilder, RolloutError},
    select::{Arm, Canary, Choice, Select, SelectConfig, SelectHandle, SelectPolicy, StickyKey},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// An arm: how long it takes, and how many of its calls fail.
#[derive(Default)]
struct Script {
    latency_us: AtomicU64,
    /// One call in so many.
    fails_every: AtomicU64,
    calls: AtomicU64,
}

type Service2 = BoxCloneService<Request<Body>, Response<Body>, BoxError>;

impl Script {
    fn new(latency: Duration) -> Arc<Self> {
        let script = Self::default();
        let micros = latency.as_micros() as u64;
        script.latency_us.store(micros, Ordering::Relaxed);
        Arc::new(script)
    }

    fn service(self: &Arc<Self>) -> Service2 {
        let script = self.clone();
        BoxCloneService::new(service_fn(move |_: Request<Body>| {
            let script = script.clone();
            async move {
                let number = script.calls.fetch_add(1, Ordering::Relaxed) + 1;
                // Some scatter, so that a p99 is one.
                let scatter = number * 7919 % 1000;
                let micros = script.latency_us.load(Ordering::Relaxed);
                sleep(Duration::from_micros(micros + scatter)).await;
                let every = script.fails_every.load(Ordering::Relaxed);
                let fails = every > 0 && number.is_multiple_of(every);
                let code = if fails { Code::Internal } else { Code::Ok };
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", (code as i32).into());
                let frames = [
                    Frame::data(Bytes::from_static(b"\0\0\0\0\0")),
                    Frame::trailers(trailers),
                ];
                let frames = tokio_stream::iter(frames.map(Ok::<_, Status>));
                Ok(Response::new(Body::new(StreamBody::new(frames))))
            }
        }))
    }
}

struct Load {
    handle: SelectHandle,
    iroh: Arc<Script>,
    tcp: Arc<Script>,
    task: AbortHandle,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn policy(share: u32) -> SelectPolicy {
    let canary = Canary::builder("to-iroh", Arm::First).share(share);
    let canary = Choice::Canary(canary.build().expect("accepted"));
    SelectPolicy::builder(canary).build().expect("accepted")
}

/// Two hundred calls a second, until it is dropped.
fn load(share: u32) -> Load {
    let (iroh, tcp) = (Script::new(MS * 2), Script::new(MS * 2));
    let handle = SelectHandle::new(policy(share));
    let client = Select::new(iroh.service(), tcp.service(), handle.clone());
    let calls = async move {
        loop {
            let mut client = client.clone();
            tokio::spawn(async move {
                let message = Full::new(Bytes::from_static(b"\0\0\0\0\0"));
                let request = Request::new(Body::new(message));
                let client = client.ready().await.expect("never an error");
                let response = client.call(request).await.expect("an answer");
                response.into_body().collect().await.expect("a body");
            });
            sleep(MS * 5).await;
        }
    };
    Load {
        handle,
        iroh,
        tcp,
        task: tokio::spawn(calls).abort_handle(),
    }
}

fn config() -> RolloutConfigBuilder {
    RolloutConfig::builder("to-iroh").dwell(SECOND * 60)
}

fn start(config: RolloutConfigBuilder, load: &Load) -> Result<Rollout, RolloutError> {
    let config = config.build().expect("accepted");
    Rollout::start(config, load.handle.clone())
}

fn share(load: &Load) -> u32 {
    let seen = load.handle.canary("to-iroh").expect("there");
    seen.canary.share()
}

/// Waits until the rollout is like that, and no longer than so many seconds.
async fn until(rollout: &Rollout, phase: Phase, seconds: u32) {
    let mut states = rollout.subscribe();
    let there = states.wait_for(|state| state.phase == phase);
    let there = tokio::time::timeout(SECOND * seconds, there).await;
    let state = rollout.state();
    assert!(there.is_ok(), "after {seconds} s: {state:?}");
}

/// Waits until the canary has that share, and no longer than a second.
async fn until_share(load: &Load, expected: u32) {
    let there = async {
        while share(load) != expected {
            sleep(MS).await;
        }
    };
    let there = tokio::time::timeout(SECOND, there).await;
    assert!(there.is_ok(), "{} and not {expected}", share(load));
}

/// A file that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("tower-iroh-rollout-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("state.toml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).expect("written")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_arm_gets_everything_step_by_step() {
    let load = load(0);
    sleep(SECOND * 30).await;
    assert_eq!(load.iroh.calls.load(Ordering::Relaxed), 0);
    let rollout = start(config(), &load).expect("started");
    let start = Instant::now();
    let mut states = rollout.subscribe();
    let mut shares = vec![share(&load)];
    while rollout.state().phase != Phase::Complete {
        states.changed().await.expect("it lives");
        if shares.last() != Some(&share(&load)) {
            shares.push(share(&load));
        }
        assert!(start.elapsed() < SECOND * 300, "{:?}", rollout.state());
    }
    assert_eq!(shares, [500, 2500, 5000, 10_000]);
    assert!(start.elapsed() >= SECOND * 240);
    let before = load.tcp.calls.load(Ordering::Relaxed);
    sleep(SECOND * 10).await;
    assert_eq!(load.tcp.calls.load(Ordering::Relaxed), before);
}

#[tokio::test(start_paused = true)]
async fn one_call_in_twenty_that_fails_takes_it_back_within_the_window() {
    let load = load(0);
    load.iroh.fails_every.store(20, Ordering::Relaxed);
    let rollout = start(config(), &load).expect("started");
    let start = Instant::now();
    until(&rollout, Phase::RolledBack, 30).await;
    let window = load
        .handle
        .canary("to-iroh")
        .expect("there")
        .canary
        .window();
    assert!(start.elapsed() <= window, "{:?}", start.elapsed());
    assert_eq!(share(&load), 0);
    let state = rollout.state();
    assert!(
        state.note.contains("calls over the new arm failed"),
        "{}",
        state.note
    );
    // Nobody goes there, until somebody says so.
    let before = load.iroh.calls.load(Ordering::Relaxed);
    load.iroh.fails_every.store(0, Ordering::Relaxed);
    sleep(SECOND * 600).await;
    assert_eq!(load.iroh.calls.load(Ordering::Relaxed), before);
    assert_eq!(rollout.state().phase, Phase::RolledBack);

    rollout.resume();
    assert_eq!((share(&load), rollout.state().stage), (500, 0));
    until(&rollout, Phase::Complete, 300).await;
    assert_eq!(share(&load), 10_000);
}

/// It gets worse only when it has much to do: at the third stage.
#[tokio::test(start_paused = true)]
async fn a_later_stage_rolls_back_as_well_and_so_does_a_p99() {
    for p99 in [false, true] {
        let load = load(0);
        let rollout = start(config(), &load).expect("started");
        let mut states = rollout.subscribe();
        let third = states.wait_for(|state| state.share == 5000);
        tokio::time::timeout(SECOND * 200, third)
            .await
            .expect("in time")
            .expect("it lives");
        match p99 {
            true => load.iroh.latency_us.store(40_000, Ordering::Relaxed),
            false => load.iroh.fails_every.store(20, Ordering::Relaxed),
        }
        until(&rollout, Phase::RolledBack, 30).await;
        let state = rollout.state();
        assert_eq!((state.stage, share(&load)), (2, 0));
        assert_eq!(state.note.contains("p99"), p99, "{}", state.note);
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_last_stage_it_is_compared_with_what_the_old_arm_was_like() {
    let load = load(0);
    let rollout = start(config(), &load).expect("started");
    let mut states = rollout.subscribe();
    let last = states.wait_for(|state| state.share == 10_000);
    last.await.expect("it lives");
    // The old arm's window is empty by then.
    sleep(SECOND * 45).await;
    assert_eq!(rollout.state().phase, Phase::Running);
    load.iroh.fails_every.store(20, Ordering::Relaxed);
    until(&rollout, Phase::RolledBack, 15).await;
    assert_eq!(share(&load), 0);
}

#[tokio::test(start_paused = true)]
async fn it_holds_with_too_few_calls_and_while_it_is_paused() {
    let load = load(0);
    let gates = Gates::builder().min_samples(100_000).build();
    let few = config().gates(gates.expect("accepted"));
    let rollout = start(few, &load).expect("started");
    sleep(SECOND * 600).await;
    let state = rollout.state();
    assert_eq!((state.phase, state.share), (Phase::Running, 500));
    assert!(state.note.contains("of 100000 calls"), "{}", state.note);
    drop(rollout);

    let rollout = start(config(), &load).expect("started");
    rollout.pause();
    sleep(SECOND * 600).await;
    assert_eq!((rollout.state().phase, share(&load)), (Phase::Paused, 500));
    rollout.resume();
    until(&rollout, Phase::Complete, 300).await;
}

#[tokio::test(start_paused = true)]
async fn orders_are_followed_at_once() {
    let load = load(0);
    let rollout = start(config(), &load).expect("started");
    rollout.set_stage(2).expect("there");
    assert_eq!((share(&load), rollout.state().stage), (5000, 2));
    assert!(rollout.set_stage(4).is_err());
    rollout.roll_back("the boss says so");
    assert_eq!(
        (share(&load), rollout.state().phase),
        (0, Phase::RolledBack)
    );
    assert_eq!(rollout.state().note, "the boss says so");
    sleep(SECOND * 100).await;
    assert_eq!(share(&load), 0);
    rollout.set_stage(1).expect("there");
    assert_eq!(
        (share(&load), rollout.state().phase),
        (2500, Phase::Running)
    );
}

/// A policy that is put in force by somebody else, with another share or with none.
#[tokio::test(start_paused = true)]
async fn the_share_is_the_rollout_s_whatever_policy_comes() {
    let load = load(0);
    let rollout = start(config(), &load).expect("started");
    load.handle.swap(policy(9000));
    sleep(MS * 10).await;
    assert_eq!(share(&load), 500);
    load.handle.swap(Arm::Second);
    sleep(SECOND * 100).await;
    let state = rollout.state();
    assert!(state.note.contains("no such canary"), "{}", state.note);
    assert!(state.dwelt < SECOND * 2 && state.share == 500);
    load.handle.swap(policy(0));
    sleep(MS * 10).await;
    assert_eq!(share(&load), 500);
}

#[tokio::test(start_paused = true)]
async fn its_task_ends_with_the_last_handle_and_the_share_stays() {
    let load = load(0);
    sleep(SECOND).await;
    let tasks = || {
        let runtime = tokio::runtime::Handle::current();
        runtime.metrics().num_alive_tasks()
    };
    load.task.abort();
    sleep(SECOND).await;
    assert_eq!(tasks(), 0);
    let rollout = start(config(), &load).expect("started");
    let other = rollout.clone();
    drop(rollout);
    sleep(SECOND).await;
    assert_eq!(tasks(), 1);
    drop(other);
    sleep(SECOND).await;
    assert_eq!((tasks(), share(&load)), (0, 500));
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_where_it_was() {
    let scratch = Scratch::new("restart");
    let config = || config().state_file(scratch.file());
    let first = load(0);
    let rollout = start(config(), &first).expect("started");
    let mut states = rollout.subscribe();
    let second = states.wait_for(|state| state.share == 2500);
    second.await.expect("it lives");
    sleep(SECOND * 45).await;
    drop((rollout, first));
    assert!(
        scratch.text().contains("share = 2500"),
        "{}",
        scratch.text()
    );

    let next = load(0);
    let rollout = start(config(), &next).expect("started");
    let state = rollout.state();
    assert_eq!((state.share, share(&next)), (2500, 2500));
    // It is saved every ten seconds.
    assert!(
        state.dwelt >= SECOND * 30 && state.dwelt < SECOND * 60,
        "{state:?}"
    );
    // What was measured is not, so it holds until there is enough again, and then needs no whole dwell.
    let start_of = Instant::now();
    let mut states = rollout.subscribe();
    let third = states.wait_for(|state| state.share == 5000);
    third.await.expect("it lives");
    assert!(start_of.elapsed() < SECOND * 40, "{:?}", start_of.elapsed());

    next.iroh.fails_every.store(10, Ordering::Relaxed);
    until(&rollout, Phase::RolledBack, 30).await;
    sleep(SECOND).await;
    drop(rollout);
    assert!(scratch.text().contains("rolled_back"), "{}", scratch.text());
    let rollout = start(config(), &next).expect("started");
    assert_eq!(
        (rollout.state().phase, share(&next)),
        (Phase::RolledBack, 0)
    );
    assert!(rollout.state().note.contains("failed"), "the reason too");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_none_closes_it_and_says_where() {
    let scratch = Scratch::new("corrupt");
    let config = || config().state_file(scratch.file());
    let load = load(5000);
    let rollout = start(config(), &load).expect("started");
    until_share(&load, 500).await;
    drop(rollout);
    let good = scratch.text();
    for (bad, line) in [
        (String::new(), 1),
        (good[..good.len() / 2].to_owned(), 0),
        (good.replace("share = 500", "share = 99999"), 7),
        (good.replace("to-iroh", "another"), 3),
        ("\u{0}\u{1}".repeat(100), 1),
        ("x".repeat(100_000), 1),
    ] {
        load.handle.set_share("to-iroh", 5000).expect("there");
        fs::write(scratch.file(), &bad).expect("written");
        let error = start(config(), &load).expect_err("refused");
        let RolloutError::Corrupt { path, line: at, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*path, scratch.file());
        assert!(line == 0 || *at == line, "{error}");
        assert!(error.to_string().contains("remove it"), "{error}");
        assert_eq!(share(&load), 0, "the old arm: {error}");
        let kept = fs::read_to_string(scratch.file()).expect("there");
        assert_eq!(kept, bad, "nobody writes over it");
    }
    fs::remove_file(scratch.file()).expect("removed");
    let _rollout = start(config(), &load).expect("from the beginning");
    until_share(&load, 500).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_kept_does_not_grow() {
    let scratch = Scratch::new("unwritable");
    let load = load(0);
    let folder = scratch.0.join("not/yet");
    let nowhere = config().state_file(folder.join("state.toml"));
    let rollout = start(nowhere, &load).expect("started");
    sleep(SECOND * 300).await;
    let state = rollout.state();
    assert_eq!((share(&load), state.share), (0, 0));
    assert!(state.unsaved.is_some(), "{state:?}");
    fs::create_dir_all(&folder).expect("made");
    sleep(SECOND * 2).await;
    let state = rollout.state();
    assert_eq!((share(&load), state.unsaved), (500, None));
    drop(rollout);

    let rollout = start(config().state_file(scratch.file()), &load).expect("started");
    until_share(&load, 500).await;
    fs::remove_dir_all(&scratch.0).expect("the disk is gone");
    sleep(SECOND * 300).await;
    let state = rollout.state();
    assert_eq!((state.share, state.phase), (500, Phase::Running));
    assert!(
        state.unsaved.is_some() && state.note.contains("saved"),
        "{state:?}"
    );
    // It still goes back.
    load.iroh.fails_every.store(2, Ordering::Relaxed);
    until(&rollout, Phase::RolledBack, 30).await;
    assert_eq!(share(&load), 0);
    load.iroh.fails_every.store(0, Ordering::Relaxed);
    fs::create_dir_all(&scratch.0).expect("it is back");
    sleep(SECOND * 30).await;
    assert!(rollout.state().unsaved.is_none());
    assert!(scratch.text().contains("rolled_back"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_beside_the_file_and_a_canary_is_needed() {
    let scratch = Scratch::new("beside");
    let load = load(0);
    let rollout = start(config().state_file(scratch.file()), &load).expect("started");
    sleep(SECOND * 200).await;
    assert!(share(&load) > 500, "{:?}", rollout.state());
    let files: Vec<_> = fs::read_dir(&scratch.0).expect("there").collect();
    assert_eq!(files.len(), 1, "{files:?}");
    drop(rollout);

    let other = RolloutConfig::builder("other").build().expect("accepted");
    let error = Rollout::start(other, load.handle.clone()).expect_err("none");
    let RolloutError::NoCanary(why) = &error else {
        panic!("{error}");
    };
    assert!(why.accepted().contains("to-iroh"), "{why}");
}

#[test]
fn without_a_runtime_it_says_so() {
    let handle = SelectHandle::new(policy(5000));
    let config = config().build().expect("accepted");
    let error = Rollout::start(config, handle.clone()).expect_err("none");
    assert!(matches!(error, RolloutError::NoRuntime));
    let seen = handle.canary("to-iroh").expect("there");
    assert_eq!(seen.canary.share(), 0);
}

/// The caller's thread may be a runtime's: it reads the file, and somebody else writes it.
#[tokio::test(start_paused = true)]
async fn the_first_state_is_saved_by_another_thread_before_any_call_goes_there() {
    let scratch = Scratch::new("thread");
    let load = load(0);
    let rollout = start(config().state_file(scratch.file()), &load).expect("started");
    // Nobody else has run yet.
    assert!(!scratch.file().exists());
    assert_eq!((share(&load), rollout.state().share), (0, 0));
    until_share(&load, 500).await;
    assert!(scratch.text().contains("share = 500"), "{}", scratch.text());
}

#[tokio::test(start_paused = true)]
async fn an_order_that_exposes_more_calls_is_in_force_once_it_is_saved() {
    let scratch = Scratch::new("orders");
    let load = load(0);
    let rollout = start(config().state_file(scratch.file()), &load).expect("started");
    until_share(&load, 500).await;
    rollout.set_stage(2).expect("there");
    assert_eq!((share(&load), rollout.state().stage), (500, 0));
    until_share(&load, 5000).await;
    assert!(scratch.text().contains("share = 5000"));
    // Whatever takes calls back does so at once.
    rollout.set_stage(1).expect("there");
    assert_eq!(share(&load), 2500);
    sleep(SECOND).await;
    assert!(scratch.text().contains("share = 2500"));

    fs::remove_dir_all(&scratch.0).expect("the disk is gone");
    rollout.set_stage(3).expect("there");
    sleep(SECOND * 5).await;
    let state = rollout.state();
    assert_eq!((share(&load), state.share), (2500, 2500));
    assert!(state.unsaved.is_some(), "{state:?}");
    rollout.pause();
    rollout.roll_back("by hand");
    assert_eq!(share(&load), 0);
    rollout.resume();
    sleep(SECOND * 5).await;
    assert_eq!(
        (share(&load), rollout.state().phase),
        (0, Phase::RolledBack)
    );
    fs::create_dir_all(&scratch.0).expect("it is back");
    sleep(SECOND * 2).await;
    let state = rollout.state();
    assert_eq!((share(&load), state.phase), (500, Phase::Running));
    assert!(state.unsaved.is_none() && scratch.text().contains("share = 500"));
}

#[tokio::test(start_paused = true)]
async fn a_new_arm_that_fails_everything_is_taken_back_whatever_is_known_of_the_old_one() {
    let scratch = Scratch::new("everything");
    let broken = |share| {
        let load = load(share);
        load.iroh.fails_every.store(1, Ordering::Relaxed);
        load
    };
    // At once to all.
    let load = broken(0);
    let rollout = start(config().stages([10_000]), &load).expect("started");
    until(&rollout, Phase::RolledBack, 30).await;
    drop((rollout, load));

    // By hand, right after it began.
    let load = broken(0);
    let rollout = start(config(), &load).expect("started");
    rollout.set_stage(3).expect("there");
    until(&rollout, Phase::RolledBack, 30).await;
    drop((rollout, load));

    // The old arm fails everything too.
    let load = broken(0);
    load.tcp.fails_every.store(1, Ordering::Relaxed);
    let rollout = start(config(), &load).expect("started");
    until(&rollout, Phase::RolledBack, 30).await;
    drop((rollout, load));

    // After a restart with a file that says nothing of the old arm.
    let load = broken(0);
    let kept = || config().state_file(scratch.file());
    let rollout = start(kept().stages([10_000]), &load).expect("started");
    until_share(&load, 10_000).await;
    drop(rollout);
    let text = scratch.text();
    let text = text.lines().filter(|line| !line.starts_with("baseline"));
    let text: Vec<_> = text.collect();
    fs::write(scratch.file(), text.join("\n")).expect("written");
    let load = broken(0);
    let rollout = start(kept().stages([10_000]), &load).expect("started");
    assert_eq!(share(&load), 10_000);
    until(&rollout, Phase::RolledBack, 30).await;
}

/// All calls of a process would go over one arm.
#[tokio::test(start_paused = true)]
async fn a_key_that_all_calls_share_is_refused() {
    let config_with_key = SelectConfig::builder().sticky_key(StickyKey::new("me"));
    let handle =
        SelectHandle::with_config(policy(5000), config_with_key.build().expect("accepted"));
    let config = config().build().expect("accepted");
    let error = Rollout::start(config, handle.clone()).expect_err("refused");
    let RolloutError::SharedKey(why) = &error else {
        panic!("{error}");
    };
    assert_eq!(why.field(), "select.sticky_key");
    let seen = handle.canary("to-iroh").expect("there");
    assert_eq!(seen.canary.share(), 0);
}
