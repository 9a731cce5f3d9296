//! Headers and trailers that are too large fail their own call, with the limit and the header named.

#[path = "support/waiting.rs"]
#[allow(dead_code, reason = "each program uses a part")]
mod waiting;

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use tonic::{Code, Request, Response, Status, Streaming};
use tower_iroh::{Channel, ChannelBuilder, Peer, Server, TransportKind, presets::Offline};
use tower_iroh_proto::echo::{
    EchoRequest, EchoResponse, StreamRequest, StreamSummary,
    echo_client::EchoClient,
    echo_server::{Echo, EchoServer},
};
use waiting::soon;

const PATIENCE: Duration = Duration::from_secs(15);

/// Answers with a status whose message is as long as was asked for.
struct Long;

type Outgoing = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

fn long(size: usize) -> Status {
    Status::data_loss("x".repeat(size))
}

#[tonic::async_trait]
impl Echo for Long {
    type ServerStreamStream = Outgoing;
    type BidiStreamStream = Outgoing;

    /// In the head.
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let text = String::from_utf8(request.into_inner().payload.to_vec()).expect("a number");
        Err(long(text.parse().expect("a number")))
    }

    /// In the trailers, after a message. Without a size, messages without an end.
    async fn server_stream(
        &self,
        request: Request<StreamRequest>,
    ) -> Result<Response<Outgoing>, Status> {
        let size = request.into_inner().size as usize;
        let message = || Ok(EchoResponse::default());
        if size > 0 {
            let messages = stream::iter([message(), Err(long(size))]);
            return Ok(Response::new(messages.boxed()));
        }
        let ticks = tokio::time::interval(Duration::from_millis(10));
        let messages = stream::unfold(ticks, move |mut ticks| async move {
            ticks.tick().await;
            Some((message(), ticks))
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn client_stream(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<StreamSummary>, Status> {
        Err(long(0))
    }

    async fn bidi_stream(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Outgoing>, Status> {
        Err(long(0))
    }
}

type Client = EchoClient<Channel>;

async fn in_the_head(client: &mut Client, size: u32) -> Status {
    let payload = size.to_string().into();
    let call = client.echo(EchoRequest { payload });
    soon("an answer", call).await.expect_err("a status")
}

async fn in_the_trailers(client: &mut Client, size: u32) -> Status {
    let call = StreamRequest {
        size,
        ..StreamRequest::default()
    };
    let mut answer = client
        .server_stream(call)
        .await
        .expect("begun")
        .into_inner();
    soon("a message", answer.message())
        .await
        .expect("a message");
    soon("the end", answer.message())
        .await
        .expect_err("a status")
}

fn assert_names(error: &Status, limit: &str, header: &str) {
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    let text = error.message();
    assert!(text.contains(limit) && text.contains(header), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_fails_alone_and_by_name() {
    let endpoint = iroh::Endpoint::bind(Offline).await.expect("bound");
    let server = Server::builder().endpoint(endpoint);
    let server = server
        .tcp(([127, 0, 0, 1], 0).into())
        .bind()
        .await
        .expect("bound");
    let (peer, handle) = (server.addresses().expect("dialable"), server.handle());
    let services = tonic::transport::Server::builder().add_service(EchoServer::new(Long));
    let serving = tokio::spawn(
        server.serve(|incoming, stopped| services.serve_with_incoming_shutdown(incoming, stopped)),
    );
    let endpoint = iroh::Endpoint::bind(Offline).await.expect("bound");
    for transport in TransportKind::ALL {
        let builder = |peer: &Peer| -> ChannelBuilder {
            let builder = match transport {
                TransportKind::Iroh => Channel::builder(endpoint.clone()),
                _ => Channel::tcp(endpoint.secret_key().clone()),
            };
            builder.peer(peer.clone())
        };
        let mut client = EchoClient::new(builder(&peer).build().expect("valid"));
        let neighbour = client.server_stream(StreamRequest::default()).await;
        let mut neighbour = neighbour.expect("begun").into_inner();
        for size in [20_000, 100_000, 900_000] {
            let error = in_the_head(&mut client, size).await;
            assert_names(&error, "16384", "`grpc-message`");
            let error = in_the_trailers(&mut client, size).await;
            assert_names(&error, "16384", "`grpc-message`");
        }
        let mut request = Request::new(EchoRequest {
            payload: "0".into(),
        });
        let large = "x".repeat(70_000).parse().expect("valid");
        request.metadata_mut().insert("x-large", large);
        let error = soon("an answer", client.echo(request)).await;
        assert_names(&error.expect_err("too large"), "65536", "`x-large`");
        // What came by then, and what comes now.
        for _ in 0..100 {
            let message = soon("a message", neighbour.message()).await;
            message.expect("it goes on").expect("more");
        }
        assert_eq!(in_the_head(&mut client, 10).await.code(), Code::DataLoss);

        let wide = builder(&peer).max_header_list_size(200_000).build();
        let mut client = EchoClient::new(wide.expect("valid"));
        for size in [20_000, 190_000] {
            assert_eq!(
                in_the_head(&mut client, size).await.message().len(),
                size as usize
            );
            let error = in_the_trailers(&mut client, size).await;
            assert_eq!(
                (error.code(), error.message().len()),
                (Code::DataLoss, size as usize)
            );
        }
    }
    endpoint.close().await;
    handle.shutdown();
    soon("the server's end", serving)
        .await
        .expect("no panic")
        .expect("served");
}
