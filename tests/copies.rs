//! Second copies of small writes, between real endpoints over a link that loses packets.

#[path = "support/link.rs"]
mod link;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use iroh::{Endpoint, protocol::Router};
use link::Link;
use tokio::task::{JoinHandle, JoinSet};
use tonic::{Request, Status, service::interceptor::InterceptedService};
use tower_iroh::{Acceptor, Channel, Lanes, Peer, PeerStats, Urgency};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer},
};

/// How often the server was asked for each number.
type Seen = Arc<Mutex<HashMap<String, u32>>>;

struct World {
    router: Router,
    served: JoinHandle<()>,
    seen: Seen,
    endpoint: Endpoint,
    peer: Peer,
}

impl World {
    fn new(server: Endpoint, peer: Peer, endpoint: Endpoint, copies: bool) -> Self {
        let (acceptor, incoming) = Acceptor::builder().copies(copies).build().expect("valid");
        let router = acceptor.router(server).spawn();
        let seen = Seen::default();
        let record = seen.clone();
        let echo =
            InterceptedService::new(EchoServer::new(EchoService), move |request: Request<()>| {
                let number = request.metadata().get("number");
                let number = number.and_then(|number| number.to_str().ok());
                let number = number.ok_or_else(|| Status::internal("no number"))?;
                *record
                    .lock()
                    .expect("whole")
                    .entry(number.into())
                    .or_default() += 1;
                Ok(request)
            });
        let serving = tonic::transport::Server::builder()
            .add_service(echo)
            .serve_with_incoming_shutdown(incoming, std::future::pending());
        let served = tokio::spawn(async move { serving.await.expect("served") });
        Self {
            router,
            served,
            seen,
            endpoint,
            peer,
        }
    }

    fn channel(&self, lanes: Lanes) -> Channel {
        Channel::builder(self.endpoint.clone())
            .peer(self.peer.clone())
            .lanes(lanes)
            .build()
            .expect("valid")
    }

    async fn end(self) {
        self.endpoint.close().await;
        self.router.shutdown().await.expect("no panic");
        self.served.abort();
    }
}

fn stats(channel: &Channel) -> PeerStats {
    channel.stats().expect("connected")
}

/// One call of 64 bytes, whose answer is checked; how long it took.
async fn call(channel: &Channel, number: u64, urgency: Urgency) -> Duration {
    let payload: Vec<u8> = number.to_le_bytes().repeat(8);
    let mut request = Request::new(EchoRequest {
        payload: payload.clone().into(),
    });
    request.extensions_mut().insert(urgency);
    let text = number.to_string().parse().expect("a number");
    request.metadata_mut().insert("number", text);
    let began = Instant::now();
    let answer = EchoClient::new(channel.clone()).echo(request).await;
    let took = began.elapsed();
    assert_eq!(answer.expect("answered").into_inner().payload, payload);
    took
}

/// Calls at a fixed pace, whether or not those before are answered, as control calls are made; how long each took, sorted.
async fn calls(
    channel: &Channel,
    numbers: std::ops::Range<u64>,
    urgency: Urgency,
) -> Vec<Duration> {
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    let mut running = JoinSet::new();
    for number in numbers {
        pace.tick().await;
        let channel = channel.clone();
        running.spawn(async move { call(&channel, number, urgency).await });
    }
    let mut took = running.join_all().await;
    took.sort();
    took
}

