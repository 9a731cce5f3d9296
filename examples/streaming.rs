//! The three streaming kinds of call, through a generated client that knows nothing of iroh.
//!
//! ```sh
//! cargo run --example streaming
//! ```

use std::error::Error;

use iroh::Endpoint;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tower_iroh::{Acceptor, Channel, Peer, Urgency, presets::Offline};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, StreamRequest, echo_client::EchoClient, echo_server::EchoServer},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let (acceptor, incoming) = Acceptor::new();
    let router = acceptor.router(Endpoint::bind(Offline).await?).spawn();
    let service = EchoServer::new(EchoService);
    let server = Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming);
    let server = tokio::spawn(server);

    let endpoint = Endpoint::bind(Offline).await?;
    let channel = Channel::builder(endpoint.clone())
        .peer(Peer::of(router.endpoint())?)
        .build()?;
    let mut client = EchoClient::new(channel);
    server_streaming(&mut client).await?;
    client_streaming(&mut client).await?;
    bidi_streaming(&mut client).await?;

    endpoint.close().await;
    // It ends `incoming` too, and with it tonic's server.
    router.shutdown().await?;
    server.await??;
    Ok(())
}

/// One request, many responses.
async fn server_streaming(client: &mut EchoClient<Channel>) -> Result<()> {
    let mut request = tonic::Request::new(StreamRequest {
        count: 3,
        size: 100_000,
        interval_ms: 10,
    });
    // Bulk has a lane of its own, so that calls which somebody waits for do not queue behind it.
    request.extensions_mut().insert(Urgency::BULK);
    let mut stream = client.server_stream(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        println!("server streaming: {} bytes", message.payload.len());
    }
    Ok(())
}

/// Many requests, one response.
async fn client_streaming(client: &mut EchoClient<Channel>) -> Result<()> {
    let messages = ["one", "two", "three"].map(|text| EchoRequest {
        payload: text.into(),
    });
    let summary = client.client_stream(tokio_stream::iter(messages)).await?;
    println!("client streaming: {:?}", summary.into_inner());
    Ok(())
}

/// Requests and responses as they come: here each is sent only after the answer to the one before.
async fn bidi_streaming(client: &mut EchoClient<Channel>) -> Result<()> {
    let (sender, requests) = mpsc::channel(1);
    let answers = client.bidi_stream(ReceiverStream::new(requests)).await?;
    let mut answers = answers.into_inner();
    for text in ["ping", "and ping again"] {
        let payload = text.into();
        sender.send(EchoRequest { payload }).await?;
        let answer = answers.message().await?.ok_or("ended early")?;
        println!("bidi streaming: {:?}", answer.payload);
    }
    // Ends our half of the call; the server then ends its own.
    drop(sender);
    match answers.message().await? {
        None => Ok(()),
        Some(answer) => Err(format!("an answer to nothing: {:?}", answer.payload).into()),
    }
}
