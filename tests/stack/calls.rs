//! Deadline, retry and priority in the stack, and what is left out.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;
use tower_iroh::{
    Urgency,
    layers::{priority::PriorityConfig, retry::RetryPolicy},
};
use tower_iroh_proto::echo::StreamRequest;

use crate::support::{Arm, ECHO, Mood, Server, on_both_transports, request, soon};

async fn the_deadline_covers_the_answer_and_the_stream(arm: Arm) {
    let server = Server::start(arm).await;
    let caller = server
        .client(|stack| stack.timeout(Duration::from_millis(300)))
        .await;
    caller.echo("warm").await.expect("answered");
    server.desk.set(Mood::Hang);
    let began = Instant::now();
    let status = caller.echo("hangs").await.expect_err("late");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(began.elapsed() >= Duration::from_millis(300));
    let last = server.desk.receipts().pop().expect("it came");
    assert!(last.metadata.contains_key("grpc-timeout"), "the peer knows");

    let slow = StreamRequest {
        count: 1000,
        size: 1,
        interval_ms: 20,
    };
    let mut stream = caller
        .client()
        .server_stream(slow)
        .await
        .expect("begun")
        .into_inner();
    let status = soon("the stream's end", async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a thousand messages in 300 ms"),
                Err(status) => return status,
            }
        }
    })
    .await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
}

async fn a_listed_method_is_tried_again_and_says_so(arm: Arm) {
    let server = Server::start(arm).await;
    let policy = RetryPolicy::builder()
        .idempotent([ECHO])
        .initial_backoff(Duration::from_millis(5))
        .try_build()
        .expect("valid");
    let caller = server.client(|stack| stack.retry(policy)).await;
    server.desk.set(Mood::Refuse(Code::Unavailable));
    let status = caller.echo("again").await.expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        status.message(),
        "as the test wants it",
        "the peer's own words"
    );
    let attempts: Vec<_> = server
        .desk
        .receipts()
        .iter()
        .map(|receipt| {
            let previous = receipt.metadata.get("grpc-previous-rpc-attempts");
            previous.map(|value| value.to_str().expect("a number").to_owned())
        })
        .collect();
    assert_eq!(attempts, [None, Some("1".into()), Some("2".into())]);
}

async fn an_unlisted_method_is_sent_once(arm: Arm) {
    let server = Server::start(arm).await;
    let caller = server.client(|stack| stack).await;
    server.desk.set(Mood::Refuse(Code::Unavailable));
    caller.echo("once").await.expect_err("refused");
    assert_eq!(server.desk.receipts().len(), 1);
}

async fn urgency_reaches_the_peer(arm: Arm) {
    let server = Server::start(arm).await;
    let table = PriorityConfig::builder()
        .method(ECHO, Urgency::CONTROL)
        .try_build()
        .expect("valid");
    let caller = server.client(|stack| stack.priority(table)).await;
    caller.echo("by method").await.expect("answered");
    let mut own = request("its own");
    own.extensions_mut().insert(Urgency::BULK);
    caller.send(own).await.expect("answered");
    let caller = server.client(|stack| stack).await;
    caller.send(request("small")).await.expect("answered");
    caller
        .send(request(vec![0; 100 << 10]))
        .await
        .expect("answered");
    let seen: Vec<_> = server
        .desk
        .receipts()
        .iter()
        .map(|receipt| {
            let value = receipt.metadata.get("priority");
            value.map(|value| value.to_str().expect("ASCII").to_owned())
        })
        .collect();
    assert_eq!(
        seen,
        [
            Some("u=1".into()),
            Some("u=6".into()),
            None,
            Some("u=6".into())
        ]
    );
}

async fn all_of_it_can_be_left_out(arm: Arm) {
    let server = Server::start(arm).await;
    let caller = server
        .client(|stack| {
            stack
                .without_metrics()
                .without_trace()
                .without_priority()
                .without_retry()
                .without_buffer()
                .without_fail_fast()
                .without_breaker()
        })
        .await;
    caller.echo("plain").await.expect("answered");
    server.desk.set(Mood::Refuse(Code::Unavailable));
    for _ in 0..30 {
        let status = caller.echo("refused").await.expect_err("refused");
        assert_eq!(status.message(), "as the test wants it");
    }
    assert_eq!(
        server.desk.receipts().len(),
        31,
        "nothing retried, nothing kept back"
    );
    assert!(caller.stack.circuit().statistics().opened == 0);
    let mut big = request(vec![0; 100 << 10]);
    big.extensions_mut()
        .insert(tower_iroh::layers::buffer::WaitForReady);
    server.desk.set(Mood::Answer);
    caller.send(big).await.expect("answered");
    assert_eq!(caller.stack.buffer().stats().accepted, 0);
    let last = server.desk.receipts().pop().expect("it came");
    assert!(!last.metadata.contains_key("priority"));
}

on_both_transports! {
    the_deadline_covers_the_answer_and_the_stream
    a_listed_method_is_tried_again_and_says_so
    an_unlisted_method_is_sent_once
    urgency_reaches_the_peer
    all_of_it_can_be_left_out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_names_that_prometheus_gets() {
    // One recorder per process; the other tests of this one may be recorded too.
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new();
    let prometheus = recorder.install_recorder().expect("the only one");
    let server = Server::start(Arm::Iroh).await;
    let caller = server.client(|stack| stack).await;
    caller.echo("counted").await.expect("answered");
    server.desk.set(Mood::Refuse(Code::Internal));
    for _ in 0..5 {
        caller.echo("refused").await.expect_err("refused");
    }
    assert!(!caller.stack.circuit().state().is_closed());
    let text = prometheus.render();
    for line in [
        "rpc_client_call_duration",
        "rpc_method=\"tower_iroh.echo.v1.Echo/Echo\"",
        "rpc_response_status_code=\"INTERNAL\"",
        "tower_iroh_client_attempt_duration_seconds",
        "transport=\"iroh\"",
        "tower_iroh_breaker_opened_total",
        "tower_iroh_breaker_not_closed",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
}
