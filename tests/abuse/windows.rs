//! What a peer can make the server hold by sending to lanes that nobody reads.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use futures_util::{StreamExt as _, future::join_all};
use iroh::endpoint::{Connection, VarInt};
use tokio::{
    io::AsyncWriteExt as _,
    time::{sleep, timeout},
};
use tower_iroh::{Acceptor, Peer, TransportKind, Tuning};

use crate::{
    attacks::{DATA, END_HEADERS, END_STREAM, HEADERS, frame, hello, request},
    support::{ECHO, Witness, World, offline, preamble, raw, soon},
};

/// What each connection has before its first call.
const FIRST: u64 = 256 << 10;
/// The window of a long path.
const LONG: u64 = 16 * 1_250_000;
/// So many preambles are read at a time.
const READING: usize = 32;

/// Writes to every stream that the server grants until nothing more is taken. Returns how many bytes that is.
///
/// The first streams hold up those that read preambles, so that nobody reads the others. QUIC counts a byte against the window when it takes the byte.
async fn fill(connection: &Connection) -> u64 {
    const STUCK: Duration = Duration::from_secs(1);
    let mut streams = Vec::new();
    while let Ok(stream) = timeout(STUCK, connection.open_bi()).await {
        streams.push(stream.expect("open"));
    }
    assert!(streams.len() > READING, "{} streams", streams.len());
    let filled = AtomicU64::new(0);
    let writes = streams
        .iter_mut()
        .enumerate()
        .map(async |(number, (send, _))| {
            if number < READING {
                send.write_all(&[1, 0]).await.expect("taken");
                filled.fetch_add(2, Relaxed);
                return;
            }
            loop {
                let written = send.write(&[1; 4096]).await.expect("nobody reads it");
                filled.fetch_add(written as u64, Relaxed);
            }
        });
    let stuck = async {
        let mut before = None;
        while before.replace(filled.load(Relaxed)) != Some(filled.load(Relaxed)) {
            sleep(STUCK).await;
        }
    };
    tokio::select! {
        _ = join_all(writes) => unreachable!("the last streams have no end"),
        () = stuck => {}
    }
    filled.load(Relaxed)
}

/// Makes a call on a lane of its own, and waits for the end of the answer. Returns whether a message came.
async fn call(connection: &Connection, path: &str) -> bool {
    let (mut send, mut recv) = soon("a lane", connection.open_bi()).await.expect("granted");
    let mut bytes = preamble().to_vec();
    bytes.extend(hello());
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &request(path)));
    // An empty message.
    bytes.extend(frame(DATA, END_STREAM, 1, &[0; 5]));
    send.write_all(&bytes).await.expect("taken");
    let mut message = false;
    loop {
        let mut head = [0; 9];
        soon("a frame", recv.read_exact(&mut head))
            .await
            .expect("no end");
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        recv.read_exact(&mut payload).await.expect("no end");
        message |= head[3] == DATA && !payload.is_empty();
        if head[8] == 1 && head[4] & END_STREAM != 0 {
            return message;
        }
    }
}

async fn long() -> World {
    World::with(|server| server.acceptor(|acceptor| acceptor.tuning(Tuning::wan()))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_call_holds_no_more_than_its_first_window() {
    for world in [World::start().await, long().await] {
        let (_endpoint, connection) = raw(&world.peer).await;
        let held = fill(&connection).await;
        println!("{held} bytes");
        assert!(held <= FIRST, "{held}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_refused_makes_no_window_larger() {
    let world = long().await;
    let (_endpoint, connection) = raw(&world.peer).await;
    for _ in 0..10 {
        assert!(!call(&connection, "/no.Such/Method").await, "it is refused");
    }
    let held = fill(&connection).await;
    println!("{held} bytes");
    assert!(held <= FIRST + 10_000, "{held}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_answered_makes_the_window_that_of_the_path() {
    let world = long().await;
    let (_endpoint, connection) = raw(&world.peer).await;
    assert!(call(&connection, ECHO).await);
    let held = fill(&connection).await;
    println!("{held} bytes");
    assert!((LONG / 2..LONG + 10_000).contains(&held), "{held}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_together_hold_no_more_than_the_budget() {
    const BUDGET: u64 = 8 << 20;
    let world = World::with(|server| {
        server.acceptor(|acceptor| acceptor.tuning(Tuning::wan()).window_budget(BUDGET))
    })
    .await;
    let mut sum = 0;
    let mut kept = Vec::new();
    for _ in 0..4 {
        let (endpoint, connection) = raw(&world.peer).await;
        assert!(call(&connection, ECHO).await);
        let held = fill(&connection).await;
        println!("{held} bytes");
        assert!((FIRST..FIRST + BUDGET / 2).contains(&held), "{held}");
        sum += held;
        kept.push((endpoint, connection));
    }
    assert!(sum <= 4 * FIRST + BUDGET, "{sum}");
    assert!(Witness::get().refused(TransportKind::Iroh, "windows") >= 4);
}

/// A peer that gets nothing but refusals and does not acknowledge them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_that_a_peer_does_not_take_are_thrown_away() {
    Witness::get();
    let endpoint = offline().await;
    let peer = Peer::of(&endpoint).expect("dialable");
    let (acceptor, mut incoming) = Acceptor::new();
    let router = iroh::protocol::Router::builder(endpoint).accept(tower_iroh::ALPN, acceptor);
    let _router = router.spawn();
    // A runtime stands for a process, which is gone from one moment to the next.
    let elsewhere = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let opened = elsewhere.spawn(async move {
        let (endpoint, connection) = raw(&peer).await;
        // What stops the server is to be its own bound.
        connection.set_receive_window(VarInt::from_u32(8 << 20));
        let (mut send, recv) = connection.open_bi().await.expect("granted");
        send.write_all(&preamble()).await.expect("taken");
        (endpoint, connection, send, recv)
    });
    let mut lane = soon("a lane", incoming.next())
        .await
        .expect("open")
        .expect("no error");
    let _kept = soon("the client", opened).await.expect("no panic");
    elsewhere.shutdown_background();
    // Trailers without a message.
    let refusal = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0; 30]);
    let (mut written, most) = (0, 1_000_000);
    let writes = async {
        while written < most && lane.write_all(&refusal).await.is_ok() {
            written += refusal.len();
        }
    };
    soon("the end of the lane", writes).await;
    println!("{written} bytes");
    assert!((256 << 10..512 << 10).contains(&written), "{written}");
    assert!(Witness::get().refused(TransportKind::Iroh, "abuse") > 0);
}
