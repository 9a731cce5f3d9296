//! Callers that nobody knows and that never finish their handshake, and the honest one beside them.

use std::{
    collections::HashSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use iroh::{Endpoint, EndpointAddr, EndpointId, endpoint::ConnectOptions};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::{net::UdpSocket, task::JoinSet};
use tonic::Code;
use tower_iroh::Acceptor;

use crate::support::{Arm, Caller, Server, offline, soon, until};

/// What has to end by itself ends long before.
const HOUR: Duration = Duration::from_secs(3600);
/// Enough packets for a server of 16 handshakes.
const MANY: usize = 40;

/// A long header's form and type: RFC 9000, section 17.2.
fn packet_type(datagram: &[u8]) -> u8 {
    datagram[0] & 0xf0
}
const INITIAL: u8 = 0xc0;
const RETRY: u8 = 0xf0;

/// The destination's connection id and the token of an Initial packet.
fn destination_and_token(datagram: &[u8]) -> (&[u8], &[u8]) {
    // Flags and version are five bytes. Each id has its length before it.
    let after = &datagram[5..];
    let (destination, after) = after[1..].split_at(usize::from(after[0]));
    let after = &after[1 + usize::from(after[0])..];
    // A length below 64 is one byte, any other that a token has is two.
    let (len, after) = match after[0] >> 6 {
        0 => (usize::from(after[0]), &after[1..]),
        _ => (
            usize::from(u16::from_be_bytes([after[0] & 0x3f, after[1]])),
            &after[2..],
        ),
    };
    (destination, &after[..len])
}

/// A socket of another host: Linux has all of 127.0.0.0/8.
async fn socket_of(host: u8) -> UdpSocket {
    let addr = SocketAddr::from(([127, 0, 0, host], 0));
    let bound = UdpSocket::bind(addr).await;
    bound.expect("a free port")
}

fn at(peer: EndpointId, socket: &UdpSocket) -> EndpointAddr {
    let addr = socket.local_addr().expect("bound");
    EndpointAddr::new(peer).with_ip_addr(addr)
}

fn addr_of(server: &Server) -> SocketAddr {
    server.endpoint.bound_sockets()[0]
}

/// Dials many times. Nobody waits for the connections.
fn dial_often(endpoint: &Endpoint, to: &EndpointAddr) -> JoinSet<()> {
    let mut dials = JoinSet::new();
    for _ in 0..MANY {
        let (endpoint, to) = (endpoint.clone(), to.clone());
        dials.spawn(async move {
            let _ = endpoint.connect(to, tower_iroh::ALPN).await;
        });
    }
    dials
}

async fn server_of_sixteen() -> Server {
    let acceptor = Acceptor::builder()
        .max_handshakes(16)
        .handshake_timeout(HOUR);
    Server::on(offline().await, acceptor)
}

async fn answered(server: &Server) {
    let caller = Caller::new(Arm::Channel, &server.peer).await;
    caller.echo(b"beside them").await.expect("answered");
}

fn recorder() -> (PrometheusRecorder, PrometheusHandle) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    (recorder, metrics)
}

fn count(metrics: &PrometheusHandle, name: &str) -> u64 {
    let rendered = metrics.render();
    let value = rendered.lines().find_map(|line| line.strip_prefix(name));
    value.map_or(0, |value| value.trim().parse().expect("a number"))
}

const RETRIES: &str = "tower_iroh_quic_retries_total";

/// The first packets of real clients, sent by somebody who hears nothing of the answers, as with a forged address.
#[tokio::test]
async fn first_packets_from_forged_addresses_keep_nobody_out() {
    let (recorder, metrics) = recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let server = server_of_sixteen().await;
    let client = offline().await;
    let tap = socket_of(1).await;
    let dials = dial_often(&client, &at(server.peer.id(), &tap));
    let (mut seen, mut first) = (HashSet::new(), Vec::new());
    let recording = async {
        let mut datagram = [0; 2048];
        while first.len() < MANY {
            let len = tap.recv(&mut datagram).await.expect("received");
            let datagram = &datagram[..len];
            if packet_type(datagram) == INITIAL
                && seen.insert(destination_and_token(datagram).0.to_vec())
            {
                first.push(datagram.to_vec());
            }
        }
    };
    soon("the first packets", recording).await;
    drop((dials, client));

    let forger = socket_of(2).await;
    for datagram in &first {
        let sent = forger.send_to(datagram, addr_of(&server)).await;
        sent.expect("sent");
    }
    // A quarter and one more of the sixteen are taken.
    let unproven = MANY as u64 - 5;
    until("the retries", || count(&metrics, RETRIES) == unproven).await;
    let mut retries = 0;
    let reading = async {
        let mut datagram = [0; 2048];
        while retries < unproven {
            let len = forger.recv(&mut datagram).await.expect("received");
            if packet_type(&datagram[..len]) == RETRY {
                assert!(len < 400, "{len} bytes for 1,200");
                retries += 1;
            }
        }
    };
    soon("the Retry packets", reading).await;

    answered(&server).await;
    assert!(
        count(&metrics, RETRIES) > unproven,
        "the honest caller has proved its address"
    );
}

