//! A peer, the time that a verb may take with it, and its schema.

use std::time::{Duration, Instant};

use clap::{ArgAction, Args};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tonic::{Status, body::Body, client::Grpc, codec::CompressionEncoding, metadata::MetadataMap};
use tower::{ServiceExt as _, util::BoxCloneSyncService};
use tower_iroh::{
    Channel,
    layers::message_size::{self, LimitedBody},
};

use super::{
    deadline::Deadline,
    extras::Extras,
    metadata,
    reflection::Reflection,
    schema::{Schema, SchemaOptions},
};
use crate::{
    connect::{CallPolicy, ConnectOptions, Connection, seconds},
    failure::Failure,
    progress,
};

/// What is said of all calls of a verb, reflection's too.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Requests")]
pub(crate) struct RequestOptions {
    /// A header for all calls, reflection's too; may be repeated.
    #[arg(short = 'H', long, value_name = "NAME: VALUE", action = ArgAction::Append)]
    pub(crate) header: Vec<String>,
    /// A header for the calls that ask for the schema; may be repeated.
    #[arg(long, value_name = "NAME: VALUE", action = ArgAction::Append)]
    pub(crate) reflect_header: Vec<String>,
    /// Put the environment's values in the place of `${NAME}` in headers.
    #[arg(long)]
    pub(crate) expand_headers: bool,
    /// Seconds that the verb may take; then it ends with DEADLINE_EXCEEDED, exit code 68.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) max_time: Option<Duration>,
    /// The largest response that is accepted, in bytes; a larger one ends the call with RESOURCE_EXHAUSTED, exit code 72.
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    pub(crate) max_msg_sz: usize,
    /// The name of this program for the server.
    #[arg(long, value_name = "NAME")]
    pub(crate) user_agent: Option<String>,
    /// Print the path to the peer and the times on standard error; `call` prints the method and all metadata too, and given twice the size of responses.
    #[arg(short = 'v', long, alias = "v", action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Wait for the peer until it is there, instead of failing when it is not.
    #[arg(long)]
    pub(crate) wait_for_ready: bool,
}

impl RequestOptions {
    /// What these options want of the connection. Without `-max-time` a call waits for a day.
    pub(crate) fn call_policy(&self) -> CallPolicy {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        CallPolicy {
            wait_for_ready: self.wait_for_ready.then(|| self.max_time.unwrap_or(DAY)),
            user_agent: self.user_agent.clone(),
            // A call that waits needs it: it says when the peer may be tried again.
            without_breaker: !self.wait_for_ready,
            ..CallPolicy::default()
        }
    }

    /// Headers for all calls and the given ones.
    pub(crate) fn headers(&self, more: &[String]) -> Result<MetadataMap, Failure> {
        metadata::read(self.header.iter().chain(more), self.expand_headers)
    }
}

/// The connection's service, with the status that is in its errors.
pub(crate) type Client = BoxCloneSyncService<Request<Body>, Response<Body>, Status>;

/// A peer that a verb calls.
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) deadline: Deadline,
    /// How long the lookup of the peer's addresses took, where there was one.
    lookup: Option<Duration>,
    /// How long connecting took, where that is known.
    pub(crate) dial: Option<Duration>,
    peer: String,
    request: RequestOptions,
    plaintext: bool,
    connect_timeout: Duration,
}

impl Session {
    /// Prepares the way to the peer. The options of the peer are checked; nothing is dialled.
    pub(crate) async fn new(
        peer: &str,
        connect: &ConnectOptions,
        request: &RequestOptions,
        policy: CallPolicy,
    ) -> Result<Self, Failure> {
        Self::beside(None, peer, connect, request, policy).await
    }

    /// The same with the endpoint of another session.
    pub(crate) async fn beside(
        other: Option<&Self>,
        peer: &str,
        connect: &ConnectOptions,
        request: &RequestOptions,
        policy: CallPolicy,
    ) -> Result<Self, Failure> {
        let other = other.map(|it| &it.connection);
        Ok(Self {
            deadline: Deadline::begin(request.max_time),
            connection: Connection::with_endpoint_of(other, peer, connect, policy).await?,
            lookup: None,
            dial: None,
            peer: peer.to_owned(),
            request: request.clone(),
            plaintext: connect.plaintext,
            connect_timeout: connect.connect_timeout,
        })
    }

