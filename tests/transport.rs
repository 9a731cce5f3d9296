//! Servers and clients from a configuration, and what a reload does to them while they run.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]
#![cfg(all(feature = "config", feature = "authorize"))]

use std::{fs, net::TcpListener, path::PathBuf, sync::Arc, time::Duration};

use iroh::SecretKey;
use tokio::{sync::watch, task::JoinHandle};
use tonic::{Code, Status};
use tower_iroh::{
    Channel, Peer, PeerInfo, ServerError, ServerHandle, Transport, TransportError, TransportKind,
    Urgency,
    config::{Config, ConfigWatch, Followed, Mode, Reload},
    layers::select::{Arm, Choice, SelectPolicy},
};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer},
};

#[path = "support/waiting.rs"]
mod waiting;

use waiting::{soon, until};

const PATIENCE: Duration = Duration::from_secs(20);
const ECHO: &str = "/tower_iroh.echo.v1.Echo/Echo";

/// On this machine alone, and on free ports.
const LOCAL: &str =
    "transport.grpc.bind_address = \"127.0.0.1:0\"\ntransport.iroh.bind_ip = \"127.0.0.1\"\n";

fn config(lines: &str) -> Config {
    Config::from_toml(&format!("{LOCAL}{lines}")).expect(lines)
}

struct Running {
    transport: Transport,
    peer: Peer,
    handle: ServerHandle,
    serving: JoinHandle<Result<(), ServerError>>,
}

impl Running {
    async fn new(config: Config) -> Self {
        let (transport, server) = Transport::from_config(config).await.expect("it binds");
        let (peer, handle) = (server.addresses().expect("dialable"), server.handle());
        let services = transport.tonic().add_service(EchoServer::new(EchoService));
        let serving =
            tokio::spawn(server.serve(|incoming, stopped| {
                services.serve_with_incoming_shutdown(incoming, stopped)
            }));
        Self {
            transport,
            peer,
            handle,
            serving,
        }
    }

    async fn stop(self) {
        self.handle.shutdown();
        soon("the drain", self.serving)
            .await
            .expect("no panic")
            .expect("served");
    }
}

async fn client(lines: &str, peer: &Peer) -> Transport {
    let mut shown = String::from(lines);
    shown.push_str(&format!("\n[peers.server]\nid = \"{}\"\n", peer.id()));
    let direct: Vec<_> = peer
        .addr()
        .ip_addrs()
        .map(|addr| format!("\"{addr}\""))
        .collect();
    shown.push_str(&format!("iroh = [{}]\n", direct.join(", ")));
    if let Some(tcp) = peer.tcp() {
        shown.push_str(&format!("tcp = \"{tcp}\"\n"));
    }
    Transport::builder(config(&shown))
        .connect()
        .await
        .expect("it binds")
}

async fn echo(channel: Channel) -> Result<(), Status> {
    let call = async move {
        let request = EchoRequest {
            payload: "hello".into(),
        };
        let answer = EchoClient::new(channel).echo(request).await?;
        assert_eq!(answer.into_inner().payload, "hello");
        Ok(())
    };
    soon("an answer", call).await
}

