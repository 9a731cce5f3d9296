//! The gRPC server that `expose` puts behind a key.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use hyper_util::rt::TokioIo;
use tonic::{
    Status,
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_iroh::{ExactCodesLayer, layers::BoxError};

use crate::connect::Service;

/// Where the server listens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Backend {
    Http(String),
    Https(String),
    #[cfg(unix)]
    Unix(PathBuf),
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        #[cfg(unix)]
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            return match path.is_absolute() {
                true => Ok(Self::Unix(path)),
                false => Err(format!("`{text}` has no absolute path; write `unix:/path`")),
            };
        }
        let (address, make): (_, fn(String) -> Self) = match text.split_once("://") {
            Some(("https", address)) => (address, Self::Https),
            Some(("http", address)) => (address, Self::Http),
            None => (text, Self::Http),
            Some(_) => ("", Self::Http),
        };
        let address = address.trim_end_matches('/');
        let authority: Result<http::uri::Authority, _> = address.parse();
        match authority {
            Ok(found) if found.port_u16().is_some() && !found.host().is_empty() => {
                Ok(make(address.to_owned()))
            }
            _ => Err(format!(
                "`{text}` is no address of a gRPC server; write `host:port`, `https://host:port` or `unix:/path`"
            )),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) => f.write_str(address),
            Self::Https(address) => write!(f, "https://{address}"),
            #[cfg(unix)]
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Backend {
    /// A service that connects when a call needs it, and again after the backend was gone.
    pub(crate) fn service(&self) -> Result<Service, tonic::transport::Error> {
        let uri = match self {
            Self::Http(address) => format!("http://{address}"),
            Self::Https(address) => format!("https://{address}"),
            #[cfg(unix)]
            Self::Unix(_) => "http://localhost".to_owned(),
        };
        let mut endpoint = Endpoint::from_shared(uri)?
            .connect_timeout(Duration::from_secs(5))
            // Pings detect a backend that accepts connections and never answers.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);
        if let Self::Https(_) = self {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_webpki_roots())?;
        }
        let channel = self.connect(&endpoint);
        let backend = self.to_string();
        let named = move |error: tower_iroh::Error| {
            let status = error.status();
            let message = format!("the backend {backend}: {}", status.message());
            BoxError::from(Status::new(status.code(), message))
        };
        Ok(Service::new(ExactCodesLayer.layer(channel).map_err(named)))
    }

    fn connect(&self, endpoint: &Endpoint) -> Channel {
        match self {
            #[cfg(unix)]
            Self::Unix(path) => connect_unix(endpoint, path.clone()),
            _ => endpoint.connect_lazy(),
        }
    }
}

/// A channel to a unix socket, which connects when a call needs it.
#[cfg(unix)]
pub(crate) fn connect_unix(endpoint: &Endpoint, path: PathBuf) -> Channel {
    endpoint.connect_with_connector_lazy(service_fn(move |_| {
        let path = path.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(path).await;
            stream.map(TokioIo::new)
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_each_of_its_forms() {
        for (text, shown) in [
            ("127.0.0.1:50051", "127.0.0.1:50051"),
            ("http://[::1]:50051/", "[::1]:50051"),
            ("https://db.example:443", "https://db.example:443"),
            ("unix:/run/db.sock", "unix:/run/db.sock"),
            ("unix:///run/db.sock", "unix:/run/db.sock"),
        ] {
            assert_eq!(text.parse::<Backend>().expect(text).to_string(), shown);
        }
        for text in [
            "",
            "50051",
            "host",
            "ftp://host:1",
            "unix:db.sock",
            "http://",
            "host:port",
        ] {
            let error = text.parse::<Backend>().expect_err(text);
            assert!(
                error.contains(text) && error.contains("unix:/path"),
                "{error}"
            );
        }
    }
}
