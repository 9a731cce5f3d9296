//! `tower-iroh`: gRPC over iroh for programs in any language, and for people at a terminal. One file per verb.

mod any_certificate;
mod backend;
mod call;
mod connect;
mod demo;
mod describe;
mod doctor;
mod endpoint;
mod expose;
mod failure;
mod flags;
mod forward;
mod gateway;
mod health;
mod id;
mod list;
mod load;
mod pages;
mod ping;
mod policy;
mod print;
mod progress;
mod shell;
mod signal;
mod target;
mod ticket;
mod token;
mod top;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use failure::Failure;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::{
    Layer as _, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt,
};

/// gRPC over iroh: any server and any client, in any language, by key.
#[derive(Debug, Parser)]
#[command(name = "tower-iroh", version, max_term_width = 100)]
struct Program {
    #[command(subcommand)]
    verb: Verb,
    /// Print results as JSON on standard output, and errors as JSON on standard error.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Call(Box<call::Options>),
    List(Box<list::Options>),
    Describe(Box<describe::Options>),
    Health(Box<health::Options>),
    Demo(demo::Options),
    Expose(expose::Options),
    Gateway(gateway::Options),
    Ping(ping::Options),
    Doctor(doctor::Options),
    Load(Box<load::Options>),
    Id(id::Options),
    Ticket(ticket::Options),
    Top(top::Options),
    Completions(shell::Completions),
    Man(shell::Man),
}

fn main() -> ExitCode {
    let mut command = Program::command();
    let args = flags::with_two_dashes(&mut command, std::env::args_os());
    let program = match command
        .try_get_matches_from_mut(&args)
        .and_then(|matches| Program::from_arg_matches(&matches))
    {
        Ok(program) => program,
        Err(error) if error.use_stderr() && flags::ask_for_json(&args) => {
            let text = error.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            return Failure::usage(text.trim_end()).report(true);
        }
        // clap prints help to standard output with code 0, and mistakes to standard error with code 2.
        Err(error) => error.exit(),
    };
    log(&program.verb);
    let runtime = match program.verb.runtime() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("no threads: {error}")).report(program.json),
    };
    let json = program.json;
    let ended = runtime.block_on(run(program));
    // Reading standard input cannot be ended, and the program is not to wait for it.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

impl Verb {
    /// What the verb runs on.
    fn runtime(&self) -> std::io::Result<Runtime> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match self {
            Self::Expose(options) => usize::from(options.threads),
            Self::Gateway(options) => usize::from(options.threads),
            // One may be blocked by a full pipe, and another one has to run the timers.
            _ => cores().max(2),
        };
        let mut builder = match threads {
            // Not several with one worker: there a woken task goes before the others, and calls that came together leave one by one.
            1 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        builder.worker_threads(threads).enable_all().build()
    }
}

/// Writes the library's events to standard error, as `RUST_LOG` says. Without it a server says what an operator should know, and any other verb nothing: it
/// reports its own errors.
fn log(verb: &Verb) {
    let default = match verb {
        Verb::Expose(_) | Verb::Gateway(_) => "error,tower_iroh=warn,tower_iroh_layers=warn",
        _ => "off",
    };
    let filter: Targets = std::env::var("RUST_LOG")
        .ok()
        .and_then(|filter| filter.parse().ok())
        .unwrap_or_else(|| default.parse().unwrap_or_default());
    let events = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(events.with_filter(filter))
        .init();
}

async fn run(program: Program) -> Result<(), Failure> {
    let json = program.json;
    match program.verb {
        Verb::Call(options) => call::run(*options, json).await,
        Verb::List(options) => list::run(*options, json).await,
        Verb::Describe(options) => describe::run(*options, json).await,
        Verb::Health(options) => health::run(*options, json).await,
        Verb::Demo(_) => signal::interruptible(demo::run()).await,
        Verb::Completions(options) => shell::completions(options, Program::command()),
        Verb::Doctor(options) => doctor::run(options, json).await,
        Verb::Expose(options) => expose::run(options, json).await,
        Verb::Gateway(options) => gateway::run(options, json).await,
        Verb::Id(options) => id::run(options, json),
        Verb::Load(options) => load::run(*options, json).await,
        Verb::Man(_) => shell::man(Program::command()),
        Verb::Ping(options) => ping::run(options, json).await,
        Verb::Ticket(options) => ticket::run(options, json).await,
        Verb::Top(options) => top::run(options, json).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Program::command().debug_assert();
    }
}
