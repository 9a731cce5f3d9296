//! The settings, each with its getter, its setter and its default.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use iroh::RelayUrl;

use tower_iroh_layers::MethodConfig;

use super::values::{Mode, RaftTransport};
use crate::{peer::Peer, server::Require};

/// A group's name, and the methods in it.
pub(super) type Groups = BTreeMap<String, Vec<String>>;

/// The group whose transport `raft_transport` chooses.
pub(super) const RAFT: &str = "raft";

/// `health` is built in.
fn built_in() -> Groups {
    let methods = vec!["grpc.health.v1.Health".to_owned()];
    Groups::from([("health".to_owned(), methods)])
}

macro_rules! settings {
    (
        simple { $($(#[$simple_doc:meta])* $simple:ident: $simple_type:ty = $simple_default:expr;)* }
        list { $($(#[$list_doc:meta])* $list:ident: $item:ty = $list_default:expr;)* }
        path { $($(#[$path_doc:meta])* $path:ident;)* }
    ) => {
        /// The configuration of a program's transports: from TOML, or in code.
        ///
        /// It is always valid. [`Display`](std::fmt::Display) shows all of it as TOML that loads again. It holds no secret: keys are in the files that it
        /// names. `docs/configuration.md` has each setting's key and unit, and the effect of a reload.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $(pub(crate) $simple: $simple_type,)*
            $(pub(super) $list: Vec<$item>,)*
            $(pub(super) $path: Option<PathBuf>,)*
            pub(super) home_relay: Option<RelayUrl>,
            pub(super) rollout_key_header: Option<String>,
            pub(super) groups: Groups,
            pub(super) methods: BTreeMap<String, MethodConfig>,
            pub(crate) peers: BTreeMap<String, Peer>,
        }

        impl Default for Config {
            fn default() -> Self {
                Self {
                    $($simple: $simple_default,)*
                    $($list: $list_default,)*
                    $($path: None,)*
                    home_relay: None,
                    rollout_key_header: None,
                    groups: built_in(),
                    methods: BTreeMap::new(),
                    peers: BTreeMap::new(),
                }
            }
        }

        impl Config {
            $($(#[$simple_doc])* pub fn $simple(&self) -> $simple_type {
                self.$simple
            })*
            $($(#[$list_doc])* pub fn $list(&self) -> &[$item] {
                &self.$list
            })*
            $($(#[$path_doc])* pub fn $path(&self) -> Option<&Path> {
                self.$path.as_deref()
            })*

            /// The relay through which peers reach this program where there is no direct path. Default none: no third party learns of the program.
            pub fn home_relay(&self) -> Option<&RelayUrl> {
                self.home_relay.as_ref()
            }

            /// The metadata key whose value decides which calls a rollout moves first; calls with the same value stay together. Default none: each call is decided
            /// by itself.
            pub fn rollout_key_header(&self) -> Option<&str> {
                self.rollout_key_header.as_deref()
            }
        }

        impl ConfigBuilder {
            $($(#[$simple_doc])* pub fn $simple(mut self, value: $simple_type) -> Self {
                self.config.$simple = value;
                self
            })*
            $($(#[$list_doc])* pub fn $list<T: Into<$item>>(mut self, values: impl IntoIterator<Item = T>) -> Self {
                self.config.$list = values.into_iter().map(Into::into).collect();
                self
            })*
            $($(#[$path_doc])* pub fn $path(mut self, value: impl Into<PathBuf>) -> Self {
                self.config.$path = Some(value.into());
                self
            })*

            /// The relay through which peers reach this program where there is no direct path. Default none: no third party learns of the program.
            pub fn home_relay(mut self, value: impl Into<Option<RelayUrl>>) -> Self {
                self.config.home_relay = value.into();
                self
            }

            /// The metadata key whose value decides which calls a rollout moves first; calls with the same value stay together. Default none: each call is decided
            /// by itself.
            pub fn rollout_key_header(mut self, name: impl Into<String>) -> Self {
                self.config.rollout_key_header = Some(name.into());
                self
            }
        }
    };
}

settings! {
    simple {
        /// The transports of the program. Default [`Mode::Dual`].
        mode: Mode = Mode::Dual;
        /// The transports that must be bound for the server to run. Default [`Require::All`].
        require: Require = Require::All;
        /// Whether callers that prove no identity may call every method, where no [policy](Config::authorization_file) says what they may call. Default false.
        allow_anonymous: bool = false;
        /// The most connections that one peer may have to this server. Default 16.
        max_connections_per_peer: usize = 16;
        /// How long calls in flight may take to finish once the server stops. Default 10 s.
        drain_timeout: Duration = Duration::from_secs(10);
        /// A connection to the server without a call in flight is closed after this time. Default 600 s.
        server_idle_timeout: Duration = Duration::from_secs(600);
        /// Clients are asked to make their calls on a new connection after this time, give or take 10 %. Default none: connections do not age.
        max_connection_age: Option<Duration> = None;
        /// How long calls may go on after that until they are cut. Default none: as long as they take.
        max_connection_age_grace: Option<Duration> = None;

        /// Where the server listens for TCP. Default `0.0.0.0:7001`; port 0 is any free port.
        grpc_bind_address: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7001);
        /// The largest message that is received, in bytes as they come over the wire: of requests by services on [`Transport::tonic`](crate::Transport::tonic), of
        /// responses by channels of [`Transport::peers`](crate::Transport::peers). A larger one is refused with RESOURCE_EXHAUSTED. Default 4 MiB.
        ///
        /// Generated code has a limit of 4 MiB of its own. To receive more, tell it to: `.max_decoding_message_size(config.max_message_size())`, on each client and service.
        max_message_size: usize = 4 << 20;
        /// Whether the TCP port accepts TLS alone. Default true. With false it also accepts plaintext, from clients of today, whose callers have no identity and
        /// are permitted nothing until a policy or [`allow_anonymous`](Config::allow_anonymous) permits it. The program's own calls are never plaintext
        /// because of it.
        tls_enabled: bool = true;

        /// Whether the program uses iroh. Default true; false turns mode `dual` into `grpc`.
        iroh_enabled: bool = true;
        /// The interface that iroh binds. Default all.
        iroh_bind_ip: Option<IpAddr> = None;
        /// The UDP port that iroh binds. Default 0: any free port.
        discovery_port: u16 = 0;
        /// Whether this program's own calls may go over iroh. Default true; with false its server still answers there.
        enable_peer_connector: bool = true;

        /// The transport of the calls of the group `raft`. Default [`RaftTransport::AlwaysGrpc`].
        raft_transport: RaftTransport = RaftTransport::AlwaysGrpc;
        /// Whether a call that prefers iroh goes over TCP while iroh is not ready, or after iroh failed before anything was sent. Default true.
        fallback_to_grpc: bool = true;
        /// Whether the program's own calls may go over TCP without TLS, and so to a server that proves no identity. Default false.
        insecure_plaintext_fallback: bool = false;

        /// Whether calls move to iroh stage by stage. Default false; in a file, the table `transport.rollout` sets it to true.
        rollout_enabled: bool = false;
        /// The shortest time of a stage. Default 300 s.
        rollout_dwell: Duration = Duration::from_secs(300);
        /// How long a call counts in the comparison of the transports. Default 30 s.
        rollout_window: Duration = Duration::from_secs(30);
        /// How far iroh's error rate may be above TCP's, as a share of all calls. Default 0.01.
        rollout_max_error_difference: f64 = 0.01;
        /// How many times TCP's p99 latency iroh's may be. Default 1.25.
        rollout_max_p99_ratio: f64 = 1.25;
        /// How far iroh's p99 latency may be above TCP's, whatever the ratio. Default 5 ms.
        rollout_max_p99_difference: Duration = Duration::from_millis(5);
        /// How many calls each transport needs within the window before they are compared. Default 100.
        rollout_min_samples: u32 = 100;

        /// The most connections to peers, dials included. Default 100.
        max_connections: usize = 100;
        /// The longest that a dial may take. Default 10 s.
        dial_timeout: Duration = Duration::from_secs(10);
        /// The wait after a peer's first failed dial. Default 100 ms.
        reconnect_min: Duration = Duration::from_millis(100);
        /// The longest wait after failed dials. Default 30 s.
        reconnect_max: Duration = Duration::from_secs(30);
        /// How often a connection is pinged. Default 30 s.
        health_check_interval: Duration = Duration::from_secs(30);
        /// A connection without an open call is closed after this time. Default 300 s.
        idle_timeout: Duration = Duration::from_secs(300);
        /// The failures in a row that open a peer's circuit breaker. Default 5.
        failure_threshold: u32 = 5;
        /// The longest wait of an open circuit breaker before it lets a call through. Default 30 s.
        recovery_timeout: Duration = Duration::from_secs(30);
        /// The longest that a buffered call waits for its peer. Default 300 s.
        buffer_ttl: Duration = Duration::from_secs(300);
        /// The most calls that wait for a peer. Default 1,000.
        buffer_max_calls: usize = 1_000;
        /// The most bytes of requests that wait for a peer. Default 16 MiB.
        buffer_max_bytes: usize = 16 << 20;
    }
    list {
        /// The groups whose calls prefer iroh in mode `dual`. Default none.
        prefer_iroh_for: String = Vec::new();
        /// The groups whose calls the rollout moves. Default none: it moves every call that is in no other list.
        rollout_services: String = Vec::new();
        /// The share of calls that go over iroh in each stage, in percent. Default 5, 25, 50, 100.
        rollout_stages: f64 = vec![5.0, 25.0, 50.0, 100.0];
        /// The groups whose calls wait while their peer cannot be reached. Default none.
        buffer_for: String = Vec::new();
    }
    path {
        /// The file with this program's secret key, see [`identity`](crate::identity). Default none: each start makes a new identity.
        identity_file;
        /// The file with the policy of [`authorize`](crate::layers::authorize). Default none: every caller that proves an identity may call every method, and no
        /// other caller any unless [`allow_anonymous`](Config::allow_anonymous) is set.
        authorization_file;
        /// The folder that keeps a rollout's progress with each peer over a restart. Default none.
        rollout_state_folder;
    }
}

impl Config {
    /// A builder with the defaults.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// The methods of a group: built in, registered in code, or listed in the file.
    pub fn group(&self, name: &str) -> Option<&[String]> {
        self.groups.get(name).map(Vec::as_slice)
    }

    /// All groups with their methods, by name.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &[String])> {
        let groups = self.groups.iter();
        groups.map(|(name, methods)| (name.as_str(), methods.as_slice()))
    }

    /// All peers, by name.
    pub fn peers(&self) -> impl Iterator<Item = (&str, &Peer)> {
        self.peers.iter().map(|(name, peer)| (name.as_str(), peer))
    }

    /// The mode, with `transport.iroh.enabled` taken into account.
    pub fn effective_mode(&self) -> Mode {
        match self.mode {
            Mode::Dual if !self.iroh_enabled => Mode::Grpc,
            mode => mode,
        }
    }
}

/// Makes a [`Config`] in code, checked by the same rules as a file.
///
/// ```
/// use tower_iroh::config::{Config, Mode};
///
/// let built = Config::builder()
///     .mode(Mode::Dual)
///     .group("vm_ops", ["/cluster.v1.ClusterService/CreateVm"])
///     .prefer_iroh_for(["health", "vm_ops"])
///     .build()?;
/// let read = Config::from_toml(r#"
///     transport.mode = "dual"
///     transport.services.vm_ops = ["/cluster.v1.ClusterService/CreateVm"]
///     transport.migration.prefer_iroh_for = ["health", "vm_ops"]
/// "#)?;
/// assert_eq!(built, read);
///
/// let error = Config::builder().max_connections(0).build().unwrap_err();
/// assert_eq!(error.field(), "cluster.peer.max_connections");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ConfigBuilder {
    pub(super) config: Config,
}

impl ConfigBuilder {
    /// Registers a group of methods: `/pkg.Svc/Method`, and for all methods of a service `/pkg.Svc/*` or `pkg.Svc`. It replaces one of the same name.
    pub fn group<M: Into<String>>(
        mut self,
        name: impl Into<String>,
        methods: impl IntoIterator<Item = M>,
    ) -> Self {
        let methods = methods.into_iter().map(Into::into).collect();
        self.config.groups.insert(name.into(), methods);
        self
    }

    /// Adds an entry to the table of methods, as `[methods."/pkg.Svc/Method"]` does. It replaces one of the same pattern. Its transport is one that a file can have:
    /// `Choice::Fixed` or `Choice::Prefer`.
    pub fn method(mut self, pattern: impl Into<String>, config: MethodConfig) -> Self {
        self.config.methods.insert(pattern.into(), config);
        self
    }

    /// Names a peer. It replaces one of the same name.
    pub fn peer(mut self, name: impl Into<String>, peer: impl Into<Peer>) -> Self {
        self.config.peers.insert(name.into(), peer.into());
        self
    }
}
