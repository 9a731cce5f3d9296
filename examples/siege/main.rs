//! Attacks on a server, one after the other, while honest callers use it. A table says what each attack cost and what the callers felt.
//!
//! ```sh
//! cargo run --release --example siege                         # all attacks, about ten seconds each
//! cargo run --release --example siege -- --quick              # a minute, as in .ci/run
//! cargo run --release --example siege -- --only quic-initials # those whose name begins so
//! cargo run --release --example siege -- --minutes 60         # all again and again, beside the soak for example
//! ```
//!
//! There are three processes. The server has the default settings, both transports and a policy. This process has the honest callers. Each attack runs in a
//! process of its own, with a low priority since a real one has processors of its own, and ends without a word to the server. The attackers come from other addresses of this machine than the callers do
//! (127.0.0.2 and up), and therefore the siege needs Linux.
//!
//! Twenty honest callers make 200 calls a second in all, ten over iroh and ten over TCP. Calls begin when they are due, whether those before have ended or not,
//! and their time counts from then. Two callers of each ten are newcomers: they make a new connection for every call.
//!
//! It fails, and says which promise was broken, when
//!
//! - a call fails, be it on an old connection or a new one, or a newcomer waits two and a half seconds;
//! - the 99th percentile during an attack is three times that of the quiet times or more, and above the floor (see `--help`);
//! - the server takes more memory or file descriptors than the attack may cost, or they do not come back after the last one;
//! - the server ends.
//!
//! Files: `server` and `honest` are the two sides that are attacked; `attacker` starts an attack's process; `attacks` has the attacks; `verdict` has the
//! promises; `report` prints.

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

mod attacker;
mod attacks;
mod honest;
mod keys;
mod report;
mod server;
mod siege;
mod verdict;
#[path = "../soak/vitals.rs"]
#[allow(dead_code, reason = "the soak uses all of it")]
mod vitals;

use siege::Plan;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Attacks a server in another process while honest callers use it, and prints what each attack cost and what the callers felt.
///
/// The server has the default settings. Twenty callers make 200 calls a second, over iroh and over TCP. The exit code is 1 if a promise is broken: a call that
/// failed, calls that are too slow, memory or file descriptors that do not come back.
#[derive(Debug, Parser)]
#[command(subcommand_negates_reqs = true)]
struct Options {
    /// Two seconds for each attack, and both transports at once: under a minute in all. Times are judged generously.
    #[arg(long)]
    quick: bool,
    /// Only the attacks whose name begins with this; may be given several times. See `--list`.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// How long each attack lasts. Default 10, and 2 with `--quick`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
    /// Repeats all attacks until this time is over, in minutes. Default: once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: Option<u64>,
    /// A 99th percentile below this is never too slow, nor is a newcomer, in milliseconds. Default 25, and 250 with `--quick`, because the attackers use the same processors.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    floor: Option<u64>,
    /// Names the attacks and what each does.
    #[arg(long)]
    list: bool,
    /// Writes the table's rows to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program starts itself as.
#[derive(Debug, Subcommand)]
enum Role {
    /// The server: prints its ticket, and ends with its standard input.
    #[command(hide = true)]
    Serve,
    /// One attack on the server of a ticket, until the time is over; prints what it cost.
    #[command(hide = true)]
    Attack {
        name: String,
        ticket: String,
        seconds: f64,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let ended = match &options.role {
        Some(Role::Serve) => server::serve().await.map(|()| true),
        Some(Role::Attack {
            name,
            ticket,
            seconds,
        }) => {
            let time = Duration::from_secs_f64(*seconds);
            attacks::run(name, ticket, time).await.map(|()| true)
        }
        None if options.list => {
            report::list();
            Ok(true)
        }
        None => match plan(&options) {
            Ok(plan) => siege::run(&plan).await,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::from(2);
            }
        },
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn plan(options: &Options) -> Result<Plan, Error> {
    let wanted = |name: &str| {
        options.only.is_empty() || options.only.iter().any(|only| name.starts_with(only))
    };
    let mut attacks = attacks::all(options.quick);
    attacks.retain(|attack| wanted(&attack.name));
    if let Some(unknown) = options
        .only
        .iter()
        .find(|only| !attacks.iter().any(|it| it.name.starts_with(*only)))
    {
        return Err(
            format!("no attack's name begins with `{unknown}`; --list has them all").into(),
        );
    }
    let (seconds, calm, floor) = match options.quick {
        true => (2, Duration::from_millis(400), 250),
        false => (10, Duration::from_secs(3), 25),
    };
    Ok(Plan {
        attacks,
        time: Duration::from_secs(options.seconds.unwrap_or(seconds)),
        calm,
        repeat: options.minutes.map(|it| Duration::from_secs(it * 60)),
        floor: Duration::from_millis(options.floor.unwrap_or(floor)),
        // What the allocator keeps and dead QUIC connections hold goes within this time.
        recovery: Duration::from_secs(if options.quick { 5 } else { 60 }),
        json: options.json.clone(),
    })
}
