//! What happens to a directory at once.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use http::Request;
use iroh::{Endpoint, SecretKey};
use tokio::time::timeout;
use tonic::body::Body;
use tower::ServiceExt;
use tower_iroh_layers::select::{Arm, Canary, Choice};

use super::*;
use crate::{error::ErrorKind, quic::presets::Offline};

const PATIENCE: Duration = Duration::from_secs(20);

fn peer(seed: u8) -> Peer {
    Peer::new(SecretKey::from_bytes(&[seed; 32]).public())
}

/// Which policy is in force.
fn choice(select: &SelectHandle) -> Choice {
    select.policy().choice("/a.B/C", Default::default()).clone()
}

/// A directory over both transports, in which somebody changes something while its first channel is made.
async fn changed_meanwhile(change: impl Fn(&Peers) + Send + Sync + 'static) -> Peers {
    let (this, is_changed) = (
        Arc::<OnceLock<Peers>>::default(),
        Arc::new(AtomicBool::new(false)),
    );
    let of = this.clone();
    let endpoint = Endpoint::bind(Offline).await.expect("it binds");
    let peers = Peers::builder()
        .tcp(TcpLinks::new(endpoint.secret_key().clone()))
        .iroh(Links::new(endpoint))
        .policy(SelectPolicy::from(Arm::Second))
        .channel(move |_, channel| {
            if !is_changed.swap(true, Ordering::SeqCst) {
                change(of.get().expect("set"));
            }
            channel.stack(|stack| stack.without_retry().without_fail_fast())
        })
        .build();
    this.set(peers.clone()).expect("once");
    peers
}

/// The channel that is kept is reached by the next policy.
#[tokio::test]
async fn a_channel_that_was_made_while_its_peer_left_is_not_kept() {
    let peers = changed_meanwhile(|peers| {
        peers.remove("it");
        peers.add("it", peer(1));
    });
    let peers = peers.await;
    peers.add("it", peer(1));
    peers.channel("it").expect("made");
    let channel = peers.channel("it").expect("made");
    peers.set_policy(SelectPolicy::from(Arm::First));
    let select = channel.stack().select().expect("a choice");
    assert_eq!(choice(select), Choice::Fixed(Arm::First));
}

#[tokio::test]
async fn a_channel_that_is_made_does_not_say_again_where_its_peer_was() {
    let peers = changed_meanwhile(|peers| {
        peers.add("it", peer(1));
    });
    let peers = peers.await;
    // Nobody listens there.
    let gone: crate::peer::TcpAddr = "127.0.0.1:9".parse().expect("an address");
    peers.add("it", peer(1).with_tcp(gone));
    let channel = peers.channel_over("it", TransportKind::Tcp).expect("made");
    let call = channel.oneshot(Request::new(Body::empty()));
    let error = timeout(PATIENCE, call).await.expect("in time");
    let error = error.expect_err("nobody knows where it is");
    assert_eq!(error.kind(), ErrorKind::NoAddress, "{error:?}");
}

/// A directory whose policy has a canary for rollouts.
fn with_canary(builder: PeersBuilder) -> Peers {
    let canary = Canary::builder("it", Arm::First).share(100).build();
    let canary = Choice::Canary(canary.expect("valid"));
    let policy = SelectPolicy::builder(canary).build().expect("valid");
    builder.policy(policy).build()
}

/// A rollout that began for a peer which left meanwhile ends with the call that began it.
#[tokio::test]
async fn a_peer_that_is_taken_out_while_its_rollout_begins_leaves_none() {
    let peers = with_canary(Peers::builder());
    let (asked, asks) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let goes_on = Mutex::new(goes_on);
    peers.begin_rollouts(move |_| {
        asked.send(()).expect("the test waits");
        lock(&goes_on).recv().expect("the test goes on");
        RolloutConfig::builder("it").build()
    });
    let runtime = tokio::runtime::Handle::current();
    peers.add("it", peer(1));
    thread::scope(|scope| {
        let begins = scope.spawn(|| {
            let _runtime = runtime.enter();
            peers.rollout("it");
        });
        asks.recv_timeout(PATIENCE).expect("the plan is asked");
        peers.remove("it");
        go_on.send(()).expect("the plan waits");
        begins.join().expect("no panic");
    });
    assert!(lock(&peers.shared.directory).slots.is_empty());
    let ended = async {
        while runtime.metrics().num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ended).await.expect("its task ends");

    peers.add("it", peer(1));
    go_on.send(()).expect("the plan waits");
    peers
        .rollout("it")
        .expect("it begins where nobody is in the way");
}

/// A plan is the program's own code: it may do with the directory whatever the program may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_may_use_the_directory() {
    let endpoint = Endpoint::bind(Offline).await.expect("it binds");
    let builder = Peers::builder()
        .tcp(TcpLinks::new(endpoint.secret_key().clone()))
        .iroh(Links::new(endpoint));
    let peers = with_canary(builder);
    for (name, seed) in [("one", 1), ("two", 2)] {
        peers.add(name, peer(seed));
        peers.channel(name).expect("made");
    }
    let (of, calls) = (peers.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = calls.clone();
    let begun = tokio::task::spawn_blocking(move || {
        let plan_of = of.clone();
        of.begin_rollouts(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            plan_of.channel("one").expect("known");
            plan_of.rollout("two");
            plan_of.add("three", peer(3));
            plan_of.channel("three").expect("known");
            plan_of.remove("three");
            plan_of.set_policy(plan_of.policy());
            RolloutConfig::builder("it").build()
        });
    });
    let begun = timeout(PATIENCE, begun).await;
    begun
        .expect("it does not wait for itself")
        .expect("no panic");
    for name in ["one", "two"] {
        assert!(peers.rollout(name).is_some(), "{name}");
    }
    assert!(calls.load(Ordering::SeqCst) >= 2);
    assert_eq!(peers.get("three"), None);
}

/// A plan that is taken back while it is asked begins nothing.
#[tokio::test]
async fn a_plan_that_was_replaced_while_it_was_asked_begins_nothing() {
    let peers = with_canary(Peers::builder());
    peers.add("it", peer(1));
    peers.select("it");
    let of = peers.clone();
    peers.begin_rollouts(move |_| {
        of.begin_rollouts(|_| RolloutConfig::builder("it").stages([2000]).build());
        RolloutConfig::builder("it").stages([1000]).build()
    });
    let rollout = peers.rollout("it").expect("the newer one runs");
    assert_eq!(rollout.state().share, 2000);
    let of = peers.clone();
    peers.begin_rollouts(move |_| {
        of.end_rollouts();
        RolloutConfig::builder("it").build()
    });
    assert!(peers.rollout("it").is_none());
}

/// Nodes come and go for ever: what is kept of those that left has a bound.
#[tokio::test]
async fn names_that_left_do_not_add_up() {
    const MANY: u32 = 100_000;
    let peers = Peers::builder()
        .tcp(TcpLinks::new(SecretKey::generate()))
        .build();
    // An identity is a point on a curve, which few numbers are not.
    let mut ids = (0_u64..).filter_map(|n| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        iroh::EndpointId::from_bytes(&bytes).ok()
    });
    let addr: crate::peer::TcpAddr = "192.0.2.1:7001".parse().expect("an address");
    for _ in 0..MANY {
        let id = ids.next().expect("endless");
        peers.add("it", Peer::new(id).with_tcp(addr.clone()));
        peers.remove("it");
    }
    let directory = lock(&peers.shared.directory);
    assert_eq!((directory.peers.len(), directory.slots.len()), (0, 0));
    assert_eq!(directory.departed(), 256);
}
