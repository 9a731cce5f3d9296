//! Programs with several runtimes: connections live on the one that the links were built on or given, whoever calls.

use std::time::Duration;

use iroh::Endpoint;
use tokio::runtime::{Builder, Handle};
use tonic::{Code, Status, Streaming};
use tower_iroh::{
    Channel, LaneConfig, Lanes, Links, Peer, Server, ServerHandle, State, TransportKind,
    presets::Offline, tcp::TcpLinks,
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

/// A runtime of a thread's own, and what ends it and waits until all of its tasks are gone.
fn elsewhere() -> (Handle, impl FnOnce()) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let handle = runtime.handle().clone();
    (handle, move || {
        let ending = std::thread::spawn(move || drop(runtime));
        ending.join().expect("no panic");
    })
}

async fn serve() -> (Peer, ServerHandle) {
    let endpoint = Endpoint::bind(Offline).await.expect("bound");
    let server = Server::builder()
        .endpoint(endpoint)
        .tcp(([127, 0, 0, 1], 0).into());
    let server = server.bind().await.expect("two ports");
    let (peer, handle) = (server.addresses().expect("dialable"), server.handle());
    let services = tonic::transport::Server::builder().add_service(EchoServer::new(EchoService));
    tokio::spawn(
        server.serve(|incoming, stopped| services.serve_with_incoming_shutdown(incoming, stopped)),
    );
    (peer, handle)
}

/// A channel over one transport, whose links live where `runtime` says.
async fn channel(
    over: TransportKind,
    peer: &Peer,
    lanes: Lanes,
    runtime: Option<Handle>,
) -> Channel {
    let endpoint = Endpoint::bind(Offline).await.expect("bound");
    let channel = match over {
        TransportKind::Iroh => {
            let links = Links::builder(endpoint).lanes(lanes);
            let links = match runtime {
                Some(runtime) => links.runtime(runtime),
                None => links,
            };
            Channel::with_links(links.build().expect("valid"))
        }
        _ => {
            let links = TcpLinks::builder(endpoint.secret_key().clone()).lanes(lanes);
            let links = match runtime {
                Some(runtime) => links.runtime(runtime),
                None => links,
            };
            Channel::with_tcp_links(links.build().expect("valid"))
        }
    };
    channel.peer(peer.clone()).build().expect("valid")
}

async fn echo(channel: &Channel) -> Result<(), Status> {
    let call = async {
        let mut client = EchoClient::new(channel.clone());
        client.echo(EchoRequest::default()).await.map(drop)
    };
    soon("an answer", call).await
}

/// A stream of messages that has begun and does not end by itself.
async fn stream(channel: &Channel) -> Streaming<EchoResponse> {
    let request = StreamRequest {
        count: u32::MAX,
        size: 8,
        interval_ms: 5,
    };
    let begun = EchoClient::new(channel.clone())
        .server_stream(request)
        .await;
    let mut stream = begun.expect("begun").into_inner();
    goes_on(&mut stream).await;
    stream
}

async fn goes_on(stream: &mut Streaming<EchoResponse>) {
    for _ in 0..3 {
        let message = soon("a message", stream.message()).await;
        message.expect("it goes on").expect("it goes on");
    }
}

/// A call that is made on another runtime.
async fn echo_from(runtime: &Handle, channel: &Channel) {
    let channel = channel.clone();
    let call = runtime.spawn(async move { echo(&channel).await });
    call.await.expect("no panic").expect("answered");
}

/// The runtime that happens to dial may end: the connection is that of the runtime that the links were built on.
async fn a_callers_runtime_takes_nothing_along(over: TransportKind) {
    let (peer, server) = serve().await;
    let channel = channel(over, &peer, Lanes::default(), None).await;
    let (theirs, end) = elsewhere();
    echo_from(&theirs, &channel).await;
    let mut stream = stream(&channel).await;
    end();
    goes_on(&mut stream).await;
    echo(&channel).await.expect("answered");
    let stats = channel.stats().expect("connected");
    assert_eq!(stats.calls, 3, "one connection served them all");
    server.shutdown();
}

/// When the links' runtime ends, its connections are gone at once: callers elsewhere dial anew, also those that waited for a permit.
async fn the_links_runtime_takes_its_connections_along(over: TransportKind) {
    let (peer, server) = serve().await;
    let one = Lanes::new([LaneConfig::new(0..=7).max_streams(1).calls_per_stream(1)]);
    let (home, end) = elsewhere();
    let channel = channel(over, &peer, one, Some(home)).await;
    let mut stream = stream(&channel).await;
    let waiting = tokio::spawn({
        let channel = channel.clone();
        async move { echo(&channel).await }
    });
    until("the second call", || {
        channel.stats().is_some_and(|stats| stats.open_calls == 2)
    })
    .await;
    end();
    let answer = soon("the call that waited", waiting).await;
    answer
        .expect("no panic")
        .expect("answered on a new connection");
    let ended = soon("the stream's end", async {
        loop {
            if let Err(ended) = stream.message().await {
                return ended;
            }
        }
    });
    assert_eq!(ended.await.code(), Code::Unavailable);
    echo(&channel).await.expect("answered");
    assert_eq!(*channel.state().borrow(), State::Ready);
    server.shutdown();
}

macro_rules! over_both {
    ($($name:ident),+ $(,)?) => {
        mod iroh_links {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::TransportKind::Iroh).await;
            })+
        }

        mod tcp_links {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::TransportKind::Tcp).await;
            })+
        }
    };
}

over_both!(
    a_callers_runtime_takes_nothing_along,
    the_links_runtime_takes_its_connections_along,
);
