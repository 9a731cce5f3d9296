//! The stack inside tower's own services: boxes, buffers, balancers.

use std::time::Duration;

use tonic::{Code, body::Body};
use tower::{
    ServiceExt as _,
    balance::p2c::Balance,
    buffer::Buffer,
    discover::ServiceList,
    load::{CompleteOnResponse, PendingRequestsDiscover},
};
use tower_iroh::layers::{breaker::BreakerConfig, fail_fast::FailFastConfig};
use tower_iroh_proto::echo::echo_client::EchoClient;

use crate::support::{Arm, Mood, Server, on_both_transports, request, soon};

async fn the_code_survives_tower_s_buffer_and_boxes(arm: Arm) {
    let server = Server::start(arm).await;
    let caller = server.client(|stack| stack).await;
    let buffered = Buffer::new(caller.service.clone().boxed_clone(), 8);
    let mut client = EchoClient::new(buffered.clone());
    client.echo(request("fine")).await.expect("answered");
    caller.stack.circuit().force_open();
    for _ in 0..3 {
        let status = client.echo(request("open")).await.expect_err("open");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    caller.stack.circuit().release();
    server.desk.set(Mood::Refuse(Code::FailedPrecondition));
    // That the peer may be called again the fail fast learns in the background.
    let refused = async {
        loop {
            let status = client.echo(request("refused")).await.expect_err("refused");
            if status.code() != Code::Unavailable {
                return status.code();
            }
        }
    };
    assert_eq!(
        soon("the peer's answer", refused).await,
        Code::FailedPrecondition
    );
    server.desk.set(Mood::Answer);
    client
        .echo(request("fine"))
        .await
        .expect("a buffer that still works");
}

async fn a_balancer_keeps_an_endpoint_that_was_gone(arm: Arm) {
    let mut flaky = Server::start(arm).await;
    let steady = Server::start(arm).await;
    let breaker = BreakerConfig::builder()
        .first_wait(Duration::from_millis(50))
        .recovery(Duration::from_millis(100))
        .build()
        .expect("valid");
    let patience = FailFastConfig::builder()
        .wait(Duration::from_millis(20))
        .build()
        .expect("valid");
    let mut services = Vec::new();
    for server in [&flaky, &steady] {
        let caller = server
            .client(|stack| stack.breaker(breaker.clone()).fail_fast(patience.clone()))
            .await;
        services.push(caller.service);
    }
    let endpoints = PendingRequestsDiscover::new(
        ServiceList::new::<http::Request<Body>>(services),
        CompleteOnResponse::default(),
    );
    let balance = Buffer::new(Balance::new(endpoints), 8);
    let mut client = EchoClient::new(balance);
    // The first dial may take longer than the patience.
    soon("the first answer", async {
        while client.echo(request("before")).await.is_err() {}
    })
    .await;
    flaky.go().await;
    for _ in 0..50 {
        // Half of them go to the one that is gone.
        let _ = soon("an answer", client.echo(request("gone"))).await;
    }
    flaky.come_back().await;
    soon("the one that was gone to be used again", async {
        loop {
            let _ = client.echo(request("after")).await;
            if flaky.desk.counts().contains_key(&b"after"[..]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

on_both_transports! {
    the_code_survives_tower_s_buffer_and_boxes
    a_balancer_keeps_an_endpoint_that_was_gone
}
