//! The program's own iroh endpoint: its key, its relay, its address.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use iroh::{Endpoint, RelayMode, RelayUrl, SecretKey, endpoint::PortmapperConfig};
use tower_iroh::{Tuning, identity};

use crate::failure::Failure;

/// How this program appears to its peers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "This endpoint")]
pub(crate) struct EndpointOptions {
    /// The file with the secret key, which is created if it is missing. Without a key each start has a new identity.
    #[arg(long, value_name = "FILE", env = "TOWER_IROH_KEY")]
    pub(crate) key_file: Option<PathBuf>,
    /// The relay that helps where no direct path is found yet: `default` (those of n0), `disabled`, or a URL.
    /// With `disabled` an endpoint id alone cannot be looked up either.
    #[arg(
        long,
        value_name = "RELAY",
        default_value = "default",
        env = "TOWER_IROH_RELAY"
    )]
    pub(crate) relay: Relay,
    /// The UDP address to bind; without it a free port on all interfaces.
    #[arg(long, value_name = "ADDR")]
    pub(crate) bind: Option<SocketAddr>,
}

/// Which relay the endpoint uses.
#[derive(Clone, Debug)]
pub(crate) enum Relay {
    Default,
    Disabled,
    Url(RelayUrl),
}

impl FromStr for Relay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self::Default),
            "disabled" => Ok(Self::Disabled),
            url if url.starts_with("http://") || url.starts_with("https://") => url
                .parse()
                .map(Self::Url)
                .map_err(|error| format!("`{url}` is not a URL: {error}")),
            other => Err(format!(
                "`{other}` is not a relay; use `default`, `disabled` or a URL that begins with https://"
            )),
        }
    }
}

/// The environment's name for a secret key, as n0's programs have it. It is not an option, because a command line can be read by others.
const SECRET: &str = "IROH_SECRET";

impl EndpointOptions {
    /// The secret key: from `IROH_SECRET`, else from the file, else a new one.
    pub(crate) fn key(&self) -> Result<SecretKey, Failure> {
        if let Ok(text) = std::env::var(SECRET) {
            // The value is not quoted, because it may be nearly a key.
            return text.trim().parse().map_err(|_| {
                Failure::usage(format!(
                    "{SECRET} holds no secret key; use 64 hexadecimal digits"
                ))
            });
        }
        match &self.key_file {
            Some(path) => identity::load_or_create(path).map_err(Failure::failed),
            None => Ok(SecretKey::generate()),
        }
    }

    /// Binds the endpoint.
    pub(crate) async fn bind(&self) -> Result<Endpoint, Failure> {
        let key = self.key()?;
        let builder = match &self.relay {
            Relay::Default => Endpoint::builder(iroh::endpoint::presets::N0),
            Relay::Disabled => Endpoint::builder(iroh::endpoint::presets::Minimal)
                .relay_mode(RelayMode::Disabled)
                .portmapper_config(PortmapperConfig::Disabled),
            Relay::Url(url) => Endpoint::builder(iroh::endpoint::presets::N0)
                .relay_mode(RelayMode::custom([url.clone()])),
        };
        let mut builder = builder.preset(Tuning::auto()).secret_key(key);
        if let Some(addr) = self.bind {
            builder = builder
                .clear_ip_transports()
                .bind_addr(addr)
                .map_err(|error| Failure::usage(format!("`--bind {addr}`: {error}")))?;
        }
        let bound = builder.bind().await;
        bound.map_err(|error| Failure::failed(format!("the UDP address cannot be bound: {error}")))
    }

    /// Waits until the endpoint knows its relay, so that its ticket names it. An endpoint without internet goes on after a while.
    pub(crate) async fn online(&self, endpoint: &Endpoint) -> bool {
        const PATIENCE: Duration = Duration::from_secs(5);
        match self.relay {
            Relay::Disabled => true,
            _ => tokio::time::timeout(PATIENCE, endpoint.online())
                .await
                .is_ok(),
        }
    }
}
