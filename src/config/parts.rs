//! Builders of this library's parts, with the settings of a configuration.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use iroh::{Endpoint, RelayMode, SecretKey, endpoint::Builder};

use super::Config;
use crate::{
    pool,
    quic::{Acceptor, AcceptorBuilder, Links, LinksBuilder, Tuning},
    tcp::{TcpAcceptor, TcpAcceptorBuilder, TcpLinks, TcpLinksBuilder},
};
use tower_iroh_layers::{ConfigError, Methods, breaker::BreakerConfig, buffer::BufferConfig};

impl Config {
    /// The methods of these groups, in their order; an unknown group has none.
    pub(crate) fn methods_of<'a>(&'a self, groups: &'a [String]) -> impl Iterator<Item = &'a str> {
        let methods = groups.iter().filter_map(|name| self.group(name));
        methods.flatten().map(String::as_str)
    }

    /// An endpoint's settings: its port, interface and relay, and the tuning that the rest of this library relies on. The caller adds the key, and an address
    /// lookup where one is wanted.
    ///
    /// # Errors
    /// [`ConfigError`] for an address that cannot be bound.
    pub fn endpoint(&self) -> Result<Builder, ConfigError> {
        let relay = match self.home_relay() {
            Some(url) => RelayMode::custom([url.clone()]),
            None => RelayMode::Disabled,
        };
        let port = self.discovery_port();
        let addrs = match self.iroh_bind_ip() {
            Some(ip) => vec![SocketAddr::new(ip, port)],
            None => vec![
                (Ipv4Addr::UNSPECIFIED, port).into(),
                (Ipv6Addr::UNSPECIFIED, port).into(),
            ],
        };
        let mut builder = Endpoint::builder(iroh::endpoint::presets::Minimal)
            .preset(Tuning::auto())
            .relay_mode(relay)
            .clear_ip_transports();
        for addr in addrs {
            builder = builder.bind_addr(addr).map_err(|error| {
                ConfigError::new("transport.iroh.bind_ip", addr, error.to_string())
            })?;
        }
        Ok(builder)
    }

    /// The settings of the connections to peers over iroh.
    pub fn links(&self, endpoint: Endpoint) -> LinksBuilder {
        self.connections(Links::builder(endpoint))
    }

    /// The settings of the connections to peers over TCP, which prove `key`.
    pub fn tcp_links(&self, key: SecretKey) -> TcpLinksBuilder {
        self.connections(TcpLinks::builder(key))
            .insecure_plaintext_fallback(self.insecure_plaintext_fallback())
    }

    /// The settings that connections have over either transport.
    fn connections<S>(&self, links: pool::LinksBuilder<S>) -> pool::LinksBuilder<S> {
        links
            .max_connections(self.max_connections())
            .dial_timeout(self.dial_timeout())
            .backoff(self.reconnect_min(), self.reconnect_max())
            .idle_timeout(self.idle_timeout())
            .health_interval(self.health_check_interval())
    }

    /// The settings of a peer's circuit breakers.
    ///
    /// # Errors
    /// None for a valid configuration.
    pub fn breaker(&self) -> Result<BreakerConfig, ConfigError> {
        let defaults = BreakerConfig::builder();
        let recovery = self.recovery_timeout();
        // The first wait must not be longer than the longest.
        let first_wait = recovery.min(std::time::Duration::from_secs(1));
        defaults
            .failure_threshold(self.failure_threshold())
            .first_wait(first_wait)
            .recovery(recovery)
            .build()
    }

    /// The table of methods: the tables of `[methods]`, the groups whose calls wait, and in mode `dual` the transports of all groups.
    ///
    /// # Errors
    /// None for a valid configuration.
    pub fn methods(&self) -> Result<Methods, ConfigError> {
        self.table(None)
    }

    /// The settings of the buffer: how many calls wait for a peer that cannot be reached, and for how long. [`methods`](Self::methods) says which.
    ///
    /// # Errors
    /// None for a valid configuration.
    pub fn buffer(&self) -> Result<BufferConfig, ConfigError> {
        BufferConfig::builder()
            .ttl(self.buffer_ttl())
            .max_calls(self.buffer_max_calls())
            .max_bytes(self.buffer_max_bytes())
            .build()
    }

    /// The largest message, as gRPC's prefix can write it.
    #[cfg(feature = "authorize")]
    pub(super) fn message_bytes(&self) -> u32 {
        u32::try_from(self.max_message_size()).unwrap_or(u32::MAX)
    }

    /// The settings of the server's connections over iroh.
    pub fn acceptor(&self) -> AcceptorBuilder {
        Acceptor::builder()
            .max_connections_per_peer(self.max_connections_per_peer())
            .drain_timeout(self.drain_timeout())
            .idle_timeout(self.server_idle_timeout())
            .max_connection_age(self.max_connection_age())
            .max_connection_age_grace(self.max_connection_age_grace())
    }

    /// The settings of the server's connections over TCP. Each stream of each lane is a connection there, so a peer may have four times as many.
    pub fn tcp_acceptor(&self, key: SecretKey) -> TcpAcceptorBuilder {
        self.on_tcp(TcpAcceptor::builder(key))
    }

    pub(crate) fn on_tcp(&self, acceptor: TcpAcceptorBuilder) -> TcpAcceptorBuilder {
        acceptor
            .max_connections_per_peer(self.max_connections_per_peer().saturating_mul(4))
            .drain_timeout(self.drain_timeout())
            .idle_timeout(self.server_idle_timeout())
            .max_connection_age(self.max_connection_age())
            .max_connection_age_grace(self.max_connection_age_grace())
            .plaintext(!self.tls_enabled())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_parts() {
        let config = Config::default();
        assert_eq!(config.breaker().expect("valid"), BreakerConfig::default());
        let buffer = format!("{:?}", config.buffer().expect("valid"));
        assert_eq!(buffer, format!("{:?}", BufferConfig::default()));
        let ours = format!("{:?}", config.acceptor());
        assert_eq!(ours, format!("{:?}", Acceptor::builder()));
        let key = SecretKey::from_bytes(&[1; 32]);
        let ours = format!("{:?}", config.tcp_acceptor(key.clone()));
        let theirs = TcpAcceptor::builder(key.clone());
        assert_eq!(ours, format!("{theirs:?}"));
        let ours = format!("{:?}", config.tcp_links(key.clone()));
        assert_eq!(ours, format!("{:?}", TcpLinks::builder(key)));
    }

    proptest! {
        /// What a configuration accepts no part refuses.
        #[test]
        fn each_accepted_time_is_accepted_by_the_parts(millis in 1..86_400_000_u64, threshold in 1..1_000_000_u32) {
            let time = std::time::Duration::from_millis(millis);
            let config = Config::builder()
                .recovery_timeout(time)
                .buffer_ttl(time)
                .failure_threshold(threshold)
                .drain_timeout(time)
                .build()
                .expect("valid");
            prop_assert!(config.breaker().is_ok() && config.buffer().is_ok() && config.acceptor().build().is_ok());
        }
    }
}
