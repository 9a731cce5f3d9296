//! The sample server: a greeter over TCP in clear text, as any language could have it, with health and reflection.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use http::Request;
use prost::Message;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    Response, Status,
    body::Body,
    server::{Grpc, ServerStreamingService, UnaryService},
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::{ServiceExt, service_fn};

use crate::failure::Failure;

#[derive(Clone, PartialEq, Message)]
struct HelloRequest {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct HelloReply {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct CountdownRequest {
    #[prost(uint32, tag = "1")]
    from: u32,
}

#[derive(Clone, PartialEq, Message)]
struct CountdownReply {
    #[prost(uint32, tag = "1")]
    left: u32,
}

struct Hello;

impl UnaryService<HelloRequest> for Hello {
    type Response = HelloReply;
    type Future = std::future::Ready<Result<Response<HelloReply>, Status>>;

    fn call(&mut self, request: tonic::Request<HelloRequest>) -> Self::Future {
        let HelloRequest { name } = request.into_inner();
        std::future::ready(match name.as_str() {
            "" => Err(Status::invalid_argument("whom shall I greet? Set `name`")),
            name => Ok(Response::new(HelloReply {
                text: format!("Hello, {name}!"),
            })),
        })
    }
}

struct Countdown;

type Replies = std::pin::Pin<Box<dyn Stream<Item = Result<CountdownReply, Status>> + Send>>;

impl ServerStreamingService<CountdownRequest> for Countdown {
    type Response = CountdownReply;
    type ResponseStream = Replies;
    type Future = std::future::Ready<Result<Response<Replies>, Status>>;

    fn call(&mut self, request: tonic::Request<CountdownRequest>) -> Self::Future {
        let numbers = stream::iter((0..=request.into_inner().from).rev());
        let replies = numbers.then(|left| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(CountdownReply { left })
        });
        std::future::ready(Ok(Response::new(Box::pin(replies) as Replies)))
    }
}

/// The sample server while it runs.
pub(super) struct Sample {
    pub(super) addr: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Sample {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Sample {
    pub(super) async fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(Failure::failed)?;
        let addr = listener.local_addr().map_err(Failure::failed)?;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(schema()?)
            .build_v1()
            .map_err(Failure::failed)?;
        let (_, health) = tonic_health::server::health_reporter();
        let services = service_fn(move |request: Request<Body>| {
            let (reflection, health) = (reflection.clone(), health.clone());
            async move {
                let path = request.uri().path();
                if path.starts_with("/grpc.reflection.") {
                    return reflection.oneshot(request).await;
                }
                if path.starts_with("/grpc.health.") {
                    return health.oneshot(request).await;
                }
                Ok::<_, Infallible>(match path {
                    "/demo.v1.Greeter/Hello" => {
                        Grpc::new(ProstCodec::default()).unary(Hello, request).await
                    }
                    "/demo.v1.Greeter/Countdown" => {
                        Grpc::new(ProstCodec::default())
                            .server_streaming(Countdown, request)
                            .await
                    }
                    _ => Status::unimplemented("the sample has Hello and Countdown").into_http(),
                })
            }
        });
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = tokio::spawn(async move {
            if let Err(error) = Server::builder()
                .serve_with_incoming(services, incoming)
                .await
            {
                eprintln!("the sample server: {error}");
            }
        });
        Ok(Self { addr, serving })
    }
}

/// The sample's `.proto`, compiled.
fn schema() -> Result<prost_types::FileDescriptorSet, Failure> {
    const NAME: &str = "demo/v1/greeter.proto";
    let file = protox::file::File::from_source(NAME, include_str!("sample.proto"))
        .map_err(Failure::failed)?;
    Ok(prost_types::FileDescriptorSet {
        file: vec![file.file_descriptor_proto().clone()],
    })
}
