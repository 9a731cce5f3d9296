//! Two transports to one peer: iroh is blocked under load, calls fall back to TCP, and return.
//!
//! ```sh
//! cargo run --example dual
//! ```
//!
//! - `server`: the echo service on both transports, which counts what reaches it
//! - `traffic`: calls at a steady pace and a few streams, and what became of them
//! - `screen`: a line every half second, and what it was for
//!
//! It ends with an error when something that it promises did not happen. All on this machine: the packets of both transports take a way through this program, which
//! delays them alike, and drops iroh's as a firewall would (`tests/support/udp_way.rs`, `tcp_way.rs`).

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use iroh::{Endpoint, EndpointAddr};
use tokio::time::{Instant, sleep, timeout};
use tower_iroh::{
    Channel, Peer, TransportKind,
    layers::select::{Choice, SelectConfig, SelectHandle},
    presets::Offline,
};

mod screen;
mod server;
mod tcp_way;
mod traffic;
#[path = "../../tests/support/udp_way.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the tests use more of it, from other places"
)]
mod udp_way;

use screen::Screen;
use server::Serving;
use tcp_way::TcpWay;
use traffic::{Pace, Traffic};
use udp_way::{UdpWay, Weather};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Two transports to one peer: iroh is blocked under load, calls fall back to TCP, and return.
#[derive(Clone, Copy, Debug, Parser)]
struct Options {
    /// Unary calls a second.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=2000))]
    rate: u32,
    /// How long iroh stays blocked, in seconds.
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u64).range(3..=600))]
    blocked: u64,
}

/// How long a packet or a byte takes to the other side, over either transport.
const ONE_WAY: Duration = Duration::from_millis(5);
const FAIR: Weather = Weather {
    cut: false,
    loss: 0.0,
    delay: ONE_WAY,
};
/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long iroh has to be well before calls return to it.
const DWELL: Duration = Duration::from_secs(3);
/// What happens within this time after its cause, or not at all.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let screen = Screen::new();
    match dual(options, &screen).await {
        Ok(()) => {
            screen.good(
                "Iroh was blocked, calls went over TCP, and came back. Nothing was done twice.",
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            screen.failed(&*error);
            ExitCode::FAILURE
        }
    }
}

async fn dual(options: Options, screen: &Screen) -> Result<(), Error> {
    let serving =
        Serving::start(udp_way::beyond(Endpoint::builder(Offline))?.bind().await?).await?;
    let way = UdpWay::to(serving.udp, 1).await?;
    way.set(FAIR);
    let tcp_way = TcpWay::to(serving.tcp, ONE_WAY).await?;
    // The server as it is seen through both ways.
    let seen = EndpointAddr::new(serving.peer.id()).with_ip_addr(way.addr());
    let peer = Peer::from(seen).with_tcp(tcp_way.addr());

    let endpoint = udp_way::near(Endpoint::builder(Offline))?.bind().await?;
    // README: dual
    let config = SelectConfig::builder()
        // So long the first calls wait for iroh's first dial.
        .head_start(Duration::from_millis(250))
        .dwell(DWELL)
        .build()?;
    let select = SelectHandle::with_config(Choice::Prefer(TransportKind::Iroh.arm()), config);
    let channel = Channel::builder(endpoint.clone())
        .peer(peer)
        .select(select.clone())
        .links(|links| links.dial_timeout(Duration::from_secs(1)))
        .build()?;
    // README: end
    let pace = Pace {
        per_second: options.rate,
        deadline: DEADLINE,
        streams: 4,
    };
    let traffic = Traffic::start(channel, pace);

    screen.head(options.rate, pace.streams);
    let shown = screen.show(&traffic, &select);
    let story = async {
        let waits = |what, arm| over(&traffic, what, arm, options.rate);
        waits("before anything happened", TransportKind::Iroh).await?;
        sleep(Duration::from_secs(2)).await;

        screen.event("iroh's packets are dropped from now on");
        way.set(Weather { cut: true, ..FAIR });
        let blocked = Instant::now();
        waits("after the block", TransportKind::Tcp).await?;
        let fell_back = blocked.elapsed();
        screen.event(&format!(
            "all calls go over TCP, {:.1} s after the block",
            fell_back.as_secs_f64()
        ));
        sleep(Duration::from_secs(options.blocked).saturating_sub(blocked.elapsed())).await;

        screen.event("they pass again");
        way.set(FAIR);
        let unblocked = Instant::now();
        waits("after the block's end", TransportKind::Iroh).await?;
        let returned = unblocked.elapsed();
        screen.event(&format!(
            "all calls are back on iroh, {:.1} s later",
            returned.as_secs_f64()
        ));
        sleep(Duration::from_secs(2)).await;
        Ok::<_, Error>((fell_back, returned))
    };
    let (fell_back, returned) = tokio::select! {
        told = story => told?,
        never = shown => match never {},
    };

    let tally = traffic.stop().await;
    let done = serving.done();
    screen.summary(&tally, &select, fell_back, returned);
    if let Some(twice) = done.twice {
        return Err(format!("call {twice} was done twice").into());
    }
    if tally.failed_unsent > 0 {
        return Err(format!(
            "{} calls failed that nobody could have begun: they were safe to move",
            tally.failed_unsent
        )
        .into());
    }
    if tally.answered > done.calls {
        return Err(format!("{} answers to {} calls", tally.answered, done.calls).into());
    }
    endpoint.close().await;
    serving.stop().await
}

/// Waits until half a second's answers all came over one transport.
async fn over(traffic: &Traffic, what: &str, arm: TransportKind, rate: u32) -> Result<(), Error> {
    let enough = u64::from(rate / 4);
    let reached = async {
        loop {
            let before = traffic.tally();
            sleep(Duration::from_millis(500)).await;
            let now = traffic.tally();
            let over = |arm| now.over(arm) - before.over(arm);
            let all: u64 = TransportKind::ALL.map(over).into_iter().sum();
            if over(arm) >= enough && over(arm) == all {
                return;
            }
        }
    };
    let late = |_| format!("{what}: calls did not all go over {arm} within {PATIENCE:?}");
    Ok(timeout(PATIENCE, reached).await.map_err(late)?)
}
