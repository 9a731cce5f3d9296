//! The program's own iroh endpoint: its key, its relay, its address.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use iroh::{
    Endpoint, RelayMode, RelayUrl, SecretKey,
    endpoint::{Builder, PortmapperConfig, presets},
};
use tokio::time::timeout;
use tower_iroh::{Tuning, config::Config, identity};

use crate::failure::Failure;

/// How this program appears to its peers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "This endpoint")]
pub(crate) struct EndpointOptions {
    /// The file with the secret key, which is created if it is missing. Without a key each start has a new identity.
    #[arg(long, value_name = "FILE", env = "TOWER_IROH_KEY")]
    pub(crate) key_file: Option<PathBuf>,
    /// The relay that helps where no direct path is found yet: `default` (those of n0), `disabled`, or a URL. Without this option it is the
    /// configuration's `home_relay`, or `default`. With `disabled` an endpoint id alone cannot be looked up either.
    #[arg(long, value_name = "RELAY", env = "TOWER_IROH_RELAY")]
    pub(crate) relay: Option<Relay>,
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

    /// Whether a key was given, be it by the environment or by a file.
    pub(crate) fn has_key(&self) -> bool {
        self.key_file.is_some() || std::env::var_os(SECRET).is_some()
    }

    /// The relay: the option's, else the configuration's, else those of n0.
    pub(crate) fn relay(&self, config: Option<&Config>) -> Relay {
        let configured = || config.and_then(Config::home_relay).cloned().map(Relay::Url);
        let relay = self.relay.clone().or_else(configured);
        relay.unwrap_or(Relay::Default)
    }

    /// Puts the options on an endpoint's builder, except for the key.
    pub(crate) fn apply(&self, config: Option<&Config>, builder: Builder) -> Builder {
        let builder = builder.clear_address_lookup();
        let builder = match self.relay(config) {
            Relay::Default => builder.preset(presets::N0),
            Relay::Disabled => builder
                .relay_mode(RelayMode::Disabled)
                .portmapper_config(PortmapperConfig::Disabled),
            // n0's lookup of addresses is used with it.
            Relay::Url(url) => builder
                .preset(presets::N0)
                .relay_mode(RelayMode::custom([url])),
        };
        match self.bind {
            None => builder,
            // The only address that is refused is a second one.
            Some(addr) => match builder.clear_ip_transports().bind_addr(addr) {
                Ok(builder) => builder,
                Err(error) => unreachable!("{addr} was refused: {error}"),
            },
        }
    }

    /// Binds an endpoint. Of a configuration only the relay counts: the address and the identity are those of the program that it is for.
    pub(crate) async fn bind(&self, config: Option<&Config>) -> Result<Endpoint, Failure> {
        let builder = Endpoint::builder(presets::N0).preset(Tuning::auto().only_lanes());
        let builder = self.apply(config, builder).secret_key(self.key()?);
        let bound = builder.bind().await;
        bound.map_err(|error| Failure::failed(format!("the UDP address cannot be bound: {error}")))
    }

    /// Waits until the endpoint knows its relay, so that its ticket names it. Returns whether it does; an endpoint without internet goes on without.
    pub(crate) async fn online(&self, config: Option<&Config>, endpoint: &Endpoint) -> bool {
        const PATIENCE: Duration = Duration::from_secs(5);
        match self.relay(config) {
            Relay::Disabled => true,
            _ => timeout(PATIENCE, endpoint.online()).await.is_ok(),
        }
    }
}
