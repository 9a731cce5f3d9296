//! `tower-iroh load`: calls a method by a fixed schedule, and says how long the answers took.

mod drive;
mod prepare;
mod report;
mod schedule;
mod tally;

use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;

use self::{
    drive::drive,
    report::{Report, latency},
    schedule::Schedule,
    tally::Tally,
};
use crate::{
    call::{RequestOptions, SchemaOptions, Session, method_parts},
    connect::{ConnectOptions, seconds},
    failure::Failure,
    print, progress,
    signal::{INTERRUPTED, interruptible, listen},
};

/// Call a method at a steady rate, and print how long the answers took
///
/// Calls start by a fixed schedule, whether earlier ones are answered or not, and the latency of a call counts from when the schedule had it start. So a
/// server that stalls cannot hide it by slowing the callers down, which Gil Tene calls coordinated omission. A start within 2 ms of the schedule, which is as
/// exact as the timer is, counts as on time. Failed calls have no latency; they are counted by their code, and not made again.
#[derive(Debug, Args)]
#[command(
    mut_arg("max_time", |arg| arg.default_value("10").help("Seconds that each call may take; then it counts as DEADLINE_EXCEEDED")),
    after_help = "Examples:\n  tower-iroh load TICKET --rate 500\n  tower-iroh load TICKET shop.v1.Orders/Get -d '{\"id\": 7}' --rate 200 --duration 30\n  tower-iroh load TICKET shop.v1.Orders/Get -d '{\"id\": 7}' --beside tcp://127.0.0.1:50051 -plaintext   # iroh next to TCP\n\nExit codes: 0 when every call was answered with OK, 1 when one was not, 2 for a wrong command line, 64 + the gRPC code when no call could be made, 130 after Ctrl-C, which prints the table too."
)]
pub(crate) struct Options {
    /// A ticket, an endpoint id, a name from the configuration, or `tcp://host:port`.
    peer: String,
    /// `pkg.Service/Method` or `pkg.Service.Method`, which takes one request; with a stream of responses the last one ends the call. Without a method it is
    /// `grpc.health.v1.Health/Check`.
    method: Option<String>,
    /// The requests, each for one call, in turn; `@` reads them from standard input, `@file` from a file. Without any it is an empty message.
    #[arg(
        short = 'd',
        long,
        alias = "d",
        value_name = "REQUESTS",
        allow_hyphen_values = true
    )]
    data: Option<String>,
    /// Calls a second, to each target.
    #[arg(long, value_name = "CALLS", default_value = "100", value_parser = rate, allow_negative_numbers = true)]
    rate: f64,
    /// Seconds of measured calls.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds, allow_negative_numbers = true)]
    duration: Duration,
    /// Seconds of unmeasured calls before them; 0 for none.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds_or_none, allow_negative_numbers = true)]
    warm_up: Duration,
    /// The most calls in flight to each target. A call that is due above this limit is counted as not sent.
    #[arg(long, value_name = "CALLS", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_in_flight: u32,
    /// A second target that gets the same calls in turn. `tcp` or `iroh` calls the same peer over that transport.
    #[arg(long, value_name = "TARGET")]
    beside: Option<String>,
    #[command(flatten)]
    request: RequestOptions,
    #[command(flatten)]
    schema: SchemaOptions,
    #[command(flatten)]
    connect: ConnectOptions,
}

/// Reads a number of calls a second.
fn rate(text: &str) -> Result<f64, String> {
    const MOST: f64 = 1_000_000.0;
    let rate = text.parse().ok();
    rate.filter(|rate| *rate > 0.0 && *rate <= MOST)
        .ok_or_else(|| {
            format!(
                "`{text}` is not a rate; use a number of calls a second above 0 and up to {MOST}"
            )
        })
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(0.0) => Ok(Duration::ZERO),
        _ => seconds(text),
    }
}

pub(crate) async fn run(options: Options, json: bool) -> Result<(), Failure> {
    let targets = 1 + usize::from(options.beside.is_some());
    let schedule = Schedule::new(options.rate, options.warm_up, options.duration, targets)?;
    if let Some(name) = &options.method {
        // A wrong name is told before anything is dialled.
        method_parts(name)?;
    }
    let (names, sessions) = options.sessions().await?;
    let connections: Vec<_> = sessions.iter().map(|it| it.connection.clone()).collect();
    let ended = load(options, &schedule, &names, sessions, json).await;
    join_all(connections.into_iter().map(|it| it.close())).await;
    ended
}

async fn load(
    options: Options,
    schedule: &Schedule,
    names: &[String],
    sessions: Vec<Session>,
    json: bool,
) -> Result<(), Failure> {
    let max_in_flight = options.max_in_flight as usize;
    let duration = options.warm_up + options.duration;
    let ready = interruptible(options.prepare(sessions)).await?;
    let call = |target: usize, number: u64| {
        // Each target is given each request, so the targets are compared by the same work.
        let round = number / names.len() as u64;
        let request = (round % ready.requests.len() as u64) as usize;
        let request = ready.requests[request].clone();
        ready.callers[target].clone().call(request)
    };
    let mut line = progress::Line::new();
    let show = |elapsed: Duration, tallies: &[Tally]| {
        if let Some(line) = &mut line {
            line.show(so_far(elapsed, duration, names, tallies));
        }
    };
    let run = drive(schedule, max_in_flight, call, listen(), show).await;
    drop(line);
    let report = Report { run: &run, names };
    match json {
        true => print::line(report.json())?,
        false => print::line(&report)?,
    }
    for session in &ready.sessions {
        session.show(json);
    }
    match run.is_interrupted {
        true => Err(Failure::Exit(INTERRUPTED)),
        false if run.tallies.iter().all(Tally::is_clean) => Ok(()),
        false => Err(Failure::Exit(1)),
    }
}

/// The state of a run in one line.
fn so_far(elapsed: Duration, of: Duration, names: &[String], tallies: &[Tally]) -> String {
    // The last answers come after the last second.
    let (elapsed, of) = (elapsed.min(of).as_secs(), of.as_secs_f64());
    let sum = |count: fn(&Tally) -> u64| tallies.iter().map(count).sum::<u64>();
    let mut text = format!(
        "{elapsed} s of {of:.0} s: sent {}, answered {}, failed {}",
        sum(|it| it.sent),
        sum(Tally::answered),
        sum(Tally::failures)
    );
    for (name, tally) in names.iter().zip(tallies) {
        let latency = latency(&tally.latencies);
        let (Some(p50), Some(p99)) = (latency[1].1, latency[3].1) else {
            continue;
        };
        text += &format!("; {name}: p50 {p50:.2} ms, p99 {p99:.2} ms");
    }
    text
}
