//! `tower-iroh call`: calls a method of a peer. `list`, `describe` and `health` share what is here.

mod any;
mod codec;
mod deadline;
mod extras;
mod files;
mod format;
mod input;
mod invoke;
mod message_json;
mod metadata;
mod method;
mod nearest;
mod output;
mod parse;
mod pieces;
mod pool;
mod proto_text;
mod reflection;
mod schema;
mod session;
mod status;
mod symbol;
mod template;

use std::time::Instant;

use clap::{ArgAction, Args};
use tower_iroh::Urgency;

pub(crate) use self::{
    codec::DynamicCodec,
    format::Format,
    input::{Input, ReadOptions, Source},
    message_json::ToJson,
    method::{find as find_method, parts as method_parts, path as method_path},
    proto_text::proto_text,
    schema::{Schema, SchemaOptions},
    session::{Client, RequestOptions, Session},
    symbol::Symbol,
    template::template,
};
use self::{extras::Extras, invoke::Call, output::Output};
use crate::{
    connect::{CallPolicy, ConnectOptions, Connection},
    failure::{Failure, printable},
    signal::interruptible,
};

/// Call a method of a peer, of any of the four kinds, with requests in JSON.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tower-iroh call TICKET shop.v1.Orders/Get -d '{\"id\": 7}'\n  tower-iroh call tcp://127.0.0.1:50051 chat.v1.Chat/Talk -plaintext -d @   # one JSON value for each request\n\nExit codes: 0, 1 for a failure before or beside the call, 2 for a wrong command line, 64 + the gRPC code for a call that failed, 130 after Ctrl-C."
)]
pub(crate) struct Options {
    /// A ticket, an endpoint id, a name from the configuration, `tcp://host:port`, or `unix:/path`.
    peer: String,
    /// `pkg.Service/Method` or `pkg.Service.Method`.
    method: String,
    /// The requests, one after the other; `@` reads them from standard input as they arrive, `@file` from a file.
    #[arg(
        short = 'd',
        long,
        alias = "d",
        value_name = "REQUESTS",
        allow_hyphen_values = true
    )]
    data: Option<String>,
    /// The format of requests and responses. With `json` said, errors are JSON on standard error too.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Print a failed call as `google.rpc.Status` in the responses' format, on standard error.
    #[arg(long)]
    format_error: bool,
    /// Print fields that have their default value too.
    #[arg(long)]
    emit_defaults: bool,
    /// Print fields under the names of their `.proto` file instead of JSON's.
    #[arg(long)]
    keep_proto_names: bool,
    /// Pass over fields in requests that the message does not have.
    #[arg(long)]
    allow_unknown_fields: bool,
    /// A header for the call alone; may be repeated.
    #[arg(long, value_name = "NAME: VALUE", action = ArgAction::Append)]
    rpc_header: Vec<String>,
    /// How soon the call's bytes are to go: `highest`, `control`, `interactive`, `bulk`, `lowest`, or 0 to 7.
    #[arg(long, value_name = "URGENCY", value_parser = urgency)]
    urgency: Option<Urgency>,
    /// Say that the method may be done twice, so that a call that fails with UNAVAILABLE is made again: 3 attempts, or as many as given.
    #[arg(long, value_name = "ATTEMPTS", num_args = 0..=1, require_equals = true, default_missing_value = "3", value_parser = clap::value_parser!(u32).range(1..=100))]
    retry: Option<u32>,
    #[command(flatten)]
    request: RequestOptions,
    #[command(flatten)]
    schema: SchemaOptions,
    #[command(flatten)]
    pub(crate) connect: ConnectOptions,
}

/// Reads an urgency by name or number.
fn urgency(text: &str) -> Result<Urgency, String> {
    match text {
        "highest" => Ok(Urgency::HIGHEST),
        "control" => Ok(Urgency::CONTROL),
        "interactive" => Ok(Urgency::INTERACTIVE),
        "bulk" => Ok(Urgency::BULK),
        "lowest" => Ok(Urgency::LOWEST),
        other => {
            let number = other.parse().ok();
            number.and_then(|it: u8| Urgency::new(it).ok()).ok_or_else(|| {
                format!("`{other}` is not an urgency; use `highest`, `control`, `interactive`, `bulk`, `lowest`, or a number from 0 to 7")
            })
        }
    }
}

impl Options {
    fn call_policy(&self) -> CallPolicy {
        CallPolicy {
            urgency: self.urgency,
            attempts: self.retry,
            ..self.request.call_policy()
        }
    }
}

pub(crate) async fn run(options: Options, json: bool) -> Result<(), Failure> {
    let format = options.format.unwrap_or(Format::Json);
    let format_error = options.format_error;
    let errors_are_json = options.format == Some(Format::Json) && !json;
    // A wrong name is told before anything is dialled.
    method::parts(&options.method)?;
    let policy = options.call_policy();
    let session = Session::new(&options.peer, &options.connect, &options.request, policy).await?;
    let connection = session.connection.clone();
    let deadline = session.deadline;
    let called = interruptible(async move { call(&options, session, json).await });
    let ended = close_after(deadline.bound(called).await, connection).await;
    ended.map_err(|failure| match &failure {
        Failure::Exit(_) => failure,
        Failure::Status { .. } if format_error => {
            eprintln!("{}", printable(&status::formatted(&failure, format)));
            Failure::Exit(failure.exit_code())
        }
        _ if errors_are_json => {
            eprintln!("{}", printable(&failure.json().to_string()));
            Failure::Exit(failure.exit_code())
        }
        _ => failure,
    })
}

/// Closes the connection, whatever the verb has come to.
pub(crate) async fn close_after<T>(
    result: Result<T, Failure>,
    connection: Connection,
) -> Result<T, Failure> {
    connection.close().await;
    result
}

async fn call(options: &Options, mut session: Session, json: bool) -> Result<(), Failure> {
    let headers = options.request.headers(&options.rpc_header)?;
    let format = options.format.unwrap_or(Format::Json);
    let read_options = ReadOptions {
        format,
        allow_unknown_fields: options.allow_unknown_fields,
    };
    let input = Input::open(Source::read(options.data.as_deref()), read_options).await?;
    let mut schema = session.schema(&options.schema)?;
    // With a schema of its own the program finds mistakes before it dials.
    if !options.schema.is_local() {
        session.dial().await?;
    }
    let begun = Instant::now();
    let method = method::find(&mut schema, &options.method).await?;
    let method = schema.with_extensions(method).await;
    let schema_time = begun.elapsed();
    options.schema.save([method.parent_file()])?;
    if options.schema.is_local() {
        session.dial().await?;
    }
    let mut output = Output::new(format, json, options.request.verbose);
    output.emit_defaults = options.emit_defaults;
    output.keep_proto_names = options.keep_proto_names;
    let text = proto_text(&Symbol::Method(method.clone()));
    output.note(&format!("\nResolved method descriptor:\n{text}"))?;
    let shown = metadata::printed_request(&headers);
    output.note(&format!("\nRequest metadata to send:\n{shown}"))?;
    let call = Call {
        session: &session,
        method: &method,
        headers,
    };
    let (ended, result) = call.run(input, &mut output, &mut schema).await?;
    let count = |number: u64, what: &str| match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    };
    output.note(&format!(
        "Sent {} and received {}",
        count(ended.sent, "request"),
        count(output.printed(), "response")
    ))?;
    if options.request.verbose > 0 {
        let extras = Extras {
            urgency: Some(options.urgency.unwrap_or_default()),
            schema: Some(schema_time),
            call: Some(&ended),
            ..session.extras()
        };
        extras.print(json);
    }
    result
}
