//! tower-iroh in ten seconds: a server and a client on this machine, without relay and without internet.
//!
//! ```sh
//! cargo run --example demo
//! ```
//!
//! - `server`: a tonic server behind an iroh endpoint, and its restart under the same key and port
//! - `calls`: the four kinds of call, and who called whom
//! - `load`: callers that go on while the server restarts
//! - `outage`: what breaker, buffer and priority do meanwhile
//! - `screen`: what is printed, in a terminal and in a pipe
//!
//! It ends with an error when something that it promises did not happen.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use iroh::{Endpoint, SecretKey};
use tokio::time::{Instant, timeout};
use tower_iroh::{Channel, Connector, Links, Peer, presets::Offline};
use tower_iroh_proto::echo::echo_client::EchoClient;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

mod calls;
mod load;
mod outage;
mod screen;
mod server;

use calls::ensure;
use load::{Load, Phase};
use outage::Notes;
use screen::{Screen, shown};
use server::Server;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A server and a client on this machine, over iroh: no relay, no internet.
#[derive(Clone, Copy, Debug, Parser)]
struct Options {
    /// How long the load lasts, in seconds: a third before the restart, a third around it, a third after it.
    #[arg(long, default_value_t = 9, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How many callers the load has.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    callers: u16,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    // iroh says what goes wrong through tracing; errors are shown, and RUST_LOG=info shows more.
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::ERROR.into());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter.from_env_lossy())
        .init();

    let screen = Screen::new();
    match demo(options, &screen).await {
        Ok(()) => {
            screen.good("Everything that this demo promises has happened.");
            ExitCode::SUCCESS
        }
        Err(error) => {
            screen.failed(&*error);
            ExitCode::FAILURE
        }
    }
}

async fn demo(options: Options, screen: &Screen) -> Result<(), Error> {
    screen.heading("Server");
    let key = SecretKey::generate();
    let server = Server::start(key.clone(), None).await?;
    let ticket = server.peer().ticket();
    screen.fact("identity", server.peer().id());
    screen.fact("address", server.addr());
    screen.fact("ticket", &ticket);

    screen.heading("Client");
    let endpoint = Endpoint::bind(Offline).await?;
    // All that the client has of the server is this text.
    let peer: Peer = ticket.parse()?;
    // One QUIC connection, whichever way in is taken. While a server restarts on loopback there is no point in waiting
    // the default ten seconds for an answer to a dial.
    let links = Links::builder(endpoint.clone())
        .dial_timeout(Duration::from_secs(2))
        .backoff(Duration::from_millis(50), Duration::from_millis(500))
        .build()?;
    let (breaker, fail_fast) = outage::settings()?;
    let channel = Channel::with_links(links.clone())
        .peer(peer.clone())
        .timeout(Duration::from_secs(5))
        .stack(|stack| stack.breaker(breaker).fail_fast(fail_fast))
        .build()?;
    screen.fact("identity", endpoint.id());
    screen.fact("dials", peer.uri());

    // Callers wait for 100 ms, and the first dial may take longer.
    channel.connect().await?;

    screen.heading("Calls");
    let mut client = EchoClient::new(channel.clone());
    screen.outcome("unary", &calls::unary(&mut client).await?);
    screen.outcome(
        "server streaming",
        &calls::server_stream(&mut client).await?,
    );
    screen.outcome(
        "client streaming",
        &calls::client_stream(&mut client).await?,
    );
    screen.outcome("bidi streaming", &calls::bidi_stream(&mut client).await?);
    // The other way in: tonic's own Channel over our connector. Its connection is the same one.
    // README: drop-in
    let connector = Connector::with_links(links.clone());
    let tonic_channel = tonic::transport::Endpoint::from(peer.uri())
        .connect_with_connector(connector)
        .await?;
    let mut drop_in = EchoClient::new(tonic_channel);
    // README: end
    screen.outcome("unary, tonic's Channel", &calls::unary(&mut drop_in).await?);
    ensure(links.connections() == 1, || {
        format!(
            "one connection for both ways in, not {}",
            links.connections()
        )
    })?;

    screen.heading("Who called whom");
    let seen = calls::who_am_i(&mut client).await?;
    ensure(seen.id == endpoint.id().to_string(), || {
        format!("the handler saw {} and not the client", seen.id)
    })?;
    screen.fact("caller, as the handler sees it", &seen.id);
    screen.fact(
        "path and RTT from the server",
        format_args!("{}, {}", seen.path, seen.rtt),
    );
    let stats = channel.stats().ok_or("there are no statistics")?;
    screen.fact("callee, as its key proves it", channel.peer());
    let path = stats.path.ok_or("the connection has no path")?;
    let rtt = stats.rtt.ok_or("the connection has no RTT")?;
    screen.fact(
        "path and RTT from the client",
        format_args!("{path}, {}", shown(rtt)),
    );
    screen.fact(
        "UDP payload so far",
        format_args!(
            "{} KiB sent, {} KiB received, {} of {} packets lost",
            stats.bytes_sent >> 10,
            stats.bytes_received >> 10,
            stats.lost_packets,
            stats.sent_packets
        ),
    );

    screen.heading("Load, and a restart in the middle of it");
    let third = Duration::from_secs(options.seconds) / 3;
    let mut single = Load::start(client.clone(), 1);
    run(&mut single, screen, Phase::Before, third / 2).await;
    let single = single.finish().await?;

    let mut load = Load::start(client, options.callers);
    run(&mut load, screen, Phase::Before, third).await;
    let server = restart(server, key, &channel, &mut load, screen, third).await?;
    run(&mut load, screen, Phase::After, third).await;
    let load = load.finish().await?;
    screen.fact("answered, all in all", load.answered());
    screen.fact("UNAVAILABLE, and called again", load.retried());
    screen.fact("longest time without any answer", shown(load.gap()));

    screen.heading("Latencies in milliseconds, from the first attempt to the answer");
    let callers = options.callers;
    screen.latencies(&[
        ("1 caller".to_owned(), single.of(Phase::Before)),
        (format!("{callers} callers, before"), load.of(Phase::Before)),
        (
            format!("{callers} callers, restart"),
            load.of(Phase::Restart),
        ),
        (format!("{callers} callers, after"), load.of(Phase::After)),
    ]);
    for phase in Phase::ALL {
        let calls = load.of(phase).calls();
        ensure(calls > 0, || format!("no call was answered {phase}"))?;
    }

    // Closing says goodbye; an endpoint that is only dropped leaves its peers to time out.
    endpoint.close().await;
    server.stop().await
}