fn over(transport: &Transport, kind: TransportKind) -> Channel {
    transport
        .peers()
        .channel_over("server", kind)
        .expect("known")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dual_answers_on_both_with_one_identity() {
    let server = Running::new(config("")).await;
    assert_eq!(server.peer.id(), server.transport.id());
    let client = client("", &server.peer).await;
    for kind in [TransportKind::Iroh, TransportKind::Tcp] {
        let channel = over(&client, kind);
        assert_eq!(channel.transports().collect::<Vec<_>>(), [kind]);
        echo(channel).await.expect("answered");
    }
    let peers = client.peers();
    assert_eq!(peers.links().expect("iroh").connections(), 1);
    assert_eq!(peers.tcp_links().expect("TCP").connections(), 1);
    client.close().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mode_of_one_transport_has_no_other() {
    for (mode, there, not_there) in [
        ("grpc", TransportKind::Tcp, TransportKind::Iroh),
        ("iroh", TransportKind::Iroh, TransportKind::Tcp),
    ] {
        let lines = format!("transport.mode = \"{mode}\"\n");
        let server = Running::new(config(&lines)).await;
        assert_eq!(server.peer.tcp().is_some(), there == TransportKind::Tcp);
        assert_eq!(
            server.transport.endpoint().is_some(),
            there == TransportKind::Iroh
        );
        let client = client(&lines, &server.peer).await;
        let channel = client.peers().channel("server").expect("known");
        assert_eq!(channel.transports().collect::<Vec<_>>(), [there]);
        echo(channel).await.expect("answered");
        let error = client
            .peers()
            .channel_over("server", not_there)
            .expect_err("not there");
        assert_eq!(Status::from(error).code(), Code::FailedPrecondition);
        client.close().await;
        server.stop().await;
    }
}

/// tonic's own channel, as it exists today, in the clear: closed unless the file says otherwise, in words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_is_answered_where_the_file_says_so() {
    let in_the_clear = "transport.grpc.tls_enabled = false\n";
    let to_all = format!("{in_the_clear}transport.allow_anonymous = true\n");
    for (lines, code) in [
        ("", None),
        (in_the_clear, Some(Code::Unauthenticated)),
        (&to_all, Some(Code::Ok)),
    ] {
        let server = Running::new(config(lines)).await;
        let uri = format!("http://{}", server.peer.tcp().expect("TCP"));
        let call = async {
            let channel = tonic::transport::Endpoint::try_from(uri)
                .expect("a URI")
                .connect_lazy();
            EchoClient::new(channel).echo(EchoRequest::default()).await
        };
        let answer = soon("an answer", call).await;
        let told = answer.map_or_else(|status| status.code(), |_| Code::Ok);
        match code {
            Some(code) => assert_eq!(told, code, "{lines}"),
            // There is no HTTP/2 to say it with, or the port says it in words.
            None => assert_ne!(told, Code::Ok),
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_required_stops_the_server() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("bound");
    for (require, goes_on) in [
        ("all", false),
        ("grpc", false),
        ("iroh", true),
        ("any", true),
    ] {
        let lines = format!("transport.require = \"{require}\"\n");
        let text = format!("{LOCAL}{lines}").replace("127.0.0.1:0", &addr.to_string());
        let config = Config::from_toml(&text).expect("valid");
        match Transport::from_config(config).await {
            Ok((transport, server)) => {
                assert!(goes_on, "{require}");
                assert_eq!(
                    server.missing().expect("told").transport(),
                    TransportKind::Tcp
                );
                transport.close().await;
            }
            Err(error) => {
                assert!(!goes_on, "{require}: {error}");
                let TransportError::Server(ServerError::Bind(missing)) = error else {
                    panic!("{require}: {error:?}");
                };
                assert_eq!(missing.transport(), TransportKind::Tcp);
            }
        }
    }
}

#[tokio::test]
async fn an_identity_is_kept_in_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster.toml");
    fs::write(&path, format!("{LOCAL}transport.identity_file = \"key\"\n")).expect("written");
    let mut ids = Vec::new();
    for _ in 0..2 {
        let config = Config::from_file(&path).expect("valid");
        let transport = Transport::builder(config)
            .connect()
            .await
            .expect("it binds");
        ids.push(transport.id());
        transport.close().await;
    }
    assert_eq!(ids[0], ids[1]);
    assert!(folder.path().join("key").exists());
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_opens_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let policy = folder.path().join("policy.toml");
    let with = || {
        Config::builder()
            .authorization_file(&policy)
            .build()
            .expect("valid")
    };
    let error = Transport::from_config(with()).await.expect_err("not there");
    assert!(
        matches!(error, TransportError::ReadPolicy { .. }),
        "{error:?}"
    );
    fs::write(&policy, "[peers.alice]\nroles = []").expect("written");
    let error = Transport::from_config(with()).await.expect_err("no policy");
    assert!(matches!(error, TransportError::Policy { .. }), "{error:?}");
}

/// A server or client whose configuration is a file that is followed.
struct Edited {
    _folder: tempfile::TempDir,
    path: PathBuf,
    watch: ConfigWatch,
    events: watch::Receiver<Followed>,
}

impl Edited {
    fn new(transport: &Transport, text: &str, folder: tempfile::TempDir) -> Self {
        let path = folder.path().join("cluster.toml");
        fs::write(&path, text).expect("written");
        let settle = |watch: tower_iroh::config::ConfigWatchBuilder| {
            watch
                .settle(Duration::from_millis(20))
                .poll_interval(Duration::from_millis(200))
        };
        let watch = transport.watch(&path, settle).expect("valid");
        Self {
            _folder: folder,
            path,
            events: watch.events(),
            watch,
        }
    }

    async fn reload(&mut self, text: &str) -> Result<Arc<Reload>, String> {
        // Renamed, so that no look finds half a file.
        let beside = self.path.with_extension("new");
        fs::write(&beside, text).expect("written");
        fs::rename(&beside, &self.path).expect("replaced");
        soon("the reload", async {
            loop {
                self.events.changed().await.expect("it is followed");
                match &*self.events.borrow_and_update() {
                    Followed::Reloaded(reload) => return Ok(reload.clone()),
                    Followed::Refused(error) => {
                        let cause = std::error::Error::source(&**error).map(ToString::to_string);
                        return Err(cause.unwrap_or_default());
                    }
                    _ => {}
                }
            }
        })
        .await
    }
}

fn keys(changes: &[tower_iroh::config::Change]) -> Vec<&str> {
    changes
        .iter()
        .map(tower_iroh::config::Change::key)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_peers_and_where_calls_go() {
    let (one, two) = (
        Running::new(config("")).await,
        Running::new(config("")).await,
    );
    let client = client("", &one.peer).await;
    let base = format!(
        "{LOCAL}{}",
        client
            .config()
            .to_string()
            .split("[peers")
            .nth(1)
            .map_or(String::new(), |peer| format!("[peers{peer}"))
    );
    let mut file = Edited::new(&client, &base, tempfile::tempdir().expect("a folder"));
    let select = client.peers().select("server").expect("known");
    let choice = || select.policy().choice(ECHO, Urgency::default()).clone();
    assert_eq!(choice(), Choice::Prefer(Arm::Second));

    let addr = two
        .peer
        .addr()
        .ip_addrs()
        .next()
        .expect("an address")
        .to_string();
    let text = format!(
        "{LOCAL}transport.services.echo = [\"tower_iroh.echo.v1.Echo\"]\ntransport.migration.prefer_iroh_for = [\"echo\"]\n\
         peers.second = {{ id = \"{}\", iroh = \"{addr}\" }}\n",
        two.peer.id()
    );
    let reload = file.reload(&text).await.expect("applied");
    assert_eq!(reload.needs_restart(), []);
    assert!(client.peers().channel("server").is_err(), "taken out");
    let channel = client
        .peers()
        .channel_over("second", TransportKind::Iroh)
        .expect("added");
    echo(channel).await.expect("answered");
    let select = client.peers().select("second").expect("known");
    assert_eq!(
        select.policy().choice(ECHO, Urgency::default()),
        &Choice::Prefer(Arm::First)
    );

    // Back with one line, and there again.
    for (mode, expected) in [
        ("grpc", Choice::Fixed(Arm::Second)),
        ("iroh", Choice::Fixed(Arm::First)),
        ("dual", Choice::Prefer(Arm::First)),
    ] {
        let reload = file
            .reload(&format!("{text}transport.mode = \"{mode}\"\n"))
            .await
            .expect("applied");
        assert_eq!(
            (keys(reload.applied()), reload.needs_restart()),
            (vec!["transport.mode"], &[][..])
        );
        assert_eq!(
            select.policy().choice(ECHO, Urgency::default()),
            &expected,
            "{mode}"
        );
    }
    assert_eq!(file.watch.current().prefer_iroh_for(), ["echo"]);
    client.close().await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mode_whose_transport_was_not_there_needs_a_restart() {
    let base = format!("{LOCAL}transport.mode = \"grpc\"\n");
    let transport = Transport::builder(Config::from_toml(&base).expect("valid"))
        .connect()
        .await
        .expect("made");
    let mut file = Edited::new(&transport, &base, tempfile::tempdir().expect("a folder"));
    for mode in ["dual", "iroh"] {
        let text = format!(
            "{LOCAL}transport.mode = \"{mode}\"\ntransport.migration.fallback_to_grpc = {}\n",
            mode == "dual"
        );
        let reload = file.reload(&text).await.expect("it is a configuration");
        assert_eq!(keys(reload.needs_restart()), ["transport.mode"]);
        let policy = transport.peers().policy();
        assert_eq!(
            policy.choice(ECHO, Urgency::default()),
            &Choice::Fixed(Arm::Second),
            "{mode}"
        );
    }
    assert!(
        file.reload(&base)
            .await
            .expect("applied")
            .needs_restart()
            .is_empty()
    );
}

/// A policy in a folder that permits calls from one key, its text, and the configuration that names it.
fn guarded(folder: &tempfile::TempDir, caller: &SecretKey) -> (PathBuf, String, String) {
    let policy = folder.path().join("policy.toml");
    let allow = format!(
        "[roles.caller]\nmethods = [\"{ECHO}\"]\n[peers.\"{}\"]\nroles = [\"caller\"]\n",
        caller.public()
    );
    fs::write(&policy, &allow).expect("written");
    let base = format!(
        "{LOCAL}transport.authorization_file = \"{}\"\n",
        policy.display()
    );
    (policy, allow, base)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_of_the_policy_ends_what_it_revokes() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = SecretKey::from_bytes(&[9; 32]);
    let (policy, _, base) = guarded(&folder, &key);
    let server = Running::new(Config::from_toml(&base).expect("valid")).await;
    let mut file = Edited::new(&server.transport, &base, folder);

    let peers = Config::builder()
        .iroh_bind_ip(Some([127, 0, 0, 1].into()))
        .peer("server", server.peer.clone());
    let client = Transport::builder(peers.build().expect("valid"))
        .key(key)
        .connect()
        .await
        .expect("it binds");
    let stranger = self::client("", &server.peer).await;
    for kind in [TransportKind::Iroh, TransportKind::Tcp] {
        echo(over(&client, kind)).await.expect("permitted");
        let error = echo(over(&stranger, kind)).await.expect_err("a stranger");
        assert_eq!(error.code(), Code::PermissionDenied, "{kind}");
    }

    // A mistake in it changes nothing, and the other changes of the same reload are not made either.
    fs::write(&policy, "[roles.caller]\nmethods = [\"nonsense\"]\n").expect("written");
    let with_peer = format!("{base}peers.new = {{ id = \"{}\" }}\n", client.id());
    let told = file.reload(&with_peer).await.expect_err("no policy");
    assert!(told.contains("policy.toml is not valid"), "{told}");
    assert_eq!(server.transport.peers().get("new"), None);
    echo(over(&client, TransportKind::Iroh))
        .await
        .expect("still permitted");

    // Its text alone changes.
    fs::write(&policy, "[anonymous]\nroles = []\n").expect("written");
    let generation = server.transport.authorization().generation();
    until("the policy", || {
        server.transport.authorization().generation() > generation
    })
    .await;
    for kind in [TransportKind::Iroh, TransportKind::Tcp] {
        let error = echo(over(&client, kind)).await.expect_err("revoked");
        assert_eq!(error.code(), Code::PermissionDenied, "{kind}");
    }

    // Who leaves the line out has not opened everything.
    file.events.mark_unchanged();
    let reload = file.reload(LOCAL).await.expect("a configuration");
    assert_eq!(
        keys(reload.needs_restart()),
        ["transport.authorization_file"]
    );
    echo(over(&client, TransportKind::Iroh))
        .await
        .expect_err("still revoked");
    client.close().await;
    stranger.close().await;
    server.stop().await;
}

/// A server with a policy in a file, which permits calls from one key, and is followed.
struct Guarded {
    server: Running,
    file: Edited,
    policy: PathBuf,
    allow: String,
    base: String,
}

impl Guarded {
    async fn new(caller: &SecretKey) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (policy, allow, base) = guarded(&folder, caller);
        let server = Running::new(Config::from_toml(&base).expect("valid")).await;
        let mut file = Edited::new(&server.transport, &base, folder);
        // From the first reload on the policy is watched too.
        let other = format!("{base}transport.migration.fallback_to_grpc = false\n");
        file.reload(&other).await.expect("applied");
        file.reload(&base).await.expect("applied");
        Self {
            server,
            file,
            policy,
            allow,
            base,
        }
    }

    /// Writes the policy alone, and waits until it was seen and refused.
    async fn refuse(&mut self, text: &str) {
        fs::write(&self.policy, text).expect("written");
        let refused = |event: &Followed| matches!(event, Followed::Refused(_));
        let events = &mut self.file.events;
        soon("the look", async {
            while !refused(&events.borrow_and_update()) {
                events.changed().await.expect("it is followed");
            }
        })
        .await;
    }
}

/// Seen beside a mistake in the configuration, a policy is not in force, and is put in force with the next one that has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_was_seen_beside_a_mistake_is_not_missed() {
    let key = SecretKey::from_bytes(&[13; 32]);
    let mut guarded = Guarded::new(&key).await;
    let peers = Config::builder()
        .iroh_bind_ip(Some([127, 0, 0, 1].into()))
        .peer("server", guarded.server.peer.clone());
    let client = Transport::builder(peers.build().expect("valid"))
        .key(key)
        .connect()
        .await
        .expect("it binds");
    for kind in [TransportKind::Iroh, TransportKind::Tcp] {
        echo(over(&client, kind)).await.expect("permitted");
    }

    let typo = format!("{}transport.mode = \"dula\"\n", guarded.base);
    let told = guarded.file.reload(&typo).await.expect_err("a mistake");
    assert!(told.contains("dula"), "{told}");
    guarded.file.events.mark_unchanged();
    fs::write(&guarded.policy, "[anonymous]\nroles = []\n").expect("written");
    let seen = guarded.file.events.changed();
    soon("the look", seen).await.expect("it is followed");

    let base = guarded.base.clone();
    let reload = guarded.file.reload(&base).await.expect("applied");
    assert_eq!(keys(reload.applied()), ["transport.authorization_file"]);
    for kind in [TransportKind::Iroh, TransportKind::Tcp] {
        let error = echo(over(&client, kind)).await.expect_err("revoked");
        assert_eq!(error.code(), Code::PermissionDenied, "{kind}");
    }
    client.close().await;
    guarded.server.stop().await;
}

/// All of it or nothing, also where the policy was refused before the rest changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_was_refused_holds_up_what_comes_after_it() {
    let mut guarded = Guarded::new(&SecretKey::from_bytes(&[14; 32])).await;
    guarded
        .refuse("[roles.caller]\nmethods = [\"nonsense\"]\n")
        .await;
    let peers = guarded.server.transport.peers().clone();
    let id = SecretKey::from_bytes(&[15; 32]).public();
    let with_peer = format!("{}peers.new = {{ id = \"{id}\" }}\n", guarded.base);
    let told = guarded.file.reload(&with_peer).await;
    let told = told.expect_err("the policy is still none");
    assert!(told.contains("policy.toml is not valid"), "{told}");
    assert_eq!(peers.get("new"), None);

    // As it was, the policy is nothing new, and the rest is.
    let generation = guarded.server.transport.authorization().generation();
    fs::write(&guarded.policy, &guarded.allow).expect("written");
    until("the peer", || peers.get("new").is_some()).await;
    let authorization = guarded.server.transport.authorization();
    assert_eq!(authorization.generation(), generation);
    guarded.server.stop().await;
}

/// Another name is no other peer: what a program holds is reached by the next policy, and its rollout goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_renamed_keeps_its_choice_and_its_rollout() {
    let ids = [16, 17].map(|seed| SecretKey::from_bytes(&[seed; 32]).public());
    let named = |names: [&str; 2]| {
        format!(
            "{LOCAL}transport.rollout.stages = [1, 50]\npeers.{} = {{ id = \"{}\" }}\npeers.{} = {{ id = \"{}\" }}\n",
            names[0], ids[0], names[1], ids[1]
        )
    };
    let text = named(["one", "two"]);
    let transport = Transport::builder(Config::from_toml(&text).expect("valid"))
        .connect()
        .await
        .expect("it binds");
    let mut file = Edited::new(&transport, &text, tempfile::tempdir().expect("a folder"));
    let peers = transport.peers();
    let held = ["one", "two"].map(|name| {
        let channel = peers.channel(name).expect("known");
        channel.stack().select().expect("a choice").clone()
    });
    let share = |of: usize| held[of].policy().canaries().next().map(|it| it.share());
    for name in ["one", "two"] {
        let rollout = peers.rollout(name).expect("it runs");
        rollout.set_stage(1).expect("there is one");
    }
    until("the second stage", || {
        [share(0), share(1)] == [Some(5000); 2]
    })
    .await;

    for names in [["first", "two"], ["two", "first"]] {
        let reload = file.reload(&named(names)).await.expect("applied");
        assert_eq!(reload.needs_restart(), []);
        for (of, name) in names.into_iter().enumerate() {
            let channel = peers.channel(name).expect("known");
            assert_eq!(channel.peer(), ids[of], "{name}");
            let rollout = peers.rollout(name).expect("it runs");
            assert_eq!(rollout.state().stage, 1, "{name}");
            // A policy that is put in force has a share of nothing until the rollout has seen it.
            until("the share", || share(of) == Some(5000)).await;
        }
    }
    peers.set_policy(SelectPolicy::from(Arm::First));
    for select in &held {
        let choice = select.policy().choice(ECHO, Urgency::default()).clone();
        assert_eq!(choice, Choice::Fixed(Arm::First));
    }
    transport.close().await;
}

