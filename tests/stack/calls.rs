//! Deadline, retry and priority in the stack, and what is left out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tonic::{
    Code, Request, Response, Status, Streaming, body::Body, transport::server::TcpIncoming,
};
use tower::{ServiceBuilder, util::MapRequestLayer};
use tower_iroh::{
    Channel, LaneConfig, Lanes, StackBuilder, Urgency,
    layers::{
        MethodConfig, Methods,
        buffer::WaitForReady,
        deadline::ServerDeadlineLayer,
        fail_fast::FailFastConfig,
        retry::RetryPolicy,
        select::{self, Choice, SelectHandle},
    },
    presets::Offline,
};
use tower_iroh_proto::{
    EchoService,
    echo::{
        EchoRequest, EchoResponse, StreamRequest, StreamSummary,
        echo_client::EchoClient,
        echo_server::{Echo, EchoServer},
    },
};

use crate::support::{Arm, Caller, ECHO, Mood, Server, on_both_transports, request, soon, until};

async fn the_deadline_covers_the_answer_and_the_stream(arm: Arm) {
    let server = Server::start(arm).await;
    let caller = server
        .client(|stack| stack.timeout(Duration::from_secs(2)))
        .await;
    caller.echo("warm").await.expect("answered");
    server.desk.set(Mood::Hang);
    let began = Instant::now();
    let status = caller.echo("hangs").await.expect_err("late");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(began.elapsed() >= Duration::from_secs(2));
    let last = server.desk.receipts().pop().expect("it came");
    assert!(last.metadata.contains_key("grpc-timeout"), "the peer knows");

    let slow = StreamRequest {
        count: 1000,
        size: 1,
        interval_ms: 20,
    };
    let mut stream = caller
        .client()
        .server_stream(slow)
        .await
        .expect("begun")
        .into_inner();
    let status = soon("the stream's end", async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a thousand messages in 2 s"),
                Err(status) => return status,
            }
        }
    })
    .await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
}

async fn a_listed_method_is_tried_again_and_says_so(arm: Arm) {
    let server = Server::start(arm).await;
    let policy = RetryPolicy::builder()
        .initial_backoff(Duration::from_millis(5))
        .build()
        .expect("valid");
    let methods = Methods::builder().method(ECHO, MethodConfig::new().idempotent(true));
    let methods = methods.build().expect("valid");
    let caller = server
        .client(|stack| stack.retry(policy).methods(methods))
        .await;
    server.desk.set(Mood::Refuse(Code::Unavailable));
    let status = caller.echo("again").await.expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        status.message(),
        "as the test wants it",
        "the peer's own words"
    );
    let attempts: Vec<_> = server
        .desk
        .receipts()
        .iter()
        .map(|receipt| {
            let previous = receipt.metadata.get("grpc-previous-rpc-attempts");
            previous.map(|value| value.to_str().expect("a number").to_owned())
        })
        .collect();
    assert_eq!(attempts, [None, Some("1".into()), Some("2".into())]);
}

async fn an_unlisted_method_is_sent_once(arm: Arm) {
    let server = Server::start(arm).await;
    let caller = server.client(|stack| stack).await;
    server.desk.set(Mood::Refuse(Code::Unavailable));
    caller.echo("once").await.expect_err("refused");
    assert_eq!(server.desk.receipts().len(), 1);
}

