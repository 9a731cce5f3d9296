//! Through a relay, and from there to a direct path.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayConfig, RelayMap, RelayMode, RelayUrl,
    endpoint::Builder, tls::CaTlsConfig,
};
use iroh_relay::{
    RelayQuicConfig,
    server::{
        CertConfig, QuicConfig, RelayConfig as RelayServerConfig, Server as Running, ServerConfig,
        TlsConfig,
    },
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tower_iroh::{Links, Path, Peer};
use tower_iroh_lab::{Case, Conditions, Network, Outcome};

use crate::{
    place::{Arm, Caller, Server, bind, everywhere},
    support::{soon, until},
    traffic::{Pace, Traffic},
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("relay_only", relay_only),
        Case::new("from_the_relay_to_a_direct_path_under_load", upgrade),
    ]
}

const HTTP: u16 = 80;
const HTTPS: u16 = 443;
const QUIC: u16 = 7842;

/// A relay with all that it has to offer: HTTPS, and QUIC for peers to learn their outer addresses from.
#[derive(Clone)]
pub struct Relay {
    pub url: RelayUrl,
    trusted: CertificateDer<'static>,
    _running: Arc<Running>,
}

impl Relay {
    /// Runs on the host whose task this is; `address` is the host's.
    pub async fn start(address: Ipv4Addr) -> Self {
        let key = rcgen::generate_simple_self_signed([address.to_string()]).expect("a key");
        let trusted = key.cert.der().clone();
        let secret = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(vec![trusted.clone()], secret.into())
            .expect("its own certificate");
        let on = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let cert = CertConfig::Manual { server_config: tls };
        let mut relay = RelayServerConfig::new(on(HTTP));
        relay.tls = Some(TlsConfig::new(on(HTTPS), cert));
        let mut config = ServerConfig::default();
        config.relay = Some(relay);
        config.quic = Some(QuicConfig::new(on(QUIC)));
        let running = Running::spawn(config).await.expect("a relay");
        Self {
            url: format!("https://{address}").parse().expect("a URL"),
            trusted,
            _running: Arc::new(running),
        }
    }

    /// An endpoint with this relay, once it is connected to it.
    pub async fn bind(&self, endpoint: Builder) -> Endpoint {
        let quic = RelayQuicConfig::new(QUIC);
        let map: RelayMap = RelayConfig::new(self.url.clone(), Some(quic)).into();
        let endpoint = endpoint
            .relay_mode(RelayMode::Custom(map))
            .ca_tls_config(CaTlsConfig::custom_roots([self.trusted.clone()]));
        let endpoint = bind(endpoint).await;
        soon("the relay", endpoint.online()).await;
        endpoint
    }

    /// A peer of whom nothing is known but this relay.
    pub fn peer(&self, id: EndpointId) -> Peer {
        EndpointAddr::new(id)
            .with_relay_url(self.url.clone())
            .into()
    }
}

/// Three hosts, the relay, and a server that has said where it is to nobody else. `bound` is how both endpoints are.
pub async fn behind_relay(
    network: &Network,
    bound: fn() -> Builder,
) -> (Relay, Server, [Caller; 2]) {
    for (host, other) in [
        ("client", "relay"),
        ("server", "relay"),
        ("client", "server"),
    ] {
        let link = network.link(host, other);
        link.set(Conditions {
            cut: link.conditions(tower_iroh_lab::Direction::Forth).cut,
            ..Conditions::wan(Duration::from_millis(20))
        });
    }
    let host = network.host("relay");
    let relay = host.spawn(Relay::start(host.address())).await;
    let relay = relay.expect("no panic");
    let known = relay.clone();
    let server = network.host("server").spawn(async move {
        let endpoint = known.bind(bound()).await;
        Server::start(endpoint).await
    });
    let server = server.await.expect("no panic");
    let peer = relay.peer(server.endpoint.id());
    let mut callers = Vec::new();
    for arm in [Arm::Channel, Arm::Tonic] {
        let links = Links::new(relay.bind(bound()).await);
        callers.push(Caller::over(arm, &peer, links));
    }
    let callers = callers.try_into().map_err(|_| "two").expect("two arms");
    (relay, server, callers)
}

fn relay_only() -> Outcome {
    let network = Network::new(["client", "server", "relay"])?;
    let shared = network.clone();
    network.host("client").block_on(async move {
        let bound = || everywhere().clear_ip_transports();
        let (relay, server, callers) = behind_relay(&shared, bound).await;
        for (number, caller) in callers.into_iter().enumerate() {
            let name = format!("relayed-{number}");
            let mut traffic = Traffic::start(&name, &caller.service, Pace::default()).await;
            traffic.goes_on(100, 50).await;
            assert_eq!(caller.path(), Some(Path::Relay(relay.url.clone())));
            traffic.stop().await.check_all_well(&server.desk);
        }
    });
    Ok(())
}

fn upgrade() -> Outcome {
    let network = Network::new(["client", "server", "relay"])?;
    network.link("client", "server").cut();
    let shared = network.clone();
    network.host("client").block_on(upgraded(shared))
}

async fn upgraded(network: Network) -> Outcome {
    let (relay, server, callers) = behind_relay(&network, everywhere).await;
    let mut parties = Vec::new();
    for (number, caller) in callers.into_iter().enumerate() {
        let name = format!("upgraded-{number}");
        let mut traffic = Traffic::start(&name, &caller.service, Pace::default()).await;
        traffic.goes_on(50, 20).await;
        assert_eq!(caller.path(), Some(Path::Relay(relay.url.clone())));
        let stats = caller.links.stats(caller.peer).expect("connected");
        parties.push((caller, traffic, stats.established_at));
    }
    network.link("client", "server").restore();
    // iroh looks for a better path once a minute, and at once when there is a new address.
    network.add_address("client", 1)?;
    let restored = tokio::time::Instant::now();
    for (caller, traffic, _) in &mut parties {
        let direct = || caller.path().is_some_and(|path| path.is_direct());
        until("a direct path", direct).await;
        println!("direct after {:?}", restored.elapsed());
        traffic.goes_on(50, 20).await;
    }
    for (caller, traffic, established) in parties {
        let stats = caller.links.stats(caller.peer).expect("connected");
        assert_eq!(stats.established_at, established, "the same connection");
        assert!(stats.path.is_some_and(|path| path.is_direct()));
        traffic.stop().await.check_all_well(&server.desk);
    }
    Ok(())
}
