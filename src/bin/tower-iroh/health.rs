//! `tower-iroh health`: whether a peer serves, by `grpc.health.v1`.

use clap::Args;
use serde_json::json;
use tonic::{Request, metadata::MetadataMap};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use crate::{
    call::{RequestOptions, Session, close_after},
    connect::ConnectOptions,
    failure::Failure,
    print,
    signal::interruptible,
};

/// Ask whether a peer serves. The exit code is 0 for SERVING alone, and 1 for another status.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tower-iroh health TICKET\n  tower-iroh health TICKET shop.v1.Orders --watch"
)]
pub(crate) struct Options {
    /// A ticket, an endpoint id, a name from the configuration, `tcp://host:port`, or `unix:/path`.
    peer: String,
    /// The service; without it the server as a whole.
    #[arg(default_value = "")]
    service: String,
    /// Print each change of the status until Ctrl-C, `-max-time`, or the end of the connection.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    request: RequestOptions,
    #[command(flatten)]
    connect: ConnectOptions,
}

pub(crate) async fn run(options: Options, json: bool) -> Result<(), Failure> {
    let headers = options.request.headers(&[])?;
    let policy = options.request.call_policy();
    let session = Session::new(&options.peer, &options.connect, &options.request, policy).await?;
    let connection = session.connection.clone();
    let deadline = session.deadline;
    let asked = interruptible(ask(options, headers, session, json));
    close_after(deadline.bound(asked).await, connection).await
}

async fn ask(
    options: Options,
    headers: MetadataMap,
    mut session: Session,
    json: bool,
) -> Result<(), Failure> {
    session.dial().await?;
    let service = options.service;
    let mut client = HealthClient::new(session.client());
    let mut request = Request::new(HealthCheckRequest {
        service: service.clone(),
    });
    *request.metadata_mut() = headers;
    if let Some(left) = session.deadline.left() {
        request.set_timeout(left);
    }
    if !options.watch {
        let response = client.check(request).await?.into_inner();
        let serves = show(&service, &response, json)?;
        session.show(json);
        return match serves {
            true => Ok(()),
            false => Err(Failure::Exit(1)),
        };
    }
    let mut changes = client.watch(request).await?.into_inner();
    while let Some(change) = changes.message().await? {
        show(&service, &change, json)?;
    }
    Err(Failure::failed("the server has ended the watch"))
}

/// Prints the status; whether it is SERVING.
fn show(service: &str, response: &HealthCheckResponse, json: bool) -> Result<bool, Failure> {
    let status = match ServingStatus::try_from(response.status) {
        Ok(status) => status.as_str_name().to_owned(),
        // A newer server's.
        Err(_) => response.status.to_string(),
    };
    match json {
        true => print::line(json!({ "service": service, "status": status }).to_string())?,
        false => print::line(&status)?,
    }
    Ok(response.status == ServingStatus::Serving as i32)
}
