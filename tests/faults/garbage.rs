//! Streams that carry something else than what they should.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use iroh::endpoint::{Connection, ReadError, RecvStream, SendStream};
use tokio::{sync::Notify, task::JoinHandle};
use tonic::Code;
use tower_iroh::{
    Acceptor, Peer, Urgency,
    wire::{Kind, Preamble, reset},
};

use crate::support::{Arm, Caller, Server, offline, on_both_arms, raw, soon};

on_both_arms! {
    bad_preambles
    garbage_instead_of_http2
    garbage_in_the_middle_of_http2
    a_server_that_answers_garbage
}

const HTTP2: [u8; 3] = Preamble {
    kind: Kind::Http2,
    urgency: Urgency::INTERACTIVE,
}
.encode();

/// Another client of the same server, which calls all the time and must not notice anything.
struct Bystander {
    stop: Arc<Notify>,
    calling: JoinHandle<u64>,
}

impl Bystander {
    async fn start(arm: Arm, server: &Server) -> Self {
        let caller = Caller::new(arm, &server.peer).await;
        caller.echo(b"before").await.expect("answered");
        let stop = Arc::new(Notify::new());
        let calling = tokio::spawn({
            let stop = stop.clone();
            async move {
                let mut calls = 0;
                loop {
                    tokio::select! {
                        () = stop.notified() => return calls,
                        answer = caller.echo(b"meanwhile") => answer.expect("unaffected"),
                    }
                    calls += 1;
                    assert_eq!(
                        caller.links.stats(caller.peer.id()).map(|it| it.calls > 0),
                        Some(true)
                    );
                }
            }
        });
        Self { stop, calling }
    }

    async fn unaffected(self) {
        self.stop.notify_one();
        let calls = soon("the bystander", self.calling).await.expect("no panic");
        assert!(calls > 0);
    }
}

async fn stream(connection: &Connection, bytes: &[u8]) -> (SendStream, RecvStream) {
    let (mut send, recv) = connection.open_bi().await.expect("a stream");
    send.write_all(bytes).await.expect("written");
    (send, recv)
}

/// The acceptor answers a ping on this connection, so it is as good as before.
async fn still_good(connection: &Connection) {
    let ping = Preamble {
        kind: Kind::Ping,
        urgency: Urgency::HIGHEST,
    };
    let (mut send, mut recv) = stream(connection, &ping.encode()).await;
    send.write_all(b"12345678").await.expect("written");
    let mut pong = [0; 8];
    soon("the pong", recv.read_exact(&mut pong))
        .await
        .expect("answered");
    assert_eq!(&pong, b"12345678");
    assert_eq!(connection.close_reason(), None);
}

async fn bad_preambles(arm: Arm) {
    let quick = Duration::from_millis(200);
    let server = Server::on(offline().await, Acceptor::builder().preamble_timeout(quick));
    let bystander = Bystander::start(arm, &server).await;
    let endpoint = offline().await;
    let connection = raw(&endpoint, &server.peer).await;
    for bad in [
        b"\x00\x00\x03",
        b"\x02\x00\x03",
        b"\x01\x02\x03",
        b"\x01\x00\x08",
        b"GET",
    ] {
        let (_send, mut recv) = stream(&connection, bad).await;
        let ended = soon("the refusal", recv.read(&mut [0; 16])).await;
        assert_eq!(ended, Err(ReadError::Reset(reset::BAD_PREAMBLE)), "{bad:?}");
    }
    // One that never gets to its end.
    let start = Instant::now();
    let (_send, mut recv) = stream(&connection, &HTTP2[..2]).await;
    let ended = soon("the refusal", recv.read(&mut [0; 16])).await;
    assert_eq!(ended, Err(ReadError::Reset(reset::BAD_PREAMBLE)));
    assert!(start.elapsed() >= quick && start.elapsed() < quick * 10);
    still_good(&connection).await;
    bystander.unaffected().await;
}

async fn garbage_instead_of_http2(arm: Arm) {
    garbage(arm, b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").await;
}

async fn garbage_in_the_middle_of_http2(arm: Arm) {
    // The client preface, empty SETTINGS, and a DATA frame on a stream that nobody opened.
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    bytes.extend([0, 0, 4, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4]);
    garbage(arm, &bytes).await;
}

async fn garbage(arm: Arm, bytes: &[u8]) {
    let server = Server::start().await;
    let bystander = Bystander::start(arm, &server).await;
    let endpoint = offline().await;
    let connection = raw(&endpoint, &server.peer).await;
    for _ in 0..5 {
        let (mut send, mut recv) = stream(&connection, &HTTP2).await;
        // It fails where the server was faster.
        let _ = send.write_all(bytes).await;
        // A GOAWAY may come first; then the stream is over, in whatever way.
        let ended = soon("the lane's end", recv.read_to_end(1 << 16)).await;
        if let Ok(farewell) = ended {
            assert!(farewell.len() < 1000, "no conversation");
        }
    }
    still_good(&connection).await;
    assert_eq!(server.acceptor.connections(), 2);
    bystander.unaffected().await;
}

/// A server that speaks the protocol up to the preamble, and then something else.
async fn a_server_that_answers_garbage(arm: Arm) {
    let endpoint = offline().await;
    endpoint.set_alpns(vec![tower_iroh::ALPN.to_vec()]);
    let peer = Peer::of(&endpoint).expect("dialable");
    let babbling = tokio::spawn(async move {
        let connection = endpoint
            .accept()
            .await
            .expect("open")
            .await
            .expect("shaken");
        let mut kept = Vec::new();
        while let Ok((mut send, recv)) = connection.accept_bi().await {
            // It fails where the client has given the lane up already.
            let _ = send.write_all(&[b'x'; 4096]).await;
            kept.push((send, recv));
        }
    });
    let caller = Caller::new(arm, &peer).await;
    for _ in 0..3 {
        let ended = soon("the call's end", caller.echo(b"")).await;
        let status = ended.expect_err("garbage is no answer");
        let codes = [Code::Internal, Code::Unavailable];
        assert!(codes.contains(&status.code()), "{status:?}");
    }
    babbling.abort();
}
