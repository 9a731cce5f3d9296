//! `tower-iroh doctor`: what is wrong between here and a peer, and what to do about it.

use std::time::Duration;

use clap::Args;
use iroh::Endpoint;
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower_iroh::{Channel, Error, ErrorKind, Peer, config::Config};

use crate::{
    connect::{becomes_direct, seconds},
    endpoint::{EndpointOptions, Relay},
    failure::Failure,
    print, progress,
    target::{Names, Target},
};

/// Say what is wrong between here and a peer, and what to do about it
///
/// Without a peer it looks at this machine alone.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tower-iroh doctor\n  tower-iroh doctor TICKET")]
pub(crate) struct Options {
    /// A ticket, an endpoint id, or a name from the configuration.
    peer: Option<String>,
    /// Seconds that the dial may take.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    connect_timeout: Duration,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    endpoint: EndpointOptions,
}

/// The findings, printed as they come.
struct Report {
    json: bool,
    wrong: usize,
}

impl Report {
    fn well(&mut self, check: &str, finding: String) -> Result<(), Failure> {
        self.say(check, &finding, None)
    }

    fn wrong(&mut self, check: &str, finding: String, remedy: &str) -> Result<(), Failure> {
        self.wrong += 1;
        self.say(check, &finding, Some(remedy))
    }

    fn say(&self, check: &str, finding: &str, remedy: Option<&str>) -> Result<(), Failure> {
        if self.json {
            let remedy = remedy.map_or(Value::Null, Value::from);
            let ok = remedy.is_null();
            return print::line(
                json!({ "check": check, "ok": ok, "finding": finding, "remedy": remedy }),
            );
        }
        let mark = if remedy.is_none() { "ok   " } else { "WRONG" };
        print::line(format_args!("{mark}  {check:<8}  {finding}"))?;
        match remedy {
            Some(remedy) => print::line(format_args!("{:17}{remedy}", "")),
            None => Ok(()),
        }
    }
}

pub(crate) async fn run(options: Options, json: bool) -> Result<(), Failure> {
    let names = options.names.load()?;
    let peer = match &options.peer {
        None => None,
        Some(text) => match Target::read(text, names.as_deref())? {
            Target::Peer(peer) => Some(peer),
            Target::Server(server) => {
                let message = format!(
                    "`{server}` is no peer; `tower-iroh ping {server}` asks it for an answer"
                );
                return Err(Failure::usage(message));
            }
        },
    };
    let mut report = Report { json, wrong: 0 };
    if let Some(endpoint) = this_machine(&options, names.as_deref(), &mut report).await? {
        if let Some(peer) = peer {
            the_peer(&options, names.as_deref(), &endpoint, peer, &mut report).await?;
        }
        endpoint.close().await;
    }
    match report.wrong {
        0 => Ok(()),
        1 => Err(Failure::failed("one thing is wrong")),
        wrong => Err(Failure::failed(format!("{wrong} things are wrong"))),
    }
}

/// The key, the UDP socket, the relay.
async fn this_machine(
    options: &Options,
    names: Option<&Config>,
    report: &mut Report,
) -> Result<Option<Endpoint>, Failure> {
    match options.endpoint.key() {
        Ok(key) => report.well("key", format!("this endpoint is {}", key.public()))?,
        Err(failure) => {
            let remedy = "Only its owner may read a key file: `chmod 600 FILE`. It holds 64 hexadecimal digits; without the file a new key is made.";
            report.wrong("key", sentence(&failure), remedy)?;
            return Ok(None);
        }
    }
    let endpoint = match options.endpoint.bind(names).await {
        Ok(endpoint) => endpoint,
        Err(failure) => {
            let remedy = "Another program has the address, or this machine has no such address: choose another with `--bind`.";
            report.wrong("udp", sentence(&failure), remedy)?;
            return Ok(None);
        }
    };
    let bound: Vec<_> = endpoint
        .bound_sockets()
        .iter()
        .map(ToString::to_string)
        .collect();
    report.well("udp", format!("bound to {}", bound.join(" and ")))?;
    if matches!(options.endpoint.relay(names), Relay::Disabled) {
        report.well(
            "relay",
            "disabled: only direct paths, and no lookup of addresses".to_owned(),
        )?;
    } else if progress::over_two_seconds(
        "connecting to the relay",
        options.endpoint.online(names, &endpoint),
    )
    .await
    {
        let relays: Vec<_> = endpoint
            .addr()
            .relay_urls()
            .map(ToString::to_string)
            .collect();
        report.well("relay", format!("connected to {}", relays.join(" and ")))?;
    } else {
        let remedy = "Peers behind another NAT do not reach this endpoint. Check that HTTPS to the relay is permitted, and that this machine's clock is right.";
        report.wrong("relay", "no relay answered within 5 s".to_owned(), remedy)?;
    }
    Ok(Some(endpoint))
}

