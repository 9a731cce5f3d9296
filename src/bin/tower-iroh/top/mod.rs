//! `tower-iroh top`: a live table of peers and methods, from a metrics address.

mod address;
mod keys;
mod parse;
mod rates;
mod scrape;
mod screen;
mod table;

use std::{
    io::{IsTerminal, stdout},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use http::HeaderValue;
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval},
};

use self::{address::Address, rates::View, scrape::Snapshot};
use crate::{connect::seconds, failure::Failure, print, signal::interruptible, token::Token};

/// Watch calls, errors and latencies by peer and method, from a metrics address
///
/// At a terminal the table is live: q quits, s sorts by the next column, p pauses, the arrow keys scroll. Into a pipe it is printed once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tower-iroh top 127.0.0.1:50051                   # a gateway: its metrics are at its own address
  tower-iroh top 127.0.0.1:9090                    # `tower-iroh expose ... --metrics 127.0.0.1:9090`
  tower-iroh top http://127.0.0.1:9090/metrics --json --interval 10

A peer's line sums up its methods. Percentiles are those of the calls that ended in the interval. A server's errors are its own failures alone; `codes` has every
code but OK.")]
pub(crate) struct Options {
    /// Where the metrics are: `host:port`, or `http://host:port/path` if the path is not /metrics.
    address: Address,
    /// Seconds from one look at the metrics to the next.
    #[arg(long, short, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    /// Print one table, or with --json one object, and end.
    #[arg(long)]
    once: bool,
    /// A file with the token that the gateway wants.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

pub(crate) async fn run(options: Options, json: bool) -> Result<(), Failure> {
    let is_once = options.once || (!json && !stdout().is_terminal());
    if !is_once && !json {
        let source = Source::open(&options).await?;
        return screen::run(source, &options.address).await;
    }
    interruptible(async move {
        let mut source = Source::open(&options).await?;
        loop {
            let view = source.next().await;
            match (view, json) {
                (Ok(view), true) => print::line(as_json(&options.address, &view))?,
                (Ok(view), false) => {
                    print::line(format_args!("{}, {:.1} s", options.address, view.seconds))?;
                    print::line(table::plain(&view))?;
                }
                (Err(failure), _) if is_once => return Err(failure),
                (Err(failure), _) => print::line(no_answer(&options.address, &source, &failure))?,
            }
            if is_once {
                return Ok(());
            }
        }
    })
    .await
}

fn as_json(address: &Address, view: &View) -> serde_json::Value {
    let mut object = table::json(view);
    object.insert("address".to_owned(), address.to_string().into());
    object.into()
}

fn no_answer(address: &Address, source: &Source, failure: &Failure) -> serde_json::Value {
    json!({
        "address": address.to_string(),
        "no_answer_s": source.answered.elapsed().as_secs_f64(),
        "error": failure.json()["message"],
    })
}

/// A metrics address that has answered before.
struct Source {
    address: Address,
    token: Option<HeaderValue>,
    clock: Interval,
    latest: Snapshot,
    /// When the latest answer came.
    answered: Instant,
}

impl Source {
    /// Waits for the first answer, which must have something to show.
    async fn open(options: &Options) -> Result<Self, Failure> {
        let address = options.address.clone();
        let token = match &options.token_file {
            Some(file) => Token::read(file)?.header(),
            None => None,
        };
        let latest = address.scrape(token.as_ref()).await?;
        if latest.is_foreign {
            return Err(address.failed(
                "has metrics, but none of tower-iroh; give the address of a gateway, of `expose --metrics ADDR`, or of a program with `layers::prometheus`, \
                 whose first series appears with its first call",
            ));
        }
        let mut clock = interval(options.interval);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        clock.reset();
        Ok(Self {
            address,
            token,
            clock,
            latest,
            answered: Instant::now(),
        })
    }

    /// What happened in the next interval. After an error the next view has the time since the last answer.
    async fn next(&mut self) -> Result<View, Failure> {
        self.clock.tick().await;
        let now = self.address.scrape(self.token.as_ref()).await?;
        let elapsed = self.answered.elapsed().as_secs_f64();
        let view = now.since(&self.latest, elapsed);
        (self.latest, self.answered) = (now, Instant::now());
        Ok(view)
    }

    /// Sends each view, or why there is none.
    async fn follow(mut self, views: mpsc::Sender<Result<View, Failure>>) {
        while views.send(self.next().await).await.is_ok() {}
    }
}
