//! docs/migration.md, walked from its first step to its last and back, under load: its files are followed by a client, and its code serves and calls.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]
#![cfg(all(feature = "config", feature = "authorize"))]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, interval},
};
use tonic::{Request, Status};
use tower_iroh::{
    Channel, Peer, Transport, TransportKind, config::Config, layers::select::Selected,
};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, StreamRequest, echo_client::EchoClient, echo_server::EchoServer},
};

#[path = "support/waiting.rs"]
mod waiting;

use waiting::{soon, until};

const PATIENCE: Duration = Duration::from_secs(20);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The server of the page.
async fn serve(
    path: PathBuf,
    tell: oneshot::Sender<Peer>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    // migration: bind
    let config = Config::reader()
        .group("status", ["tower_iroh.echo.v1.Echo"])
        .from_file(&path)?;
    let (transport, server) = Transport::from_config(config).await?;
    println!("{}", server.addresses()?);
    // migration: end
    let _ = tell.send(server.addresses()?);
    // migration: serve
    let services = transport.tonic().add_service(EchoServer::new(EchoService));
    server
        .serve_with_shutdown(stop, |incoming, stopped| {
            services.serve_with_incoming_shutdown(incoming, stopped)
        })
        .await?;
    // migration: end
    Ok(())
}

/// The client of the page, and what keeps it following its file.
async fn connect(path: PathBuf) -> Result<(Transport, impl Sized, EchoClient<Channel>), Error> {
    // migration: client
    let groups = Config::reader().group("status", ["tower_iroh.echo.v1.Echo"]);
    let config = groups.clone().from_file(&path)?;
    let transport = Transport::builder(config).connect().await?;
    let following = transport.follow(&path, groups)?;
    let client = EchoClient::new(transport.peers().channel("db")?);
    // migration: end
    Ok((transport, following, client))
}

/// What became of the calls so far.
#[derive(Default)]
struct Seen {
    /// Over iroh and over TCP, since somebody looked last.
    by_arm: [u64; 2],
    failed: Vec<Status>,
}

/// 200 calls a second, until it is dropped or told to stop.
struct Load {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    calls: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(client: EchoClient<Channel>) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (to, ends) = (seen.clone(), stop.clone());
        let calls = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_millis(5));
            let mut open = JoinSet::new();
            while !ends.load(Ordering::Relaxed) {
                ticks.tick().await;
                while open.try_join_next().is_some() {}
                let (mut client, seen) = (client.clone(), to.clone());
                open.spawn(async move {
                    let mut request = Request::new(EchoRequest {
                        payload: "hello".into(),
                    });
                    request.set_timeout(PATIENCE);
                    let answer = client.echo(request).await;
                    let mut seen = seen.lock().expect("no panic");
                    match answer {
                        Ok(answer) => match answer.extensions().get::<Selected>() {
                            Some(selected) => seen.by_arm[selected.arm as usize] += 1,
                            None => panic!("nothing says over what it went"),
                        },
                        Err(status) => seen.failed.push(status),
                    }
                });
            }
            open.join_all().await;
        });
        Self { seen, stop, calls }
    }

    /// Waits until calls go as they should: over each of these, and after a while over these alone.
    async fn goes(&self, step: &str, over: &[TransportKind]) {
        let mut since = Instant::now();
        *self.seen.lock().expect("no panic") = self.kept();
        until(step, || {
            let mut seen = self.seen.lock().expect("no panic");
            assert!(seen.failed.is_empty(), "{step}: {:?}", seen.failed);
            let elsewhere = TransportKind::ALL
                .into_iter()
                .filter(|arm| !over.contains(arm));
            if elsewhere.map(|arm| seen.by_arm[arm as usize]).sum::<u64>() > 0 {
                seen.by_arm = [0, 0];
                since = Instant::now();
            }
            let there = over.iter().all(|arm| seen.by_arm[*arm as usize] > 0);
            there
                && seen.by_arm.iter().sum::<u64>() >= 100
                && since.elapsed() > Duration::from_millis(500)
        })
        .await;
    }

    fn kept(&self) -> Seen {
        let mut seen = self.seen.lock().expect("no panic");
        Seen {
            by_arm: [0, 0],
            failed: std::mem::take(&mut seen.failed),
        }
    }

    async fn end(self) -> Vec<Status> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = soon("the last calls", self.calls).await;
        ended.expect("no panic");
        std::mem::take(&mut self.seen.lock().expect("no panic").failed)
    }
}

/// The page's files in their order, with this machine's addresses, and for clients the peer.
struct Page {
    blocks: Vec<String>,
}

impl Page {
    fn read() -> Self {
        let page = root("docs/migration.md");
        let blocks = page.split("```toml\n").skip(1);
        let blocks = blocks.map(|block| block.split("```").next().expect("an end").to_owned());
        Self {
            blocks: blocks.collect(),
        }
    }

    fn local(text: &str) -> String {
        let text = text.replace("0.0.0.0:7001", "127.0.0.1:0");
        let text = text.replace("discovery_port = 7001 ", "discovery_port = 0 ");
        match text.contains("[transport.iroh]\n") {
            true => text.replace(
                "[transport.iroh]\n",
                "[transport.iroh]\nbind_ip = \"127.0.0.1\"\n",
            ),
            false => text + "\n[transport.iroh]\nbind_ip = \"127.0.0.1\"\n",
        }
    }