fn quantile(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

fn shown(sorted: &[Duration]) -> String {
    let at = |share| quantile(sorted, share).as_secs_f64() * 1e3;
    let (p50, p95, p99) = (at(0.5), at(0.95), at(0.99));
    format!(
        "p50 {p50:.1}, p95 {p95:.1}, p99 {p99:.1}, most {:.1} ms",
        at(1.0)
    )
}

/// Calls until so many packets were lost on the client's way; the number after the last.
async fn calls_until_lost(channel: &Channel, lost: u64, urgency: Urgency) -> u64 {
    let mut number = 0;
    while stats(channel).lost_packets < lost {
        assert!(number < 20_000, "nothing is lost");
        calls(channel, number..number + 20, urgency).await;
        number += 20;
    }
    number
}

/// Who sends copies, and takes them.
#[derive(Clone, Copy, Debug)]
enum Copies {
    Both,
    Neither,
    ClientAlone,
}

/// What a run over the lossy link saw.
struct Run {
    took: Vec<Duration>,
    stats: PeerStats,
}

impl Run {
    fn at(&self, share: f64) -> Duration {
        quantile(&self.took, share)
    }
}

/// Calls over 20 ms each way of which packets are lost, once both sides have seen that they are.
async fn lossy(copies: Copies, seed: u64) -> Run {
    let (link, server, peer, client) = Link::pair(Duration::from_millis(20), seed).await;
    let at_server = matches!(copies, Copies::Both);
    let at_client = !matches!(copies, Copies::Neither);
    let world = World::new(server, peer, client, at_server);
    let channel = world.channel(Lanes::standard().copies(at_client));
    call(&channel, u64::MAX, Urgency::CONTROL).await;
    link.lose(0.05);
    // The server has sent as many packets by then as the client.
    let first = calls_until_lost(&channel, 20, Urgency::CONTROL).await;
    let took = calls(&channel, first..first + 1000, Urgency::CONTROL).await;
    let stats = stats(&channel);
    let (carried, lost) = link.packets();
    let shown = shown(&took);
    println!("copies {copies:?}: {shown}; {stats}; the link lost {lost} of {carried}");
    let seen = world.seen.lock().expect("whole").clone();
    assert_eq!(seen.len() as u64, 1 + first + 1000);
    assert!(seen.values().all(|&times| times == 1), "each ran once");
    world.end().await;
    Run { took, stats }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_shorten_the_tail_where_packets_are_lost() {
    let seed = rand::random();
    println!("seed {seed}");
    // At the same time, so that a busy machine is as busy for each.
    let (with, without, alone) = tokio::join!(
        lossy(Copies::Both, seed),
        lossy(Copies::Neither, seed),
        lossy(Copies::ClientAlone, seed),
    );
    assert!(with.stats.copies_sent > 0 && with.stats.copies_used > 0);
    for share in [0.95, 0.99] {
        let (with, without) = (with.at(share), without.at(share));
        assert!(
            with < without.mul_f64(0.8),
            "{share}: {with:?} and {without:?}"
        );
    }
    let off = &without.stats;
    assert_eq!((off.copies_sent, off.copies_used), (0, 0));
    // A server that wants none reads and drops them.
    assert!(alone.stats.copies_sent > 0 && alone.stats.copies_used == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_loses_nothing_has_no_copies() {
    let (link, server, peer, client) = Link::pair(Duration::from_millis(20), 1).await;
    let world = World::new(server, peer, client, true);
    let channel = world.channel(Lanes::standard());
    calls(&channel, 0..500, Urgency::CONTROL).await;
    let seen = stats(&channel);
    assert_eq!(link.packets().1, 0);
    // A machine that is very busy may take a packet for lost that is not.
    assert!(seen.copies_sent == 0 || seen.lost_packets > 0, "{seen}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_path_has_no_copies_whatever_it_loses() {
    let (link, server, peer, client) = Link::pair(Duration::ZERO, 2).await;
    let world = World::new(server, peer, client, true);
    let channel = world.channel(Lanes::standard());
    // A second and a half, in which the connection's owner sees how short the path is.
    calls(&channel, 1_000_000..1_000_300, Urgency::CONTROL).await;
    link.lose(0.1);
    calls_until_lost(&channel, 30, Urgency::CONTROL).await;
    let seen = stats(&channel);
    assert_eq!(seen.copies_sent, 0, "{seen}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_has_no_copies() {
    let (link, server, peer, client) = Link::pair(Duration::from_millis(20), 3).await;
    let world = World::new(server, peer, client, true);
    let channel = world.channel(Lanes::standard());
    call(&channel, u64::MAX, Urgency::BULK).await;
    link.lose(0.05);
    let next = calls_until_lost(&channel, 20, Urgency::BULK).await;
    // The connection's owner looks at least once a second.
    calls(&channel, next..next + 300, Urgency::BULK).await;
    assert_eq!(stats(&channel).copies_sent, 0);
    calls(&channel, next + 300..next + 320, Urgency::INTERACTIVE).await;
    assert!(
        stats(&channel).copies_sent > 0,
        "another lane of the same connection has them"
    );
    world.end().await;
}
