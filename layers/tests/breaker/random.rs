//! Whatever the peer does and whoever leaves, nobody waits for ever and there is one probe at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{FutureExt, LocalBoxFuture};
use http::Request;
use proptest::prelude::*;
use tonic::Code;
use tower::{Service, ServiceExt};
use tower_iroh_layers::{
    BoxError, Incident,
    breaker::{Breaker, Circuit},
};

use crate::peer::{Peer, Reply, finish, link};

/// Asserts that while the circuit is half-open one call at a time is under way that began so.
#[derive(Clone)]
struct OneProbe {
    peer: Peer,
    circuit: Circuit,
    probing: Arc<AtomicBool>,
    probes: Arc<AtomicU32>,
}

struct Probing(Arc<AtomicBool>);

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Service<Request<()>> for OneProbe {
    type Response = <Peer as Service<Request<()>>>::Response;
    type Error = BoxError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.peer.poll_ready(cx)
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let state = self.circuit.state();
        let probing = (state.name() == "half_open").then(|| {
            self.probes.fetch_add(1, Ordering::Relaxed);
            assert!(!self.probing.swap(true, Ordering::Relaxed), "two probes");
            Probing(self.probing.clone())
        });
        assert!(state.is_closed() || probing.is_some(), "called while open");
        let call = self.peer.call(request);
        async move {
            let response = call.await;
            drop(probing);
            response
        }
        .boxed_local()
    }
}

fn reply() -> impl Strategy<Value = Reply> {
    let end = prop_oneof![
        4 => Just(Reply::Head(Code::Ok)),
        4 => Just(Reply::Head(Code::Unavailable)),
        1 => Just(Reply::Head(Code::ResourceExhausted)),
        1 => Just(Reply::Head(Code::Cancelled)),
        1 => Just(()).prop_map(|()| link(Incident::new())),
        1 => Just(Reply::Hang),
    ];
    (end, 0u64..50).prop_map(|(end, ms)| Reply::Late(Duration::from_millis(ms), Box::new(end)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nobody_waits_for_ever_and_there_is_one_probe_at_a_time(
        script in proptest::collection::vec(reply(), 0..200),
        // How long a caller waits for readiness and for the answer before it leaves.
        patience in proptest::collection::vec((1u64..3000, 1u64..100), 1..20),
        signs in proptest::collection::vec(1u64..2000, 0..10),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let (circuit, probes) = runtime.block_on(async {
            let circuit = Circuit::new(Default::default());
            let probes = Arc::new(AtomicU32::new(0));
            let peer = Peer::new(script);
            let all = peer.script.clone();
            let peer = OneProbe {
                peer,
                circuit: circuit.clone(),
                probing: Arc::default(),
                probes: probes.clone(),
            };
            let client = Breaker::new(peer, circuit.clone());
            let callers = patience.into_iter().map(|(ready, answer)| {
                let mut client = client.clone();
                async move {
                    let [ready, answer] = [ready, answer].map(Duration::from_millis);
                    for _ in 0..20 {
                        // A service whose caller left may be polled again by the next.
                        let is_ready = tokio::time::timeout(ready, client.ready()).await;
                        if let Ok(client) = is_ready {
                            let call = client.expect("never an error").call(Request::new(()));
                            let _ = tokio::time::timeout(answer, finish(call)).await;
                        }
                    }
                }
            });
            let callers = futures_util::future::join_all(callers);
            let lives = async {
                for ms in signs {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    circuit.sign_of_life();
                }
            };
            tokio::join!(callers, lives);
            // Everybody has left. The peer is well now, and whoever is patient gets an answer.
            all.lock().expect("no panic").clear();
            let mut last = client.clone();
            let patient = async {
                let ready = last.ready().await.expect("never an error");
                finish(ready.call(Request::new(()))).await;
            };
            let hour = Duration::from_secs(3600);
            tokio::time::timeout(hour, patient).await.expect("not for ever");
            (circuit.clone(), probes)
        });
        prop_assert!(circuit.state().is_closed());
        prop_assert_eq!(circuit.statistics().waiting, 0);
        prop_assert!(circuit.statistics().opened <= u64::from(probes.load(Ordering::Relaxed)) + 1);
    }
}