async fn urgency_reaches_the_peer(arm: Arm) {
    let server = Server::start(arm).await;
    let urgent = MethodConfig::new().urgency(Urgency::CONTROL);
    let methods = Methods::builder().method(ECHO, urgent);
    let methods = methods.build().expect("valid");
    let table = methods.clone();
    let caller = server.client(|stack| stack.methods(table)).await;
    caller.echo("by method").await.expect("answered");
    let bare = server.client(|stack| stack.methods(methods).without_layers());
    let bare = bare.await;
    bare.echo("by method, all layers left out")
        .await
        .expect("answered");
    let mut own = request("its own");
    own.extensions_mut().insert(Urgency::BULK);
    caller.send(own).await.expect("answered");
    let caller = server.client(|stack| stack).await;
    caller.send(request("small")).await.expect("answered");
    caller
        .send(request(vec![0; 100 << 10]))
        .await
        .expect("answered");
    let seen: Vec<_> = server
        .desk
        .receipts()
        .iter()
        .map(|receipt| {
            let value = receipt.metadata.get("priority");
            value.map(|value| value.to_str().expect("ASCII").to_owned())
        })
        .collect();
    assert_eq!(
        seen,
        [
            Some("u=1".into()),
            Some("u=1".into()),
            Some("u=6".into()),
            None,
            Some("u=6".into())
        ]
    );
}

async fn all_of_it_can_be_left_out(arm: Arm) {
    let server = Server::start(arm).await;
    let caller = server.client(StackBuilder::without_layers).await;
    caller.echo("plain").await.expect("answered");
    server.desk.set(Mood::Refuse(Code::Unavailable));
    for _ in 0..30 {
        let status = caller.echo("refused").await.expect_err("refused");
        assert_eq!(status.message(), "as the test wants it");
    }
    assert_eq!(
        server.desk.receipts().len(),
        31,
        "nothing retried, nothing kept back"
    );
    assert!(caller.stack.circuit().statistics().opened == 0);
    let mut big = request(vec![0; 100 << 10]);
    big.extensions_mut()
        .insert(tower_iroh::layers::buffer::WaitForReady);
    server.desk.set(Mood::Answer);
    caller.send(big).await.expect("answered");
    assert_eq!(caller.stack.buffer().stats().accepted, 0);
    let last = server.desk.receipts().pop().expect("it came");
    assert!(!last.metadata.contains_key("priority"));
}

/// A service that asks another one before it answers.
struct Relay(Caller);

#[tonic::async_trait]
impl Echo for Relay {
    type ServerStreamStream = <EchoService as Echo>::ServerStreamStream;
    type BidiStreamStream = <EchoService as Echo>::BidiStreamStream;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        self.0.client().echo(request.into_inner()).await
    }

    async fn server_stream(
        &self,
        request: Request<StreamRequest>,
    ) -> Result<Response<Self::ServerStreamStream>, Status> {
        EchoService.server_stream(request).await
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<StreamSummary>, Status> {
        EchoService.client_stream(request).await
    }

    async fn bidi_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Self::BidiStreamStream>, Status> {
        EchoService.bidi_stream(request).await
    }
}

