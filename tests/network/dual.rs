//! One of two transports is blocked under load: calls fall back to the other, nothing happens twice, and they return.

use std::{net::SocketAddr, time::Duration};

use iroh::EndpointAddr;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, transport::Server as Tonic};
use tower_iroh::{
    Channel, Peer, Server, State, TransportKind,
    layers::{
        Fault,
        select::{Arm, Choice, SelectConfig, SelectHandle},
    },
};
use tower_iroh_lab::{Case, Conditions, Host, Network, Outcome, Protocol};
use tower_iroh_proto::echo::echo_server::EchoServer;

use crate::{
    place::{Caller, bind, everywhere, port, status},
    support::{Desk, Service},
    traffic::{Pace, Traffic},
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "iroh_is_blocked_and_calls_go_over_tcp_until_it_is_back",
            || blocked(TransportKind::Iroh, Protocol::Udp),
        ),
        Case::new(
            "tcp_is_blocked_and_calls_go_over_iroh_until_it_is_back",
            || blocked(TransportKind::Tcp, Protocol::Tcp),
        ),
    ]
}

/// What happens within this time, or not at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a call may take: long enough for its expiry to count as a failure of the peer's.
const DEADLINE: Duration = Duration::from_secs(2);
const DWELL: Duration = Duration::from_secs(2);
/// As often as a connection is looked at, so that its streams are told of its end while somebody waits for that.
const HEALTH: Duration = Duration::from_secs(2);

/// A server on both transports, and where it is.
pub async fn serve(host: &Host) -> (Desk, Peer) {
    let addr = host.address();
    let served =
        host.spawn(async move {
            let desk = Desk::new();
            let endpoint = bind(everywhere()).await;
            let udp = SocketAddr::from((addr, port(&endpoint)));
            let server = Server::builder().endpoint(endpoint).tcp((addr, 0).into());
            let server = server.bind().await.expect("two ports");
            let tcp = server.tcp_addr().expect("bound");
            let peer = EndpointAddr::new(server.id()).with_ip_addr(udp);
            let services = Tonic::builder().add_service(EchoServer::new(desk.clone()));
            tokio::spawn(server.serve(|incoming, stopped| {
                services.serve_with_incoming_shutdown(incoming, stopped)
            }));
            (desk, Peer::from(peer).with_tcp(tcp))
        });
    served.await.expect("no panic")
}

/// A client that prefers a transport. A deadline is each call's own: the streams have none.
async fn caller(peer: &Peer, preferred: TransportKind) -> (Caller, Channel) {
    let config = SelectConfig::builder().dwell(DWELL).build().expect("valid");
    let channel = Channel::builder(bind(everywhere()).await)
        .peer(peer.clone())
        .select(SelectHandle::with_config(
            Choice::Prefer(preferred.into()),
            config,
        ))
        .links(|links| links.dial_timeout(DEADLINE).health_interval(HEALTH))
        .tcp_links(|links| links.dial_timeout(DEADLINE).health_interval(HEALTH))
        .build()
        .expect("valid");
    let service =
        tower::ServiceExt::<http::Request<tonic::body::Body>>::map_err(channel.clone(), status);
    let caller = Caller {
        service: Service::new(service),
        links: channel.links().expect("over iroh too").clone(),
        peer: peer.id(),
        stack: Some(channel.stack().clone()),
    };
    (caller, channel)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let reached = async {
        while !holds() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = timeout(PATIENCE, reached).await;
    assert!(waited.is_ok(), "{what}: not within {PATIENCE:?}");
}

/// Waits until for a second all calls went over this transport, and some did.
async fn all_over(select: &SelectHandle, arm: Arm) {
    let (mut since, mut counts) = (Instant::now(), [0; 2]);
    until(&format!("all calls over {arm}"), || {
        let now = [arm, arm.other()].map(|arm| select.decisions().arm(arm));
        if now[1] != counts[1] {
            (since, counts) = (Instant::now(), now);
        }
        since.elapsed() > Duration::from_secs(1) && now[0] > counts[0] + 20
    })
    .await;
}

fn blocked(preferred: TransportKind, protocol: Protocol) -> Outcome {
    let network = Network::new(["client", "server"])?;
    network
        .host("client")
        .block_on(story(network.clone(), preferred, protocol));
    Ok(())
}

async fn story(network: Network, preferred: TransportKind, protocol: Protocol) {
    let link = network.link("client", "server");
    link.set(Conditions::wan(Duration::from_millis(20)));
    let (desk, peer) = serve(network.host("server")).await;
    let (caller, channel) = caller(&peer, preferred).await;
    let select = channel.stack().select().expect("a choice").clone();
    // 200 calls a second, and as many messages of streams.
    let pace = Pace {
        callers: 40,
        pause: Duration::from_millis(200),
        streams: 0,
        deadline: Some(DEADLINE),
    };
    let talks = Pace {
        callers: 0,
        pause: Duration::from_millis(40),
        streams: 8,
        deadline: None,
    };
    let mut calls = Traffic::start("call", &caller.service, pace).await;
    all_over(&select, preferred.into()).await;
    // A stream stays where it begins.
    let mut streams = Traffic::start("talk", &caller.service, talks).await;
    calls.goes_on(200, 0).await;
    streams.goes_on(0, 100).await;

    link.block(Some(protocol));
    let began = Instant::now();
    calls.answers_to_what_began_after(began).await;
    let fell_back = began.elapsed();
    all_over(&select, Arm::from(preferred).other()).await;
    // The streams' connection is found dead and closed.
    let mut state = channel.state_of(preferred).expect("it leads there");
    until("the blocked connection is given up", || {
        !matches!(*state.borrow_and_update(), State::Ready | State::Silent)
    })
    .await;
    let ended = streams.stop().await;

    link.block(None);
    let unblocked = Instant::now();
    all_over(&select, preferred.into()).await;
    let returned = unblocked.elapsed();
    // No flapping: it stays there.
    let fallbacks = select.decisions().fallbacks();
    calls.goes_on(400, 0).await;
    assert_eq!(
        select.decisions().fallbacks(),
        fallbacks,
        "it stays on {preferred}"
    );

    let report = calls.stop().await;
    println!(
        "{preferred} blocked: first answer after {fell_back:?}, all back {returned:?} after the end; {} of {} calls failed",
        report.failures(),
        report.calls.len(),
    );
    report.check(&desk, &[Code::DeadlineExceeded, Code::Unavailable]);
    let mut late = 0;
    for call in &report.calls {
        let Err(status) = &call.outcome else { continue };
        let unsent = Fault::find(status).is_some_and(|fault| fault.not_processed());
        assert!(!unsent, "it was safe to move: {call:?}");
        late += u32::from(call.began > began + Duration::from_secs(5));
    }
    // A breaker and a selection that look how the blocked transport does have nothing to look with but calls.
    assert!(late <= 10, "{late} calls were still sent there");
    ended.check(&desk, &[Code::Unavailable]);
    for talk in &ended.talks {
        let code = talk
            .outcome
            .as_ref()
            .expect_err("it was on the blocked transport")
            .code();
        assert_eq!(code, Code::Unavailable, "{talk:?}");
    }
}
