//! Early data that comes to nothing: forgotten sessions, callers who may not, peers that are gone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use iroh::{
    EndpointId, SecretKey,
    endpoint::{AfterHandshakeOutcome, Connection, EndpointHooks},
};
use tonic::Code;
use tower_iroh::{
    EarlyData, Peer, State,
    layers::authorize::{AccessPolicy, PolicyHandle},
    wire::close,
};

use crate::{
    relay::{Relay, Way},
    support::{Client, NoHooks, READ, Server, WRITE, at, early, endpoint, soon, until},
};

/// A server that has restarted under the same key has forgotten its sessions.
#[tokio::test]
async fn what_a_restarted_server_rejects_is_sent_again() {
    let key = SecretKey::from_bytes(&[42; 32]);
    let server = Server::on(endpoint(Some(key.clone()), NoHooks).await, early(), None);
    let client = Client::early(&server).await;
    client.get_session(&server).await;
    server.router.shutdown().await.expect("shut down");

    let server = Server::on(endpoint(Some(key), NoHooks).await, early(), None);
    let relay = Relay::to(server.endpoint.bound_sockets()[0]).await;
    client.links.add_peer(Peer::from(at(client.server, &relay)));
    let (careless, read, write) = tokio::join!(
        client.write_carelessly(),
        client.read("again"),
        client.write()
    );
    careless.expect("one answer");
    read.expect("one answer");
    write.expect("one answer");
    assert_eq!(client.early_data(), Some(EarlyData::Rejected));
    let mut methods: Vec<_> = server.seen().into_iter().map(|seen| seen.0).collect();
    methods.sort();
    assert_eq!(methods, [READ, WRITE, WRITE], "each once");
    let stats = client.links.stats(client.server).expect("connected");
    assert_eq!((stats.calls, stats.open_calls), (3, 0));
}

/// Once switched on, refuses everybody.
#[derive(Clone, Debug, Default)]
struct Refuse(Arc<AtomicBool>);

impl EndpointHooks for Refuse {
    async fn after_handshake<'a>(&'a self, _: &'a Connection) -> AfterHandshakeOutcome {
        match self.0.load(Ordering::SeqCst) {
            false => AfterHandshakeOutcome::Accept,
            true => AfterHandshakeOutcome::Reject {
                error_code: close::FORBIDDEN,
                reason: b"not any more".to_vec(),
            },
        }
    }
}

#[tokio::test]
async fn whoever_a_hook_refuses_reaches_nothing_but_what_is_listed() {
    let refuse = Refuse::default();
    let server = Server::on(endpoint(None, refuse.clone()).await, early(), None);
    let client = Client::early(&server).await;
    client.get_session(&server).await;

    refuse.0.store(true, Ordering::SeqCst);
    let careless = client.write_carelessly().await;
    let status = careless.expect_err("refused");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    // Whoever is let in again is served after all that was there before.
    refuse.0.store(false, Ordering::SeqCst);
    until_read(&client).await;
    let methods: Vec<_> = server.seen().into_iter().map(|seen| seen.0).collect();
    assert_eq!(methods, [READ], "the other one waited for the handshake");
}

fn policy(peers: &[(EndpointId, &str)], anybody: bool) -> AccessPolicy {
    let mut policy = AccessPolicy::builder()
        .role("reader", [READ])
        .role("writer", [READ, WRITE]);
    for (id, role) in peers {
        policy = policy.peer(id.to_string(), [*role]);
    }
    if anybody {
        policy = policy.anonymous(["reader"]).authenticated(["reader"]);
    }
    policy.build().expect("a policy")
}

/// The caller has the permission and has not proved to be the one who has it.
#[tokio::test]
async fn an_early_call_is_an_anonymous_one() {
    let handle = PolicyHandle::new(policy(&[], true));
    let server = Server::on(endpoint(None, NoHooks).await, early(), Some(&handle));
    let client = Client::early(&server).await;
    handle.reload(policy(&[(client.id(), "writer")], false));
    client.get_session(&server).await;

    client.relay.anew(Way::FirstFlight).await;
    let status = soon("a refusal", client.read("early")).await;
    let status = status.expect_err("nobody has proved anything");
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    client.relay.set(Way::Open);
    until("the handshake", || server.acceptor.connections() == 1).await;
    client.read("later").await.expect("permitted");
    client.write().await.expect("permitted");
    let known = Some(client.id());
    server
        .has_seen("what was permitted", &[(READ, known), (WRITE, known)])
        .await;
}

/// With the policy the acceptor knows whom there is no point in answering early.
#[tokio::test]
async fn what_the_policy_does_not_give_to_anybody_waits_for_the_handshake() {
    let handle = PolicyHandle::new(policy(&[], true));
    let acceptor = early().early_data_policy(&handle);
    let server = Server::on(endpoint(None, NoHooks).await, acceptor, Some(&handle));
    let client = Client::early(&server).await;
    client.get_session(&server).await;

    // Anonymous callers may: it is answered early.
    client.relay.anew(Way::FirstFlight).await;
    soon("an early answer", client.read("early"))
        .await
        .expect("permitted");
    assert_eq!(server.seen(), [(READ, None)]);
    client.relay.set(Way::Open);
    until("the handshake", || server.acceptor.connections() == 1).await;
    client.hang_up(&server).await;

    // Only this caller may.
    handle.reload(policy(&[(client.id(), "reader")], false));
    client.read("known").await.expect("permitted");
    assert_eq!(client.early_data(), Some(EarlyData::Accepted));
    assert_eq!(server.seen(), [(READ, Some(client.id()))]);
    client.hang_up(&server).await;

    // Nobody may, and whoever is known is told another thing than who is not.
    handle.reload(policy(&[], false));
    let status = client.read("refused").await.expect_err("revoked");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert_eq!(server.seen(), []);
}

#[tokio::test]
async fn a_resumed_dial_that_fails_is_a_failed_dial() {
    let server = Server::early().await;
    let client = Client::with(&server, |links| {
        links.early_data(true).dial_timeout(Duration::from_secs(1))
    })
    .await;
    client.get_session(&server).await;

    client.relay.anew(Way::Shut).await;
    let status = soon("the dial's end", client.read("lost")).await;
    let status = status.expect_err("nobody answers");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let state = client.links.state(client.server);
    assert_eq!(*state.borrow(), State::TransientFailure);
    assert_eq!(client.links.connections(), 0);

    client.relay.set(Way::Open);
    until_read(&client).await;
}

#[tokio::test]
async fn an_early_call_that_is_dropped_leaves_the_dial_going_on() {
    let server = Server::early().await;
    let client = Client::early(&server).await;
    client.get_session(&server).await;

    client.relay.anew(Way::Shut).await;
    {
        let mut read = std::pin::pin!(client.read("dropped"));
        tokio::select! {
            _ = &mut read => panic!("nobody answers"),
            _ = client.relay.recorded(1) => {}
        }
        assert_eq!(client.links.connections(), 1);
    }
    let state = client.links.state(client.server);
    assert_eq!(
        (client.links.connections(), *state.borrow()),
        (1, State::Connecting),
        "the dial is the pool's"
    );
    client.relay.set(Way::Open);
    until_read(&client).await;
}

async fn until_read(client: &Client) {
    let calls = async {
        while client.read("back").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the peer's recovery", calls).await;
}
