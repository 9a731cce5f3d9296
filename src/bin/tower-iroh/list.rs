//! `tower-iroh list`: the services of a peer, or the methods of a service.

use clap::Args;
use prost_reflect::MethodDescriptor;
use serde_json::json;

use crate::{
    call::{RequestOptions, Schema, SchemaOptions, Session, Symbol, close_after},
    connect::ConnectOptions,
    failure::Failure,
    print,
    signal::interruptible,
};

/// List the services of a peer, or the methods of a service.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tower-iroh list TICKET\n  tower-iroh list TICKET shop.v1.Orders\n  tower-iroh list -proto orders.proto   # without a peer"
)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) query: SchemaQuery,
}

/// A peer and a symbol of its schema.
#[derive(Debug, Args)]
pub(crate) struct SchemaQuery {
    /// A ticket, an endpoint id, a name from the configuration, `tcp://host:port`, or `unix:/path`. Not needed with `-proto` or `-protoset`.
    peer: Option<String>,
    /// A full name.
    symbol: Option<String>,
    #[command(flatten)]
    pub(crate) request: RequestOptions,
    #[command(flatten)]
    pub(crate) schema: SchemaOptions,
    #[command(flatten)]
    pub(crate) connect: ConnectOptions,
}

impl SchemaQuery {
    /// Opens the schema and does the work with it and the symbol, until Ctrl-C or `-max-time`.
    pub(crate) async fn with_schema<F>(
        self,
        json: bool,
        work: impl FnOnce(Schema, Option<String>, SchemaOptions) -> F + Send + 'static,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let trimmed = |symbol: String| symbol.trim().trim_start_matches('.').to_owned();
        if self.schema.is_local() {
            let schema = self.schema.local()?;
            // Files need no peer, so the one name that is given is a symbol, unless it is certainly a peer.
            let symbol = self.symbol.or_else(|| {
                let is_peer = |text: &String| self.connect.target(text, None).is_ok();
                self.peer.filter(|text| !is_peer(text))
            });
            return interruptible(work(schema, symbol.map(trimmed), self.schema)).await;
        }
        let peer = self.peer.ok_or_else(|| {
            Failure::usage("a peer is required: a ticket, an endpoint id, a name, `tcp://host:port`, or `unix:/path`; with -proto or -protoset none is needed")
        })?;
        let policy = self.request.call_policy();
        let mut session = Session::new(&peer, &self.connect, &self.request, policy).await?;
        let connection = session.connection.clone();
        let symbol = self.symbol.map(trimmed);
        let options = self.schema;
        let deadline = session.deadline;
        let worked = interruptible(async move {
            let schema = session.schema(&options)?;
            session.dial().await?;
            let worked = work(schema, symbol, options).await;
            session.show(json);
            worked
        });
        close_after(deadline.bound(worked).await, connection).await
    }
}

pub(crate) async fn run(options: Options, json: bool) -> Result<(), Failure> {
    let work = move |mut schema: Schema, symbol: Option<String>, options: SchemaOptions| async move {
        match symbol {
            Some(name) => methods(&mut schema, &name, &options, json).await,
            None => services(&mut schema, &options, json).await,
        }
    };
    options.query.with_schema(json, work).await
}

async fn services(schema: &mut Schema, options: &SchemaOptions, json: bool) -> Result<(), Failure> {
    let services = schema.services().await?;
    if options.saves() {
        let mut files = Vec::new();
        for name in &services {
            files.push(schema.require(name).await?.file());
        }
        options.save(files)?;
    }
    if json {
        return print::line(json!({ "services": services }).to_string());
    }
    match services.is_empty() {
        true => print::line("(No services)"),
        false => print::line(services.join("\n")),
    }
}

async fn methods(
    schema: &mut Schema,
    name: &str,
    options: &SchemaOptions,
    json: bool,
) -> Result<(), Failure> {
    let service = match schema.require(name).await? {
        Symbol::Service(service) => service,
        other => {
            return Err(Failure::failed(format!(
                "`{name}` is {}, and not a service; `tower-iroh describe` shows it",
                other.kind()
            )));
        }
    };
    options.save([service.parent_file()])?;
    let mut methods: Vec<MethodDescriptor> = service.methods().collect();
    methods.sort_by(|one, other| one.name().cmp(other.name()));
    if json {
        let methods = methods.iter().map(|method| {
            json!({
                "name": method.full_name(),
                "input": method.input().full_name(),
                "output": method.output().full_name(),
                "client_streaming": method.is_client_streaming(),
                "server_streaming": method.is_server_streaming(),
            })
        });
        return print::line(json!({ "methods": methods.collect::<Vec<_>>() }).to_string());
    }
    let names: Vec<_> = methods.iter().map(MethodDescriptor::full_name).collect();
    match names.is_empty() {
        true => print::line("(No methods)"),
        false => print::line(names.join("\n")),
    }
}