async fn run(load: &mut Load, screen: &Screen, phase: Phase, time: Duration) {
    load.enter(phase);
    let callers = load.callers();
    let plural = if callers == 1 { "" } else { "s" };
    let what = format!("{callers} caller{plural} {phase}");
    screen.wait(&what, time, || load.answered()).await;
}

/// Stops the server as an update would and starts it again. The callers go on and notice what they notice.
async fn restart(
    server: Server,
    key: SecretKey,
    channel: &Channel,
    load: &mut Load,
    screen: &Screen,
    at_least: Duration,
) -> Result<Server, Error> {
    let stream = calls::open_stream(&mut EchoClient::new(channel.clone())).await?;
    let began = Instant::now();
    load.enter(Phase::Restart);
    let addr = server.addr();
    // What is in flight is finished, and only then is the server gone: so somebody has to read the stream meanwhile.
    let (stopped, messages) = tokio::join!(server.stop(), calls::read_stream(stream));
    stopped?;
    let messages = messages?;
    screen.fact(
        "server stopped after",
        format_args!(
            "{}; the open stream got all its {messages} messages",
            shown(began.elapsed())
        ),
    );

    let before = load.answered();
    outage::watch_it_open(channel, screen).await?;
    let notes = Notes::hand_in(channel, screen).await?;
    // A new endpoint, acceptor and router. With the same key on the same port the ticket stays good.
    let server = Server::start(key, Some(addr)).await?;
    if server.addr() != addr {
        // Somebody took the port in between; the client is told, as a discovery service would tell it.
        channel
            .links()
            .expect("a channel over iroh")
            .add_peer(server.peer().clone());
    }
    screen.fact(
        "server started again after",
        format_args!(
            "{}, same identity, {}",
            shown(began.elapsed()),
            server.addr()
        ),
    );
    timeout(Duration::from_secs(10), load.answered_more_than(before))
        .await
        .map_err(|_| "no call was answered within 10 s of the restart")?;
    screen.fact("first answer after", shown(began.elapsed()));
    notes.check(channel, || server.notes(), screen).await?;
    run(
        load,
        screen,
        Phase::Restart,
        at_least.saturating_sub(began.elapsed()),
    )
    .await;
    Ok(server)
}
