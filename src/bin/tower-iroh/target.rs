//! The peer of a verb: a ticket, an endpoint id, a name from the configuration, or an address of a server that does not speak iroh.

use std::{fmt, path::PathBuf, sync::Arc};

use clap::Args;
use tower_iroh::{Peer, config::Config};

use crate::failure::Failure;

/// Where names of peers come from.
#[derive(Clone, Debug, Args)]
pub(crate) struct Names {
    /// The configuration file that names peers, in its `[peers]` tables.
    #[arg(
        long,
        value_name = "FILE",
        env = "TOWER_IROH_CONFIG",
        help_heading = "Peers"
    )]
    pub(crate) config: Option<PathBuf>,
}

impl Names {
    pub(crate) fn load(&self) -> Result<Option<Arc<Config>>, Failure> {
        let Some(path) = &self.config else {
            return Ok(None);
        };
        let config = Config::from_file(path).map_err(Failure::failed)?;
        Ok(Some(Arc::new(config)))
    }
}

/// What a verb calls.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// A peer by its key.
    Peer(Peer),
    /// A gRPC server that does not speak iroh, with TLS unless the verb's flags say otherwise.
    Server(Server),
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Server {
    /// `host:port`.
    Tcp(String),
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Server {
    /// Reads `unix:path` or `unix:///path`.
    #[cfg(unix)]
    pub(crate) fn read_unix(text: &str) -> Option<Self> {
        let path = text.strip_prefix("unix:")?;
        Some(Self::Unix(path.strip_prefix("//").unwrap_or(path).into()))
    }

    #[cfg(not(unix))]
    pub(crate) fn read_unix(_: &str) -> Option<Self> {
        None
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            #[cfg(unix)]
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Target {
    /// Reads a target as a person gave it.
    pub(crate) fn read(text: &str, names: Option<&Config>) -> Result<Self, Failure> {
        let text = text.trim();
        if let Some(address) = text.strip_prefix("tcp://") {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
            if host.is_empty() || port.parse::<u16>().is_err() {
                let message = format!("`{text}` has no host and port; write `tcp://host:port`");
                return Err(Failure::usage(message));
            }
            return Ok(Self::Server(Server::Tcp(address.to_owned())));
        }
        if let Some(server) = Server::read_unix(text) {
            return Ok(Self::Server(server));
        }
        if let Some((_, peer)) = names.and_then(|config| config.peers().find(|it| it.0 == text)) {
            return Ok(Self::Peer(peer.clone()));
        }
        text.parse().map(Self::Peer).map_err(|error| {
            let known = match names.map(|config| config.peers().map(|it| it.0).collect::<Vec<_>>()) {
                Some(names) if !names.is_empty() => format!("names in the configuration: {}", names.join(", ")),
                Some(_) => "the configuration names no peer".to_owned(),
                None => "`--config FILE` gives peers names".to_owned(),
            };
            Failure::usage(format!(
                "{error}. A peer is a ticket, an endpoint id, a name ({known}), `tcp://host:port`, or `unix:/path`"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn peer() -> Peer {
        Peer::new(iroh::SecretKey::from_bytes(&KEY).public())
    }

    #[test]
    fn a_target_has_five_forms() {
        let config = Config::builder().peer("db", peer()).build().expect("valid");
        let read = |text: &str| Target::read(text, Some(&config)).expect("valid");
        for text in [
            "db",
            &peer().id().to_string(),
            &format!(" {}\n", peer().ticket()),
        ] {
            assert_eq!(read(text), Target::Peer(peer()), "{text}");
        }
        for (text, shown) in [
            ("tcp://[::1]:50051", "tcp://[::1]:50051"),
            #[cfg(unix)]
            ("unix:db.sock", "unix:db.sock"),
            #[cfg(unix)]
            ("unix:///run/db.sock", "unix:/run/db.sock"),
        ] {
            match read(text) {
                Target::Server(server) => assert_eq!(server.to_string(), shown),
                Target::Peer(_) => panic!("{text}"),
            }
        }
    }

    #[test]
    fn a_mistake_is_told_with_what_is_accepted() {
        let config = Config::builder().peer("db", peer()).build().expect("valid");
        let told = |text: &str| {
            Target::read(text, Some(&config))
                .expect_err(text)
                .to_string()
        };
        assert!(told("dv").contains("names in the configuration: db"));
        assert!(told("tcp://host").contains("`tcp://host:port`"));
        let ticket = peer().ticket();
        let cut = &ticket[..ticket.len() - 3];
        assert!(told(cut).contains("ticket"), "{}", told(cut));
    }
}
