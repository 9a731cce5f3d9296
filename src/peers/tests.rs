//! What happens to a directory at once.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
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
        .policy(Policy::from(Arm::Tcp))
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
    peers.set_policy(Policy::from(Arm::Iroh));
    let select = channel.stack().select().expect("a choice");
    assert_eq!(choice(select), Choice::Fixed(Arm::Iroh));
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

/// Whoever begins a rollout waits for the lock when the peer is taken out: it must have been seen before, or not begin.
#[tokio::test]
async fn a_peer_that_is_taken_out_while_its_rollout_begins_leaves_none() {
    let canary = Canary::builder("it", Arm::Iroh).share(100).build();
    let canary = Choice::Canary(canary.expect("valid"));
    let policy = Policy::builder(canary).build().expect("valid");
    let peers = Peers::builder().policy(policy).build();
    peers.begin_rollouts(|_| RolloutConfig::builder("it").build());
    let runtime = tokio::runtime::Handle::current();
    for _ in 0..50 {
        peers.add("it", peer(1));
        let held = lock(&peers.shared.rollouts);
        thread::scope(|scope| {
            scope.spawn(|| {
                let _runtime = runtime.enter();
                peers.select("it");
            });
            for _ in 0..500 {
                thread::yield_now();
            }
            drop(held);
            peers.remove("it");
        });
        assert!(lock(&peers.shared.rollouts).running.is_empty());
    }
    peers.add("it", peer(1));
    peers
        .rollout("it")
        .expect("it begins where nobody is in the way");
}
