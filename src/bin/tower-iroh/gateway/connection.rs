//! One local connection: HTTP/2 in clear text, or HTTP/1.1 for gRPC-Web, CONNECT and the gateway's own pages.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::{body::Incoming, service::service_fn, upgrade::OnUpgrade};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use serde_json::json;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};
use tonic_web::GrpcWebLayer;
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};
use tower_iroh::layers::BoxError;

use super::{
    access_log::AccessLog,
    listener::Io,
    own::Own,
    routes::{PEER, Routes},
};
use crate::{
    connect::Service,
    failure::Failure,
    forward::{CallEnd, ERROR_FROM, for_the_next_hop, forward, refuse},
    pages::{is_asked_by_address, plain},
    token::Token,
};

/// What the header `x-iroh-error-from` says of a status that is not the peer's.
const BY: &str = "gateway";

const GRPC: &str = "application/grpc";

/// The types that tonic-web translates.
const WEB: [&str; 4] = [
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];

/// All that the gateway's connections share.
pub(super) struct Gateway {
    pub(super) own: Own,
    pub(super) routes: Routes,
    pub(super) token: Option<Token>,
    pub(super) log: Option<Arc<AccessLog>>,
    pub(super) cors: Option<CorsLayer>,
    /// Whose web pages may call.
    pub(super) origins: Vec<HeaderValue>,
    /// One for each connection.
    pub(super) slots: Semaphore,
    /// Begins the drain.
    pub(super) stop: CancellationToken,
}

/// Who opened a connection.
pub(super) struct Client {
    pub(super) address: String,
    /// The peer of all calls on this connection.
    pub(super) peer: Option<String>,
    /// The connection is a tunnel's inside, for which the token was shown.
    pub(super) is_inside: bool,
}

/// A tunnel that was asked for, and its client. It begins when its connection's HTTP/1.1 has ended.
type Tunnel = Arc<Mutex<Option<(OnUpgrade, Client)>>>;

/// How long a connection may take to its first request that is permitted. A client of gRPC connects when it calls.
const FIRST_REQUEST: Duration = Duration::from_secs(60);

