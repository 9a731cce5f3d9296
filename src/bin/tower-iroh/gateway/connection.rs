//! One local connection: HTTP/2 in clear text, or HTTP/1.1 for gRPC-Web, CONNECT and the gateway's own pages.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use serde_json::json;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, body::Body};
use tonic_web::GrpcWebLayer;
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};
use tower_iroh::layers::BoxError;

use super::{
    access_log::AccessLog,
    listener::Io,
    own::{Own, plain},
    routes::{PEER, Routes},
    token::Token,
};
use crate::{
    connect::Service,
    failure::Failure,
    forward::{End, forward, refuse},
};

/// What the header `x-iroh-error-from` says of a status that is not the peer's.
const BY: &str = "gateway";

/// All that the gateway's connections share.
pub(super) struct Gateway {
    pub(super) own: Own,
    pub(super) routes: Routes,
    pub(super) token: Option<Token>,
    pub(super) log: Option<Arc<AccessLog>>,
    pub(super) cors: Option<CorsLayer>,
    /// One for each connection.
    pub(super) slots: Semaphore,
    pub(super) tunnels: TaskTracker,
    /// Begins the drain.
    pub(super) stop: CancellationToken,
}

/// Who opened a connection.
pub(super) struct Client {
    pub(super) address: String,
    /// The peer of all calls on this connection.
    pub(super) peer: Option<String>,
}

/// Which web pages may call; `None` where none may.
pub(super) fn cors(origins: &[HeaderValue]) -> Result<Option<CorsLayer>, Failure> {
    if origins.is_empty() {
        return Ok(None);
    }
    let origin = match origins.iter().any(|origin| origin == "*") {
        true if origins.len() > 1 => {
            return Err(Failure::usage(
                "`--cors-origin *` is for all origins; leave the others out",
            ));
        }
        true => AllowOrigin::from(Any),
        false => AllowOrigin::list(origins.iter().cloned()),
    };
    let exposed: [HeaderName; 3] = [
        HeaderName::from_static("grpc-status"),
        HeaderName::from_static("grpc-message"),
        HeaderName::from_static("grpc-status-details-bin"),
    ];
    let cors = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(exposed)
        .max_age(Duration::from_secs(600));
    Ok(Some(cors))
}

