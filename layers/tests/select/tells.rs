//! What is reported: metrics, and the call's span.
#![cfg(all(feature = "metrics", feature = "trace"))]

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use http_body_util::BodyExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::{Layer, Service, ServiceExt};
use tower_iroh_layers::{
    select::{Arm, Canary, Choice, SelectPolicy},
    trace::TraceLayer,
};
use tracing::{field::Visit, span};
use tracing_subscriber::{Registry, layer::SubscriberExt, registry::LookupSpan};

use crate::arm::{Part, call, call_to, request, stage, table};

fn prefer_iroh() -> SelectPolicy {
    let canary = Canary::builder("n", Arm::First).share(2500);
    let canary = canary.build().expect("accepted");
    let policy = SelectPolicy::builder(Choice::Prefer(Arm::First)).methods(&table([
        ("x.Y", Choice::Fixed(Arm::First)),
        ("c.D", Choice::Canary(canary)),
    ]));
    policy.build().expect("accepted")
}

#[tokio::test(start_paused = true)]
async fn each_decision_and_fallback_is_counted_by_its_reason() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let mut stage = stage(prefer_iroh());
    call(&mut stage.client).await.expect("answered");
    stage.iroh.plays(Part::Unreached);
    call(&mut stage.client).await.expect("answered");
    stage.iroh.ready(false);
    call(&mut stage.client).await.expect("answered");
    let fixed = call_to(&mut stage.client, request("/x.Y/Z")).await;
    fixed.expect_err("not ready");
    stage.handle.set_share("n", 5000).expect("there");
    let text = recorder.handle().render();
    for line in [
        r#"tower_iroh_select_decisions_total{arm="iroh",reason="preferred"} 2"#,
        r#"tower_iroh_select_decisions_total{arm="tcp",reason="failed_unsent"} 1"#,
        r#"tower_iroh_select_decisions_total{arm="tcp",reason="not_ready"} 1"#,
        r#"tower_iroh_select_fallbacks_total{from="iroh",to="tcp",reason="failed_unsent"} 1"#,
        r#"tower_iroh_select_fallbacks_total{from="iroh",to="tcp",reason="not_ready"} 1"#,
        r#"tower_iroh_select_not_ready_total{arm="iroh"} 1"#,
        r#"tower_iroh_select_canary_share{canary="n"} 0.5"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

/// The fields of the one span.
#[derive(Clone, Default)]
struct Fields(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}").trim_matches('"').to_owned();
        self.0.lock().expect("no panic").insert(field.name(), value);
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Fields {
    fn on_record(
        &self,
        _: &span::Id,
        values: &span::Record<'_>,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        values.record(&mut self.clone());
    }
}

#[tokio::test(start_paused = true)]
async fn the_call_s_span_says_which_arm_and_why() {
    let fields = Fields::default();
    let subscriber = Registry::default().with(fields.clone());
    let _listening = tracing::subscriber::set_default(subscriber);
    let stage = stage(prefer_iroh());
    stage.iroh.plays(Part::Unreached);
    let mut client = TraceLayer::client().layer(stage.client.clone());
    let ready = ServiceExt::<http::Request<_>>::ready(&mut client).await;
    let response = ready.expect("ready").call(request("/a.B/C")).await;
    let body = response.expect("answered").into_body();
    body.collect().await.expect("a body");
    let fields = fields.0.lock().expect("no panic");
    assert_eq!(fields["tower_iroh.arm"], "tcp");
    assert_eq!(fields["tower_iroh.select.reason"], "failed_unsent");
}
