//! `tower-iroh demo`: the two commands, and what they are good for, in one process and without internet.

mod sample;

use std::time::Duration;

use clap::{Args, Parser};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use self::sample::Sample;
use crate::{
    Program, Verb, call,
    endpoint::{EndpointOptions, Relay},
    expose::Exposed,
    failure::Failure,
    gateway, list, print,
};

/// Show the two commands at work: a sample server, exposed, and called through a gateway
///
/// All of it runs in this process, on this machine alone, in a few seconds.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tower-iroh demo")]
pub(crate) struct Options {}

/// How long the parts of the demo may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn run() -> Result<(), Failure> {
    let began = Instant::now();
    let stop = CancellationToken::new();
    let sample = Sample::start().await?;
    title("A gRPC server in clear text, as any language has them. It knows nothing of iroh.")?;
    print::line(sample.addr)?;

    let backend = sample.addr.to_string();
    title("The first command puts a key in front of it, and prints a ticket.")?;
    let exposed = expose(&backend, stop.child_token()).await?;
    print::line(&exposed.place)?;

    title(
        "Anyone with the ticket can list and call the server: encrypted end to end, through NATs, without certificates.",
    )?;
    let ticket = exposed.place.as_str();
    shown(&["list", ticket]).await?;
    shown(&[
        "call",
        ticket,
        "demo.v1.Greeter/Hello",
        "-d",
        r#"{"name": "peer"}"#,
    ])
    .await?;

    title("The second command gives clients in any language a local address for it.")?;
    let gateway = open(ticket, stop.child_token()).await?;
    print::line(&gateway.place)?;

    title("A client that knows nothing of iroh either calls that address. Here a stream:")?;
    let local = format!("tcp://{}", gateway.place);
    let countdown = [
        "call",
        "-plaintext",
        &local,
        "demo.v1.Greeter/Countdown",
        "-d",
        r#"{"from": 3}"#,
    ];
    shown(&countdown).await?;

    title("The cost of both programs, one caller, 1,000 calls each, on this machine:")?;
    let direct = p50(&backend).await?;
    let through = p50(&gateway.place).await?;
    print::line(format_args!("direct             {direct:>7.3} ms"))?;
    print::line(format_args!("gateway and expose {through:>7.3} ms"))?;

    stop.cancel();
    exposed.ended().await?;
    gateway.ended().await?;
    title(&format!(
        "That took {:.1} s. With your own server:",
        began.elapsed().as_secs_f64()
    ))?;
    print::line(
        "tower-iroh expose 127.0.0.1:50051 --allow ID    # there; `tower-iroh id` here prints the ID",
    )?;
    print::line("tower-iroh gateway TICKET                       # here")
}

fn title(text: &str) -> Result<(), Failure> {
    print::line(format_args!("\n# {text}"))
}

fn command(args: &[&str]) -> Result<Program, Failure> {
    let quoted = args.iter().map(|arg| match arg.contains([' ', '"']) {
        true => format!("'{arg}'"),
        false => (*arg).to_owned(),
    });
    print::line(format_args!(
        "$ tower-iroh {}",
        quoted.collect::<Vec<_>>().join(" ")
    ))?;
    let args = crate::flags::with_two_dashes(
        &mut <Program as clap::CommandFactory>::command(),
        std::iter::once("tower-iroh")
            .chain(args.iter().copied())
            .map(Into::into),
    );
    Program::try_parse_from(args).map_err(Failure::failed)
}

/// Keeps an endpoint on this machine.
fn offline(endpoint: &mut EndpointOptions) {
    endpoint.relay = Some(Relay::Disabled);
    endpoint.bind = Some(([127, 0, 0, 1], 0).into());
}

/// Runs a command line, and shows it.
async fn shown(args: &[&str]) -> Result<(), Failure> {
    match command(args)?.verb {
        Verb::Call(mut options) => {
            offline(&mut options.connect.endpoint);
            call::run(*options, false).await
        }
        Verb::List(mut options) => {
            offline(&mut options.query.connect.endpoint);
            list::run(*options, false).await
        }
        _ => Err(Failure::failed("the demo shows `call` and `list` alone")),
    }
}

/// A part of the demo that serves until it is stopped.
struct Part {
    /// The ticket, or the local address.
    place: String,
    serving: JoinHandle<Result<(), Failure>>,
}

impl Part {
    async fn ended(self) -> Result<(), Failure> {
        match timeout(PATIENCE, self.serving).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(panic)) => Err(Failure::failed(panic)),
            Err(_) => Err(Failure::failed(format!(
                "{} still serves after {PATIENCE:?}",
                self.place
            ))),
        }
    }
}

async fn expose(backend: &str, stop: CancellationToken) -> Result<Part, Failure> {
    let Verb::Expose(mut options) = command(&["expose", backend, "--allow-all"])?.verb else {
        return Err(Failure::failed("that was no `expose`"));
    };
    offline(&mut options.endpoint);
    let exposed = Exposed::start(options).await?;
    Ok(Part {
        place: exposed.peer.ticket(),
        serving: tokio::spawn(exposed.serve(stop.cancelled_owned())),
    })
}

async fn open(ticket: &str, stop: CancellationToken) -> Result<Part, Failure> {
    let Verb::Gateway(mut options) = command(&["gateway", ticket, "--listen", "127.0.0.1:0"])?.verb
    else {
        return Err(Failure::failed("that was no `gateway`"));
    };
    offline(&mut options.endpoint);
    let gateway = gateway::Serving::start(options).await?;
    Ok(Part {
        place: gateway.addresses.join(" "),
        serving: tokio::spawn(async move {
            gateway.until(stop.cancelled_owned()).await;
            Ok(())
        }),
    })
}

/// The median of 1,000 calls by one caller, in milliseconds.
async fn p50(address: &str) -> Result<f64, Failure> {
    const CALLS: usize = 1000;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(Failure::failed)?;
    let mut health = HealthClient::new(endpoint.connect().await.map_err(Failure::failed)?);
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let asked = Instant::now();
        health.check(HealthCheckRequest::default()).await?;
        times.push(asked.elapsed());
    }
    times.sort_unstable();
    Ok(times[CALLS / 2].as_secs_f64() * 1000.0)
}