/// The dial, the path, the answer of the peer's program.
async fn the_peer(
    options: &Options,
    names: Option<&Config>,
    endpoint: &Endpoint,
    peer: Peer,
    report: &mut Report,
) -> Result<(), Failure> {
    let addrs = peer.addr().addrs.len();
    if addrs == 0 && matches!(options.endpoint.relay(names), Relay::Disabled) {
        let remedy = "Use a whole ticket, or let the address be looked up with `--relay default`.";
        return report.wrong("ticket", "it has an id and no address".to_owned(), remedy);
    }
    report.well("ticket", format!("{}, known addresses: {addrs}", peer.id()))?;
    let connecting = format!("connecting to {}", peer.id().fmt_short());
    let channel = Channel::builder(endpoint.clone())
        .peer(peer)
        .links(|links| links.dial_timeout(options.connect_timeout))
        .build()
        .map_err(Failure::usage)?;
    if let Err(error) = progress::over_two_seconds(connecting, channel.connect()).await {
        let check = match error.kind() {
            ErrorKind::Forbidden | ErrorKind::Unauthenticated | ErrorKind::NotAllowed => "policy",
            _ => "dial",
        };
        return report.wrong(check, error.status().message().to_owned(), remedy(&error));
    }
    let path = || channel.stats().and_then(|stats| stats.path);
    let direct = timeout(Duration::from_secs(3), becomes_direct(&channel));
    let direct = progress::over_two_seconds("waiting for a direct path", direct).await;
    match (direct, path()) {
        (Ok(()), Some(path)) => report.well("path", path.to_string())?,
        (_, path) => {
            let path = path.map_or_else(|| "no path".to_owned(), |path| path.to_string());
            let remedy = "Calls work, and take the way over the relay. UDP may be blocked on either side: permit outgoing UDP, or give the peer a fixed `--bind` port that is open.";
            report.wrong("path", path, remedy)?;
        }
    }
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.set_timeout(options.connect_timeout);
    let mut health = HealthClient::new(channel);
    let status = match health.check(request).await {
        Ok(answer) => {
            let health = answer.into_inner().status();
            return report.well("program", format!("answers: {}", health.as_str_name()));
        }
        Err(status) => status,
    };
    let finding = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Unimplemented => {
            report.well("program", "answers, and has no health service".to_owned())
        }
        Code::PermissionDenied | Code::Unauthenticated => {
            report.wrong("policy", finding, NOT_PERMITTED)
        }
        Code::DeadlineExceeded => {
            let remedy = "The peer is there and its program does not answer. Is the server behind `expose` alive? Look at what `expose` prints.";
            report.wrong("program", finding, remedy)
        }
        _ => {
            let remedy = "The peer is there and its server is not: start the server whose address `expose` was given.";
            report.wrong("program", finding, remedy)
        }
    }
}

const NOT_PERMITTED: &str = "The peer's policy does not permit it. Its operator adds this endpoint's id: `tower-iroh expose ... --allow ID`, or in the policy file. `--key-file` keeps the id from one start to the next.";

fn remedy(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::NoAddress => {
            "Nobody has published an address for this id: ask for a whole ticket, and check that the peer runs."
        }
        ErrorKind::DialTimeout => {
            "Is the peer running? If so, UDP is blocked between here and there, and no relay helps: use a ticket with a relay, or `--relay default` on both sides."
        }
        ErrorKind::WrongIdentity => {
            "Another key answers at this address: the peer has a new identity, or somebody else has its address. Ask for its ticket again."
        }
        ErrorKind::AlpnMismatch => {
            "The program there speaks another protocol or another version of this one. Compare `tower-iroh --version` on both sides."
        }
        ErrorKind::Forbidden | ErrorKind::Unauthenticated => NOT_PERMITTED,
        ErrorKind::NotAllowed => {
            "A policy on this side does not permit the peer. Add the peer's id to it."
        }
        ErrorKind::Exhausted => "The peer has as many connections as it takes. Try again later.",
        _ => "Is the peer running? Does `tower-iroh ping` of another peer work from here?",
    }
}

fn sentence(failure: &Failure) -> String {
    let text = failure.to_string();
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}