/// The handler sees who called, whatever the transport: what the policy goes by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_is_the_same_on_both() {
    let (transport, server) = Transport::from_config(config("")).await.expect("it binds");
    let (peer, handle) = (server.addresses().expect("dialable"), server.handle());
    let (seen, mut callers) = tokio::sync::mpsc::unbounded_channel();
    let look = move |request: tonic::Request<()>| {
        let id = request
            .extensions()
            .get::<PeerInfo>()
            .and_then(PeerInfo::id);
        seen.send(id).expect("the test listens");
        Ok(request)
    };
    let services = transport
        .tonic()
        .add_service(EchoServer::with_interceptor(EchoService, look));
    let serving = tokio::spawn(
        server.serve(|incoming, stopped| services.serve_with_incoming_shutdown(incoming, stopped)),
    );
    let client = client("", &peer).await;
    for kind in [TransportKind::Iroh, TransportKind::Tcp] {
        echo(over(&client, kind)).await.expect("answered");
        assert_eq!(callers.recv().await, Some(Some(client.id())), "{kind}");
    }
    client.close().await;
    handle.shutdown();
    soon("the drain", serving)
        .await
        .expect("no panic")
        .expect("served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_begins_goes_on_after_a_restart_and_ends_by_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("kept");
    fs::create_dir(&kept).expect("a folder");
    let key = SecretKey::from_bytes(&[11; 32]);
    let peer = format!(
        "peers.server = {{ id = \"{}\" }}\n",
        SecretKey::from_bytes(&[12; 32]).public()
    );
    let text = format!(
        "{LOCAL}{peer}transport.rollout = {{ stages = [1, 50], state_folder = \"{}\" }}\n",
        kept.display()
    );
    let start = async || {
        let config = Config::from_toml(&text).expect("valid");
        Transport::builder(config)
            .key(key.clone())
            .connect()
            .await
            .expect("it binds")
    };
    let share = |transport: &Transport| {
        let policy = transport.peers().select("server").expect("known").policy();
        policy.canaries().next().map(|canary| canary.share())
    };
    let transport = start().await;
    // It is saved first.
    until("the first stage", || share(&transport) == Some(100)).await;
    let rollout = transport.peers().rollout("server").expect("it runs");
    rollout.set_stage(1).expect("there is one");
    until("the second stage", || share(&transport) == Some(5000)).await;
    until("the file", || {
        let files = fs::read_dir(&kept)
            .expect("a folder")
            .filter_map(Result::ok);
        let mut texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
        texts.any(|text| text.contains("stage = 1\n"))
    })
    .await;
    drop(rollout);
    transport.close().await;

    let transport = start().await;
    assert_eq!(share(&transport), Some(5000), "where it was");
    let mut file = Edited::new(&transport, &text, folder);
    let taken_back = format!("{text}transport.mode = \"grpc\"\n");
    file.reload(&taken_back).await.expect("applied");
    assert_eq!(share(&transport), None);
    assert!(transport.peers().rollout("server").is_none());
    let select = transport.peers().select("server").expect("known");
    assert_eq!(
        select.policy().choice(ECHO, Urgency::default()),
        &Choice::Fixed(Arm::Second)
    );

    file.reload(&text).await.expect("applied");
    assert_eq!(share(&transport), Some(5000), "and there again");
    let other = text.replace("[1, 50]", "[2, 60]");
    file.reload(&other).await.expect("applied");
    // Saved first as well.
    until("the last stage that is not larger", || {
        share(&transport) == Some(200)
    })
    .await;
    transport.close().await;
}

