//! Store and forward in the stack.

use std::time::Duration;

use futures_util::future::join_all;
use tonic::Code;
use tower_iroh::{
    Urgency,
    layers::{
        MethodConfig, Methods,
        breaker::BreakerConfig,
        buffer::{BufferConfig, WaitForReady},
    },
};

use crate::support::{Arm, Caller, ECHO, Mood, Server, on_both_transports, request, soon, until};

fn breaker() -> BreakerConfig {
    BreakerConfig::builder()
        .first_wait(Duration::from_millis(100))
        .recovery(Duration::from_millis(200))
        .build()
        .expect("valid")
}

fn served() -> Methods {
    let waits = MethodConfig::new().wait_for_ready(true);
    let methods = Methods::builder().method(ECHO, waits);
    methods.build().expect("valid")
}

async fn balanced(caller: &Caller) {
    let stats = caller.stack.buffer().stats();
    let ended = stats.delivered + stats.failed + stats.expired + stats.dropped + stats.cancelled;
    let open = stats.in_flight + stats.waiting as u64;
    assert_eq!(stats.accepted, ended + open, "{stats:?}");
}

/// Ends once the breaker has noticed that the server is gone. A call that leaves before that may be lost with the connection, and then it is
/// an answer that nobody knows, not a call that waits.
async fn noticed(caller: &Caller) {
    let stream = tower_iroh_proto::echo::StreamRequest::default();
    soon("the breaker to open", async {
        while caller.stack.circuit().state().is_closed() {
            // Not a method that is buffered. A dial may still be taken by a listener that nobody serves any more, so it has a deadline.
            let mut call = tonic::Request::new(stream);
            call.set_timeout(Duration::from_secs(2));
            let _ = caller.client().server_stream(call).await;
        }
    })
    .await;
}

async fn each_call_that_waited_arrives_once(arm: Arm) {
    let mut server = Server::start(arm).await;
    let caller = server
        .client(|stack| stack.methods(served()).breaker(breaker()))
        .await;
    caller.echo("before").await.expect("answered");
    for round in 0..3 {
        server.go().await;
        noticed(&caller).await;
        let calls: Vec<_> = (0..100)
            .map(|n| {
                let (caller, payload) = (caller.clone(), format!("{round}.{n}"));
                tokio::spawn(async move { caller.send(request(payload)).await })
            })
            .collect();
        until("all to wait", || {
            let stats = caller.stack.buffer().stats();
            stats.waiting as u64 + stats.in_flight == 100
        })
        .await;
        balanced(&caller).await;
        server.come_back().await;
        for answer in join_all(calls).await {
            answer.expect("no panic").expect("delivered");
        }
        balanced(&caller).await;
    }
    let counts = server.desk.counts();
    assert_eq!(counts.len(), 301);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
}

