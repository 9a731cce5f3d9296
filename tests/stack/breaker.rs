//! Breaker and fail fast in the stack.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;
use tower_iroh::layers::{breaker::BreakerConfig, fail_fast::FailFastConfig};
use tower_iroh_proto::echo::StreamRequest;

use crate::support::{Arm, Mood, Server, on_both_transports, soon, until};

fn quick(breaker: Duration) -> BreakerConfig {
    BreakerConfig::builder()
        .first_wait(breaker)
        .recovery(breaker)
        .build()
        .expect("valid")
}

fn impatient() -> FailFastConfig {
    FailFastConfig::builder()
        // It bounds the first dial too.
        .wait(Duration::from_millis(500))
        .build()
        .expect("valid")
}

async fn refusals_open_it_and_the_reason_is_told(arm: Arm) {
    let server = Server::start(arm).await;
    let caller = server
        .client(|stack| {
            stack
                .breaker(quick(Duration::from_secs(60)))
                .fail_fast(impatient())
        })
        .await;
    server.desk.set(Mood::Refuse(Code::Unavailable));
    for _ in 0..5 {
        assert_eq!(
            caller.echo("one").await.expect_err("refused").code(),
            Code::Unavailable
        );
    }
    assert!(!caller.stack.circuit().state().is_closed());
    server.desk.set(Mood::Answer);
    // Open for up to a minute: who calls now is told so and nothing is sent.
    let status = caller.echo("two").await.expect_err("open");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("circuit breaker"), "{status:?}");
    assert!(server.desk.counts().keys().all(|payload| payload == "one"));

    caller.stack.circuit().reset();
    soon("the circuit to be used again", async {
        while caller.echo("three").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn one_probe_finds_out_that_the_peer_is_well_again(arm: Arm) {
    let server = Server::start(arm).await;
    let caller = server
        .client(|stack| {
            stack
                .breaker(quick(Duration::from_millis(300)))
                .without_fail_fast()
        })
        .await;
    server.desk.set(Mood::Refuse(Code::Unavailable));
    for _ in 0..5 {
        caller.echo("sick").await.expect_err("refused");
    }
    assert!(!caller.stack.circuit().state().is_closed());
    server.desk.set(Mood::Answer);
    // All wait; one goes first, and the others follow it.
    let calls = (0..20).map(|_| caller.echo("well"));
    for result in futures_util::future::join_all(calls).await {
        result.expect("answered once it is closed");
    }
    assert!(caller.stack.circuit().state().is_closed());
    assert_eq!(server.desk.counts()[&b"well"[..]], 20);
}

async fn a_stream_that_ends_badly_counts_and_one_that_ends_well_does_too(arm: Arm) {
    let mut server = Server::start(arm).await;
    let caller = server
        .client(|stack| stack.breaker(quick(Duration::from_secs(60))))
        .await;
    let stream = StreamRequest {
        count: 3,
        size: 10,
        interval_ms: 0,
    };
    let mut whole = caller
        .client()
        .server_stream(stream)
        .await
        .expect("begun")
        .into_inner();
    while whole.message().await.expect("whole").is_some() {}
    assert!(caller.stack.circuit().state().is_closed());

    // One lost connection is one failure, however many streams it takes along.
    let endless = StreamRequest {
        count: 100_000,
        size: 10,
        interval_ms: 20,
    };
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(
            caller
                .client()
                .server_stream(endless)
                .await
                .expect("begun")
                .into_inner(),
        );
    }
    for stream in &mut streams {
        stream.message().await.expect("whole").expect("the first");
    }
    server.go().await;
    for mut stream in streams {
        soon("the stream's end", async {
            while let Ok(Some(_)) = stream.message().await {}
        })
        .await;
    }
    if arm == Arm::Iroh {
        assert!(
            caller.stack.circuit().state().is_closed(),
            "ten streams, one connection: {:?}",
            caller.stack.circuit().statistics()
        );
    }
}

async fn a_peer_that_is_gone_fails_fast_and_comes_back(arm: Arm) {
    let mut server = Server::start(arm).await;
    let caller = server
        .client(|stack| {
            stack
                .breaker(quick(Duration::from_secs(60)))
                .fail_fast(impatient())
        })
        .await;
    caller.echo("before").await.expect("answered");
    server.go().await;
    until_open(&caller).await;
    // While it is open an answer takes no longer than the patience, whatever the breaker's wait is.
    let began = Instant::now();
    let status = caller.echo("gone").await.expect_err("gone");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("circuit breaker"), "{status:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
    // What follows is not to take a minute.
    caller.stack.circuit().reset();

    server.come_back().await;
    soon("the first answer", async {
        while let Err(status) = caller.echo("after").await {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    until("the circuit to close", || {
        caller.stack.circuit().state().is_closed()
    })
    .await;
    assert_eq!(server.desk.counts().get(&b"gone"[..]), None);
}

async fn until_open(caller: &crate::support::Caller) {
    soon("the breaker to open", async {
        while caller.stack.circuit().state().is_closed() {
            let status = caller.echo("gone").await.expect_err("gone");
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        }
    })
    .await;
}

async fn observing_only_it_enforces_nothing(arm: Arm) {
    let server = Server::start(arm).await;
    let caller = server.client(|stack| stack).await;
    caller.stack.circuit().observe_only(true);
    server.desk.set(Mood::Refuse(Code::Unavailable));
    for _ in 0..20 {
        let status = caller.echo("again").await.expect_err("refused");
        assert!(
            status.message().contains("as the test wants it"),
            "from the peer, not from the breaker: {status:?}"
        );
    }
    assert_eq!(server.desk.receipts().len(), 20);
}

async fn answers_that_are_errors_are_no_failures(arm: Arm) {
    let server = Server::start(arm).await;
    let caller = server.client(|stack| stack).await;
    for code in [Code::NotFound, Code::Internal, Code::Unknown] {
        server.desk.set(Mood::Refuse(code));
        for _ in 0..100 {
            let status = caller.echo("x").await.expect_err("refused");
            assert_eq!(status.code(), code);
        }
    }
    assert!(caller.stack.circuit().state().is_closed());
}

on_both_transports! {
    refusals_open_it_and_the_reason_is_told
    one_probe_finds_out_that_the_peer_is_well_again
    a_stream_that_ends_badly_counts_and_one_that_ends_well_does_too
    a_peer_that_is_gone_fails_fast_and_comes_back
    observing_only_it_enforces_nothing
    answers_that_are_errors_are_no_failures
}
