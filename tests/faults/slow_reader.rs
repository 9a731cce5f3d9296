//! Readers that do not read: of many small messages, and of one lane beside another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use iroh::{
    Endpoint,
    endpoint::{Connection, ConnectionError, QuicTransportConfig, TransportErrorCode, VarInt},
};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tower_iroh::{Peer, Urgency, presets::Offline};
use tower_iroh_proto::echo::{StreamRequest, echo_client::EchoClient, echo_server::EchoServer};

use crate::{
    rawlane::{self, Lane},
    support::{
        Arm, Caller, ENDLESS, Faulty, Server, Stage, offline, on_both_arms, raw, request, soon,
        until,
    },
};

on_both_arms! {
    slow_reader_of_small_messages_lives
}

/// More than the 2048 frames that QUIC lets wait unread on a stream.
const MESSAGES: u64 = 3000;

/// Each message is answered before the next is sent, so each travels in a packet of its own, and nobody reads the answers.
async fn slow_reader_of_small_messages_lives(arm: Arm) {
    let server = Server::start().await;
    let caller = Caller::new(arm, &server.peer).await;
    let (send, messages) = mpsc::channel(1);
    let mut client = caller.client();
    let call = client.bidi_stream(ReceiverStream::new(messages));
    let mut answers = soon("the stream", call)
        .await
        .expect("a stream")
        .into_inner();
    for n in 0..MESSAGES {
        let message = request(format!("message {n:>30}").as_bytes());
        send.send(message).await.expect("open");
        server
            .stage
            .wait("the message", |counts| counts.heard == n + 1)
            .await;
    }
    let stats = caller
        .links
        .stats(server.peer.id())
        .expect("still connected");
    assert!(stats.sent_packets > 2048, "{stats}");
    // Others on the same lane are served meanwhile.
    soon("an answer", caller.echo(b"beside it"))
        .await
        .expect("answered");
    drop(send);
    for n in 0..MESSAGES {
        let answer = soon("an answer", answers.message()).await;
        let answer = answer.expect("intact").expect("not the end");
        assert_eq!(answer.payload, format!("message {n:>30}").as_bytes());
    }
    let end = soon("the end", answers.message()).await;
    assert!(end.expect("a clean end").is_none());
    let after = caller
        .links
        .stats(server.peer.id())
        .expect("still connected");
    assert_eq!(after.established_at, stats.established_at);
}

/// The control: on a raw stream the same closes the connection. Without it the test above could not fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_stream_is_closed_at_2048_frames() {
    let (peer, accepted) = raw_server(|connection| async move {
        let _unread = connection.accept_bi().await.expect("a stream");
        connection.closed().await
    })
    .await;
    let endpoint = offline().await;
    let connection = raw(&endpoint, &peer).await;
    let (mut send, _recv) = connection.open_bi().await.expect("a stream");
    let mut written = 0;
    while written < MESSAGES && connection.close_reason().is_none() {
        let before = connection.stats().udp_tx.datagrams;
        if send.write_all(&[0; 38]).await.is_err() {
            break;
        }
        written += 1;
        let packet = async {
            while connection.stats().udp_tx.datagrams == before
                && connection.close_reason().is_none()
            {
                tokio::task::yield_now().await;
            }
        };
        soon("the packet", packet).await;
    }
    match soon("the close", accepted).await.expect("no panic") {
        ConnectionError::TransportError(error) => {
            assert_eq!(error.code, TransportErrorCode::INTERNAL_ERROR);
            assert!(error.reason.contains("too many gaps"), "{error}");
        }
        other => panic!("{written} unread messages, and the connection ended by {other:?}"),
    }
    assert!((2048..2400).contains(&written), "after {written} messages");
}

