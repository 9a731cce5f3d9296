//! tonic's own server and a generated client over TCP: what a caller sees.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Server, server::TcpConnectInfo},
};
use tower_iroh_layers::authorize::{AccessPolicy, AuthorizeLayer, Identity, PolicyHandle};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, StreamRequest, echo_client::EchoClient, echo_server::EchoServer},
};

const ALL: &str = "
[roles.caller]
methods = [\"/tower_iroh.echo.v1.Echo/*\"]
[authenticated]
roles = [\"caller\"]
";

/// A server whose callers are named by `identify`, and a client of it.
async fn serve<I>(policy: &str, identify: I) -> (PolicyHandle, EchoClient<Channel>)
where
    I: tower_iroh_layers::authorize::Identify,
{
    let handle = PolicyHandle::new(AccessPolicy::from_toml(policy).expect("a policy"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let server = Server::builder()
        .layer(AuthorizeLayer::new(handle.clone(), identify))
        .add_service(EchoServer::new(EchoService).max_decoding_message_size(64 << 20))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    let channel = Channel::from_shared(format!("http://{addr}"))
        .expect("a uri")
        .connect()
        .await
        .expect("a server");
    (handle, EchoClient::new(channel))
}

/// Here a peer is its IP address: as good as an identity gets in plain TCP, and enough for a test on one machine.
fn by_address(extensions: &http::Extensions) -> Option<Identity> {
    let remote: SocketAddr = extensions.get::<TcpConnectInfo>()?.remote_addr()?;
    Some(Identity::from(remote.ip().to_string()))
}

fn echo(len: usize) -> EchoRequest {
    EchoRequest {
        payload: vec![1; len].into(),
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), what).await.expect("soon")
}

#[tokio::test]
async fn a_generated_client_sees_who_may_and_who_may_not() {
    let (handle, mut client) = serve(ALL, by_address).await;
    client.echo(echo(1)).await.expect("permitted");
    handle
        .reload_toml("[peers.\"127.0.0.1\"]\nroles = []")
        .expect("a policy");
    let denied = client.echo(echo(1)).await.expect_err("shut out");
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert_eq!(
        denied.message(),
        "this peer may not call /tower_iroh.echo.v1.Echo/Echo"
    );

    let (_, mut client) = serve(ALL, |_: &http::Extensions| None).await;
    let denied = client.echo(echo(1)).await.expect_err("nobody");
    assert_eq!(denied.code(), Code::Unauthenticated);
    // A body that is still being sent does not hold up the answer.
    let (_feed, requests) = mpsc::channel(1);
    let denied = soon(client.client_stream(ReceiverStream::<EchoRequest>::new(requests))).await;
    assert_eq!(denied.expect_err("nobody").code(), Code::Unauthenticated);
    let denied = soon(client.echo(echo(8 << 20))).await.expect_err("nobody");
    assert_eq!(denied.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_revoked_peer_loses_its_open_streams_of_every_kind_and_the_connection_lives_on() {
    // Who asks for the identity decides right after it, in the same poll.
    let (asked, mut calls) = watch::channel(0);
    let identify = move |extensions: &http::Extensions| {
        asked.send_modify(|calls| *calls += 1);
        by_address(extensions)
    };
    let (handle, client) = serve(ALL, identify).await;
    let hour = StreamRequest {
        count: 1000,
        size: 1,
        interval_ms: 3_600_000,
    };
    let mut server_stream = client
        .clone()
        .server_stream(hour)
        .await
        .expect("a stream")
        .into_inner();
    server_stream
        .message()
        .await
        .expect("permitted")
        .expect("the first");

    let (feed, requests) = mpsc::channel(4);
    let bidi = client
        .clone()
        .bidi_stream(ReceiverStream::new(requests))
        .await;
    let mut bidi = bidi.expect("a stream").into_inner();
    feed.send(echo(1)).await.expect("room");
    bidi.message().await.expect("permitted").expect("an echo");

    let upload = || {
        let (feed, requests) = mpsc::channel(4);
        let mut client = client.clone();
        let upload =
            tokio::spawn(async move { client.client_stream(ReceiverStream::new(requests)).await });
        (feed, upload)
    };
    let ((feed, upload), (kept_feed, kept)) = (upload(), upload());
    for feed in [&feed, &kept_feed] {
        feed.send(echo(1)).await.expect("room");
    }
    // They have to be with the server before the reload for the test to be of any use.
    soon(calls.wait_for(|calls| *calls == 4))
        .await
        .expect("a server");
    handle.reload_toml(ALL).expect("a policy");
    for feed in [&feed, &kept_feed] {
        feed.send(echo(1)).await.expect("still open");
    }
    drop(kept_feed);
    let kept = soon(kept)
        .await
        .expect("no panic")
        .expect("still permitted");
    assert_eq!(kept.into_inner().count, 2);
    assert!(!upload.is_finished());

    handle.reload_toml("").expect("a policy");
    let withdrawn = |status: Status| {
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().ends_with("was withdrawn"), "{status}");
    };
    withdrawn(soon(server_stream.message()).await.expect_err("revoked"));
    withdrawn(soon(bidi.message()).await.expect_err("revoked"));
    withdrawn(soon(upload).await.expect("no panic").expect_err("revoked"));

    handle.reload_toml(ALL).expect("a policy");
    client.clone().echo(echo(1)).await.expect("permitted again");
}

#[tokio::test]
async fn a_caller_sees_which_limit_it_hit() {
    let limited = |limits: &str| format!("{ALL}\n[limits]\n{limits}");
    let (handle, mut client) = serve(&limited("max_message_bytes = 100"), by_address).await;
    client.echo(echo(50)).await.expect("small");
    let refused = soon(client.echo(echo(1 << 20))).await.expect_err("large");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused
            .message()
            .contains("above the 100 that this caller may send"),
        "{refused}"
    );

    handle
        .reload_toml(&limited("rate = 0.01\nburst = 1"))
        .expect("a policy");
    client.echo(echo(1)).await.expect("the first");
    let refused = client.echo(echo(1)).await.expect_err("the second");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let wait = refused
        .metadata()
        .get("grpc-retry-pushback-ms")
        .expect("when");
    let wait: u64 = wait.to_str().expect("digits").parse().expect("a number");
    assert!((90_000..=100_000).contains(&wait), "{wait}");

    handle
        .reload_toml(&limited("concurrent = 1"))
        .expect("a policy");
    let (feed, requests) = mpsc::channel::<EchoRequest>(1);
    let open = client
        .bidi_stream(ReceiverStream::new(requests))
        .await
        .expect("a stream");
    let refused = client.echo(echo(1)).await.expect_err("one is open");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop((open, feed));
    soon(async {
        // The server learns of it from a frame that is on its way.
        while client.echo(echo(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_identity_may_come_from_anything_a_transport_leaves() {
    /// As an interceptor or an acceptor would leave it.
    #[derive(Clone)]
    struct Names(Arc<str>);
    let policy = "[roles.r]\nmethods = [\"*\"]\n[peers.\"spki-sha256:7f\"]\nroles = [\"r\"]";
    let handle = PolicyHandle::new(AccessPolicy::from_toml(policy).expect("a policy"));
    let layer = AuthorizeLayer::new(handle, |extensions: &http::Extensions| {
        extensions
            .get::<Names>()
            .map(|it| Identity::new(it.0.clone()))
    });
    let service = tower::ServiceBuilder::new()
        .map_request(|mut request: http::Request<_>| {
            request
                .extensions_mut()
                .insert(Names("spki-sha256:7f".into()));
            request
        })
        .layer(layer)
        .service(EchoServer::new(EchoService));
    let answer = EchoClient::new(service)
        .echo(Request::new(echo(3)))
        .await
        .expect("permitted");
    assert_eq!(answer.into_inner().payload.len(), 3);
}

/// The server's three layers and the client's two, as they are meant to stand.
#[cfg(all(feature = "metrics", feature = "trace"))]
mod measured {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tower::ServiceBuilder;
    use tower_iroh_layers::{
        metrics::MetricsLayer,
        trace::{TraceContext, TraceLayer},
    };

    use super::*;

    /// Notes the context that a handler has.
    #[derive(Clone)]
    struct Noting(Arc<std::sync::Mutex<Vec<Option<TraceContext>>>>);

    impl tonic::service::Interceptor for Noting {
        fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
            self.0
                .lock()
                .expect("no panic")
                .push(TraceContext::current());
            Ok(request)
        }
    }

    #[tokio::test]
    async fn denials_are_measured_and_a_trace_crosses_the_wire() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let noted = Noting(Arc::default());
        let handle = PolicyHandle::new(AccessPolicy::from_toml(ALL).expect("a policy"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let uri = format!("http://{}", listener.local_addr().expect("bound"));
        let server = Server::builder()
            .layer(TraceLayer::server())
            .layer(MetricsLayer::server())
            .layer(AuthorizeLayer::new(handle.clone(), by_address))
            .add_service(EchoServer::with_interceptor(EchoService, noted.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        let channel = Channel::from_shared(uri)
            .expect("a uri")
            .connect()
            .await
            .expect("a server");
        let stack = ServiceBuilder::new()
            .layer(TraceLayer::client())
            .layer(MetricsLayer::client())
            .layer(MetricsLayer::attempt("tcp"))
            .service(channel);
        let mut client = EchoClient::new(stack);

        let context = TraceContext::root();
        let stream = StreamRequest {
            count: 3,
            ..StreamRequest::default()
        };
        context
            .clone()
            .scope(async {
                let mut stream = client
                    .server_stream(stream)
                    .await
                    .expect("permitted")
                    .into_inner();
                while stream.message().await.expect("permitted").is_some() {}
                handle.reload(AccessPolicy::from_toml("").expect("a policy"));
                client.echo(echo(1)).await.expect_err("denied");
            })
            .await;
        let noted = noted.0.lock().expect("no panic").clone();
        let traces: Vec<_> = noted
            .iter()
            .map(|it| it.as_ref().map(TraceContext::trace_id))
            .collect();
        assert_eq!(
            traces,
            [Some(context.trace_id())],
            "the denied call has no handler"
        );

        let text = recorder.handle().render();
        for (name, transport) in [
            ("rpc_server_call_duration", ""),
            ("rpc_client_call_duration", ""),
            (
                "tower_iroh_client_attempt_duration_seconds",
                "transport=\"tcp\",",
            ),
        ] {
            let system = format!("{name}_count{{{transport}rpc_system_name=\"grpc\"");
            let streamed = format!(
                "{system},rpc_method=\"tower_iroh.echo.v1.Echo/ServerStream\",rpc_response_status_code=\"OK\"}} 1"
            );
            assert!(text.contains(&streamed), "{streamed}\n{text}");
            // A server learns no method from a call that was denied, and takes it for no error of its own.
            let denied = match name {
                "rpc_server_call_duration" => format!(
                    "{system},rpc_method=\"_OTHER\",rpc_response_status_code=\"PERMISSION_DENIED\"}} 1"
                ),
                _ => format!(
                    "{system},rpc_method=\"tower_iroh.echo.v1.Echo/Echo\",rpc_response_status_code=\"PERMISSION_DENIED\",error_type=\"PERMISSION_DENIED\"}} 1"
                ),
            };
            assert!(text.contains(&denied), "{denied}\n{text}");
        }
        assert!(
            text.contains("tower_iroh_authorize_denied_total{reason=\"not_permitted\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("tower_iroh_server_calls_in_flight 0"),
            "{text}"
        );
    }
}