/// Calls with a payload of this size, over one transport.
async fn echo_of(channel: Channel, bytes: usize, most: usize) -> Result<(), Status> {
    let call = async move {
        let payload = "x".repeat(bytes).into();
        let mut client = EchoClient::new(channel).max_decoding_message_size(most);
        let answer = client.echo(EchoRequest { payload }).await?.into_inner();
        assert_eq!(answer.payload.len(), bytes);
        Ok(())
    };
    soon("an answer", call).await
}

/// `max_message_size` holds for every service of the server and every channel of the client, whatever generated code is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_above_the_largest_is_refused_on_both_sides() {
    const SMALL: &str = "transport.grpc.max_message_size = 1000\n";
    for (of_server, of_client, told) in [
        (SMALL, "", "above the 1000 that this server accepts"),
        ("", SMALL, "at most 1000 are accepted"),
    ] {
        let open = "transport.allow_anonymous = true\ntransport.grpc.tls_enabled = false\n";
        let server = Running::new(config(&format!("{open}{of_server}"))).await;
        let client = client(of_client, &server.peer).await;
        for kind in [TransportKind::Iroh, TransportKind::Tcp] {
            let channel = over(&client, kind);
            let small = echo_of(channel.clone(), 900, usize::MAX).await;
            small.expect("small enough");
            let error = echo_of(channel.clone(), 2000, usize::MAX).await;
            let error = error.expect_err("too large");
            assert_eq!(error.code(), Code::ResourceExhausted, "{kind}: {error}");
            assert!(error.message().contains(told), "{kind}: {error}");
            echo_of(channel, 900, usize::MAX)
                .await
                .expect("still there");
        }
        if of_server == SMALL {
            let uri = format!("http://{}", server.peer.tcp().expect("TCP"));
            let channel = tonic::transport::Endpoint::try_from(uri).expect("a URI");
            let payload = vec![0; 2000].into();
            let mut client = EchoClient::new(channel.connect_lazy());
            let call = client.echo(EchoRequest { payload });
            let error = soon("an answer", call).await.expect_err("too large");
            assert_eq!(error.code(), Code::ResourceExhausted, "in the clear");
        }
        client.close().await;
        server.stop().await;
    }
}

