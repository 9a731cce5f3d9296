//! Mixed calls for as long as one likes, while servers, connections and the ways between them fail at random.
//!
//! ```sh
//! cargo run --release --example soak -- --minutes 5
//! cargo run --release --example soak -- --minutes 60 --seed 7
//! ```
//!
//! Three servers, two clients, real iroh endpoints on this machine; to two of the servers the way leads through a UDP forwarder, which can be cut,
//! delayed and made lossy. Each server is reached over our `Channel` and over tonic's with our `Connector`, with and without our layers. It fails,
//! with the seed and the reason, when
//!
//! - a call has no end, has two, or ends more than two seconds after its deadline (over tonic's bare channel: after deadline and two dials);
//! - a call is executed twice that did not say that it may be, is answered without having been executed, or gets an answer that is not its own;
//! - a call ends with a code that nothing which happened explains;
//! - one of iroh's, tonic's or our tasks panics;
//! - calls do not succeed again within fifteen seconds of the last fault;
//! - after it all, with nothing in flight, there are more file descriptors (4) or tasks (10) than after the warm-up;
//! - the median of resident memory is 22 % higher in the last third than in the first one after the warm-up, in a run of five minutes or more.
//!
//! The seed decides what is called and what fails; the network and the scheduler decide the rest, so the same seed gives the same plan and not
//! the same run. Files: `run` is the order of things; `calls` draws, makes and judges a call; `ledger` has all of them; `faults`; `world` the servers; `clients` their
//! callers; `service`; `vitals`; `report`.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use tokio::time::Instant;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

mod calls;
mod clients;
mod faults;
mod ledger;
mod report;
mod run;
mod service;
// Shared with the tests of what is seen of a lossy network.
#[path = "../../tests/support/udp_way.rs"]
#[allow(unreachable_pub, reason = "it is in the tests' folder")]
mod udp_way;
mod vitals;
mod world;

use faults::Log;
use ledger::Ledger;
use run::Soak;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Mixed calls under random faults, for as long as one likes.
#[derive(Clone, Copy, Debug, Parser)]
struct Options {
    /// How long, in minutes; parts of one are accepted. The end takes up to a minute more.
    #[arg(long, default_value_t = 5.0, value_name = "N", value_parser = minutes)]
    minutes: f64,
    /// Decides what is called and what fails. By default another one each time.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// How many callers there are.
    #[arg(long, default_value_t = 24, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    callers: u16,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if (0.01..=10_000.0).contains(&minutes) => Ok(minutes),
        _ => Err("0.01 to 10000 are accepted".to_owned()),
    }
}

/// Panics that nobody ordered.
static PANICS: AtomicU64 = AtomicU64::new(0);

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    // iroh calls errors what happens here all the time and on purpose; RUST_LOG shows them.
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::OFF.into());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter.from_env_lossy())
        .init();
    listen_for_panics();

    let soak = Soak {
        ledger: Arc::new(Ledger::new()),
        log: Arc::new(Log::new()),
        began: Instant::now(),
        seed,
        callers: options.callers,
    };
    let outcome = soak
        .run(Duration::from_secs_f64(options.minutes * 60.0))
        .await;
    let mut failures = soak.ledger.failures();
    failures.extend(outcome.err().map(|error| error.to_string()));
    if failures.is_empty() {
        println!(
            "\nEvery call had one end, nothing was executed twice, nothing is left. Seed {seed}."
        );
        return ExitCode::SUCCESS;
    }
    eprintln!("\nThe last faults were");
    soak.log
        .last()
        .iter()
        .for_each(|fault| eprintln!("{fault}"));
    eprintln!(
        "\nThe soak failed. Seed {seed}, after {:?}:",
        soak.began.elapsed()
    );
    failures.iter().for_each(|failure| eprintln!("- {failure}"));
    ExitCode::FAILURE
}

/// Panics that were ordered are not worth a line; any other fails the run, whatever task it is in.
fn listen_for_panics() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some(service::PANIC) {
            PANICS.fetch_add(1, Ordering::Relaxed);
            tell(info);
        }
    }));
}