async fn a_handler_s_own_calls_have_its_caller_s_deadline(arm: Arm) {
    let far = Server::start(arm).await;
    let relay = Relay(far.client(|stack| stack).await);
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let addr = incoming.local_addr().expect("bound");
    tokio::spawn(
        tonic::transport::Server::builder()
            .layer(ServerDeadlineLayer::new())
            .add_service(EchoServer::new(relay))
            .serve_with_incoming(incoming),
    );
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{addr}"));
    let mut near = EchoClient::new(endpoint.expect("a URI").connect_lazy());
    near.echo(request("no deadline")).await.expect("answered");
    let mut limited = request("a deadline");
    limited.set_timeout(Duration::from_secs(30));
    near.echo(limited).await.expect("answered");
    let seen: Vec<_> = far
        .desk
        .receipts()
        .iter()
        .map(|receipt| receipt.metadata.contains_key("grpc-timeout"))
        .collect();
    assert_eq!(seen, [false, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_lane_is_no_failure_of_the_peer_s() {
    let server = Server::start(Arm::Iroh).await;
    server.desk.set(Mood::Hang);
    let one = Lanes::new([LaneConfig::new(0..=7).max_streams(1).calls_per_stream(1)]);
    let channel = Channel::builder(::iroh::Endpoint::bind(Offline).await.expect("a free port"))
        .peer(server.peer())
        .lanes(one)
        .build()
        .expect("valid");
    let mut client = EchoClient::new(channel.clone());
    let hangs = tokio::spawn(async move { client.echo(request("first")).await });
    until("it to be there", || server.desk.receipts().len() == 1).await;
    // A second is a fair deadline: a peer that missed it five times would be taken for sick.
    let late = (0..5).map(|_| {
        let mut client = EchoClient::new(channel.clone());
        let mut late = request("late");
        late.set_timeout(Duration::from_millis(1100));
        async move { client.echo(late).await.expect_err("no place").code() }
    });
    for code in futures_util::future::join_all(late).await {
        assert_eq!(code, Code::DeadlineExceeded);
    }
    assert!(channel.stack().circuit().state().is_closed());
    assert_eq!(channel.stack().circuit().statistics().failed, 0);
    hangs.abort();
}

on_both_transports! {
    a_handler_s_own_calls_have_its_caller_s_deadline
    the_deadline_covers_the_answer_and_the_stream
    a_listed_method_is_tried_again_and_says_so
    an_unlisted_method_is_sent_once
    urgency_reaches_the_peer
    all_of_it_can_be_left_out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_names_that_prometheus_gets() {
    // One recorder per process; the other tests of this one may be recorded too.
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new();
    let prometheus = recorder.install_recorder().expect("the only one");
    let server = Server::start(Arm::Iroh).await;
    let caller = server.client(|stack| stack).await;
    caller.echo("counted").await.expect("answered");
    server.desk.set(Mood::Refuse(Code::Unavailable));
    for _ in 0..5 {
        caller.echo("refused").await.expect_err("refused");
    }
    assert!(!caller.stack.circuit().state().is_closed());
    let text = prometheus.render();
    for line in [
        "rpc_client_call_duration",
        "rpc_method=\"tower_iroh.echo.v1.Echo/Echo\"",
        "rpc_response_status_code=\"UNAVAILABLE\"",
        "tower_iroh_client_attempt_duration_seconds",
        "transport=\"iroh\"",
        "tower_iroh_breaker_opened_total",
        "tower_iroh_breaker_not_closed",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_that_nobody_answers_holds_no_call_for_longer_than_fail_fast() {
    // Nobody answers over either transport: no packet of iroh's, no TLS over TCP.
    let silence = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let quiet = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let key = ::iroh::SecretKey::generate();
    let udp = silence.local_addr().expect("bound");
    let addr = ::iroh::EndpointAddr::new(key.public()).with_ip_addr(udp);
    let peer = tower_iroh::Peer::from(addr).with_tcp(quiet.local_addr().expect("bound"));
    let endpoint = ::iroh::Endpoint::bind(Offline).await.expect("a free port");
    // The dial takes 10 s, as it comes.
    let builders = [
        Channel::builder(endpoint.clone()),
        Channel::builder(endpoint.clone()).early_data(true),
        Channel::tcp(endpoint.secret_key().clone()),
        Channel::builder(endpoint).select(SelectHandle::new(Choice::Prefer(select::Arm::First))),
    ];
    let wait = Duration::from_secs(1);
    for (number, builder) in builders.into_iter().enumerate() {
        let fail_fast = FailFastConfig::builder().wait(wait).build().expect("valid");
        let channel = builder
            .peer(peer.clone())
            .stack(|stack| stack.fail_fast(fail_fast))
            .build()
            .expect("valid");
        let mut client = EchoClient::new(channel.clone());
        let mut waits = request("patient");
        waits.extensions_mut().insert(WaitForReady);
        let mut patient = client.clone();
        // The wait is the peer's, and begins with the first call.
        let began = Instant::now();
        let patient = tokio::spawn(async move { patient.echo(waits).await });
        let status = client.echo(request("nobody")).await.expect_err("nobody");
        assert_eq!(status.code(), Code::Unavailable, "{number}: {status:?}");
        let took = began.elapsed();
        assert!(took >= wait && took < wait * 10, "{number}: {took:?}");
        assert!(
            status.message().contains("not sent"),
            "{number}: {status:?}"
        );
        // The dial goes on, and the next call does not wait for it again.
        assert_eq!(
            *channel.state().borrow(),
            tower_iroh::State::Connecting,
            "{number}"
        );
        let began = Instant::now();
        client.echo(request("nobody")).await.expect_err("nobody");
        assert!(began.elapsed() < wait, "{number}: {:?}", began.elapsed());
        assert!(!patient.is_finished(), "{number}: it waits for the peer");
        patient.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_that_nobody_answers_is_waited_for_once() {
    let silence = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let id = ::iroh::SecretKey::generate().public();
    let addr = ::iroh::EndpointAddr::new(id).with_ip_addr(silence.local_addr().expect("bound"));
    let dial = Duration::from_millis(1500);
    let channel = Channel::builder(::iroh::Endpoint::bind(Offline).await.expect("a free port"))
        .peer(addr)
        .links(|links| links.dial_timeout(dial))
        .build()
        .expect("valid");
    let began = Instant::now();
    let call = EchoClient::new(channel).echo(request("nobody")).await;
    assert_eq!(call.expect_err("nobody").code(), Code::Unavailable);
    let took = began.elapsed();
    assert!(took >= dial && took < dial * 2, "{took:?}");
}

/// Numbers the attempts that pass, in a header.
fn numbering(
    count: &Arc<AtomicU64>,
    name: &'static str,
) -> MapRequestLayer<
    impl Fn(http::Request<Body>) -> http::Request<Body> + Clone + Send + Sync + 'static,
> {
    let count = count.clone();
    MapRequestLayer::new(move |mut request: http::Request<Body>| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        request.headers_mut().insert(name, number.into());
        request
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_of_one_s_own_see_each_call_and_each_attempt() {
    let server = Server::start(Arm::Iroh).await;
    server.desk.set(Mood::Refuse(Code::Unavailable));
    let idempotent = MethodConfig::new().idempotent(true);
    let methods = Methods::builder().method(ECHO, idempotent);
    let methods = methods.build().expect("valid");
    let [calls, attempts, outer] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
    let endpoint = ::iroh::Endpoint::bind(Offline).await.expect("a free port");
    let channel = Channel::builder(endpoint.clone())
        .peer(server.peer())
        .methods(methods)
        .around_attempts(numbering(&attempts, "x-attempt"))
        .around_attempts(numbering(&outer, "x-attempt"))
        .build()
        .expect("valid");
    let around = ServiceBuilder::new().layer(numbering(&calls, "x-call"));
    let mut client = EchoClient::new(around.service(channel));
    client.echo(request("thrice")).await.expect_err("refused");
    let receipts = server.desk.receipts();
    let seen = receipts.iter().map(|receipt| {
        let number = |name| receipt.metadata.get(name).expect(name).clone();
        [number("x-call"), number("x-attempt")]
    });
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [["1", "1"], ["1", "2"], ["1", "3"]],
        "the inner layer has the last word"
    );
    assert_eq!(outer.load(Ordering::Relaxed), 3);

    // What never left comes back through the layer, and goes once more and once more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = closed.local_addr().expect("bound");
    drop(closed);
    let peer = tower_iroh::Peer::new(::iroh::SecretKey::generate().public()).with_tcp(nobody);
    let attempts = Arc::new(AtomicU64::new(0));
    let channel = Channel::tcp(endpoint.secret_key().clone())
        .peer(peer)
        .stack(StackBuilder::without_breaker)
        .around_attempts(numbering(&attempts, "x-attempt"))
        .build()
        .expect("valid");
    let call = EchoClient::new(channel).echo(request("nobody")).await;
    assert_eq!(call.expect_err("nobody").code(), Code::Unavailable);
    assert_eq!(attempts.load(Ordering::Relaxed), 3);
}