/// Above 4 MiB generated code has to be told too, as the page and the warning say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_above_4_mib_takes_both_the_setting_and_generated_code() {
    const LARGE: usize = 16 << 20;
    let lines = format!("transport.grpc.max_message_size = {LARGE}\n");
    let warnings = config(&lines).warnings();
    let said = ".max_decoding_message_size(config.max_message_size())";
    assert!(
        matches!(&warnings[..], [one] if one.contains(said)),
        "{warnings:?}"
    );
    assert_eq!(config("").warnings(), [""; 0]);

    let (transport, server) = Transport::from_config(config(&lines))
        .await
        .expect("it binds");
    let (peer, handle) = (server.addresses().expect("dialable"), server.handle());
    let service = EchoServer::new(EchoService);
    let service = service.max_decoding_message_size(transport.config().max_message_size());
    let services = transport.tonic().add_service(service);
    let serving = tokio::spawn(
        server.serve(|incoming, stopped| services.serve_with_incoming_shutdown(incoming, stopped)),
    );
    let client = client(&lines, &peer).await;
    let most = client.config().max_message_size();
    for kind in [TransportKind::Iroh, TransportKind::Tcp] {
        echo_of(over(&client, kind), 6 << 20, most)
            .await
            .expect("answered");
        let error = echo_of(over(&client, kind), 6 << 20, 4 << 20).await;
        let error = error.expect_err("generated code refuses it");
        assert_eq!(error.code(), Code::OutOfRange, "{kind}: {error}");
    }
    client.close().await;
    handle.shutdown();
    soon("the drain", serving)
        .await
        .expect("no panic")
        .expect("served");
}

