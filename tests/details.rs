//! A server whose statuses have details that are no base64. tonic's own client panics; ours must not.

use http::{HeaderMap, HeaderValue, Response};
use http_body_util::BodyExt as _;
use iroh::{Endpoint, SecretKey};
use tonic::{Code, Status, body::Body};
use tower::{Layer as _, util::MapResponseLayer};
use tower_iroh::{
    Channel, Connector, ExactCodesLayer, Links, Server, presets::Offline, tcp::TcpConnector,
    tcp::TcpLinks,
};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer},
};

const GONE: &str = "gone";

fn tamper(headers: &mut HeaderMap) {
    for (name, value) in [
        ("grpc-status", "5"),
        ("grpc-message", GONE),
        ("grpc-status-details-bin", "no base64!"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Where a status is, in the head or in the trailers, it becomes the bad one.
fn tampered(mut response: Response<Body>) -> Response<Body> {
    if response.headers().contains_key("grpc-status") {
        tamper(response.headers_mut());
        return response;
    }
    response.map(|body| {
        Body::new(body.map_frame(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                tamper(trailers);
            }
            frame
        }))
    })
}

fn assert_gone(status: &Status) {
    assert_eq!((status.code(), status.message()), (Code::NotFound, GONE));
    assert!(status.details().is_empty());
}

/// A status in the trailers, and one in the head.
async fn calls<S>(channel: S)
where
    S: tonic::client::GrpcService<Body> + Clone,
    S::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error:
        Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let status = EchoClient::new(channel.clone())
        .echo(EchoRequest::default())
        .await;
    assert_gone(&status.expect_err("in the trailers"));
    let mut client = tonic::client::Grpc::new(channel);
    assert!(client.ready().await.is_ok());
    let codec = tower_iroh_proto::ProstCodec::<EchoRequest, EchoRequest>::default();
    let path = http::uri::PathAndQuery::from_static("/tower_iroh.echo.v1.Echo/Nothing");
    let request = tonic::Request::new(EchoRequest::default());
    let status = client.unary(request, path, codec).await;
    assert_gone(&status.expect_err("in the head"));
}

#[tokio::test]
async fn details_that_are_no_base64_panic_nobody() {
    let server = Server::builder()
        .endpoint(Endpoint::bind(Offline).await.expect("127.0.0.1"))
        .tcp(([127, 0, 0, 1], 0).into())
        .bind()
        .await
        .expect("bound");
    let (peer, handle) = (server.addresses().expect("known"), server.handle());
    let services = tonic::transport::Server::builder()
        .layer(MapResponseLayer::new(tampered))
        .add_service(EchoServer::new(EchoService));
    let serving = tokio::spawn(
        server.serve(|incoming, stopped| services.serve_with_incoming_shutdown(incoming, stopped)),
    );
    let endpoint = Endpoint::bind(Offline).await.expect("127.0.0.1");
    let links = Links::builder(endpoint.clone()).build().expect("links");
    links.add_peer(peer.addr().clone());
    let tcp_links = TcpLinks::builder(SecretKey::generate())
        .build()
        .expect("links");

    calls(
        Channel::builder(endpoint.clone())
            .peer(peer.clone())
            .build()
            .expect("a channel"),
    )
    .await;
    calls(
        Channel::tcp(SecretKey::generate())
            .peer(peer.clone())
            .build()
            .expect("a channel"),
    )
    .await;
    let tonic = || tonic::transport::Endpoint::from(peer.uri());
    let over_iroh = tonic().connect_with_connector_lazy(Connector::with_links(links));
    calls(ExactCodesLayer.layer(over_iroh)).await;
    tcp_links.add_peer(peer.clone());
    let over_tcp = tonic().connect_with_connector_lazy(TcpConnector::with_links(tcp_links));
    calls(ExactCodesLayer.layer(over_tcp)).await;

    handle.shutdown();
    serving.await.expect("no panic").expect("served");
    endpoint.close().await;
}
