//! What a handler knows of a request beside its message, and what layers and interceptors hand on.

use http::Uri;
use tonic::{
    GrpcMethod, Request, body::Body, metadata::MetadataValue, transport::server::TcpConnectInfo,
};
use tower::ServiceExt as _;
use tower_iroh::{PeerInfo, TransportKind};
use tower_iroh_proto::testing::{Empty, SimpleRequest, test_service_client::TestServiceClient};

use crate::support::{
    Arm, Client, ClientOptions, ServerOptions, World,
    service::{LEAVE, STAMP, STAMPED},
    tamper::LEFT,
    wire::{Arrived, Target},
};

/// A connection puts one type of its own into its requests. Of ours, `RemoteAddrLayer` makes tonic's: this server is without it.
pub async fn connect_info(world: &World) -> String {
    let options = ServerOptions {
        without_remote_addr: true,
        ..ServerOptions::default()
    };
    let bare = World::start(world.arm(), options).await;
    let request = empty_call(&bare, ClientOptions::default()).await;
    let tonics = request.extensions().get::<TcpConnectInfo>();
    let ours = request.extensions().get::<PeerInfo>();
    let seen = match (world.arm(), tonics, ours) {
        (Arm::Tcp, Some(info), None) => {
            assert_eq!(info.local_addr(), bare.server_addr());
            assert!(info.remote_addr().is_some());
            "TcpConnectInfo"
        }
        (arm, None, Some(info)) => {
            assert_eq!(info.id().map(|id| id.to_string()), bare.client_id());
            assert!(info.remote_addr().is_some());
            assert_eq!(info.local_addr(), bare.server_addr());
            // tonic's ways to the addresses want tonic's type.
            assert_eq!((request.remote_addr(), request.local_addr()), (None, None));
            match (arm, info.transport()) {
                (Arm::Connector | Arm::Channel, TransportKind::Iroh) => "PeerInfo, over iroh",
                (Arm::TcpTls, TransportKind::Tcp) => "PeerInfo, over TCP",
                (Arm::Plaintext, TransportKind::Tcp) => "PeerInfo, over TCP without an id",
                (_, transport) => panic!("{transport:?}"),
            }
        }
        other => panic!("{other:?}"),
    };
    bare.stop().await;
    seen.to_owned()
}

/// `Request::local_addr()`. An iroh connection has none: its addresses change.
pub async fn local_address(world: &World) -> String {
    let request = empty_call(world, ClientOptions::default()).await;
    assert_eq!(request.local_addr(), world.server_addr());
    match request.local_addr() {
        Some(_) => "known",
        None => "none",
    }
    .to_owned()
}

/// The scheme and the authority that a client sets, whatever the server's address.
pub async fn origin(world: &World) -> String {
    fn other() -> Uri {
        Uri::from_static("https://shop.example:8443")
    }
    let options = ClientOptions {
        tonic: Some(|endpoint| endpoint.origin(other())),
        ours: Some(|builder| builder.origin(other())),
        ..ClientOptions::default()
    };
    let request = empty_call(world, options).await;
    let Target(target) = request.extensions().get().expect("a layer's");
    assert_eq!(target.scheme_str(), Some("https"));
    let authority = target.authority().expect("an authority");
    assert_eq!(authority, "shop.example:8443");
    assert_eq!(
        target.path(),
        "/tower_iroh.testing.v1.TestService/EmptyCall"
    );
    String::new()
}

/// Without an origin: the address that was dialled, or the peer's id.
pub async fn authority(world: &World) -> String {
    let request = empty_call(world, ClientOptions::default()).await;
    let Target(target) = request.extensions().get().expect("a layer's");
    assert_eq!(target.scheme_str(), Some("http"));
    let authority = target.authority().expect("an authority").as_str();
    match world.server_id() {
        Some(id) => {
            assert_eq!(authority, id);
            "the server's endpoint id".to_owned()
        }
        None => {
            let addr = world.server_addr().expect("an address");
            assert_eq!(authority, addr.to_string());
            "the server's address".to_owned()
        }
    }
}