    fn server(&self, number: usize) -> String {
        Self::local(&self.blocks[number])
    }

    fn client(&self, number: usize, server: &Peer) -> String {
        let text = Self::local(&self.blocks[number]);
        let tcp = server.tcp().expect("on TCP").to_string();
        let iroh = server.addr().ip_addrs().next().expect("on iroh");
        match text.split_once("[peers.db]") {
            Some(_) => {
                let text = text.replace(
                    "2152f8d19b791d24453242e15f2eab6cb7cffa7b6a5ed30097960e069881db12",
                    &server.id().to_string(),
                );
                let text = text.replace("iroh = \"192.0.2.1:7001\"", &format!("iroh = \"{iroh}\""));
                text.replace("tcp = \"192.0.2.1:7001\"", &format!("tcp = \"{tcp}\""))
            }
            None => format!(
                "{text}\n[peers.db]\nid = \"{}\"\niroh = \"{iroh}\"\ntcp = \"{tcp}\"\n",
                server.id()
            ),
        }
    }
}

fn root(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

async fn started(
    path: &Path,
) -> (
    Peer,
    oneshot::Sender<()>,
    tokio::task::JoinHandle<Result<(), Error>>,
) {
    let (tell, told) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let stopped = async {
        // Told so, or nobody is left who could tell.
        let _ = stopped.await;
    };
    let serving = tokio::spawn(serve(path.to_owned(), tell, stopped));
    let peer = soon("the server's address", told).await.expect("it serves");
    (peer, stop, serving)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_works_and_each_way_back() {
    // With `RUST_LOG=tower_iroh=debug` and the like.
    if let Ok(told) = tracing_subscriber::EnvFilter::try_from_default_env() {
        let told = tracing_subscriber::fmt().with_env_filter(told);
        told.with_writer(std::io::stderr).init();
    }
    let page = Page::read();
    let folder = tempfile::tempdir().expect("a folder");
    let (ours, theirs) = (
        folder.path().join("server.toml"),
        folder.path().join("client.toml"),
    );

    // Steps 1 and 2: a client of today goes on, in the clear, and the identity stays.
    let mut ids = Vec::new();
    for step in 0..2 {
        fs::write(&ours, page.server(step)).expect("written");
        let (peer, stop, serving) = started(&ours).await;
        let uri = format!("http://{}", peer.tcp().expect("on TCP"));
        let today = tonic::transport::Endpoint::try_from(uri).expect("a URI");
        let mut client = EchoClient::connect(today).await.expect("in the clear");
        client.echo(EchoRequest::default()).await.expect("answered");
        ids.push(peer.id());
        drop(client);
        stop.send(()).expect("it listens");
        soon("the drain", serving)
            .await
            .expect("no panic")
            .expect("served");
    }
    assert_eq!(ids[0], ids[1]);

    // From step 3 on the server stays as it is.
    let (peer, stop, serving) = started(&ours).await;
    let [iroh, tcp] = TransportKind::ALL;
    fs::write(&theirs, page.client(2, &peer)).expect("written");
    let (transport, following, mut client) = connect(theirs.clone()).await.expect("it connects");
    let load = Load::start(client.clone());
    load.goes("3: TCP with an identity", &[tcp]).await;
    let wanted = StreamRequest {
        count: u32::MAX,
        size: 1,
        interval_ms: 20,
    };
    let mut stream = client
        .server_stream(wanted)
        .await
        .expect("a stream")
        .into_inner();
    let edit = |step| fs::write(&theirs, page.client(step, &peer)).expect("written");
    for (step, what, over) in [
        (3, "4: health prefers iroh", &[tcp][..]),
        (4, "5: a share of all calls", &[iroh, tcp]),
        (5, "6: iroh alone", &[iroh]),
        (6, "the way back", &[tcp]),
        (5, "6 again", &[iroh]),
        (7, "all the way back", &[tcp]),
        (4, "5 again", &[iroh, tcp]),
    ] {
        edit(step);
        load.goes(what, over).await;
        // It was opened at step 3, and stays where it is.
        let message = soon("a message", stream.message()).await;
        message
            .expect("the stream goes on")
            .expect("not at its end");
    }
    assert_eq!(page.blocks.len(), 8, "a step that is not walked");
    let failed = load.end().await;
    assert!(failed.is_empty(), "{failed:?}");

    drop((following, stream, client));
    transport.close().await;
    stop.send(()).expect("it listens");
    soon("the drain", serving)
        .await
        .expect("no panic")
        .expect("served");
}

/// Each Rust block of the page is the region of this file that it names.
#[test]
fn its_code_is_this_files() {
    let (page, here) = (root("docs/migration.md"), root("tests/migration.rs"));
    let mut found = 0;
    for part in page.split("<!-- tests/migration.rs: ").skip(1) {
        let (name, rest) = part
            .split_once(" -->\n```rust\n")
            .expect("code after the name");
        let code = rest.split("```").next().expect("an end");
        let begin = format!("    // migration: {name}\n");
        let region = here.split(&begin).nth(1).expect(name);
        let region = region
            .split("    // migration: end\n")
            .next()
            .expect("an end");
        let region: String = region
            .lines()
            .map(|line| line.strip_prefix("    ").unwrap_or(line).to_owned() + "\n")
            .collect();
        assert_eq!(code, region, "{name}");
        found += 1;
    }
    assert_eq!(found, 3);
}
