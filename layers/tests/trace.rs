//! Who is told of which trace, and what the span says.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tower::{Layer as _, Service, ServiceExt as _, service_fn};
use tower_iroh_layers::trace::{TRACEPARENT, TRACESTATE, TraceContext, TraceLayer};
use tracing::{field::Visit, span};
use tracing_subscriber::{Registry, layer::SubscriberExt as _, registry::LookupSpan};

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What every span had in its fields, in order of their opening; and whether it is closed.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Seen>>>);

#[derive(Clone, Debug, Default)]
struct Seen {
    id: u64,
    fields: BTreeMap<&'static str, String>,
    closed: bool,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.fields.insert(
            field.name(),
            format!("{value:?}").trim_matches('"').to_owned(),
        );
    }
}

impl Spans {
    fn all(&self) -> Vec<Seen> {
        self.0.lock().expect("no panic").clone()
    }

    fn with(&self, id: &span::Id, f: impl FnOnce(&mut Seen)) {
        let mut spans = self.0.lock().expect("no panic");
        if let Some(seen) = spans.iter_mut().rev().find(|seen| seen.id == id.into_u64()) {
            f(seen);
        }
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Spans {
    fn on_new_span(
        &self,
        attributes: &span::Attributes<'_>,
        id: &span::Id,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        let mut seen = Seen {
            id: id.into_u64(),
            ..Seen::default()
        };
        attributes.record(&mut seen);
        self.0.lock().expect("no panic").push(seen);
    }

    fn on_record(
        &self,
        id: &span::Id,
        values: &span::Record<'_>,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        self.with(id, |seen| values.record(seen));
    }

    fn on_close(&self, id: span::Id, _: tracing_subscriber::layer::Context<'_, S>) {
        self.with(&id, |seen| seen.closed = true);
    }
}

fn listen() -> (Spans, tracing::subscriber::DefaultGuard) {
    let spans = Spans::default();
    let subscriber = Registry::default().with(spans.clone());
    (spans, tracing::subscriber::set_default(subscriber))
}

/// Nobody listens, whoever does on other threads: without it tracing takes a callsite that one thread always wants for
/// wanted by all.
fn deaf() -> tracing::subscriber::DefaultGuard {
    tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::new())
}

/// A body that notes the task's context when it is polled, and ends with a status.
struct Noting {
    status: Option<&'static str>,
    polled_in: Arc<Mutex<Option<TraceContext>>>,
}

impl http_body::Body for Noting {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        *self.polled_in.lock().expect("no panic") = TraceContext::current();
        Poll::Ready(self.status.take().map(|status| {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.parse().expect("a value"));
            Ok(Frame::trailers(trailers))
        }))
    }
}

/// What a service was told.
#[derive(Clone, Debug, Default)]
struct Told {
    headers: HeaderMap,
    extension: Option<TraceContext>,
    task: Option<TraceContext>,
}

/// Calls through `layer` and reads to the end: what the service was told, and where its body was polled.
async fn call(
    layer: TraceLayer,
    request: Request<()>,
    status: &'static str,
) -> (Told, Option<TraceContext>) {
    let told = Arc::new(Mutex::new(Told::default()));
    let polled_in = Arc::new(Mutex::new(None));
    let (in_service, in_body) = (told.clone(), polled_in.clone());
    let service = layer.layer(service_fn(move |request: Request<()>| {
        let (in_service, in_body) = (in_service.clone(), in_body.clone());
        async move {
            // In the future, and not only in the call.
            tokio::task::yield_now().await;
            *in_service.lock().expect("no panic") = Told {
                headers: request.headers().clone(),
                extension: request.extensions().get().cloned(),
                task: TraceContext::current(),
            };
            let body = Noting {
                status: Some(status),
                polled_in: in_body,
            };
            Ok::<_, Infallible>(Response::new(body))
        }
    }));
    let response = service.oneshot(request).await.expect("a response");
    response.into_body().collect().await.expect("a body");
    let told = told.lock().expect("no panic").clone();
    let polled_in = polled_in.lock().expect("no panic").clone();
    (told, polled_in)
}

fn request(headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::builder()
        .uri("/p.S/M")
        .body(())
        .expect("a request");
    for (name, value) in headers {
        request
            .headers_mut()
            .append(*name, value.parse().expect("a value"));
    }
    request
}

