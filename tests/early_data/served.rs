//! What early data does when nothing goes wrong, and that nobody gets it unasked.

use tower_iroh::{Acceptor, EarlyData, State};

use crate::{
    relay::Way,
    support::{Client, READ, Server, WRITE, early, soon, until},
};

/// The server's handshake cannot be complete: nothing that the client says after the server's first answer arrives.
#[tokio::test]
async fn an_idempotent_call_is_answered_before_the_handshake_is_complete() {
    let server = Server::early().await;
    let client = Client::early(&server).await;
    client.get_session(&server).await;

    client.relay.anew(Way::FirstFlight).await;
    client.relay.hold_answers(true);
    let (answer, ()) = tokio::join!(soon("an early answer", client.read("early")), async {
        let early = [(READ, None)];
        server.has_seen("nobody had proved anything", &early).await;
        client.relay.hold_answers(false);
    });
    answer.expect("answered");
    assert_eq!(server.acceptor.connections(), 0, "no handshake, no peer");
    assert_eq!(client.early_data(), Some(EarlyData::Accepted));

    // The same connection, and the same lane, once the handshake is complete.
    client.relay.set(Way::Open);
    until("the handshake", || server.acceptor.connections() == 1).await;
    soon("an answer", client.read("later"))
        .await
        .expect("answered");
    soon("an answer", client.write()).await.expect("answered");
    let known = Some(client.id());
    let all = [(READ, None), (READ, known), (WRITE, known)];
    server.has_seen("each call once", &all).await;
    let stats = client.links.stats(client.server).expect("connected");
    assert_eq!((stats.calls, stats.open_calls), (3, 0));
}

/// The client says that both may be done twice, the server knows better.
#[tokio::test]
async fn a_call_that_the_server_does_not_list_waits_for_the_handshake() {
    let server = Server::early().await;
    let client = Client::early(&server).await;
    client.get_session(&server).await;

    client.relay.anew(Way::FirstFlight).await;
    client.relay.hold_answers(true);
    let (read, write) = tokio::join!(client.read("early"), async {
        server.has_seen("an early call", &[(READ, None)]).await;
        let before = client.relay.early_datagrams();
        let (write, ()) = tokio::join!(client.write_carelessly(), async {
            let left = || client.relay.early_datagrams() > before;
            until("the call that the server does not list", left).await;
            client.relay.hold_answers(false);
            client.relay.set(Way::Open);
        });
        write
    });
    read.expect("answered");
    write.expect("answered");
    let all = [(READ, None), (WRITE, Some(client.id()))];
    server.has_seen("each call once", &all).await;
}

#[tokio::test]
async fn a_call_that_may_not_be_done_twice_leaves_after_the_handshake() {
    // A server that would serve it early.
    let server = Server::with(early().early_data([WRITE])).await;
    let client = Client::early(&server).await;
    client.get_session(&server).await;

    client.relay.anew(Way::Open).await;
    client.write().await.expect("answered");
    assert_eq!(client.relay.early_datagrams(), 0);
    assert_eq!(client.early_data(), Some(EarlyData::Accepted));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_server_serves_nothing_early_by_default() {
    let server = Server::with(Acceptor::builder()).await;
    let client = Client::early(&server).await;
    client.get_session(&server).await;

    client.relay.anew(Way::FirstFlight).await;
    let state = client.links.state(client.server);
    let (read, ()) = tokio::join!(client.read("early"), async {
        // The client's first flight has arrived, or there would be no answer to it.
        until("the client's handshake", || *state.borrow() == State::Ready).await;
        client.relay.set(Way::Open);
    });
    read.expect("answered");
    assert!(client.relay.early_datagrams() > 0, "it left early");
    server
        .has_seen("it waited", &[(READ, Some(client.id()))])
        .await;
}

#[tokio::test]
async fn a_client_sends_nothing_early_by_default() {
    let server = Server::early().await;
    let client = Client::with(&server, |links| links).await;
    client.get_session(&server).await;

    client.relay.anew(Way::Open).await;
    client.read("not early").await.expect("answered");
    assert_eq!(client.relay.early_datagrams(), 0);
    assert_eq!(client.early_data(), None);
    assert_eq!(server.seen().len(), 1);
}
