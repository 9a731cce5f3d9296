//! Callers that nobody knows and that never finish their handshake, and the honest one beside them.

use std::{net::SocketAddr, time::Duration};

use iroh::SecretKey;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep, timeout},
};

use crate::support::{Caller, Kind, Server, socket, soon, until};

/// What has to end by itself ends long before.
const HOUR: Duration = Duration::from_secs(3600);

/// A socket of another host: Linux has all of 127.0.0.0/8.
async fn socket_of(host: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, host], 0).into()).expect("bound");
    let connected = soon("a TCP connection", socket.connect(to)).await;
    connected.expect("connected")
}

/// A handshake that begins and never ends.
async fn half_a_handshake(host: u8, to: SocketAddr) -> TcpStream {
    let mut socket = socket_of(host, to).await;
    socket.write_all(&[0x16]).await.expect("sent");
    socket
}

/// Waits until the server has closed it. An end, or a reset.
async fn closed(mut socket: TcpStream) {
    let _ = socket.read_u8().await;
}

/// How many of the sockets the server has closed.
fn count_closed(sockets: &[TcpStream]) -> usize {
    let closed = |socket: &&TcpStream| {
        let read = socket.try_read(&mut [0]);
        !matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    sockets.iter().filter(closed).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_sockets_keep_nobody_out() {
    // The default of 256, and the times are of no help.
    let server = Server::with(&SecretKey::generate(), |acceptor| {
        acceptor.handshake_timeout(HOUR)
    })
    .await;
    // More than the server holds, and each that it closes comes again.
    let mut silent = Vec::new();
    let mut renew = async || {
        silent.retain(|socket| count_closed(std::slice::from_ref(socket)) == 0);
        for _ in silent.len()..300 {
            silent.push(socket(server.addr).await);
        }
    };
    renew().await;
    let renewing = async {
        loop {
            renew().await;
            sleep(Duration::from_millis(1)).await;
        }
    };
    let calling = async {
        for number in 0..30 {
            let began = Instant::now();
            let caller = Caller::new(Kind::Channel, &server.peer);
            caller.echo(b"beside them").await.expect("answered");
            let took = began.elapsed();
            assert!(took < Duration::from_secs(5), "call {number}: {took:?}");
        }
    };
    tokio::select! {
        () = renewing => {}
        () = soon("the calls", calling) => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_has_two_seconds_for_its_first_byte() {
    let server = Server::with(&SecretKey::generate(), |acceptor| {
        acceptor.handshake_timeout(HOUR)
    })
    .await;
    let began = Instant::now();
    let silent = socket(server.addr).await;
    soon("the end of the silent one", closed(silent)).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1900), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_too_many_silent_sockets_the_oldest_are_closed() {
    let server = Server::with(&SecretKey::generate(), |acceptor| {
        acceptor.max_handshakes(4)
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(socket(server.addr).await);
    }
    until("eight ends", || count_closed(&silent) >= 8).await;
    assert_eq!(count_closed(&silent[..8]), 8, "younger ones were closed");
}

#[tokio::test]
async fn one_address_fills_its_share_and_no_more() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let server = Server::with(&SecretKey::generate(), |acceptor| {
        acceptor.max_handshakes(16).handshake_timeout(HOUR)
    })
    .await;
    let mut begun = Vec::new();
    for _ in 0..60 {
        begun.push(half_a_handshake(2, server.addr).await);
    }
    // A quarter and one more are in flight, and as many wait.
    until("the refusals", || count_closed(&begun) == 50).await;
    for host in 3..7 {
        for _ in 0..15 {
            begun.push(half_a_handshake(host, server.addr).await);
        }
    }
    // An eighth of each further address is in flight, and as much waits.
    until("the refusals", || count_closed(&begun) == 50 + 4 * 11).await;
    let caller = Caller::new(Kind::Channel, &server.peer);
    caller.echo(b"beside them").await.expect("answered");
    let rendered = metrics.render();
    let refused = r#"tower_iroh_tcp_refused_total{reason="source"} 94"#;
    assert!(rendered.contains(refused), "{rendered}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_finds_all_handshakes_taken_waits_for_its_turn() {
    let server = Server::with(&SecretKey::generate(), |acceptor| {
        acceptor.max_handshakes(4).handshake_timeout(HOUR)
    })
    .await;
    let mut begun = Vec::new();
    // One each, so that nobody has more of its share than the next.
    for host in 2..6 {
        begun.push(half_a_handshake(host, server.addr).await);
    }
    // Two more wait. Once the server has refused the third, it has taken those before.
    let mut behind = Vec::new();
    for _ in 0..3 {
        behind.push(half_a_handshake(2, server.addr).await);
    }
    until("the refusal", || count_closed(&behind) == 1).await;
    let caller = Caller::new(Kind::Channel, &server.peer);
    let mut call = std::pin::pin!(caller.echo(b"next"));
    let early = timeout(Duration::from_millis(300), &mut call).await;
    assert!(early.is_err(), "{early:?}: five handshakes of four");
    drop((begun, behind));
    soon("its turn", call).await.expect("answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_too_long_is_refused() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let server = Server::with(&SecretKey::generate(), |acceptor| {
        acceptor.max_handshakes(1).handshake_timeout(TIMEOUT)
    })
    .await;
    let began = Instant::now();
    let first = half_a_handshake(2, server.addr).await;
    let second = half_a_handshake(3, server.addr).await;
    soon("the end of both", async {
        tokio::join!(closed(first), closed(second));
    })
    .await;
    let took = began.elapsed();
    assert!(took >= TIMEOUT, "{took:?}");
    let caller = Caller::new(Kind::Channel, &server.peer);
    caller.echo(b"next").await.expect("answered");
}
