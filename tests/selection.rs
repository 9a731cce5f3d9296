//! The choice between two transports in the assembled stack: real endpoints, real TCP, one server on both.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]

use std::{net::SocketAddr, time::Duration};

use iroh::{Endpoint, EndpointAddr};
use tokio::{net::UdpSocket, task::JoinHandle};
use tonic::{Code, Response, Status};
use tower_iroh::{
    Channel, ChannelBuilder, ErrorKind, LaneConfig, Lanes, Peer, Server, ServerError, ServerHandle,
    State, TransportKind,
    layers::{
        MethodConfig, Methods,
        select::{Arm, Choice, SelectConfig, SelectHandle, SelectReason, Selected},
    },
    presets::Offline,
    tcp::TcpLinks,
};
use tower_iroh_proto::{
    EchoService,
    echo::{
        EchoRequest, EchoResponse, StreamRequest, echo_client::EchoClient, echo_server::EchoServer,
    },
};

#[path = "support/waiting.rs"]
mod waiting;

use waiting::{soon, until};

const PATIENCE: Duration = Duration::from_secs(20);
const DWELL: Duration = Duration::from_millis(200);

struct Running {
    peer: Peer,
    handle: ServerHandle,
    served: JoinHandle<Result<(), ServerError>>,
}

impl Running {
    async fn new() -> Self {
        let endpoint = Endpoint::bind(Offline).await.expect("bound");
        let server = Server::builder()
            .endpoint(endpoint)
            .tcp(([127, 0, 0, 1], 0).into());
        let server = server.bind().await.expect("two ports");
        let (peer, handle) = (server.addresses().expect("dialable"), server.handle());
        let services =
            tonic::transport::Server::builder().add_service(EchoServer::new(EchoService));
        let served =
            tokio::spawn(server.serve(|incoming, stopped| {
                services.serve_with_incoming_shutdown(incoming, stopped)
            }));
        Self {
            peer,
            handle,
            served,
        }
    }

    async fn stop(self) {
        self.handle.shutdown();
        let served = soon("the drain", self.served).await;
        served.expect("no panic").expect("served");
    }
}

