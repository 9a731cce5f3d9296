//! One trace over two peers, sent with OTLP over iroh to a collector that is known by its key: OpenTelemetry's own exporter, unchanged.
//!
//! ```sh
//! cargo run --example traces
//! ```

use std::{error::Error, time::Duration};

use iroh::Endpoint;
use opentelemetry::{
    SpanId,
    trace::{SpanContext, TraceContextExt as _, TraceFlags, TraceState, TracerProvider as _},
};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig as _};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::{Span as Exported, span::SpanKind},
};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, transport::Server};
use tower_iroh::{
    Acceptor, Channel, Connector, Peer,
    layers::trace::{Propagator, TraceContext, TraceLayer},
    presets::Offline,
};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer},
};
use tracing::{Span, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer as _, filter::Targets, layer::SubscriberExt as _};

/// Gives the layers' spans the ids that OpenTelemetry has for them.
#[derive(Debug)]
struct OpenTelemetry;

impl Propagator for OpenTelemetry {
    fn join(&self, span: &Span, parent: Option<&TraceContext>) -> Option<TraceContext> {
        if let Some(parent) = parent {
            let (trace, id) = (parent.trace_id().into(), parent.span_id().into());
            let flags = TraceFlags::new(parent.flags());
            let parent = SpanContext::new(trace, id, flags, true, TraceState::default());
            let parent = opentelemetry::Context::new().with_remote_span_context(parent);
            span.set_parent(parent).ok()?;
        }
        let context = span.context();
        let ids = context.span().span_context().clone();
        let trace = u128::from_be_bytes(ids.trace_id().to_bytes());
        let id = u64::from_be_bytes(ids.span_id().to_bytes());
        TraceContext::new(trace, id, ids.trace_flags().to_u8())
    }
}

/// A collector as small as it can be. Any other that speaks OTLP over gRPC will do, behind `Acceptor` or a gateway.
struct Collector(mpsc::UnboundedSender<Exported>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans);
        for span in spans {
            let _ = self.0.send(span);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The collector: one key.
    let (collect, mut collected) = mpsc::unbounded_channel();
    let (acceptor, incoming) = Acceptor::new();
    let collector = acceptor.router(Endpoint::bind(Offline).await?).spawn();
    let server = Server::builder().add_service(TraceServiceServer::new(Collector(collect)));
    let collecting = tokio::spawn(server.serve_with_incoming(incoming));

    // Both services export over one connection to it: a real tonic channel, for an exporter that wants one.
    let endpoint = Endpoint::bind(Offline).await?;
    let peer = Peer::of(collector.endpoint())?;
    println!("the collector is {}", peer.id());
    let connector = Connector::new(endpoint.clone());
    connector.add_peer(peer.clone());
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_channel(
            tonic::transport::Endpoint::from(peer.uri()).connect_with_connector_lazy(connector),
        )
        .build()?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .build();
    // The layers' spans only: the exporter's own calls would be exported for ever.
    let layers = Targets::new().with_target("tower_iroh::rpc", LevelFilter::INFO);
    let tracer = tracing_opentelemetry::layer().with_tracer(provider.tracer("traces"));
    tracing::subscriber::set_global_default(
        tracing_subscriber::registry().with(tracer.with_filter(layers)),
    )?;

    // A service and its caller, with one line each.
    let (acceptor, incoming) = Acceptor::new();
    let service = acceptor.router(Endpoint::bind(Offline).await?).spawn();
    let server = Server::builder()
        .layer(TraceLayer::server().propagator(&OpenTelemetry))
        .add_service(EchoServer::new(EchoService));
    let serving = tokio::spawn(server.serve_with_incoming(incoming));
    let channel = Channel::builder(endpoint.clone())
        .peer(Peer::of(service.endpoint())?)
        .timeout(Duration::from_secs(5))
        .stack(|stack| stack.trace(TraceLayer::client().propagator(&OpenTelemetry)))
        .build()?;
    let mut client = EchoClient::new(channel);
    client
        .echo(EchoRequest {
            payload: "traced".into(),
        })
        .await?;

    // `shutdown` blocks on the exporter's thread, and that thread needs this runtime.
    tokio::task::spawn_blocking(move || provider.shutdown()).await??;
    let mut spans = Vec::new();
    for _ in 0..2 {
        let span = tokio::time::timeout(Duration::from_secs(5), collected.recv()).await?;
        spans.push(span.ok_or("the collector is gone")?);
    }
    for span in &spans {
        let kind = span.kind().as_str_name();
        println!(
            "{} {kind:<16} trace {:?}",
            span.name,
            opentelemetry::TraceId::from_bytes(span.trace_id.as_slice().try_into()?,)
        );
    }
    let of = |kind| {
        spans
            .iter()
            .find(|span| span.kind() == kind)
            .ok_or("no such span")
    };
    let (ours, theirs) = (of(SpanKind::Client)?, of(SpanKind::Server)?);
    assert_eq!(theirs.trace_id, ours.trace_id);
    assert_eq!(theirs.parent_span_id, ours.span_id);
    let parent = SpanId::from_bytes(ours.span_id.as_slice().try_into()?);
    println!("the server's span is the child of {parent:?}, the client's");

    drop(client);
    service.shutdown().await?;
    serving.await??;
    endpoint.close().await;
    collector.shutdown().await?;
    collecting.await??;
    Ok(())
}