fn parent_of(told: &Told) -> TraceContext {
    TraceContext::from_headers(&told.headers).expect("a traceparent")
}

#[tokio::test]
async fn a_server_s_handler_and_body_run_in_a_child_of_the_caller() {
    let (spans, _guard) = listen();
    let caller: TraceContext = CALLER.parse().expect("good");
    let headers = [("traceparent", CALLER), ("tracestate", "v=1")];
    let (told, body) = call(TraceLayer::server(), request(&headers), "14").await;
    let context = told.extension.clone().expect("a context");
    assert_eq!(context.trace_id(), caller.trace_id());
    assert_ne!(context.span_id(), caller.span_id());
    assert_eq!(context.tracestate().expect("a state"), "v=1");
    assert_eq!(told.task, told.extension);
    assert_eq!(body, told.extension);
    assert_eq!(
        TraceContext::current(),
        None,
        "it does not leak into the caller's task"
    );

    let spans = spans.all();
    assert_eq!(spans.len(), 1);
    let expected = BTreeMap::from([
        ("otel.kind", "server".to_owned()),
        ("otel.name", "p.S/M".to_owned()),
        ("otel.status_code", "ERROR".to_owned()),
        ("parent_id", "00f067aa0ba902b7".to_owned()),
        ("rpc.method", "p.S/M".to_owned()),
        ("rpc.response.status_code", "UNAVAILABLE".to_owned()),
        ("rpc.system.name", "grpc".to_owned()),
        ("span_id", format!("{:016x}", context.span_id())),
        ("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
    ]);
    assert_eq!(spans[0].fields, expected);
    assert!(spans[0].closed);
}

#[tokio::test]
async fn of_a_stranger_s_path_a_span_has_the_beginning() {
    let (spans, _guard) = listen();
    let long = || {
        let mut request = request(&[]);
        let path = format!("/{}", "m".repeat(5000));
        *request.uri_mut() = path.parse().expect("a path");
        request
    };
    call(TraceLayer::server(), long(), "12").await;
    call(TraceLayer::client(), long(), "12").await;
    let lengths = |field| {
        spans
            .all()
            .iter()
            .map(|it| it.fields[field].len())
            .collect()
    };
    let (names, methods): (Vec<_>, Vec<_>) = (lengths("otel.name"), lengths("rpc.method"));
    assert_eq!((names, methods), (vec![200, 5000], vec![200, 5000]));
}

#[tokio::test]
async fn a_caller_s_mistake_is_no_error_of_the_server() {
    let (spans, _guard) = listen();
    call(TraceLayer::server(), request(&[]), "5").await;
    call(TraceLayer::client(), request(&[]), "5").await;
    let spans = spans.all();
    assert_eq!(spans[0].fields["rpc.response.status_code"], "NOT_FOUND");
    assert!(!spans[0].fields.contains_key("otel.status_code"));
    assert_eq!(spans[1].fields["otel.status_code"], "ERROR");
}

#[tokio::test]
async fn a_client_takes_the_extension_then_the_headers_then_the_task_then_begins() {
    let (_spans, _guard) = listen();
    let context = |trace| TraceContext::new(trace, 9, 1).expect("no zero");

    let mut with_both = request(&[("traceparent", CALLER)]);
    with_both.extensions_mut().insert(context(1));
    let in_task = |request| context(3).scope(call(TraceLayer::client(), request, "0"));
    assert_eq!(parent_of(&in_task(with_both).await.0).trace_id(), 1);
    let from_headers = parent_of(&in_task(request(&[("traceparent", CALLER)])).await.0);
    assert_eq!(
        from_headers.trace_id(),
        CALLER.parse::<TraceContext>().expect("good").trace_id()
    );
    assert_ne!(from_headers.to_string(), CALLER, "another span");
    assert_eq!(parent_of(&in_task(request(&[])).await.0).trace_id(), 3);

    let (first, _) = call(TraceLayer::client(), request(&[]), "0").await;
    let (second, _) = call(TraceLayer::client(), request(&[]), "0").await;
    assert_ne!(parent_of(&first).trace_id(), parent_of(&second).trace_id());
    assert_eq!(parent_of(&first).flags(), TraceContext::SAMPLED);
}

#[tokio::test]
async fn a_handler_s_own_calls_belong_to_its_trace() {
    let (_spans, _guard) = listen();
    let told = Arc::new(Mutex::new(None));
    let onward = told.clone();
    let service = TraceLayer::server().layer(service_fn(move |_: Request<()>| {
        let onward = onward.clone();
        async move {
            let (told, _) = call(TraceLayer::client(), request(&[]), "0").await;
            *onward.lock().expect("no panic") = Some((parent_of(&told), TraceContext::current()));
            Ok::<_, Infallible>(Response::new(String::new()))
        }
    }));
    service
        .oneshot(request(&[("traceparent", CALLER)]))
        .await
        .expect("a response");
    let (sent, own) = told.lock().expect("no panic").clone().expect("called");
    let own = own.expect("a context");
    assert_eq!(sent.trace_id(), own.trace_id());
    assert_ne!(sent.span_id(), own.span_id());
}

#[tokio::test]
async fn who_does_not_listen_is_no_part_of_the_trace() {
    let _guard = deaf();
    let (told, body) = call(TraceLayer::client(), request(&[]), "0").await;
    assert!(told.headers.is_empty() && told.task.is_none() && body.is_none());
    let (told, _) = call(TraceLayer::server(), request(&[]), "0").await;
    assert!(told.extension.is_none() && told.task.is_none());

    let (told, body) = call(
        TraceLayer::server(),
        request(&[("traceparent", CALLER)]),
        "0",
    )
    .await;
    let context = told.extension.expect("it is passed on");
    assert_eq!(context.to_string(), CALLER, "the caller's");
    assert_eq!(body.as_ref(), Some(&context));
    let (told, _) = context
        .scope(call(TraceLayer::client(), request(&[]), "0"))
        .await;
    assert_eq!(told.headers[TRACEPARENT], CALLER);
}

#[tokio::test]
async fn what_is_malformed_counts_as_absent_and_fails_nothing() {
    let deaf = deaf();
    for bad in [
        "",
        "00",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "what",
    ] {
        let (told, _) = call(
            TraceLayer::server(),
            request(&[("traceparent", bad), ("tracestate", "v=1")]),
            "0",
        )
        .await;
        assert!(told.extension.is_none(), "{bad:?}");
    }
    drop(deaf);
    let (_spans, _guard) = listen();
    let headers = [("traceparent", "what"), ("tracestate", "v=1")];
    let (told, _) = call(TraceLayer::client(), request(&headers), "0").await;
    assert!(parent_of(&told).trace_id() != 0);
    assert!(
        !told.headers.contains_key(TRACESTATE),
        "it was of another trace"
    );
    let (told, _) = call(TraceLayer::server(), request(&headers), "0").await;
    assert!(told.extension.expect("a new trace").tracestate().is_none());
}

#[tokio::test]
async fn an_error_and_a_drop_end_the_span_with_their_codes() {
    let (spans, _guard) = listen();
    let failing = service_fn(
        |_: Request<()>| -> Ready<Result<Response<String>, tonic::Status>> {
            ready(Err(tonic::Status::deadline_exceeded("late")))
        },
    );
    assert!(
        TraceLayer::client()
            .layer(failing)
            .oneshot(request(&[]))
            .await
            .is_err()
    );
    let mut never = TraceLayer::client().layer(service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<String>, Infallible>>()
    }));
    drop(never.call(request(&[])));
    let codes: Vec<_> = spans
        .all()
        .into_iter()
        .map(|it| (it.fields["rpc.response.status_code"].clone(), it.closed))
        .collect();
    assert_eq!(
        codes,
        [
            ("DEADLINE_EXCEEDED".to_owned(), true),
            ("CANCELLED".to_owned(), true)
        ]
    );
}

