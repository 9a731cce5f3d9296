//! What is secret stands in no log, no error and no `Debug`, whatever the level.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]
#![cfg(all(feature = "config", feature = "authorize"))]

use std::{
    fmt::Debug,
    fs, io,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use iroh::{Endpoint, SecretKey};
use tonic::{Code, Request, metadata::MetadataValue};
use tower_iroh::{
    Acceptor, Channel, Connector, Links, Peer, Server, Transport, TransportKind,
    config::Config,
    identity,
    presets::Offline,
    tcp::{TcpAcceptor, TcpConnector, TcpLinks},
};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer},
};

#[path = "support/secret.rs"]
mod secret;
#[path = "support/waiting.rs"]
#[allow(dead_code, reason = "one of its waits")]
mod waiting;

use secret::Secret;
use waiting::soon;

const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that is logged on this thread, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .expect("not poisoned")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn begin(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        let bytes = self.0.lock().expect("not poisoned");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

const LOCAL: &str =
    "transport.grpc.bind_address = \"127.0.0.1:0\"\ntransport.iroh.bind_ip = \"127.0.0.1\"\n";

fn config(folder: &Path, name: &str, lines: &str) -> Config {
    let key = folder.join(name);
    let text = format!("{LOCAL}transport.identity_file = {key:?}\n{lines}");
    Config::from_toml(&text).expect("valid")
}

fn secret(folder: &Path, name: &'static str) -> Secret {
    let key = identity::load_or_create(folder.join(name)).expect("a key");
    Secret::key(name, &key.to_bytes())
}

/// On one thread, whose log this is.
#[tokio::test]
async fn a_full_run_at_trace_level_shows_no_secret() {
    let log = Log::default();
    let logging = log.begin();
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let keys = ["server", "client", "stranger"].map(|name| secret(folder, name));
    let client_id = identity::load(folder.join("client"))
        .expect("a key")
        .public();
    let policy = folder.join("policy.toml");
    let text = format!("[roles.all]\nmethods = [\"*\"]\n[peers.{client_id}]\nroles = [\"all\"]\n");
    fs::write(&policy, text).expect("written");

    let lines = format!("transport.authorization_file = {policy:?}\n");
    let ours = config(folder, "server", &lines);
    let (ours, server) = Transport::from_config(ours).await.expect("it binds");
    let (peer, handle) = (server.addresses().expect("dialable"), server.handle());
    let mut shown = format!("{server:?}{ours:?}{peer:?}{}", peer.ticket());
    let services = ours.tonic().add_service(EchoServer::new(EchoService));
    let serving = tokio::spawn(
        server.serve(|incoming, stopped| services.serve_with_incoming_shutdown(incoming, stopped)),
    );
    let token = "correct-horse-battery-staple";
    for (name, code) in [("client", Code::Ok), ("stranger", Code::PermissionDenied)] {
        let theirs = config(folder, name, "");
        let theirs = Transport::builder(theirs)
            .connect()
            .await
            .expect("it binds");
        theirs.peers().add("server", peer.clone());
        for kind in [TransportKind::Iroh, TransportKind::Tcp] {
            let channel = theirs.peers().channel_over("server", kind).expect("known");
            shown += &format!("{channel:?}");
            let mut request = Request::new(EchoRequest::default());
            let value: MetadataValue<_> = format!("Bearer {token}").parse().expect("ASCII");
            request.metadata_mut().insert("authorization", value);
            let answer = soon("an answer", EchoClient::new(channel).echo(request)).await;
            shown += &format!("{answer:?}");
            let told = answer.map_or_else(|status| status.code(), |_| Code::Ok);
            assert_eq!(told, code, "{name} over {kind}");
        }
        shown += &format!("{theirs:?}");
        theirs.close().await;
    }
    handle.shutdown();
    let served = soon("the drain", serving).await;
    served.expect("no panic").expect("served");
    drop(logging);

    let log = log.text();
    for crate_name in ["tower_iroh", "iroh", "noq", "h2", "tonic"] {
        assert!(log.contains(crate_name), "{crate_name} logs here");
    }
    for secret in &keys {
        secret.is_not_in("the log", &log);
        secret.is_not_in("what is shown for debugging", &shown);
    }
    let token = Secret::word("the token", token);
    token.is_not_in("the log", &log);
    token.is_not_in("what is shown for debugging", &shown);
}

#[tokio::test]
async fn what_holds_a_key_does_not_show_it() {
    let key = SecretKey::generate();
    let secret = Secret::key("the key", &key.to_bytes());
    let is_silent = |name: &str, value: &dyn Debug| {
        secret.is_not_in(name, &format!("{value:?}{value:#?}"));
    };
    let endpoint = Endpoint::builder(Offline).secret_key(key.clone());
    let endpoint = endpoint.bind().await.expect("127.0.0.1 is there");
    let peer = Peer::of(&endpoint).expect("dialable");
    is_silent("Peer", &peer);
    secret.is_not_in("a ticket", &peer.ticket().to_string());
    is_silent("LinksBuilder", &Links::builder(endpoint.clone()));
    is_silent("Links", &Links::new(endpoint.clone()));
    is_silent("Connector", &Connector::new(endpoint.clone()));
    is_silent("TcpLinksBuilder", &TcpLinks::builder(key.clone()));
    is_silent("TcpLinks", &TcpLinks::new(key.clone()));
    is_silent("TcpConnector", &TcpConnector::new(key.clone()));
    is_silent("TcpAcceptorBuilder", &TcpAcceptor::builder(key.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let acceptor = TcpAcceptor::new(listener.expect("a port"), key.clone()).expect("valid");
    is_silent("TcpAcceptor", &acceptor);
    is_silent("Acceptor", &Acceptor::new());
    let over_iroh = Channel::builder(endpoint.clone()).peer(peer.clone());
    is_silent("ChannelBuilder", &over_iroh);
    is_silent("Channel", &over_iroh.build().expect("valid"));
    is_silent(
        "ChannelBuilder over TCP",
        &Channel::tcp(key.clone()).peer(peer),
    );
    let server = Server::builder()
        .endpoint(endpoint.clone())
        .key(key.clone());
    is_silent("ServerBuilder", &server);
    let server = server.tcp(([127, 0, 0, 1], 0).into()).bind().await;
    is_silent("Server", &server.expect("bound"));
    let config = Config::from_toml(LOCAL).expect("valid");
    let transport = Transport::builder(config).key(key.clone());
    is_silent("TransportBuilder", &transport);
    is_silent("Transport", &transport.connect().await.expect("it binds"));
    endpoint.close().await;
}

/// A file that is nearly a key, or that others may read: the error says what is wrong and not what stands there.
#[test]
fn an_error_about_a_key_file_does_not_show_the_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = SecretKey::generate().to_bytes();
    let secret = Secret::key("the key", &key);
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    for (name, text) in [
        ("long", format!("{hex}00")),
        ("short", hex[..62].to_owned()),
        ("quoted", format!("{hex:?}")),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        #[cfg(unix)]
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("set");
        let error = identity::load(&path).expect_err("not a key");
        secret.is_not_in("the error", &format!("{error}{error:?}"));
        let config = Config::from_toml(&format!("transport.identity_file = {path:?}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let bound = Transport::builder(config.expect("valid")).connect();
        let error = runtime
            .expect("a runtime")
            .block_on(bound)
            .expect_err("not a key");
        secret.is_not_in("the error", &format!("{error}{error:?}"));
    }
}
