//! probe
use iroh::{Endpoint, protocol::Router};
use tower_iroh::{Acceptor, Channel, Peer, presets};
use tower_iroh_proto::{EchoService, echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer}};
#[tokio::main]
async fn main() {
    let callers: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let size: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let secs: u64 = std::env::args().nth(3).unwrap().parse().unwrap();
    let endpoint = Endpoint::bind(presets::Offline).await.unwrap();
    let peer = Peer::of(&endpoint).unwrap();
    let (acceptor, incoming) = Acceptor::new();
    let _router = Router::builder(endpoint.clone()).accept(tower_iroh::ALPN, acceptor).spawn();
    tokio::spawn(tonic::transport::Server::builder().add_service(EchoServer::new(EchoService::default()).max_decoding_message_size(1<<30).max_encoding_message_size(1<<30)).serve_with_incoming(incoming));
    let client = Endpoint::bind(presets::Offline).await.unwrap();
    let channel = Channel::builder(client.clone()).peer(peer.clone()).build().unwrap();
    let c = EchoClient::new(channel.clone()).max_decoding_message_size(1<<30).max_encoding_message_size(1<<30);
    c.clone().echo(EchoRequest { payload: "hello".into() }).await.unwrap();
    let before = channel.stats().unwrap();
    let start = std::time::Instant::now();
    let payload: bytes::Bytes = vec![7u8; size].into();
    let mut tasks = vec![];
    for _ in 0..callers { let mut c = c.clone(); let payload=payload.clone(); tasks.push(tokio::spawn(async move {
        let mut lat = vec![];
        while start.elapsed().as_secs() < secs { let t = std::time::Instant::now(); c.echo(EchoRequest { payload: payload.clone() }).await.unwrap(); lat.push(t.elapsed()); }
        lat })); }
    let mut lat = vec![];
    for t in tasks { lat.extend(t.await.unwrap()); }
    let el = start.elapsed().as_secs_f64();
    lat.sort();
    let after = channel.stats().unwrap();
    let n = lat.len() as f64;
    println!("{callers} x {size}: {:.0}/s p50 {:?} p99 {:?} {:.0} MB/s; client packets/call {:.3} bytes/call out {:.0} in {:.0} lost {}", n/el, lat[lat.len()/2], lat[lat.len()*99/100], n*size as f64*2.0/el/1e6,
        (after.sent_packets-before.sent_packets) as f64/n, (after.bytes_sent-before.bytes_sent) as f64/n, (after.bytes_received-before.bytes_received) as f64/n, after.lost_packets-before.lost_packets);
}
