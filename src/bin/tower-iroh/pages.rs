//! What `expose` and `gateway` answer to probes and to Prometheus.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, header, uri::Authority};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower_iroh::layers::prometheus::Prometheus;

use crate::failure::Failure;

/// Health, readiness and metrics of this program.
pub(crate) struct Pages {
    pub(crate) prometheus: Prometheus,
    /// The program shuts down.
    pub(crate) stop: CancellationToken,
}

impl Pages {
    /// Answers a plain HTTP request; `None` if it is for none of the pages.
    pub(crate) fn page(&self, path: &str) -> Option<Response<Body>> {
        let (status, text) = match path {
            "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" if self.stop.is_cancelled() => (
                StatusCode::SERVICE_UNAVAILABLE,
                "shutting down\n".to_owned(),
            ),
            "/readyz" => (StatusCode::OK, "ready\n".to_owned()),
            "/metrics" => (StatusCode::OK, self.prometheus.render()),
            _ => return None,
        };
        Some(plain(status, text))
    }

    /// Answers where there is nothing but the pages.
    fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let path = request.uri().path();
        let is_open = path != "/metrics" || is_asked_by_address(request);
        let page = match *request.method() {
            Method::GET if is_open => self.page(path),
            _ => None,
        };
        page.unwrap_or_else(|| {
            let text = "this address answers GET /healthz and /readyz, and GET /metrics if the URL's host is an IP address or localhost\n".to_owned();
            plain(StatusCode::NOT_FOUND, text)
        })
    }
}

/// An answer to a person or a probe.
pub(crate) fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::from(text)));
    *response.status_mut() = status;
    let text = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// Whether the URL of a request has an address or `localhost` as its host, and no name that somebody else may have given this machine.
pub(crate) fn is_asked_by_address<B>(request: &Request<B>) -> bool {
    let named = request.headers().get(header::HOST);
    let named = || named?.to_str().ok()?.parse::<Authority>().ok();
    let authority = request.uri().authority().cloned().or_else(named);
    authority.is_some_and(|authority| is_this_machine(authority.host()))
}

/// Whether a host is an address or `localhost`: this program's own, which names no peer.
pub(crate) fn is_this_machine(host: &str) -> bool {
    bare(host).parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
}

/// A host without the brackets that a URL has around an IPv6 address.
pub(crate) fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// How long a connection may last, which is for one answer, and how many there may be at once.
const PATIENCE: Duration = Duration::from_secs(10);
const MOST: usize = 64;

/// An address for the pages alone.
pub(crate) struct PagesListener {
    listener: TcpListener,
    pages: Arc<Pages>,
}

impl PagesListener {
    /// Binds an address of this machine, and installs the recorder.
    pub(crate) async fn bind(addr: SocketAddr, stop: CancellationToken) -> Result<Self, Failure> {
        if !addr.ip().is_loopback() {
            return Err(Failure::usage(format!(
                "`--metrics {addr}` can be reached from other machines, and metrics name methods and callers; listen on 127.0.0.1 or [::1]"
            )));
        }
        let failed = |error| Failure::failed(format!("`--metrics {addr}`: {error}"));
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let prometheus = Prometheus::install().map_err(Failure::failed)?;
        let pages = Arc::new(Pages { prometheus, stop });
        Ok(Self { listener, pages })
    }

    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers until the future is dropped, which cuts the connections.
    pub(crate) async fn serve(&self) -> Infallible {
        let mut connections = JoinSet::new();
        loop {
            let accepted = self.listener.accept().await;
            while connections.try_join_next().is_some() {}
            match accepted {
                // Beyond the limit a connection is closed rather than left to wait.
                Ok((io, _)) if connections.len() < MOST => {
                    connections.spawn(serve_one(io, self.pages.clone()));
                }
                Ok(_) => {}
                Err(error) => {
                    // For instance no file descriptor is left. One may be in a moment.
                    eprintln!("no connection for metrics accepted: {error}");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn serve_one(io: TcpStream, pages: Arc<Pages>) {
    let service = service_fn(|request| {
        let answer = pages.answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let serving = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), service);
    // Whoever breaks off, or takes too long, gets no answer.
    let _ = timeout(PATIENCE, serving).await;
}
