//! `tower-iroh ping`: which way a peer is reached, and how long the way and its program take.

use std::{pin::pin, time::Duration};

use clap::Args;
use futures_util::future::OptionFuture;
use serde_json::json;
use tokio::time::{Instant, interval};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower_iroh::{Channel, Path};

use crate::{
    connect::{CallPolicy, ConnectOptions, Connection, becomes_direct, seconds},
    failure::Failure,
    print, progress,
    signal::{INTERRUPTED, listen},
};

/// Show which way a peer is reached, and how long the network and its program take
///
/// The program is asked by `grpc.health.v1`. A program without that service answers too, with UNIMPLEMENTED.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tower-iroh ping TICKET --count 10")]
pub(crate) struct Options {
    /// A ticket, an endpoint id, a name from the configuration, `tcp://host:port`, or `unix:/path`.
    peer: String,
    /// How often to ask.
    #[arg(long, short, value_name = "COUNT", default_value = "4", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Seconds from one question to the next.
    #[arg(long, short, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    #[command(flatten)]
    connect: ConnectOptions,
}

pub(crate) async fn run(options: Options, json: bool) -> Result<(), Failure> {
    let connection =
        Connection::new(&options.peer, &options.connect, CallPolicy::default()).await?;
    let ended = ping(&connection, &options, json).await;
    connection.close().await;
    ended
}

async fn ping(connection: &Connection, options: &Options, json: bool) -> Result<(), Failure> {
    let began = Instant::now();
    let channel = connection.channel.as_ref();
    if let Some(channel) = channel {
        let what = format!("connecting to {}", channel.peer().fmt_short());
        let connected = progress::over_two_seconds(what, channel.connect()).await;
        connected.map_err(|error| Failure::from(error.status().clone()))?;
        let took = began.elapsed();
        match json {
            true => print::line(
                json!({ "connected_ms": ms(took), "peer": channel.peer().to_string() }),
            )?,
            false => print::line(format_args!(
                "connected to {} in {:.1} ms",
                channel.peer(),
                ms(took)
            ))?,
        }
    }
    let mut direct = None;
    let mut answers = Vec::new();
    let mut last_failure = None;
    let mut clock = interval(options.interval);
    let mut interrupted = pin!(listen());
    let mut count = 0;
    let is_interrupted = 'asking: loop {
        loop {
            let unknown = channel.filter(|_| direct.is_none());
            tokio::select! {
                _ = clock.tick() => break,
                () = &mut interrupted => break 'asking true,
                Some(()) = OptionFuture::from(unknown.map(becomes_direct)) => direct = Some(began.elapsed()),
            }
        }
        let asked = Instant::now();
        let answer = tokio::select! {
            answer = ask(connection, options.connect.connect_timeout) => answer,
            () = &mut interrupted => break true,
        };
        count += 1;
        let took = asked.elapsed();
        let stats = channel.and_then(Channel::stats);
        let path = stats.as_ref().and_then(|stats| stats.path.clone());
        if direct.is_none() && path.as_ref().is_some_and(Path::is_direct) {
            direct = Some(began.elapsed());
        }
        let path = path.map(|path| path.to_string());
        let rtt = stats.and_then(|stats| stats.rtt).map(ms);
        let program = match &answer {
            Ok(program) => {
                answers.push(ms(took));
                *program
            }
            Err(status) => status.message(),
        };
        match json {
            true => print::line(json!({
                "number": count, "path": path, "transport_ms": rtt, "answered": answer.is_ok(),
                "program_ms": ms(took), "program": program,
            }))?,
            false => {
                let way = path.unwrap_or_else(|| "no path".to_owned());
                let rtt = rtt.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.2} ms"));
                print::line(format_args!(
                    "{count:>3}  {way}  transport {rtt}  program {:.2} ms  {program}",
                    ms(took)
                ))?;
            }
        }
        last_failure = answer.err();
        if count == options.count {
            break false;
        }
    };
    summary(count, json, &answers, direct, channel)?;
    if is_interrupted {
        return Err(Failure::Exit(INTERRUPTED));
    }
    match (answers.is_empty(), last_failure) {
        (true, Some(status)) => Err(status.into()),
        _ => Ok(()),
    }
}

fn summary(
    count: u32,
    json: bool,
    answers: &[f64],
    direct: Option<Duration>,
    channel: Option<&Channel>,
) -> Result<(), Failure> {
    let stats = channel.and_then(Channel::stats);
    let lost = stats.map(|stats| (stats.lost_packets, stats.sent_packets));
    let least = answers.iter().copied().reduce(f64::min);
    let most = answers.iter().copied().reduce(f64::max);
    let mean = least.map(|_| answers.iter().sum::<f64>() / answers.len() as f64);
    if json {
        return print::line(json!({
            "asked": count, "answered": answers.len(), "program_ms": { "min": least, "mean": mean, "max": most },
            "lost_packets": lost.map(|it| it.0), "sent_packets": lost.map(|it| it.1), "direct_after_ms": direct.map(ms),
        }));
    }
    let mut text = format!("{} of {count} answered", answers.len());
    if let (Some(least), Some(mean), Some(most)) = (least, mean, most) {
        text += &format!("; program {least:.2} / {mean:.2} / {most:.2} ms (least, mean, most)");
    }
    if let Some((lost, sent)) = lost.filter(|it| it.1 > 0) {
        text += &format!("; {lost} of {sent} packets lost");
    }
    text += &match (direct, channel) {
        (Some(after), _) => format!("; direct after {:.0} ms", ms(after)),
        (None, Some(_)) => "; never direct".to_owned(),
        (None, None) => String::new(),
    };
    print::line(text)
}

/// Asks the peer's program for an answer, whatever it is.
async fn ask(connection: &Connection, most: Duration) -> Result<&'static str, Status> {
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.set_timeout(most);
    let answer = HealthClient::new(connection.service.clone())
        .check(request)
        .await;
    match answer {
        Ok(answer) => Ok(answer.into_inner().status().as_str_name()),
        // A program that says no has answered.
        Err(status) if status.code() == Code::Unimplemented => Ok("no health service"),
        Err(status) if status.code() == Code::NotFound => Ok("health unknown"),
        Err(status) if status.code() == Code::PermissionDenied => Ok("permission denied"),
        Err(status) => Err(status),
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
