//! The breaker within what people put around it.

use std::{convert::Infallible, task::Poll};

use futures_util::stream;
use http::{Request, Response};
use http_body_util::BodyExt;
use tonic::{Code, Status};
use tower::{
    Service, ServiceBuilder, ServiceExt,
    balance::p2c::Balance,
    buffer::Buffer,
    discover::Change,
    load::{CompleteOnResponse, PendingRequests},
    util::BoxCloneService,
};
use tower_iroh_layers::{
    BoxError, Fault, Incident, Origin,
    breaker::{BreakerBody, BreakerLayer, Circuit},
    fault::code_of,
};

use crate::peer::*;

fn request() -> Request<()> {
    Request::new(())
}

#[tokio::test(start_paused = true)]
async fn an_error_never_leaves_poll_ready_and_counts_in_the_call() {
    let peer = Peer::default();
    let mut client = client(&peer, config());
    for _ in 0..5 {
        peer.unready.store(1, std::sync::atomic::Ordering::Relaxed);
        ready(&mut client).await;
        let error = client.call(request()).await.map(drop).expect_err("unready");
        assert_eq!(code_of(&*error), Code::Unavailable);
    }
    assert_eq!(peer.calls(), 0);
    assert_eq!(client.circuit().state().name(), "open");
    // One that has healed by the next poll fails no call.
    ready(&mut client).await;
    peer.unready.store(1, std::sync::atomic::Ordering::Relaxed);
    ready(&mut client).await;
    ready(&mut client).await;
    call(&mut client).await;
    assert!(client.circuit().state().is_closed());
}

#[tokio::test(start_paused = true)]
async fn p2c_keeps_the_endpoint() {
    let bad = Peer::default();
    bad.unready.store(5, std::sync::atomic::Ordering::Relaxed);
    let clients = [client(&bad, config()), client(&bad, config())];
    let circuits = clients.clone().map(|client| client.circuit().clone());
    let endpoints = clients.into_iter().enumerate().map(|(key, client)| {
        let client = PendingRequests::new(client, CompleteOnResponse::default());
        Ok::<_, Infallible>(Change::Insert(key, client))
    });
    let mut balance = Balance::new(Box::pin(stream::iter(endpoints)));
    let mut failed = 0;
    for _ in 0..40 {
        let ready = ServiceExt::<Request<()>>::ready(&mut balance).await;
        let ready = ready.expect("never an error");
        failed += u32::from(ready.call(request()).await.is_err());
        assert_eq!(balance.len(), 2, "an endpoint was dropped");
    }
    assert!(failed > 0, "nothing was tried");
    assert_eq!(bad.calls(), 40 - failed);
    assert!(circuits.iter().all(|circuit| circuit.state().is_closed()));
}

#[tokio::test(start_paused = true)]
async fn the_code_survives_buffer_and_boxes() {
    let fault = Fault::unsent(Origin::Link(Incident::new()), Status::unavailable("lost"));
    let peer = Peer::new([Reply::Error(fault)]);
    peer.unready.store(1, std::sync::atomic::Ordering::Relaxed);
    let circuit = Circuit::new(Default::default());
    let stack = ServiceBuilder::new()
        .map_err(|error: BoxError| error)
        .layer(BreakerLayer::new(circuit))
        .service(peer);
    let mut stack = BoxCloneService::new(Buffer::new(stack, 4));
    for _ in 0..2 {
        let call = ServiceExt::<Request<()>>::ready(&mut stack).await;
        let call = call.expect("ready").call(request());
        let error = call.await.map(drop).expect_err("failed");
        assert_eq!(code_of(&*error), Code::Unavailable);
        let status = Status::from_error(error);
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    let call = ServiceExt::<Request<()>>::ready(&mut stack).await;
    let response = call.expect("ready").call(request()).await.expect("heals");
    response.into_body().collect().await.expect("a body");
}

#[tokio::test(start_paused = true)]
async fn a_clone_carries_no_readiness() {
    let peer = Peer::default();
    let mut client = client(&peer, config());
    ready(&mut client).await;
    let mut clone = client.clone();
    // The peer asserts that what is called was ready: each has to ask for itself.
    ready(&mut clone).await;
    finish(clone.call(request())).await;
    finish(client.call(request())).await;

    // A loser takes the ready service along; what stays behind is a clone that has to ask.
    let mut first = half_open(&peer).await;
    let mut second = first.clone();
    ready(&mut second).await;
    peer.plays([Reply::Late(SECOND, Box::new(OK))]);
    let probe = first.call(request());
    let lost = second.call(request());
    tokio::join!(finish(probe), finish(lost));
    call(&mut second).await;
}

#[test]
fn the_future_and_the_body_can_be_sent() {
    fn is_send<T: Send>(_: &T) {}
    fn body_is_send<T: Send + Sync>() {}
    let mut client = client(&Peer::default(), config());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let ready: Poll<_> = Service::<Request<()>>::poll_ready(&mut client, &mut cx);
    assert!(ready.is_ready());
    let call = client.call(request());
    is_send(&call);
    is_send(&client);
    body_is_send::<Response<BreakerBody<http_body_util::Empty<bytes::Bytes>>>>();
}
