//! The first packets of a client, recorded by somebody on the way and delivered by them, as often as they like.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use iroh::{Endpoint, endpoint::ConnectOptions};
use prost::Message as _;
use tokio::{io::AsyncReadExt as _, sync::oneshot};
use tower_iroh::{
    ALPN, Urgency,
    wire::{Kind, Preamble},
};
use tower_iroh_proto::echo::{EchoRequest, StreamRequest};

use crate::{
    relay::{Way, source},
    support::{Client, READ, Server, WRITE, at, early, soon, until},
};

/// So many datagrams are all of a first flight, twice: the second time because nobody has answered.
const ALL: usize = 4;

/// The bytes of a lane on which a client makes these calls at once.
async fn lane(calls: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (io, mut far) = tokio::io::duplex(1 << 20);
    let (mut requests, connection) = h2::client::handshake(io).await.expect("a duplex");
    let (done, sent) = oneshot::channel();
    let driver = tokio::spawn(async move {
        tokio::select! {
            biased;
            _ = connection => {}
            // It has been polled with all that there is to send.
            _ = sent => {}
        }
    });
    let mut open = Vec::new();
    for (path, message) in calls {
        let request = Request::post(format!("http://server{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        let (response, mut body) = requests.send_request(request, false).expect("open");
        let mut framed = vec![0];
        framed.extend((message.len() as u32).to_be_bytes());
        framed.extend(message);
        body.send_data(framed.into(), true).expect("open");
        open.push((response, body));
        // Each call whole before the next one begins.
        tokio::task::yield_now().await;
    }
    done.send(()).expect("it runs");
    driver.await.expect("no panic");
    let preamble = Preamble {
        kind: Kind::Http2,
        urgency: Urgency::INTERACTIVE,
    };
    let mut bytes = preamble.encode().to_vec();
    far.read_to_end(&mut bytes).await.expect("written");
    bytes
}

fn read() -> (&'static str, Vec<u8>) {
    let payload = Bytes::from_static(b"replayed");
    (READ, EchoRequest { payload }.encode_to_vec())
}

fn write() -> (&'static str, Vec<u8>) {
    let message = StreamRequest {
        count: 1,
        size: 1,
        interval_ms: 0,
    };
    (WRITE, message.encode_to_vec())
}

/// Sends bytes on a stream before the handshake, as no client of ours does, and keeps the connection.
async fn send_early(
    endpoint: &Endpoint,
    addr: iroh::EndpointAddr,
    bytes: &[u8],
) -> iroh::endpoint::OutgoingZeroRttConnection {
    let connecting = endpoint.connect_with_opts(addr, ALPN, ConnectOptions::new());
    let connecting = connecting.await.expect("an address");
    let connection = connecting.into_0rtt().expect("a session");
    let (mut send, recv) = connection.open_bi().await.expect("a stream");
    send.write_all(bytes).await.expect("written");
    // The stream lives as long as the connection.
    std::mem::forget((send, recv));
    connection
}

/// The client's own bytes are delivered by somebody who cannot complete its handshake. What is listed runs, and nothing else ever does; there is no layer to
/// forget on this server.
#[tokio::test]
async fn a_replay_reaches_what_is_listed_and_nothing_else() {
    // A single handshake at a time: whoever gets through after the replay proves that it is over.
    let acceptor = early()
        .max_handshakes(1)
        .handshake_timeout(Duration::from_secs(1));
    let server = Server::with(acceptor).await;
    let client = Client::early(&server).await;
    client.get_session(&server).await;

    client.relay.anew(Way::Shut).await;
    let bytes = lane(&[read(), write(), read()]).await;
    let connection = send_early(&client.endpoint, at(client.server, &client.relay), &bytes).await;
    let flight = client.relay.recorded(ALL).await;
    assert!(
        client.relay.early_datagrams() > 0,
        "there is something to replay"
    );
    drop(connection);

    let somebody = source(server.endpoint.bound_sockets()[0]).await;
    for datagram in &flight {
        somebody.send(datagram).await.expect("sent");
    }
    server.has_seen("the listed one", &[(READ, None)]).await;
    client.relay.anew(Way::Open).await;
    get_through(&client).await;
    let methods: Vec<_> = server.seen().into_iter().map(|seen| seen.0).collect();
    assert_eq!(methods, [READ, READ], "the replay's, and the one after it");

    // A session is good for one connection: iroh's server forgets it when it is resumed, so what is delivered later is not even read.
    for datagram in &flight {
        somebody.send(datagram).await.expect("sent");
    }
    let mut answer = [0; 2048];
    soon("an answer", somebody.recv(&mut answer))
        .await
        .expect("the server answers");
    client.hang_up(&server).await;
    get_through(&client).await;
    assert_eq!(server.seen().len(), 1, "{:?}", server.seen());
}

/// Calls until the server has room for a handshake.
async fn get_through(client: &Client) {
    let calls = async {
        while client.read("after it").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the replay's end", calls).await;
}

/// Somebody delivers a client's first packets before the client's own arrive. These are rejected then, and the client, which cannot know, sends its calls again.
#[tokio::test]
async fn whoever_is_overtaken_by_a_replay_repeats_what_may_be_done_twice() {
    let acceptor = early().handshake_timeout(Duration::from_secs(1));
    let server = Server::with(acceptor).await;
    let client = Client::with(&server, |links| {
        links.early_data(true).dial_timeout(Duration::from_secs(25))
    })
    .await;
    client.get_session(&server).await;

    client.relay.anew(Way::Shut).await;
    let (read, write, ()) = tokio::join!(client.read("twice"), client.write(), async {
        let flight = client.relay.recorded(ALL).await;
        let somebody = source(server.endpoint.bound_sockets()[0]).await;
        for datagram in &flight {
            somebody.send(datagram).await.expect("sent");
        }
        server.has_seen("the replay", &[(READ, None)]).await;
        client.relay.anew(Way::Open).await;
        // The client tries again at ever longer intervals; whoever is on the way may do it for it.
        until_resumed(&client, &flight).await;
    });
    read.expect("one answer");
    write.expect("one answer");
    // The dial's first attempt is rejected. Its next one may be faster than the first one's second packet.
    assert_ne!(client.early_data(), None);
    let mut methods: Vec<_> = server.seen().into_iter().map(|seen| seen.0).collect();
    methods.sort();
    assert_eq!(methods, [READ, READ, WRITE], "{:?}", server.seen());
    let write = server.seen().into_iter().find(|seen| seen.0 == WRITE);
    assert_eq!(write, Some((WRITE, Some(client.id()))));
}

/// Delivers a flight, by the client's own way, until the server has let the client in.
async fn until_resumed(client: &Client, flight: &[Vec<u8>]) {
    let state = client.links.state(client.server);
    let deliveries = async {
        while *state.borrow() != tower_iroh::State::Ready {
            client.relay.deliver(flight).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    soon("the client's connection", deliveries).await;
    until("it is known", || {
        client.links.stats(client.server).is_some()
    })
    .await;
}