/// OpenTelemetry's spans, by way of tracing-opentelemetry, as the module's page has it.
mod opentelemetry_ids {
    use opentelemetry::trace::{
        SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceState,
        TracerProvider as _,
    };
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
    use tower_iroh_layers::trace::Propagator;
    use tracing::{Instrument as _, Span};
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    use super::*;

    #[derive(Debug)]
    struct OpenTelemetry;

    impl Propagator for OpenTelemetry {
        fn join(&self, span: &Span, parent: Option<&TraceContext>) -> Option<TraceContext> {
            if let Some(parent) = parent {
                let (trace, id) = (parent.trace_id().into(), parent.span_id().into());
                let flags = TraceFlags::new(parent.flags());
                let parent = SpanContext::new(trace, id, flags, true, TraceState::default());
                let parent = opentelemetry::Context::new().with_remote_span_context(parent);
                span.set_parent(parent).expect("not begun");
            }
            let context = span.context();
            let ids = context.span().span_context().clone();
            let trace = u128::from_be_bytes(ids.trace_id().to_bytes());
            let id = u64::from_be_bytes(ids.span_id().to_bytes());
            TraceContext::new(trace, id, ids.trace_flags().to_u8())
        }
    }

    type Answer = Result<Response<Body>, Infallible>;
    type Body = http_body_util::Full<Bytes>;