/// What is in force belongs to the transport, and not to the watch that put it there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_watch_begins_with_what_is_in_force() {
    let folder = tempfile::tempdir().expect("a folder");
    let policy = folder.path().join("policy.toml");
    let (old, new) = ("[anonymous]\nroles = []\n", "[authenticated]\nroles = []\n");
    fs::write(&policy, old).expect("written");
    let base = format!(
        "{LOCAL}transport.authorization_file = \"{}\"\n",
        policy.display()
    );
    let transport = Transport::builder(Config::from_toml(&base).expect("valid"))
        .connect()
        .await
        .expect("it binds");
    let choice = || {
        let policy = transport.peers().policy();
        policy.choice(ECHO, Urgency::default()).clone()
    };
    let generation = || transport.authorization().generation();
    let mut file = Edited::new(&transport, &base, tempfile::tempdir().expect("a folder"));
    fs::write(&policy, new).expect("written");
    let other = format!("{base}transport.mode = \"grpc\"\ncluster.peer.max_connections = 7\n");
    file.reload(&other).await.expect("applied");
    assert_eq!((choice(), generation()), (Choice::Fixed(Arm::Second), 2));
    drop(file);

    fs::write(&policy, old).expect("written");
    let mut file = Edited::new(&transport, &base, tempfile::tempdir().expect("a folder"));
    assert_eq!(file.watch.current().mode(), Mode::Grpc, "not yet reloaded");
    soon("the reload", file.events.changed())
        .await
        .expect("it is followed");
    assert_eq!((choice(), generation()), (Choice::Prefer(Arm::Second), 3));
    // A key that needs a restart is compared with the start, whichever watch reports it.
    let reload = file.reload(&other).await.expect("applied");
    assert_eq!(
        keys(reload.needs_restart()),
        ["cluster.peer.max_connections"]
    );
    assert_eq!(choice(), Choice::Fixed(Arm::Second));
    transport.close().await;
}