/// Leads one host's packets to the server, and nothing but Retry packets back: its handshakes have proved their address and never end.
async fn lead_half(from: &UdpSocket, onwards: &UdpSocket, server: SocketAddr) {
    let (mut there, mut back) = ([0; 2048], [0; 2048]);
    let mut client = None;
    loop {
        tokio::select! {
            received = from.recv_from(&mut there) => {
                let (len, source) = received.expect("received");
                client = Some(source);
                onwards.send_to(&there[..len], server).await.expect("sent");
            }
            received = onwards.recv(&mut back) => {
                let len = received.expect("received");
                if let (RETRY, Some(client)) = (packet_type(&back[..len]), client) {
                    from.send_to(&back[..len], client).await.expect("sent");
                }
            }
        }
    }
}

#[tokio::test]
async fn one_address_fills_its_share_and_no_more() {
    let (recorder, metrics) = recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let server = server_of_sixteen().await;
    let (client, from, onwards) = (offline().await, socket_of(1).await, socket_of(2).await);
    let _dials = dial_often(&client, &at(server.peer.id(), &from));
    let refused = r#"tower_iroh_quic_refused_total{reason="source"}"#;
    // All but a quarter and one more have to prove their address, and of those all but two are refused.
    let most = MANY as u64 - 5 - 2;
    tokio::select! {
        () = lead_half(&from, &onwards, addr_of(&server)) => {}
        () = until("the refusals", || count(&metrics, refused) >= most) => {}
    }
    answered(&server).await;
    let all = r#"tower_iroh_quic_refused_total{reason="handshakes"}"#;
    assert_eq!(count(&metrics, all), 0);
}

/// A client whose ClientHello needs two packets, of which the second is lost for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_hello_that_never_ends_counts_until_its_time_is_over() {
    const TIMEOUT: Duration = Duration::from_secs(4);
    let acceptor = Acceptor::builder()
        .max_handshakes(1)
        .handshake_timeout(TIMEOUT);
    let server = Server::on(offline().await, acceptor);
    let (client, from, onwards) = (offline().await, socket_of(1).await, socket_of(2).await);
    let dial = client.clone();
    let to = at(server.peer.id(), &from);
    let _dial = tokio::spawn(async move {
        let alpns = (0..99).map(|number| format!("a protocol that nobody has, number {number}"));
        let options =
            ConnectOptions::new().with_additional_alpns(alpns.map(String::into_bytes).collect());
        let connecting = dial.connect_with_opts(to, tower_iroh::ALPN, options).await;
        let _ = connecting.expect("an address").await;
    });
    let leading = async {
        let mut datagram = [0; 2048];
        let mut next = async |is_retry: bool| loop {
            let socket = if is_retry { &onwards } else { &from };
            let (len, source) = socket.recv_from(&mut datagram).await.expect("received");
            let datagram = &datagram[..len];
            let wanted = match packet_type(datagram) {
                RETRY => is_retry,
                INITIAL if !is_retry => true,
                _ => false,
            };
            if wanted {
                return (datagram.to_vec(), source);
            }
        };
        let (first, source) = next(false).await;
        let addr = addr_of(&server);
        onwards.send_to(&first, addr).await.expect("sent");
        // Half a ClientHello has to prove its address at any time.
        let (retry, _) = next(true).await;
        from.send_to(&retry, source).await.expect("sent");
        loop {
            let (proven, _) = next(false).await;
            if !destination_and_token(&proven).1.is_empty() {
                onwards.send_to(&proven, addr).await.expect("sent");
                return;
            }
        }
    };
    soon("half a ClientHello", leading).await;
    let began = Instant::now();
    // The packet may be a moment ahead of the count.
    let refused = async {
        loop {
            let caller = Caller::new(Arm::Channel, &server.peer).await;
            if let Err(status) = caller.echo(b"beside it").await {
                return status;
            }
        }
    };
    let status = soon("the refusal", refused).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let let_in = async {
        loop {
            let caller = Caller::new(Arm::Channel, &server.peer).await;
            if caller.echo(b"after it").await.is_ok() {
                return;
            }
        }
    };
    soon("the end of its time", let_in).await;
    let took = began.elapsed();
    assert!(took >= TIMEOUT - Duration::from_secs(1), "{took:?}");
}