async fn a_peer_that_comes_and_goes_under_load_sees_nothing_twice(arm: Arm) {
    let mut server = Server::start(arm).await;
    let caller = server
        .client(|stack| stack.methods(served()).breaker(breaker()))
        .await;
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..4 {
        let caller = caller.clone();
        callers.spawn(async move {
            let mut answered = Vec::new();
            for m in 0..100 {
                let payload = format!("{n}.{m}");
                match caller.send(request(payload.clone())).await {
                    Ok(()) => answered.push(payload),
                    // It had been handed over when the connection went: whether it was done nobody knows.
                    Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            answered
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.go().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.come_back().await;
    }
    let answered: Vec<String> = callers.join_all().await.into_iter().flatten().collect();
    balanced(&caller).await;
    let counts = server.desk.counts();
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    for payload in &answered {
        assert_eq!(counts[payload.as_bytes()], 1);
    }
    // All but those that were in flight at one of the three moments.
    assert!(answered.len() > 350, "{} of 400", answered.len());
}

async fn the_urgent_go_first(arm: Arm) {
    let mut server = Server::start(arm).await;
    let caller = server
        .client(|stack| stack.methods(served()).breaker(breaker()))
        .await;
    caller.echo("before").await.expect("answered");
    server.go().await;
    noticed(&caller).await;
    let mut calls = Vec::new();
    for (payload, urgency) in [
        ("bulk", Urgency::BULK),
        ("plain", Urgency::INTERACTIVE),
        ("control", Urgency::CONTROL),
    ] {
        let mut request = request(payload);
        request.extensions_mut().insert(urgency);
        let caller = caller.clone();
        calls.push(tokio::spawn(async move { caller.send(request).await }));
    }
    until("all to wait and none to try", || {
        let stats = caller.stack.buffer().stats();
        stats.waiting == 3 && !caller.stack.circuit().state().is_closed()
    })
    .await;
    server.come_back().await;
    for call in calls {
        call.await.expect("no panic").expect("delivered");
    }
    // The first is the breaker's probe, so it is alone; those behind it travel side by side.
    assert_eq!(server.desk.receipts()[1].payload, "control");
}

async fn who_leaves_is_not_delivered(arm: Arm) {
    let mut server = Server::start(arm).await;
    let caller = server
        .client(|stack| stack.methods(served()).breaker(breaker()))
        .await;
    caller.echo("before").await.expect("answered");
    server.go().await;
    noticed(&caller).await;
    let leaves = tokio::spawn({
        let caller = caller.clone();
        async move { caller.echo("leaves").await }
    });
    let stays = tokio::spawn({
        let caller = caller.clone();
        async move { caller.echo("stays").await }
    });
    // Waiting, and the breaker open: none of them is on its way.
    until("both to wait", || {
        let stats = caller.stack.buffer().stats();
        stats.waiting == 2 && !caller.stack.circuit().state().is_closed()
    })
    .await;
    leaves.abort();
    until("one to have left", || {
        caller.stack.buffer().stats().waiting <= 1
    })
    .await;
    server.come_back().await;
    stays.await.expect("no panic").expect("delivered");
    balanced(&caller).await;
    assert_eq!(server.desk.counts().get(&b"leaves"[..]), None);
    assert_eq!(caller.stack.buffer().stats().cancelled, 1);
}

async fn a_deadline_ends_the_wait_and_limits_are_told(arm: Arm) {
    let mut server = Server::start(arm).await;
    let small = BufferConfig::builder().max_calls(1).build().expect("valid");
    let caller = server
        .client(|stack| stack.buffer(small).breaker(breaker()))
        .await;
    caller.echo("before").await.expect("answered");
    server.go().await;
    noticed(&caller).await;
    let mut waiting = request("waits");
    waiting.extensions_mut().insert(WaitForReady);
    waiting.set_timeout(Duration::from_secs(5));
    let waits = tokio::spawn({
        let caller = caller.clone();
        async move { caller.send(waiting).await }
    });
    until("it to wait", || caller.stack.buffer().stats().waiting == 1).await;
    let mut crowded = request("crowded");
    crowded.extensions_mut().insert(WaitForReady);
    let status = caller.send(crowded).await.expect_err("full");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let status = waits.await.expect("no panic").expect_err("late");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    balanced(&caller).await;
    assert_eq!(server.desk.receipts().len(), 1);
}

async fn an_error_of_the_peer_s_is_an_answer(arm: Arm) {
    let server = Server::start(arm).await;
    let caller = server.client(|stack| stack.methods(served())).await;
    server.desk.set(Mood::Refuse(Code::Unavailable));
    let status = caller.echo("once").await.expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        server.desk.receipts().len(),
        1,
        "handed over once and never again"
    );
    balanced(&caller).await;
}

on_both_transports! {
    each_call_that_waited_arrives_once
    a_peer_that_comes_and_goes_under_load_sees_nothing_twice
    the_urgent_go_first
    who_leaves_is_not_delivered
    a_deadline_ends_the_wait_and_limits_are_told
    an_error_of_the_peer_s_is_an_answer
}