/// How long a client that has made no call may take to end its connection when the gateway stops.
const GOODBYE: Duration = Duration::from_secs(1);

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
    let exposed: [HeaderName; 4] = [
        ERROR_FROM,
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
    /// Serves a connection to its end, and the tunnel for which it asked. Once the gateway stops, the connection takes no further call and ends with its last.
    pub(super) async fn serve(self: Arc<Self>, mut io: Box<dyn Io>, mut client: Client) {
        loop {
            let tunnel = Tunnel::default();
            self.clone().serve_io(io, client, tunnel.clone()).await;
            let asked = tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some((upgrade, inside)) = asked else {
                return;
            };
            let Ok(upgraded) = upgrade.await else { return };
            io = Box::new(TokioIo::new(upgraded));
            client = inside;
        }
    }

    async fn serve_io(self: Arc<Self>, io: Box<dyn Io>, client: Client, tunnel: Tunnel) {
        let stop = self.stop.clone();
        let client = Arc::new(client);
        let is_used = Arc::new(AtomicBool::new(false));
        let used = is_used.clone();
        let service = service_fn(move |request| {
            let (gateway, client) = (self.clone(), client.clone());
            let (tunnel, used) = (tunnel.clone(), used.clone());
            async move { Ok::<_, Infallible>(gateway.answer(client, &tunnel, &used, request).await) }
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
                match is_used.load(Ordering::Relaxed) {
                    true => connection.await,
                    // Nothing is in flight, and a client that is silent does not hold up the stop.
                    false => match timeout(GOODBYE, connection).await {
                        Ok(ended) => ended,
                        Err(_) => return,
                    },
                }
            }
            () = unused(&is_used) => return,
        };
        if let Err(error) = ended {
            // The client's own doing, mostly: it is gone, or it speaks another protocol.
            tracing::debug!(%error, "a local connection ended");
        }
    }

    async fn answer(
        self: Arc<Self>,
        client: Arc<Client>,
        tunnel: &Tunnel,
        is_used: &AtomicBool,
        mut request: Request<Incoming>,
    ) -> Response<Body> {
        let is_get = request.method() == Method::GET;
        let path = request.uri().path();
        if is_get
            && matches!(path, "/healthz" | "/readyz")
            && let Some(page) = self.own.pages.page(path)
        {
            return page;
        }
        if let Some(token) = self.token.as_ref().filter(|_| !client.is_inside)
            && !token.take_from(request.headers_mut())
        {
            return self.no_token(&client, &request);
        }
        if let Some(origin) = request.headers().get(header::ORIGIN)
            && !self.origins.iter().any(|it| it == "*" || it == origin)
        {
            let message = "pages of this origin may not call; `--cors-origin` permits it\n";
            return plain(StatusCode::FORBIDDEN, message.to_owned());
        }
        is_used.store(true, Ordering::Relaxed);
        if request.method() == Method::CONNECT {
            return self.tunnel(&client, tunnel, request);
        }
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_question = request.method() == Method::OPTIONS && self.cors.is_some();
        if WEB.contains(&kind) || is_question {
            return self.web(client, request).await;
        }
        let is_grpc = kind == GRPC
            || kind.starts_with("application/grpc+")
            || kind.starts_with("application/grpc;");
        if is_grpc && request.version() == Version::HTTP_2 {
            return self.call(&client, request.map(Body::new)).await;
        }
        // A page elsewhere whose name leads here is not to read this machine's metrics.
        if is_get
            && (self.token.is_some() || is_asked_by_address(&request))
            && let Some(page) = self.own.pages.page(request.uri().path())
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
        for_the_next_hop(request.headers_mut());
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
        request.extensions_mut().insert(self.routes.label(&peer));
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
    ) -> impl FnOnce(CallEnd) + Send + use<> {
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

    /// Answers CONNECT, which is how a gRPC client with `grpc_proxy` asks for a peer.
    fn tunnel(
        &self,
        client: &Client,
        tunnel: &Tunnel,
        request: Request<Incoming>,
    ) -> Response<Body> {
        if client.is_inside || request.version() == Version::HTTP_2 {
            let message = "a tunnel is asked for over HTTP/1.1, and not inside another one\n";
            return plain(StatusCode::BAD_REQUEST, message.to_owned());
        }
        let fixed = client.peer.as_ref().or(self.routes.fixed()).cloned();
        let host = || Some(request.uri().authority()?.host().to_owned());
        let Some(peer) = fixed.or_else(host) else {
            let message = "CONNECT names no host\n";
            return plain(StatusCode::BAD_REQUEST, message.to_owned());
        };
        if let Err(status) = self.routes.channel(&peer) {
            return plain(StatusCode::NOT_FOUND, format!("{}\n", status.message()));
        }
        let inside = Client {
            address: client.address.clone(),
            peer: Some(peer),
            is_inside: true,
        };
        let asked = Some((hyper::upgrade::on(request), inside));
        *tunnel.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        Response::new(Body::empty())
    }

    fn no_token(&self, client: &Client, request: &Request<Incoming>) -> Response<Body> {
        let message = "show the gateway's token in `proxy-authorization: Bearer TOKEN`";
        if request.version() == Version::HTTP_2 {
            let method = request.uri().path().to_owned();
            let logging = self.logging(client, None, method, Instant::now());
            return refuse(Status::unauthenticated(message), BY, logging);
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
}

/// Ends when a connection has had no request in its first minute. One that has not even said its protocol would hold its slot for ever.
async fn unused(is_used: &AtomicBool) {
    tokio::time::sleep(FIRST_REQUEST).await;
    if is_used.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_ended_after_a_minute() {
        let is_used = AtomicBool::new(false);
        let begin = Instant::now();
        unused(&is_used).await;
        assert_eq!(begin.elapsed(), FIRST_REQUEST);
        is_used.store(true, Ordering::Relaxed);
        let ended = timeout(FIRST_REQUEST * 100, unused(&is_used)).await;
        ended.expect_err("it is used");
    }
}