/// Accepts one raw connection.
async fn raw_server<F>(
    serve: impl FnOnce(Connection) -> F + Send + 'static,
) -> (Peer, tokio::task::JoinHandle<F::Output>)
where
    F: Future<Output: Send + 'static> + Send,
{
    let endpoint = offline().await;
    endpoint.set_alpns(vec![tower_iroh::ALPN.to_vec()]);
    let peer = Peer::of(&endpoint).expect("dialable");
    let serving = tokio::spawn(async move {
        let connection = endpoint
            .accept()
            .await
            .expect("open")
            .await
            .expect("shaken");
        serve(connection).await
    });
    (peer, serving)
}

/// Latencies of small calls, one after the other: the median and the worst.
async fn latencies<T>(client: &mut EchoClient<T>, calls: usize) -> (Duration, Duration)
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<tower::BoxError>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<tower::BoxError> + Send,
{
    let mut all = Vec::with_capacity(calls);
    for _ in 0..calls {
        let start = Instant::now();
        let answer = soon(
            "an answer on the healthy lane",
            client.echo(request(&[7; 64])),
        )
        .await;
        answer.expect("answered");
        all.push(start.elapsed());
    }
    all.sort();
    (all[calls / 2], all[calls - 1])
}

/// What the healthy lane may become beside a stalled one, on a machine that others use too.
fn assert_unhurt(before: (Duration, Duration), beside: (Duration, Duration)) {
    println!("median and worst: {before:?} alone, {beside:?} beside a stalled lane");
    assert!(
        beside.0 < before.0 * 3 + Duration::from_millis(100),
        "{before:?}, {beside:?}"
    );
    assert!(beside.1 < Duration::from_secs(3), "{before:?}, {beside:?}");
}

/// A client that stops reading one lane does not stop its other lane: the acceptor's side of the promise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lane_whose_client_stops_reading_does_not_stop_another() {
    let server = Server::start().await;
    let endpoint = offline().await;
    let connection = raw(&endpoint, &server.peer).await;
    // A client of its own sees to its own windows: room for the stalled lane and for the other.
    connection.set_receive_window(VarInt::from_u32(8 << 20));
    let (healthy, _) = rawlane::channel(&connection, Some(Urgency::INTERACTIVE)).await;
    let mut healthy = EchoClient::new(healthy);
    let before = latencies(&mut healthy, 200).await;

    for urgency in [Urgency::BULK, Urgency::INTERACTIVE, Urgency::CONTROL] {
        let first = connection.stats().udp_rx.bytes;
        let (stalled, stopped) = rawlane::channel(&connection, Some(urgency)).await;
        let flood = StreamRequest {
            count: ENDLESS,
            size: 64 << 10,
            interval_ms: 0,
        };
        let call = EchoClient::new(stalled).server_stream(flood).await;
        let mut unread = call.expect("a stream").into_inner();
        soon("a message", unread.message()).await.expect("sent");
        stopped.store(true, Ordering::SeqCst);
        // The server sends until the stream's window is full, and then nothing.
        settled("the flood's stop", first, || {
            connection.stats().udp_rx.bytes
        })
        .await;
        assert_unhurt(before, latencies(&mut healthy, 300).await);
        // Dropped only now: the stream stays open while it is measured.
        std::mem::forget(unread);
    }
    assert_eq!(connection.close_reason(), None);
}

/// Waits until a count of bytes has left what it was behind and stays nearly what it is.
async fn settled(what: &str, first: u64, bytes: impl Fn() -> u64) {
    let settling = async {
        let mut last = first;
        loop {
            sleep(Duration::from_millis(100)).await;
            let now = bytes();
            if now > first + 1_000_000 && now - last < 10_000 {
                return;
            }
            last = now;
        }
    };
    soon(what, settling).await;
}