#[tokio::test]
async fn two_watches_at_once_are_refused() {
    let transport = Transport::builder(config(""))
        .connect()
        .await
        .expect("it binds");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster.toml");
    fs::write(&path, LOCAL).expect("written");
    let first = transport.follow(&path, Config::reader()).expect("followed");
    let error = transport.clone().follow(&path, Config::reader());
    let error = error.expect_err("it is followed already");
    assert_eq!(error.field(), "config_watch.path");
    assert!(
        error.to_string().contains("drop that ConfigWatch first"),
        "{error}"
    );
    drop(first);
    transport
        .follow(&path, Config::reader())
        .expect("followed again");
    transport.close().await;
}

/// Between the start and the watch somebody was revoked: that is not missed, and a policy that is the same is not put in force twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_changed_before_it_was_followed_is_put_in_force() {
    for (changed, generation) in [(true, 2), (false, 1)] {
        let folder = tempfile::tempdir().expect("a folder");
        let policy = folder.path().join("policy.toml");
        fs::write(&policy, "[anonymous]\nroles = []\n").expect("written");
        let base = format!(
            "{LOCAL}transport.authorization_file = \"{}\"\n",
            policy.display()
        );
        let config = Config::from_toml(&base).expect("valid");
        let transport = Transport::builder(config)
            .connect()
            .await
            .expect("it binds");
        if changed {
            fs::write(&policy, "[authenticated]\nroles = []\n").expect("written");
        }
        let mut file = Edited::new(&transport, &base, folder);
        if changed {
            // It is told after it is in force.
            let told = file.events.changed();
            soon("the policy", told).await.expect("it is followed");
            assert_eq!(transport.authorization().generation(), generation);
        }
        let other = format!("{base}transport.migration.fallback_to_grpc = false\n");
        let reload = file.reload(&other).await.expect("applied");
        let key = "transport.migration.fallback_to_grpc";
        assert!(keys(reload.applied()).contains(&key), "{reload}");
        assert_eq!(transport.authorization().generation(), generation);
        transport.close().await;
    }
}
