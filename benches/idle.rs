//! `cargo bench --bench idle`: what an idle connection costs a server, in a process of its own: resident memory, and how often its threads wake up.
//!
//! The client's process holds many connections from few endpoints; each has made one call and makes no other. Beside ours: connections of iroh alone, with one
//! stream that was used and finished.
#![allow(missing_docs, reason = "a program")]

use std::{
    any::Any,
    error::Error,
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use clap::Parser;
use iroh::{
    Endpoint, EndpointAddr, EndpointId,
    endpoint::Connection,
    protocol::{AcceptError, ProtocolHandler, Router},
};
use tokio::time::sleep;
use tonic::transport::Server as Tonic;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower_iroh::{Acceptor, Channel, Links, Peer, presets::Offline};

type Fault = Box<dyn Error + Send + Sync>;

/// The variable that makes a process the server, and of which kind.
const SERVER: &str = "TOWER_IROH_BENCH_IDLE_SERVER";
const RAW: &[u8] = b"tower-iroh/bench/raw";
/// What is let settle before anything is read: handshakes, path discovery, the first keep-alives.
const SETTLES: Duration = Duration::from_secs(12);
/// How long wake-ups are counted.
const COUNTED: Duration = Duration::from_secs(20);

/// What an idle connection costs a server: resident memory and wake-ups, ours beside iroh alone.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench idle --")]
struct Options {
    /// How many connections.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=5000))]
    connections: u16,
    /// How many endpoints of the client share them. A server takes at most 16 connections of one endpoint.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=100))]
    endpoints: u16,
    /// Few connections, briefly: shows that it runs. The figures mean nothing.
    #[arg(long, conflicts_with_all = ["connections", "endpoints"])]
    test: bool,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Iroh,
    Ours,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Iroh, Self::Ours];

    fn name(self) -> &'static str {
        match self {
            Self::Iroh => "iroh alone",
            Self::Ours => "tower-iroh",
        }
    }
}

fn main() -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match std::env::var(SERVER) {
        Ok(kind) => {
            let kind = Kind::ALL.into_iter().find(|known| known.name() == kind);
            runtime.block_on(serve(kind.ok_or("no such kind")?))
        }
        Err(_) => {
            let mut options = Options::parse();
            if options.test {
                (options.connections, options.endpoints) = (20, 2);
            }
            println!(
                "{} idle connections from {} endpoints",
                options.connections, options.endpoints
            );
            println!(
                "| | resident, KB each | wake-ups of the server's threads a second, each | the server's CPU, us a second each |"
            );
            println!("|---|---:|---:|---:|");
            for kind in Kind::ALL {
                runtime.block_on(measure(kind, &options))?;
            }
            Ok(())
        }
    }
}

async fn bind() -> Result<Endpoint, Fault> {
    let endpoint = Endpoint::builder(Offline).clear_ip_transports();
    Ok(endpoint.bind_addr((Ipv4Addr::LOCALHOST, 0))?.bind().await?)
}

/// The server's process and how it is asked.
struct Process {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What the kernel says of the server.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    kilobytes: f64,
    wake_ups: f64,
    cpu_micros: f64,
}