/// A server that stops reading one lane does not stop our channel's other lanes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lane_whose_server_stops_reading_does_not_stop_another() {
    let stage = Stage::default();
    let service = EchoServer::new(Faulty(stage.clone()));
    let (peer, serving) = raw_server(move |connection| async move {
        connection.set_receive_window(VarInt::from_u32(8 << 20));
        let (lanes, incoming) = mpsc::channel(4);
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(ReceiverStream::new(incoming).map(Ok::<_, std::io::Error>)),
        );
        let mut stalled = Vec::new();
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let mut preamble = [0; 3];
            recv.read_exact(&mut preamble).await.expect("a preamble");
            if preamble[2] >= Urgency::BULK.get() {
                // SETTINGS with the largest window for a call, WINDOW_UPDATE to the largest for all, and not a byte is read.
                let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff];
                let update = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0, 0];
                send.write_all(&settings).await.expect("written");
                send.write_all(&update).await.expect("written");
                stalled.push((send, recv));
            } else {
                lanes.send(Lane::new((send, recv))).await.expect("served");
            }
        }
    })
    .await;
    let caller = Caller::new(Arm::Channel, &peer).await;
    let mut healthy = caller.client();
    let before = latencies(&mut healthy, 200).await;
    let sent = || {
        caller
            .links
            .stats(peer.id())
            .map_or(0, |stats| stats.bytes_sent)
    };
    let first = sent();
    let flooding = tokio::spawn({
        let mut client = caller.client();
        async move {
            let messages = stream::repeat_with(|| request(&[1; 32 << 10]));
            let mut flood = tonic::Request::new(messages);
            flood.extensions_mut().insert(Urgency::BULK);
            client.client_stream(flood).await
        }
    });
    settled("the flood's stop", first, sent).await;
    assert_unhurt(before, latencies(&mut healthy, 300).await);
    let mut urgent = tonic::Request::new(request(b"urgent"));
    urgent.extensions_mut().insert(Urgency::CONTROL);
    soon("an answer", healthy.echo(urgent))
        .await
        .expect("answered");
    assert!(!flooding.is_finished(), "it hangs as it should");
    flooding.abort();
    serving.abort();
}

/// A client that does not read what the server must answer stops the server's own reading of that lane. What it goes on
/// sending fills the connection's small window, until the acceptor notices the stalled lane and gives the others theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lane_that_the_server_cannot_read_does_not_stop_another() {
    let server = Server::start().await;
    // So small that the answers to some pings are more than the client takes.
    let transport = QuicTransportConfig::builder().stream_receive_window(VarInt::from_u32(2048));
    let endpoint = Endpoint::builder(Offline).transport_config(transport.build());
    let endpoint = endpoint.bind().await.expect("bound");
    let connection = raw(&endpoint, &server.peer).await;
    let (healthy, _) = rawlane::channel(&connection, Some(Urgency::INTERACTIVE)).await;
    let mut healthy = EchoClient::new(healthy);
    let before = latencies(&mut healthy, 200).await;

    let written = Arc::new(AtomicU64::new(0));
    let (mut send, recv) = connection.open_bi().await.expect("a stream");
    let flooding = tokio::spawn({
        let written = written.clone();
        async move {
            let _unread = recv;
            send.write_all(&rawlane::preamble(Urgency::INTERACTIVE))
                .await
                .expect("written");
            send.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                .await
                .expect("written");
            send.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
                .await
                .expect("written");
            let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
            let pings = ping.repeat(256);
            loop {
                send.write_all(&pings).await.expect("written");
                written.fetch_add(pings.len() as u64, Ordering::SeqCst);
            }
        }
    });
    until("the flood", || written.load(Ordering::SeqCst) > 150_000).await;
    // The window follows within a second on a connection on which nothing moves.
    let (_, worst) = latencies(&mut healthy, 20).await;
    assert!(worst < Duration::from_millis(2500), "{worst:?}");
    let stuck = async {
        loop {
            let before = written.load(Ordering::SeqCst);
            sleep(Duration::from_millis(300)).await;
            if written.load(Ordering::SeqCst) == before {
                return before;
            }
        }
    };
    let stuck_at = soon("the flood's stop", stuck).await;
    assert!(stuck_at < 4_000_000, "the lane is bounded, {stuck_at}");
    assert_unhurt(before, latencies(&mut healthy, 300).await);
    assert!(!flooding.is_finished());
    flooding.abort();
}
