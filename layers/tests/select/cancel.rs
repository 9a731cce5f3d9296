//! Dropped at every await.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tower::{Service, ServiceExt};
use tower_iroh_layers::select::{Arm, ArmState, Choice, SelectPolicy, SelectReason};

use crate::arm::{MS, Part, Stage, call, request, settle, stage, table, tasks};

struct Count(AtomicU32);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn prefer_iroh() -> SelectPolicy {
    let policy = SelectPolicy::builder(Choice::Prefer(Arm::First))
        .methods(&table([("x.Y", Choice::Fixed(Arm::First))]));
    policy.build().expect("accepted")
}

/// Polls a call so often, then drops it. Returns whether it was over before.
async fn drop_after(stage: &Stage, path: &str, polls: u32) -> bool {
    let mut client = stage.client.clone();
    client.ready().await.expect("ready");
    let mut call = pin!(client.call(request(path)));
    let waker = Waker::from(Arc::new(Count(AtomicU32::new(0))));
    for _ in 0..polls {
        let mut cx = Context::from_waker(&waker);
        if let Poll::Ready(done) = call.as_mut().poll(&mut cx) {
            drop(done);
            return true;
        }
        tokio::time::sleep(MS * 5).await;
    }
    false
}

/// Every way that a call can take, dropped after every number of polls: nothing is left, and nothing is sent twice.
#[tokio::test(start_paused = true)]
async fn a_dropped_call_leaves_nothing() {
    for part in [
        Part::Answer(tonic::Code::Ok),
        Part::Unreached,
        Part::Lost,
        Part::Hangs,
        Part::Streams,
    ] {
        for (path, iroh, tcp) in [
            ("/a.B/C", true, true),
            ("/a.B/C", false, true),
            ("/a.B/C", true, false),
            ("/x.Y/Z", false, true),
        ] {
            for polls in 0..6 {
                let stage = stage(prefer_iroh());
                stage.iroh.plays(part);
                stage.iroh.takes(MS * 3);
                stage.tcp.takes(MS * 3);
                stage.iroh.ready(iroh);
                stage.tcp.ready(tcp);
                drop_after(&stage, path, polls).await;
                let at = format!("{part:?} {path} {iroh} {tcp} after {polls} polls");
                assert_eq!((stage.iroh.alive(), stage.tcp.alive()), (0, 0), "{at}");
                assert!(stage.iroh.begun() + stage.tcp.begun() <= 1, "{at}");
                // The task goes with the last service, and with it whoever waited.
                let handle = stage.handle.clone();
                drop(stage.client);
                settle().await;
                assert_eq!(tasks(), 0, "{at}");
                drop(handle);
            }
        }
    }
}

/// Whoever leaves while an arm is away does not change what the others find.
#[tokio::test(start_paused = true)]
async fn who_left_is_not_missed() {
    let mut stage = stage(prefer_iroh());
    stage.iroh.ready(false);
    for polls in 0..4 {
        drop_after(&stage, "/x.Y/Z", polls).await;
    }
    assert!(matches!(stage.handle.state().first, ArmState::Away { .. }));
    stage.iroh.ready(true);
    settle().await;
    // None of them went elsewhere, so there is nothing to return from.
    let over = call(&mut stage.client).await.expect("answered");
    assert_eq!(over, (Arm::First, SelectReason::Preferred));
}

/// Polled by another task each time, as in a select loop: the last one is woken.
#[tokio::test(start_paused = true)]
async fn the_last_waker_counts() {
    let mut stage = stage(prefer_iroh());
    stage.iroh.ready(false);
    stage.client.ready().await.expect("ready");
    let mut waits = pin!(stage.client.call(request("/x.Y/Z")));
    let counts = [(); 3].map(|()| Arc::new(Count(AtomicU32::new(0))));
    for count in &counts {
        let waker = Waker::from(count.clone());
        assert!(
            waits
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
    }
    stage.iroh.ready(true);
    assert!(counts[2].0.load(Ordering::Relaxed) >= 1);
    assert!(waits.await.is_ok());
}
