//! An arm that is ready once it is connected: for a selection between arms.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use super::{Arm, Inner};
use crate::{
    http2::Carries,
    pool::{Dialer, State},
};

/// One wait for readiness.
pub(super) type ConnectionReady = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl<D: Dialer<Connection: Carries>> Arm<D> {
    /// Makes readiness follow the connection. `poll_ready` dials, and is pending until the dial ends. After a failed dial, and during the backoff, it is
    /// ready, so that the call returns the error at once. While the peer is [silent](State::Silent) it is pending.
    ///
    /// The pool owns the dial: it goes on if the caller chooses another arm meanwhile. A clone carries no
    /// readiness, and dropping the arm leaves only the dial.
    pub(in crate::channel) fn waiting(mut self) -> Self {
        self.waits = true;
        self
    }

    pub(super) fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waits {
            return Poll::Ready(());
        }
        if self.readying.is_none() && *self.inner.state.borrow() == State::Ready {
            return Poll::Ready(());
        }
        let inner = &self.inner;
        let readying = self
            .readying
            .get_or_insert_with(|| Box::pin(reach(inner.clone())));
        ready!(readying.as_mut().poll(cx));
        self.readying = None;
        Poll::Ready(())
    }
}

async fn reach<D: Dialer<Connection: Carries>>(inner: Arc<Inner<D>>) {
    // Either the peer answers again or the connection ends. The watch ends only with the links.
    let mut state = inner.state.clone();
    let _ = state.wait_for(|state| *state != State::Silent).await;
    // The call itself reports how the dial ended.
    let _ = inner.get().await;
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use futures_util::StreamExt;
    use http::{HeaderValue, Request};
    use iroh::SecretKey;
    use tokio::{
        net::TcpListener,
        time::{sleep, timeout},
    };
    use tonic::body::Body;
    use tower::Service;
    use tower_iroh_layers::Methods;

    use super::{super::Common, *};
    use crate::{
        error::{Error, ErrorKind},
        peer::Peer,
        tcp::{TcpAcceptor, TcpDialer, TcpLinks},
    };

    const PATIENCE: Duration = Duration::from_secs(15);

    fn arm(links: &TcpLinks, peer: &Peer) -> Arm<TcpDialer> {
        links.add_peer(peer.clone());
        let common = Common {
            scheme: http::uri::Scheme::HTTP,
            authority: http::uri::Authority::from_static("test"),
            user_agent: HeaderValue::from_static("test"),
        };
        let pool = links.pool().clone();
        Arm::new(pool, peer.id(), common, &Methods::default(), None, None).waiting()
    }

    async fn ready(arm: &mut Arm<TcpDialer>) {
        let ready = poll_fn(|cx| arm.poll_ready(cx));
        let ready = timeout(PATIENCE, ready).await.expect("in time");
        ready.expect("readiness never fails");
    }

    /// A server that completes TCP's handshake, and TLS's when it is told to.
    async fn listening() -> (Peer, TcpListener, SecretKey) {
        let key = SecretKey::generate();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let addr = listener.local_addr().expect("an address");
        (Peer::new(key.public()).with_tcp(addr), listener, key)
    }

    fn answer(listener: TcpListener, key: SecretKey) {
        let (_, incoming) = TcpAcceptor::new(listener, key).expect("valid");
        tokio::spawn(incoming.collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn it_is_ready_when_the_connection_is_there() {
        let (peer, listener, key) = listening().await;
        let links = TcpLinks::new(SecretKey::generate());
        let arm = arm(&links, &peer);
        let waits = arm.clone();
        let mut waits = tokio_test::task::spawn(waits);
        tokio_test::assert_pending!(waits.enter(|cx, mut arm| arm.poll_ready(cx)));
        // Another asks for the same, and one dial answers both.
        let mut other = arm.clone();
        let other = tokio::spawn(async move { ready(&mut other).await });
        tokio::task::yield_now().await;
        assert!(!other.is_finished());
        answer(listener, key);
        other.await.expect("no panic");
        assert!(waits.is_woken());
        tokio_test::assert_ready!(waits.enter(|cx, mut arm| arm.poll_ready(cx))).expect("ready");
        // A clone asks anew, and is told at once.
        let mut clone = tokio_test::task::spawn(arm.clone());
        tokio_test::assert_ready!(clone.enter(|cx, mut arm| arm.poll_ready(cx))).expect("ready");
        assert_eq!(links.connections(), 1);
    }

    #[tokio::test]
    async fn a_dial_that_failed_makes_it_ready_for_the_call_to_be_told() {
        let (peer, listener, _) = listening().await;
        drop(listener);
        let links = TcpLinks::builder(SecretKey::generate());
        let hour = Duration::from_secs(3600);
        let links = links.backoff(hour, hour).build().expect("valid");
        let mut arm = arm(&links, &peer);
        ready(&mut arm).await;
        for _ in 0..3 {
            let error = arm.call(Request::new(Body::empty())).await;
            let error = error.err().expect("nobody is there");
            let error = Error::in_chain(&*error).expect("ours");
            assert_eq!(error.kind(), ErrorKind::Backoff);
            // While the next dial is not due it stays so.
            let mut again = tokio_test::task::spawn(arm.clone());
            tokio_test::assert_ready!(again.enter(|cx, mut arm| arm.poll_ready(cx))).expect("so");
        }
    }

    #[tokio::test]
    async fn a_dial_goes_on_without_whoever_began_it_and_ends_with_the_last_clone() {
        let (peer, listener, key) = listening().await;
        let links = TcpLinks::new(SecretKey::generate());
        let arm = arm(&links, &peer);
        let mut state = links.state(peer.id());
        let begin = || {
            let mut impatient = tokio_test::task::spawn(arm.clone());
            tokio_test::assert_pending!(impatient.enter(|cx, mut arm| arm.poll_ready(cx)));
        };
        begin();
        sleep(Duration::from_millis(20)).await;
        assert_eq!(*state.borrow_and_update(), State::Connecting);
        answer(listener, key);
        let there = state.wait_for(|state| *state == State::Ready);
        timeout(PATIENCE, there)
            .await
            .expect("in time")
            .expect("watched");

        links.add_peer(
            peer.clone()
                .with_tcp(listening().await.1.local_addr().expect("bound")),
        );
        links.close(peer.id());
        begin();
        assert_eq!(*state.borrow_and_update(), State::Connecting);
        drop(arm);
        let over = state.wait_for(|state| *state != State::Connecting);
        timeout(PATIENCE, over)
            .await
            .expect("in time")
            .expect("watched");
        assert_eq!(links.connections(), 0);
    }

    async fn answered(arm: &mut Arm<TcpDialer>) {
        let request = Request::new(Body::empty());
        let response = timeout(PATIENCE, arm.call(request)).await.expect("in time");
        assert_eq!(response.expect("answered").status(), http::StatusCode::OK);
    }

    #[tokio::test]
    async fn a_connection_that_waits_for_its_first_call_for_long_is_kept() {
        let (peer, listener, key) = listening().await;
        // The server lets go of connections on which nothing begins.
        let patience = Duration::from_millis(1500);
        let acceptor = TcpAcceptor::builder(key).handshake_timeout(patience);
        let (acceptor, incoming) = acceptor.build(listener).expect("valid");
        let service = tower::service_fn(|_: Request<Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty()))
        });
        let server = tonic::transport::Server::builder();
        tokio::spawn(server.serve_with_incoming(service, incoming));

        let links = TcpLinks::new(SecretKey::generate());
        let mut arm = arm(&links, &peer);
        ready(&mut arm).await;
        let mut state = links.state(peer.id());
        state.mark_unchanged();
        timeout(patience * 2, state.changed())
            .await
            .expect_err("it stays");
        assert_eq!(acceptor.connections(), 1);
        answered(&mut arm).await;
        assert_eq!(acceptor.connections(), 1, "the same one");
    }
}
