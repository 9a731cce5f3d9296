//! Streams that the protocol does not have.

use std::time::Duration;

use tower_iroh::{Channel, Peer, wire::reset};

use crate::support::{Honest, Witness, World, offline, preamble, raw, soon};

/// 16 times a whole stream's window.
const STREAMS: usize = 16;
const EACH: usize = 1_250_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unidirectional_streams_are_stopped_and_take_no_window() {
    let world = World::start().await;
    let mut honest = Honest::new(&world).await;
    let (_endpoint, connection) = raw(&world.peer).await;
    let mut sends = Vec::new();
    for _ in 0..STREAMS {
        sends.push(
            soon("a stream", connection.open_uni())
                .await
                .expect("granted"),
        );
    }
    // All at once: together they are more than any window.
    let writes = sends.iter_mut().map(|send| async {
        let _ = send.write_all(&[0; EACH]).await;
        send.stopped().await
    });
    let stopped = soon("the streams' end", futures_util::future::join_all(writes)).await;
    for code in stopped {
        assert_eq!(code.expect("stopped"), Some(reset::UNIDIRECTIONAL));
    }
    // A lane of this connection has all of the window.
    let (mut send, mut recv) = soon("a lane", connection.open_bi()).await.expect("granted");
    send.write_all(&preamble()).await.expect("written");
    let hello = crate::attacks::hello();
    soon("the write", send.write_all(&hello))
        .await
        .expect("written");
    let mut settings = [0; 9];
    soon("the server's settings", recv.read_exact(&mut settings))
        .await
        .expect("answered");
    // The handshake granted a hundred, and no more come.
    drop(sends);
    let mut opened = STREAMS;
    while let Ok(stream) =
        tokio::time::timeout(Duration::from_millis(300), connection.open_uni()).await
    {
        let mut stream = stream.expect("open");
        stream.write_all(&[0]).await.expect("taken");
        soon("the stop", stream.stopped()).await.expect("stopped");
        opened += 1;
        assert!(opened < 200, "more are granted");
    }
    assert_eq!(opened, 100);
    assert!(Witness::get().refused(tower_iroh::TransportKind::Iroh, "unidirectional") >= 100);
    honest.call_for(Duration::from_millis(1)).await;
}

/// A client grants its server no stream: a server that opens one all the same breaks QUIC's own rules.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_can_open_no_stream_to_its_client() {
    let endpoint = offline().await;
    endpoint.set_alpns(vec![tower_iroh::ALPN.to_vec()]);
    let peer = Peer::of(&endpoint).expect("dialable");
    let channel = Channel::builder(offline().await)
        .peer(peer)
        .build()
        .expect("valid");
    let connecting = tokio::spawn({
        let channel = channel.clone();
        async move { channel.connect().await }
    });
    let incoming = soon("a connection", endpoint.accept()).await.expect("open");
    let connection = soon("the handshake", async { incoming.await })
        .await
        .expect("shaken");
    soon("the dial", connecting)
        .await
        .expect("no panic")
        .expect("connected");
    let short = Duration::from_millis(300);
    assert!(
        tokio::time::timeout(short, connection.open_uni())
            .await
            .is_err()
    );
    assert!(
        tokio::time::timeout(short, connection.open_bi())
            .await
            .is_err()
    );
    assert_eq!(connection.close_reason(), None);
}