    fn ok() -> Answer {
        Ok(Response::builder()
            .header("grpc-status", "0")
            .body(Body::default())
            .expect("valid"))
    }

    /// Sends the headers, and nothing else, to a task of its own, as a wire does.
    async fn over_the_wire<H, F>(path: &str, headers: HeaderMap, handler: H) -> Answer
    where
        H: Fn(Request<()>) -> F + Clone + Send + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let mut request = Request::builder().uri(path).body(()).expect("valid");
        *request.headers_mut() = headers;
        let layer = TraceLayer::server().propagator(&OpenTelemetry);
        let server = layer.layer(service_fn(handler));
        let answer = tokio::spawn(async move {
            let response = server.oneshot(request).await.expect("answered");
            response.into_body().collect().await.expect("a body");
        });
        answer.await.expect("no panic");
        ok()
    }

    /// Calls `path` of a service that answers with `handler`.
    async fn call<H, F>(path: &'static str, handler: H)
    where
        H: Fn(Request<()>) -> F + Clone + Send + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let layer = TraceLayer::client().propagator(&OpenTelemetry);
        let client = layer.layer(service_fn(move |request: Request<()>| {
            over_the_wire(path, request.headers().clone(), handler.clone())
        }));
        let request = Request::builder().uri(path).body(()).expect("valid");
        let response = client.oneshot(request).await.expect("answered");
        response.into_body().collect().await.expect("a body");
    }

    #[tokio::test]
    async fn the_spans_of_two_services_are_one_trace() {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let spans = Spans::default();
        let subscriber = Registry::default().with(layer).with(spans.clone());
        let _listening = tracing::subscriber::set_default(subscriber);

        call("/a.A/First", |request| async move {
            let context = TraceContext::of(&request).expect("the server's");
            let calls = async {
                call("/b.B/Second", |_| async { ok() }).await;
            };
            calls.instrument(tracing::info_span!("work")).await;
            // A task that the handler spawns has the context alone.
            let spawned = context.scope(call("/c.C/Third", |_| async { ok() }));
            tokio::spawn(spawned).await.expect("no panic");
            ok()
        })
        .await;

        let seen = exporter.get_finished_spans().expect("spans");
        let find = |name: &str, kind: SpanKind| -> &SpanData {
            let is = |span: &&SpanData| span.name == name && span.span_kind == kind;
            seen.iter().find(is).expect(name)
        };
        use SpanKind::{Client, Internal, Server};
        let chain = [
            (find("a.A/First", Client), None),
            (find("a.A/First", Server), Some(find("a.A/First", Client))),
            (find("work", Internal), Some(find("a.A/First", Server))),
            (find("b.B/Second", Client), Some(find("work", Internal))),
            (find("b.B/Second", Server), Some(find("b.B/Second", Client))),
            (find("c.C/Third", Client), Some(find("a.A/First", Server))),
            (find("c.C/Third", Server), Some(find("c.C/Third", Client))),
        ];
        assert_eq!(seen.len(), chain.len());
        let trace = chain[0].0.span_context.trace_id();
        for (span, parent) in chain {
            assert_eq!(span.span_context.trace_id(), trace, "{}", span.name);
            let parent = parent.map_or(SpanId::INVALID, |it| it.span_context.span_id());
            assert_eq!(span.parent_span_id, parent, "{}", span.name);
        }
        // The fields have the same ids.
        for seen in spans.all() {
            if let Some(id) = seen.fields.get("trace_id") {
                assert_eq!(*id, trace.to_string());
            }
        }
    }
}
