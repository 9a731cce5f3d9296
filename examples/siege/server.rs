//! The server that is attacked: default settings, both transports, and a policy that names the honest callers and some attackers.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use iroh::Endpoint;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tower_iroh::{
    Server,
    layers::authorize::{AccessPolicy, Limits, PolicyHandle},
    presets::Offline,
};
use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use crate::{Error, keys, vitals::Vitals};

/// A server starts within milliseconds; this is for a machine that is busy.
const START: Duration = Duration::from_secs(20);

/// The server's process: prints the ticket, and ends with its standard input.
pub(crate) async fn serve() -> Result<(), Error> {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::OFF.into());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter.from_env_lossy())
        .init();
    // A call that the caller does not read holds its response, so the calls of one caller need a bound.
    let limits = Limits::new().concurrent(100);
    let mut policy = AccessPolicy::builder().role("caller", ["*"]).limits(limits);
    for number in 0..2 * keys::CALLERS {
        policy = policy.peer(keys::honest(number).public().to_string(), ["caller"]);
    }
    for number in 0..keys::INSIDERS {
        policy = policy.peer(keys::insider(number).public().to_string(), ["caller"]);
    }
    let policy = PolicyHandle::new(policy.build()?);
    let server = Server::builder()
        .endpoint(Endpoint::bind(Offline).await?)
        .tcp(([127, 0, 0, 1], 0).into())
        .bind()
        .await?;
    println!("{}", server.addresses()?.ticket());
    let services = tonic::transport::Server::builder()
        .layer(tower_iroh::authorize(&policy))
        .add_service(EchoServer::new(EchoService));
    let handle = server.handle();
    let serving =
        server.serve(|incoming, stopped| services.serve_with_incoming_shutdown(incoming, stopped));
    let told = async {
        let _ = tokio::io::stdin().read(&mut [0]).await;
        handle.shutdown();
        // Attackers may be connected still; nobody waits for them.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        served = serving => Ok(served?),
        () = told => Ok(()),
    }
}

/// The server's process, seen from outside.
pub(crate) struct Fortress {
    process: Child,
    pub(crate) ticket: String,
    pid: u32,
    began: Instant,
}

impl Fortress {
    pub(crate) async fn start() -> Result<Self, Error> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().ok_or("no pipe")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(START, lines.next_line()).await??;
        Ok(Self {
            ticket: line.ok_or("the server did not start")?,
            pid: process.id().ok_or("the server did not start")?,
            process,
            began: Instant::now(),
        })
    }

    /// What it holds.
    pub(crate) fn vitals(&self) -> Result<Vitals, Error> {
        Vitals::of(&self.pid.to_string()).map_err(|error| {
            let lived = self.began.elapsed();
            format!("the server ended after {lived:?}: {error}").into()
        })
    }

    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        drop(self.process.stdin.take());
        timeout(START, self.process.wait()).await??;
        Ok(())
    }
}
