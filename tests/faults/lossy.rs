//! A way on which packets get lost: everybody can see how many.

use iroh::{Endpoint, EndpointAddr};
use metrics_exporter_prometheus::PrometheusBuilder;
use tonic::{Request, Response, Status, Streaming};
use tower_iroh::{Acceptor, Links, Path, Peer, PeerInfo, presets::Offline};
use tower_iroh_proto::{
    EchoService,
    echo::{
        EchoRequest, EchoResponse, StreamRequest, StreamSummary,
        echo_server::{Echo, EchoServer},
    },
};

use crate::{
    support::{Arm, Caller, soon, until},
    udp_way::{self, UdpWay, Weather},
};

/// Answers with how many packets the server has sent to its caller, and how many of them were lost.
struct Teller;

#[tonic::async_trait]
impl Echo for Teller {
    type ServerStreamStream = <EchoService as Echo>::ServerStreamStream;
    type BidiStreamStream = <EchoService as Echo>::BidiStreamStream;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let info = request.extensions().get::<PeerInfo>().expect("over iroh");
        let (sent, lost) = (info.sent_packets(), info.lost_packets());
        let mut payload = sent.expect("connected").to_be_bytes().to_vec();
        payload.extend(lost.expect("connected").to_be_bytes());
        // The answer is as large as the question, so that there is something to be lost.
        payload.resize(payload.len().max(request.get_ref().payload.len()), 0);
        let payload = payload.into();
        Ok(Response::new(EchoResponse { payload }))
    }

    async fn server_stream(
        &self,
        request: Request<StreamRequest>,
    ) -> Result<Response<Self::ServerStreamStream>, Status> {
        EchoService.server_stream(request).await
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<StreamSummary>, Status> {
        EchoService.client_stream(request).await
    }

    async fn bidi_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Self::BidiStreamStream>, Status> {
        EchoService.bidi_stream(request).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_packets_are_counted_on_both_sides() {
    // The only one of this process; what other tests send may be counted too.
    let prometheus = PrometheusBuilder::new().install_recorder().expect("first");
    let server = udp_way::beyond(Endpoint::builder(Offline)).expect("valid");
    let endpoint = server.bind().await.expect("Linux has all of 127.0.0.0/8");
    let way = UdpWay::to(endpoint.bound_sockets()[0], 1)
        .await
        .expect("a free port");
    let (acceptor, incoming) = Acceptor::new();
    let router = acceptor.router(endpoint.clone()).spawn();
    let serving = tonic::transport::Server::builder()
        .add_service(EchoServer::new(Teller))
        .serve_with_incoming_shutdown(incoming, std::future::pending());
    let serving = tokio::spawn(serving);

    let peer = Peer::from(EndpointAddr::new(endpoint.id()).with_ip_addr(way.addr()));
    let client = udp_way::near(Endpoint::builder(Offline)).expect("valid");
    let links = Links::new(client.bind().await.expect("a free port"));
    let caller = Caller::over(Arm::Channel, &peer, None, links);
    let question = EchoRequest {
        payload: vec![1; 50_000].into(),
    };
    let told = async || {
        let answer = caller.client().echo(question.clone()).await;
        let answer = answer.expect("answered").into_inner().payload;
        let number = |at| u64::from_be_bytes(*answer[at..].first_chunk().expect("eight bytes"));
        (number(0), number(8))
    };
    soon("an answer", told()).await;
    let stats = || caller.links.stats(endpoint.id()).expect("connected");
    assert_eq!(stats().path, Some(Path::Direct(way.addr())));

    way.set(Weather {
        loss: 0.05,
        ..Weather::default()
    });
    let lossy = async {
        loop {
            let (sent, lost) = told().await;
            assert!(lost < sent, "{lost} of {sent}");
            if lost > 0 && stats().lost_packets > 0 {
                return;
            }
        }
    };
    soon("both sides to have lost a packet", lossy).await;
    assert!(way.lost() > 0);
    let stats = stats();
    assert!(stats.lost_packets < stats.sent_packets, "{stats}");

    let counted = |name: &str| {
        let text = prometheus.render();
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        value.unwrap_or_default()
    };
    for side in ["client", "server"] {
        until("the metrics to say so", || {
            let lost = counted(&format!("tower_iroh_{side}_packets_lost_total "));
            lost > 0 && lost < counted(&format!("tower_iroh_{side}_packets_sent_total "))
        })
        .await;
    }
    router.shutdown().await.expect("shut down");
    serving.abort();
}
