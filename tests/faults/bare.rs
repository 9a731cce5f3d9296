//! An ALPN of another's making, under which a stream is HTTP/2 from its first byte on.

use tower_iroh::{Acceptor, Urgency, wire::reset};
use tower_iroh_proto::echo::{StreamRequest, echo_client::EchoClient};

use crate::{
    rawlane,
    support::{Server, number, offline, raw, request, soon},
};

const BARE: &[u8] = b"/tower_iroh.echo.v1.Echo/1.0";

async fn server() -> Server {
    Server::routed(
        offline().await,
        Acceptor::builder().max_lanes_per_connection(2),
        |router, acceptor| router.accept(BARE, acceptor.bare()),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bare_alpn_is_http2_from_the_first_byte() {
    let server = server().await;
    let endpoint = offline().await;
    let dial = endpoint.connect(server.peer.addr().clone(), BARE);
    let connection = soon("a connection", dial).await.expect("connected");
    let (channel, _) = rawlane::channel(&connection, None).await;
    let mut client = EchoClient::new(channel);
    let answer = soon("an answer", client.echo(request(b"bare"))).await;
    assert_eq!(
        answer.expect("answered").into_inner().payload.as_ref(),
        b"bare"
    );
    let wanted = StreamRequest {
        count: 10,
        size: 10_000,
        interval_ms: 0,
    };
    let mut stream = client
        .server_stream(wanted)
        .await
        .expect("a stream")
        .into_inner();
    for expected in 0..10 {
        let message = soon("a message", stream.message()).await.expect("sent");
        assert_eq!(number(&message.expect("ten")), expected);
    }
    assert!(
        soon("the end", stream.message())
            .await
            .expect("clean")
            .is_none()
    );

    // The limit on lanes holds here too.
    let (second, _) = rawlane::channel(&connection, None).await;
    let answer = soon(
        "an answer",
        EchoClient::new(second.clone()).echo(request(b"two")),
    )
    .await;
    answer.expect("answered");
    let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
    send.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .expect("written");
    let refused = soon("the refusal", recv.read(&mut [0; 8])).await;
    let expected = iroh::endpoint::ReadError::Reset(reset::TOO_MANY_LANES);
    assert_eq!(refused.expect_err("refused"), expected);
}

/// The control: under our own ALPN the same bytes are a bad preamble.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_without_a_preamble_is_refused_under_our_alpn() {
    let server = server().await;
    let endpoint = offline().await;
    let connection = raw(&endpoint, &server.peer).await;
    let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
    send.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .expect("written");
    let refused = soon("the refusal", recv.read(&mut [0; 8])).await;
    let expected = iroh::endpoint::ReadError::Reset(reset::BAD_PREAMBLE);
    assert_eq!(refused.expect_err("refused"), expected);
    // And with one it is served beside the bare ones.
    let (channel, _) = rawlane::channel(&connection, Some(Urgency::INTERACTIVE)).await;
    let answer = soon("an answer", EchoClient::new(channel).echo(request(b"with"))).await;
    answer.expect("answered");
}
