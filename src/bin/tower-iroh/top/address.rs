//! A metrics address, and what it answers.

use std::{fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::scrape::Snapshot;
use crate::{failure::Failure, pages::bare};

/// How long an answer may take, and how large it may be.
const PATIENCE: Duration = Duration::from_secs(5);
const LARGEST: usize = 16 << 20;

/// Where metrics are read, over plain HTTP.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Address {
    host: String,
    port: u16,
    path: String,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` is no metrics address; write `host:port` or `http://host:port/path`")
        };
        if text.starts_with("https://") {
            return Err(format!(
                "`{text}` is HTTPS, and metrics are read over plain HTTP; forward a local port to it"
            ));
        }
        let has_scheme = text.starts_with("http://");
        let uri = match has_scheme {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        let uri: Uri = uri.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let port = authority.port_u16().or(has_scheme.then_some(80));
        let (host, port) = (authority.host(), port.ok_or_else(wrong)?);
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            host: host.to_owned(),
            port,
            path: if path == "/" { "/metrics" } else { path }.to_owned(),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)?;
        match self.path.as_str() {
            "/metrics" => Ok(()),
            path => f.write_str(path),
        }
    }
}

impl Address {
    /// Asks once, on a connection of its own.
    pub(super) async fn scrape(&self, token: Option<&HeaderValue>) -> Result<Snapshot, Failure> {
        let answer = timeout(PATIENCE, self.get(token)).await;
        let text = answer.unwrap_or_else(|_| {
            Err(self.failed(format_args!(
                "gave no answer in {} s; is that its metrics address?",
                PATIENCE.as_secs()
            )))
        })?;
        Snapshot::read(&String::from_utf8_lossy(&text)).ok_or_else(|| {
            self.failed("answers, but not in Prometheus' text format; is that its metrics address?")
        })
    }

    async fn get(&self, token: Option<&HeaderValue>) -> Result<Bytes, Failure> {
        let io = TcpStream::connect((bare(&self.host), self.port)).await.map_err(|error| {
            self.failed(format_args!(
                "cannot be reached: {error}; a gateway has its metrics at its own address, `expose` with `--metrics ADDR`"
            ))
        })?;
        let broken = |error: hyper::Error| {
            // Its own text says less than its cause.
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            let cause = cause.unwrap_or_default();
            self.failed(format_args!(
                "broke off its HTTP/1.1 answer, or does not speak HTTP/1.1 ({error}{cause}); is that its metrics address? A gateway with `--tls-cert` speaks TLS, which `top` does not"
            ))
        };
        let mut request = Request::get(&self.path)
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(header::ACCEPT, "text/plain; version=0.0.4")
            .header(header::CONNECTION, "close");
        if let Some(token) = token {
            request = request.header(header::PROXY_AUTHORIZATION, token);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(Failure::failed)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
            .await
            .map_err(broken)?;
        let answer = async {
            let (head, body) = sender
                .send_request(request)
                .await
                .map_err(broken)?
                .into_parts();
            match head.status {
                StatusCode::OK => {}
                StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                    let text = "wants the gateway's token, and was shown none or another; use `--token-file FILE`";
                    return Err(self.failed(text));
                }
                status => {
                    let path = &self.path;
                    return Err(self.failed(format_args!(
                        "answers {status} to GET {path}; write `http://host:port/path` with its path, and an address or `localhost` as the host"
                    )));
                }
            }
            let body = Limited::new(body, LARGEST).collect().await;
            let body = body.map_err(|error| {
                self.failed(format_args!(
                    "sent no whole answer of at most 16 MiB: {error}"
                ))
            });
            Ok(body?.to_bytes())
        };
        tokio::pin!(answer, connection);
        // The connection may end before its answer was read.
        tokio::select! {
            answer = &mut answer => answer,
            _ = &mut connection => answer.await,
        }
    }

    pub(super) fn failed(&self, what: impl fmt::Display) -> Failure {
        Failure::failed(format!("{self} {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_each_of_its_forms() {
        for (text, shown) in [
            ("127.0.0.1:7001", "127.0.0.1:7001"),
            ("[::1]:7001", "[::1]:7001"),
            ("http://host", "host:80"),
            ("http://host:1/", "host:1"),
            ("host:1/metrics", "host:1"),
            ("http://host:1/a?b=c", "host:1/a?b=c"),
        ] {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), shown);
        }
        for text in [
            "",
            "host",
            "7001",
            ":1",
            "http://",
            "me@host:1",
            "host:x",
            "ftp://host:1",
        ] {
            let error = text.parse::<Address>().expect_err(text);
            assert!(error.contains("`http://host:port/path`"), "{error}");
        }
        let error = "https://host:1".parse::<Address>().expect_err("HTTPS");
        assert!(error.contains("plain HTTP"), "{error}");
    }
}