impl Process {
    fn start(kind: Kind) -> Result<(Self, EndpointAddr), Fault> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(SERVER, kind.name())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let asks = child.stdin.take().ok_or("no stdin")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut process = Self {
            child,
            asks,
            answers,
        };
        let line = process.line()?;
        let (id, addr) = line.split_once(' ').ok_or("no address")?;
        let addr =
            EndpointAddr::new(id.parse::<EndpointId>()?).with_ip_addr(addr.parse::<SocketAddr>()?);
        Ok((process, addr))
    }

    fn line(&mut self) -> Result<String, Fault> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn read(&mut self) -> Result<Reading, Fault> {
        writeln!(self.asks, "read")?;
        let line = self.line()?;
        let figures: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        match figures[..] {
            [kilobytes, wake_ups, cpu_micros] => Ok(Reading {
                kilobytes,
                wake_ups,
                cpu_micros,
            }),
            _ => Err(format!("the server said {line:?}").into()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn measure(kind: Kind, options: &Options) -> Result<(), Fault> {
    let (mut server, addr) = Process::start(kind)?;
    let mut endpoints = Vec::new();
    for _ in 0..options.endpoints {
        endpoints.push(bind().await?);
    }
    // The first connection pays for what all share.
    let mut held = Vec::new();
    held.push(connect(kind, &endpoints[0], &addr).await?);
    sleep(Duration::from_secs(2)).await;
    let empty = server.read()?;
    for number in 0..options.connections {
        let endpoint = &endpoints[usize::from(number) % endpoints.len()];
        held.push(connect(kind, endpoint, &addr).await?);
    }
    let (settles, counted) = match options.test {
        true => (Duration::from_secs(1), Duration::from_secs(1)),
        false => (SETTLES, COUNTED),
    };
    sleep(settles).await;
    let settled = server.read()?;
    sleep(counted).await;
    let after = server.read()?;
    let each = f64::from(options.connections);
    let rate = |before: f64, after: f64| (after - before) / counted.as_secs_f64() / each;
    println!(
        "| {} | {:.0} | {:.2} | {:.0} |",
        kind.name(),
        (after.kilobytes - empty.kilobytes) / each,
        rate(settled.wake_ups, after.wake_ups),
        rate(settled.cpu_micros, after.cpu_micros),
    );
    Ok(())
}

/// A connection that is held and not used any more.
type Held = Box<dyn Any>;

async fn connect(kind: Kind, endpoint: &Endpoint, addr: &EndpointAddr) -> Result<Held, Fault> {
    match kind {
        Kind::Iroh => {
            let connection = endpoint.connect(addr.clone(), RAW).await?;
            let (mut send, mut receive) = connection.open_bi().await?;
            send.write_all(b"once").await?;
            send.finish()?;
            receive.read_to_end(16).await?;
            Ok(Box::new(connection))
        }
        Kind::Ours => {
            let links = Links::new(endpoint.clone());
            let channel = Channel::with_links(links)
                .peer(Peer::from(addr.clone()))
                .build()?;
            HealthClient::new(channel.clone())
                .check(HealthCheckRequest::default())
                .await?;
            Ok(Box::new(channel))
        }
    }
}

async fn serve(kind: Kind) -> Result<(), Fault> {
    let endpoint = bind().await?;
    let addr = endpoint.bound_sockets()[0];
    println!("{} {addr}", endpoint.id());
    let _router = match kind {
        Kind::Iroh => Router::builder(endpoint).accept(RAW, Raw).spawn(),
        Kind::Ours => {
            let (acceptor, incoming) = Acceptor::builder().build()?;
            let (_, health) = tonic_health::server::health_reporter();
            let services = Tonic::builder().add_service(health);
            tokio::spawn(services.serve_with_incoming(incoming));
            acceptor.router(endpoint).spawn()
        }
    };
    let asked = tokio::task::spawn_blocking(|| -> Result<(), Fault> {
        for line in std::io::stdin().lines() {
            line?;
            let Reading {
                kilobytes,
                wake_ups,
                cpu_micros,
            } = Reading::now()?;
            println!("{kilobytes} {wake_ups} {cpu_micros}");
        }
        Ok(())
    });
    asked.await?
}

impl Reading {
    fn now() -> Result<Self, Fault> {
        let mut reading = Self {
            kilobytes: field("/proc/self/status", "VmRSS:")?,
            ..Self::default()
        };
        for task in fs::read_dir("/proc/self/task")? {
            let task = task?.path();
            reading.wake_ups += field(
                &task.join("status").to_string_lossy(),
                "voluntary_ctxt_switches:",
            )?;
            // Nanoseconds on a processor.
            let run = fs::read_to_string(task.join("schedstat"))?;
            let nanos: f64 = run.split(' ').next().unwrap_or("0").parse()?;
            reading.cpu_micros += nanos / 1000.0;
        }
        Ok(reading)
    }
}

fn field(path: &str, name: &str) -> Result<f64, Fault> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("no such line")?.parse()?)
}

#[derive(Debug)]
struct Raw;

impl ProtocolHandler for Raw {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let (mut send, mut receive) = connection.accept_bi().await?;
        let said = receive
            .read_to_end(16)
            .await
            .map_err(AcceptError::from_err)?;
        send.write_all(&said).await.map_err(AcceptError::from_err)?;
        send.finish()?;
        connection.closed().await;
        Ok(())
    }
}