/// A channel that prefers iroh.
async fn channel(peer: Peer, settle: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> Channel {
    let endpoint = Endpoint::bind(Offline).await.expect("bound");
    let config = SelectConfig::builder().dwell(DWELL).build();
    let prefer = Choice::Prefer(Arm::First);
    let select = SelectHandle::with_config(prefer, config.expect("valid"));
    let builder = Channel::builder(endpoint).peer(peer).select(select);
    settle(builder).build().expect("valid")
}

async fn echo(channel: &Channel) -> Result<Response<EchoResponse>, Status> {
    let mut client = EchoClient::new(channel.clone());
    let call = client.echo(EchoRequest {
        payload: "hello".into(),
    });
    soon("an answer", call).await
}

async fn over(channel: &Channel) -> Selected {
    let answer = echo(channel).await.expect("answered");
    let selected = answer.extensions().get::<Selected>();
    *selected.expect("somebody chose")
}

/// Until the transport that comes first has the calls for good. One that goes over it may be a probe, and the next would go over the other.
async fn until_preferred(channel: &Channel) {
    soon("calls over iroh for good", async {
        while over(channel).await.reason != SelectReason::Preferred {}
    })
    .await;
}

/// Nobody answers there, and nobody says so.
async fn black_hole() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let addr = socket.local_addr().expect("bound");
    (socket, addr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_goes_over_the_transport_that_the_table_says() {
    let server = Running::new().await;
    let over_tcp = MethodConfig::new().transport(Choice::Fixed(Arm::Second));
    let methods = Methods::builder().method("/tower_iroh.echo.v1.Echo/Echo", over_tcp);
    let methods = methods.build().expect("valid");
    let channel = channel(server.peer.clone(), |channel| channel.methods(methods)).await;
    let selected = over(&channel).await;
    assert_eq!(
        (selected.arm, selected.reason),
        (Arm::Second, SelectReason::Method)
    );
    // A later policy counts as a whole.
    let select = channel.stack().select().expect("two transports");
    select.swap(Arm::First);
    assert_eq!(over(&channel).await.arm, Arm::First);
    channel.close();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_transports_lead_to_one_peer_and_a_swap_moves_the_calls() {
    let server = Running::new().await;
    let channel = channel(server.peer.clone(), |channel| channel).await;
    assert_eq!(channel.transports().collect::<Vec<_>>(), TransportKind::ALL);
    until_preferred(&channel).await;
    let select = channel.stack().select().expect("a choice").clone();
    select.swap(Arm::Second);
    let selected = over(&channel).await;
    assert_eq!(
        (selected.arm, selected.reason),
        (Arm::Second, SelectReason::Fixed)
    );
    for transport in TransportKind::ALL {
        assert!(channel.stats_of(transport).is_some(), "over {transport}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_dials_before_the_first_call_and_says_why_it_failed() {
    let server = Running::new().await;
    let over_both = channel(server.peer.clone(), |channel| channel).await;
    soon("a connection", over_both.connect())
        .await
        .expect("there");
    let ready = |transport| {
        let state = over_both.state_of(transport).expect("it leads there");
        *state.borrow() == State::Ready
    };
    assert!(TransportKind::ALL.into_iter().any(ready), "one will do");
    // Asked again it has nothing to do.
    soon("the same", over_both.connect()).await.expect("there");

    // Iroh leads nowhere: TCP is enough, and the dial over iroh goes on.
    let (_socket, nowhere) = black_hole().await;
    let lost = EndpointAddr::new(server.peer.id()).with_ip_addr(nowhere);
    let tcp = server.peer.tcp().expect("on TCP").clone();
    let half = channel(Peer::from(lost.clone()).with_tcp(tcp), |channel| channel).await;
    soon("a connection", half.connect())
        .await
        .expect("over TCP");
    let state = half.state_of(TransportKind::Iroh).expect("it leads there");
    assert_eq!(*state.borrow(), State::Connecting);

    // Nobody is anywhere.
    let dial = Duration::from_millis(300);
    let neither = channel(lost.into(), |channel| {
        channel
            .links(|links| links.dial_timeout(dial))
            .tcp_links(|links| links.dial_timeout(dial))
    });
    let error = soon("a failure", neither.await.connect()).await;
    let error = error.expect_err("nobody is there");
    assert_eq!(
        error.kind(),
        ErrorKind::DialTimeout,
        "iroh's, as it is the first"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_that_does_not_come_to_an_end_holds_no_call_up() {
    let server = Running::new().await;
    let (_socket, nowhere) = black_hole().await;
    let lost = EndpointAddr::new(server.peer.id()).with_ip_addr(nowhere);
    let tcp = server.peer.tcp().expect("on TCP").clone();
    let channel = channel(Peer::from(lost).with_tcp(tcp), |channel| channel).await;
    for _ in 0..20 {
        let selected = over(&channel).await;
        assert_eq!(selected.arm, Arm::Second);
    }
    let select = channel.stack().select().expect("a choice");
    assert_eq!(select.decisions().arm(Arm::First), 0);

    // It is said to be elsewhere, where it is.
    let links = channel.links().expect("over iroh").clone();
    links.add_peer(server.peer.clone());
    until_preferred(&channel).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_breaker_falls_back_and_a_closed_one_is_returned_to() {
    let server = Running::new().await;
    let channel = channel(server.peer.clone(), |channel| channel).await;
    until_preferred(&channel).await;
    let circuit = channel.stack().circuit_of(TransportKind::Iroh);
    let circuit = circuit.expect("a circuit per transport").clone();
    circuit.force_open();
    let selected = over(&channel).await;
    assert_eq!(
        (selected.arm, selected.reason),
        (Arm::Second, SelectReason::NotReady)
    );
    circuit.reset();
    until_preferred(&channel).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_lane_causes_no_fallback() {
    let server = Running::new().await;
    let one = LaneConfig::new(0..=7).max_streams(1).calls_per_stream(1);
    let one_at_a_time = Lanes::new([one]);
    let channel = channel(server.peer.clone(), |channel| channel.lanes(one_at_a_time)).await;
    until_preferred(&channel).await;
    let select = channel.stack().select().expect("a choice").clone();
    let fallbacks = select.decisions().fallbacks();

    let mut client = EchoClient::new(channel.clone());
    let wanted = StreamRequest {
        count: u32::MAX,
        size: 1,
        interval_ms: 10,
    };
    let stream = client.server_stream(wanted).await.expect("a stream");
    let mut stream = stream.into_inner();
    let before = select.decisions().arm(Arm::First);
    let waits = tokio::spawn({
        let channel = channel.clone();
        async move { over(&channel).await }
    });
    until("the second call is decided", || {
        select.decisions().arm(Arm::First) > before
    })
    .await;
    // The stream goes on, and the call has no place.
    for _ in 0..10 {
        let message = soon("a message", stream.message()).await;
        message.expect("it goes on").expect("not at its end");
    }
    assert!(!waits.is_finished());
    drop(stream);
    let selected = soon("its turn", waits).await.expect("no panic");
    assert_eq!(selected.arm, Arm::First);
    assert_eq!(select.decisions().fallbacks(), fallbacks);
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_choose_is_refused() {
    let select = || SelectHandle::new(Arm::Second);
    let key = iroh::SecretKey::generate();
    let peer = Peer::new(key.public());
    let refused = Channel::tcp(key).peer(peer.clone()).select(select());
    assert_eq!(
        refused.build().expect_err("one transport").field(),
        "channel.select"
    );
    let endpoint = Endpoint::bind(Offline).await.expect("bound");
    let refused = Channel::builder(endpoint.clone()).peer(peer.clone());
    let refused = refused.tcp_links(|links| links);
    assert_eq!(
        refused.build().expect_err("no choice").field(),
        "channel.tcp_links"
    );
    // Shared links have their settings, over TCP as over iroh.
    let shared = || {
        let links = TcpLinks::new(iroh::SecretKey::generate());
        Channel::with_tcp_links(links).peer(peer.clone())
    };
    for (refused, field) in [
        (shared().tcp_links(|links| links), "channel.tcp_links"),
        (shared().lanes(Lanes::raft()), "channel.lanes"),
    ] {
        let error = refused.build().expect_err("shared");
        assert_eq!(error.field(), field);
        assert!(error.to_string().contains("shared links"), "{error}");
    }
    let other = shared().tuning(tower_iroh::Tuning::auto());
    let error = other.build().expect_err("iroh's");
    assert!(error.to_string().contains("other transport"), "{error}");
    // Where the peer has no address over TCP, a call that must go there is told so.
    let channel = Channel::builder(endpoint).peer(peer).select(select());
    let channel = channel.build().expect("valid");
    let status = echo(&channel).await.expect_err("no address");
    assert_eq!(status.code(), Code::Unavailable);
}