    /// What calls go through.
    pub(crate) fn client(&self) -> Client {
        let is_tcp = self.connection.channel.is_none();
        let plaintext = self.plaintext;
        // tonic's own limit fails with OUT_OF_RANGE; gRPC's code is RESOURCE_EXHAUSTED.
        let largest = u32::try_from(self.request.max_msg_sz).unwrap_or(u32::MAX);
        let limited = move |response| message_size::limit(response, largest).map(too_large_hinted);
        let service = self.connection.service.clone().map_response(limited);
        Client::new(service.map_err(move |error| {
            let status = Status::from_error(error);
            match is_tcp {
                true => with_hint(status, tcp_hint(plaintext)),
                false => status,
            }
        }))
    }

    /// A client for methods that are known only now, with the limits that the command line gives.
    pub(crate) fn grpc(&self) -> Grpc<Client> {
        Grpc::new(self.client())
            .max_decoding_message_size(self.request.max_msg_sz)
            .accept_compressed(CompressionEncoding::Gzip)
    }

    /// Connects, so that a failure is told as one of the connection, after the time that `-connect-timeout` gives.
    pub(crate) async fn dial(&mut self) -> Result<(), Failure> {
        let Some(channel) = &self.connection.channel else {
            return Ok(());
        };
        if self.request.wait_for_ready {
            return Ok(());
        }
        // The dial looks up by itself, and does not say how long that took.
        if self.request.verbose > 0 {
            let limit = self.connect_timeout;
            let found = tokio::time::timeout(limit, self.connection.look_up()).await;
            self.lookup = found.unwrap_or(None);
        }
        let begun = Instant::now();
        let dialled = async {
            let connected = channel.connect().await;
            connected.map_err(|error| {
                Failure::from(with_hint(Status::from_error(error.into()), peer_hint))
            })
        };
        let peer = channel.peer().fmt_short();
        let what = format!("connecting to {peer} (-connect-timeout says for how long)");
        let dialled = progress::over_two_seconds(what, dialled);
        self.deadline.bound(dialled).await?;
        self.dial = Some(begun.elapsed());
        Ok(())
    }

    /// What is known of the way to the peer.
    pub(crate) fn extras(&self) -> Extras<'_> {
        Extras {
            peer: &self.peer,
            stats: self.connection.channel.as_ref().and_then(Channel::stats),
            urgency: None,
            lookup: self.lookup,
            dial: self.dial,
            schema: None,
            call: None,
        }
    }

    /// Shows what `-v` shows of a verb that only looks.
    pub(crate) fn show(&self, json: bool) {
        if self.request.verbose > 0 {
            self.extras().print(json);
        }
    }

    /// The schema: the server's, of the files that the options name, or both.
    pub(crate) fn schema(&self, options: &SchemaOptions) -> Result<Schema, Failure> {
        let mut schema = options.local()?;
        if !options.is_local() {
            let headers = self.request.headers(&self.request.reflect_header)?;
            schema.server = Some(Reflection::new(
                self.client(),
                headers,
                self.deadline,
                self.request.max_msg_sz,
                self.request.wait_for_ready,
            ));
        }
        Ok(schema)
    }
}

/// The same status with what to try next, where its message has a known cause.
fn with_hint(status: Status, hint: impl Fn(&str) -> Option<&'static str>) -> Status {
    let Some(hint) = hint(status.message()) else {
        return status;
    };
    let message = format!("{}; {hint}", status.message());
    Status::with_details_and_metadata(
        status.code(),
        message,
        status.details().to_vec().into(),
        status.metadata().clone(),
    )
}

/// Names the option in the error of a message that is too large.
fn too_large_hinted(body: LimitedBody<Body>) -> Body {
    let hint = |message: &str| {
        let is_limit = message.starts_with("a message of ");
        is_limit.then_some("`-max-msg-sz BYTES` accepts larger ones")
    };
    Body::new(body.map_err(move |error| with_hint(Status::from_error(error), hint)))
}

fn tcp_hint(plaintext: bool) -> impl Fn(&str) -> Option<&'static str> {
    move |message| {
        let is_lost = message.contains("connection was lost");
        let is_no_tls = message.contains("InvalidContentType");
        match plaintext {
            true if is_lost => {
                Some("the server may speak TLS (leave out -plaintext), or may be no gRPC server")
            }
            false if is_no_tls => Some("the server does not speak TLS; say -plaintext"),
            _ => None,
        }
    }
}

fn peer_hint(message: &str) -> Option<&'static str> {
    message.contains("No addressing information").then_some(
        "give a ticket, which has addresses, or `--relay default`, with which an id is looked up",
    )
}