impl Gateway {
    /// Serves a connection to its end. Once the gateway stops, the connection takes no further call and ends with its last.
    pub(super) async fn serve(self: Arc<Self>, io: Box<dyn Io>, client: Client) {
        let stop = self.stop.clone();
        let client = Arc::new(client);
        let service = service_fn(move |request| {
            let (gateway, client) = (self.clone(), client.clone());
            async move { Ok::<_, Infallible>(gateway.answer(client, request).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(10));
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(1000)
            .max_header_list_size(64 << 10)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let mut connection =
            pin!(builder.serve_connection_with_upgrades(TokioIo::new(io), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // The client's own doing, mostly: it is gone, or it speaks another protocol.
            tracing::debug!(%error, "a local connection ended");
        }
    }

    async fn answer(
        self: Arc<Self>,
        client: Arc<Client>,
        mut request: Request<Incoming>,
    ) -> Response<Body> {
        let is_probe = matches!(request.uri().path(), "/healthz" | "/readyz");
        if let Some(token) = self.token.as_ref().filter(|_| !is_probe)
            && !token.take_from(request.headers_mut())
        {
            return no_token(&request);
        }
        if request.method() == Method::CONNECT {
            return self.tunnel(&client, request);
        }
        let is_grpc = |kind: &str| kind.starts_with("application/grpc");
        let is_web = |kind: &str| kind.starts_with("application/grpc-web");
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if is_web(kind) || request.method() == Method::OPTIONS {
            return self.web(client, request).await;
        }
        if is_grpc(kind) && request.version() == Version::HTTP_2 {
            return self.call(&client, request.map(Body::new)).await;
        }
        if request.method() == Method::GET
            && let Some(page) = self.own.page(request.uri().path())
        {
            return page;
        }
        let message = "this is a gateway for gRPC over HTTP/2 in clear text, and for gRPC-Web; its own pages are /healthz, /readyz and /metrics\n";
        plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, message.to_owned())
    }

    /// gRPC-Web, in either of its forms, and the question of a browser whether a page may call.
    async fn web(
        self: Arc<Self>,
        client: Arc<Client>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let gateway = self.clone();
        let calls = tower::service_fn(move |request| {
            let (gateway, client) = (gateway.clone(), client.clone());
            async move { Ok::<_, Infallible>(gateway.call(&client, request).await) }
        });
        let web = GrpcWebLayer::new().layer(calls);
        let answered = match &self.cors {
            Some(cors) => cors.layer(web).oneshot(request).await,
            None => web.oneshot(request).await,
        };
        match answered {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Passes a call to its peer.
    async fn call(&self, client: &Client, mut request: Request<Body>) -> Response<Body> {
        let began = Instant::now();
        let method = request.uri().path().to_owned();
        let routed = self.routes.route(&mut request, client.peer.as_deref());
        let (channel, peer) = match routed {
            Some(Ok(routed)) => routed,
            Some(Err(status)) => {
                return refuse(status, BY, self.logging(client, None, method, began));
            }
            None if Own::is_health(&method) => return self.own.health(request).await,
            None => {
                let message = format!(
                    "the call names no peer; say it in the metadata `{PEER}`, in `:authority`, or with the gateway's `--listen ADDR=NAME`"
                );
                let status = Status::invalid_argument(message);
                return refuse(status, BY, self.logging(client, None, method, began));
            }
        };
        let ended = self.logging(client, Some(peer), method, began);
        let service = Service::new(channel.map_err(BoxError::from));
        forward(service, request, BY, ended).await
    }

    /// What writes a call's line to the access log when the call has ended.
    fn logging(
        &self,
        client: &Client,
        peer: Option<String>,
        method: String,
        began: Instant,
    ) -> impl FnOnce(End) + Send + use<> {
        let log = self.log.clone();
        let client = log.as_ref().map(|_| client.address.clone());
        move |end| {
            let Some(log) = log else { return };
            let time = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            log.write(json!({
                "unix_ms": time.as_millis() as u64,
                "client": client,
                "peer": peer,
                "method": method,
                "code": end.code as i32,
                "ms": began.elapsed().as_secs_f64() * 1000.0,
                "bytes": end.bytes,
                "from": if end.ours { BY } else { "peer" },
            }));
        }
    }

    /// Answers CONNECT, which is how a gRPC client with `grpc_proxy` asks for a peer, and serves what comes through the tunnel.
    fn tunnel(self: Arc<Self>, client: &Client, request: Request<Incoming>) -> Response<Body> {
        let host = request
            .uri()
            .authority()
            .map(|authority| authority.host().to_owned());
        let Some(host) = host.or_else(|| client.peer.clone()) else {
            return plain(
                StatusCode::BAD_REQUEST,
                "CONNECT without a host\n".to_owned(),
            );
        };
        let peer = client.peer.clone().unwrap_or(host);
        if let Err(status) = self.routes.channel(&peer) {
            return plain(StatusCode::NOT_FOUND, format!("{}\n", status.message()));
        }
        let inside = Client {
            address: client.address.clone(),
            peer: Some(peer),
        };
        let gateway = self.clone();
        self.tunnels.spawn(async move {
            if let Ok(upgraded) = hyper::upgrade::on(request).await {
                // Boxed, because a tunnel could be asked for another tunnel.
                let serving: Pin<Box<dyn Future<Output = ()> + Send>> =
                    Box::pin(gateway.serve(Box::new(TokioIo::new(upgraded)), inside));
                serving.await;
            }
        });
        Response::new(Body::empty())
    }
}

fn no_token(request: &Request<Incoming>) -> Response<Body> {
    let message = "show the gateway's token in `proxy-authorization: Bearer TOKEN`";
    if request.version() == Version::HTTP_2 {
        return refuse(Status::unauthenticated(message), BY, |_| {});
    }
    let mut response = plain(
        StatusCode::PROXY_AUTHENTICATION_REQUIRED,
        format!("{message}\n"),
    );
    let basic = HeaderValue::from_static("Basic realm=\"tower-iroh\"");
    response
        .headers_mut()
        .insert(header::PROXY_AUTHENTICATE, basic);
    response
}