/// The application's name comes before the channel's.
pub async fn user_agent(world: &World) -> String {
    let options = ClientOptions {
        tonic: Some(|endpoint| endpoint.user_agent("shop/1.0").expect("valid")),
        ours: Some(|builder| builder.user_agent("shop/1.0")),
        ..ClientOptions::default()
    };
    let named = user_agent_of(&empty_call(world, options).await);
    let nameless = user_agent_of(&empty_call(world, ClientOptions::default()).await);
    assert_eq!(named, format!("shop/1.0 {nameless}"));
    let (product, _) = nameless.split_once('/').expect("a version");
    let ours = if world.arm().is_tonic() {
        "tonic"
    } else {
        "tower-iroh"
    };
    assert_eq!(product, ours);
    format!("before {product}'s")
}

fn user_agent_of(request: &Request<()>) -> String {
    let value = request.metadata().get("user-agent").expect("a user agent");
    value.to_str().expect("ASCII").to_owned()
}

/// A client's interceptor learns which method is called, and so does a layer between client and channel.
pub async fn method_of_a_call(world: &World) -> String {
    fn check(method: Option<&GrpcMethod<'static>>) {
        let method = method.expect("a method");
        assert_eq!(method.service(), "tower_iroh.testing.v1.TestService");
        assert_eq!(method.method(), "EmptyCall");
    }
    let layer = |request: http::Request<Body>| {
        check(request.extensions().get());
        request
    };
    let interceptor = |request: Request<()>| {
        check(request.extensions().get());
        Ok(request)
    };
    let channel = Client::new(world.client().await.map_request(layer));
    let mut client = TestServiceClient::with_interceptor(channel, interceptor);
    client.empty_call(Empty {}).await.expect("OK");
    String::new()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FromCaller(u32);
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FromInterceptor(u32);

/// They reach whatever lies between client and channel, and from a server's interceptor and layers the handler. None crosses the wire.
pub async fn request_extensions(world: &World) -> String {
    let layer = |request: http::Request<Body>| {
        assert_eq!(request.extensions().get(), Some(&FromCaller(1)));
        assert_eq!(request.extensions().get(), Some(&FromInterceptor(2)));
        request
    };
    let interceptor = |mut request: Request<()>| {
        assert_eq!(request.extensions().get(), Some(&FromCaller(1)));
        request.extensions_mut().insert(FromInterceptor(2));
        Ok(request)
    };
    let channel = Client::new(world.client().await.map_request(layer));
    let mut client = TestServiceClient::with_interceptor(channel, interceptor);
    let mut request = Request::new(SimpleRequest::default());
    request.extensions_mut().insert(FromCaller(1));
    let stamp = MetadataValue::from_static("for the handler");
    request.metadata_mut().insert(STAMP, stamp.clone());
    let response = client.unary_call(request).await.expect("OK");
    // The server's interceptor made an extension of the header, and the handler a header of the extension.
    assert_eq!(response.metadata().get(STAMPED), Some(&stamp));

    let request = world.backstage.take_request();
    assert!(request.extensions().get::<Arrived>().is_some());
    assert_eq!(request.extensions().get::<FromCaller>(), None);
    assert_eq!(request.extensions().get::<FromInterceptor>(), None);
    String::new()
}

/// From the handler to the server's layers, and from layers over the channel to the caller. None crosses the wire.
pub async fn response_extensions(world: &World) -> String {
    let layer = |mut response: http::Response<Body>| {
        response.extensions_mut().insert(FromCaller(3));
        response
    };
    let channel = Client::new(world.client().await.map_response(layer));
    let mut client = TestServiceClient::new(channel);
    let mut request = Request::new(SimpleRequest::default());
    let left = MetadataValue::from_static("for the layer");
    request.metadata_mut().insert(LEAVE, left.clone());
    let response = client.unary_call(request).await.expect("OK");
    assert_eq!(response.metadata().get(LEFT), Some(&left));
    assert_eq!(response.extensions().get(), Some(&FromCaller(3)));
    assert!(
        response
            .extensions()
            .get::<crate::support::tamper::Left>()
            .is_none()
    );
    String::new()
}

/// The request of an empty call, as its handler had it.
async fn empty_call(world: &World, options: ClientOptions) -> Request<()> {
    let mut client = TestServiceClient::new(world.client_with(options).await);
    client.empty_call(Empty {}).await.expect("OK");
    world.backstage.take_request()
}
