//! One call of each kind. Each checks what came back: an answer that is not the right one is an error.

use std::time::Duration;

use tokio::time::Instant;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Request, Streaming,
    body::Body,
    client::GrpcService,
    codegen::{Body as HttpBody, Bytes, StdError},
};
use tower_iroh::Channel;
use tower_iroh_proto::echo::{EchoRequest, EchoResponse, StreamRequest, echo_client::EchoClient};

use crate::Error;

/// Metadata that asks the server who is calling.
pub(crate) const WHO_AM_I: &str = "who-am-i";

/// What a call did, and how long it took.
pub(crate) struct Outcome {
    pub(crate) what: String,
    pub(crate) took: Duration,
}

/// What the server's handler knows of its caller.
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) path: String,
    pub(crate) rtt: String,
}

pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Error> {
    if holds {
        Ok(())
    } else {
        Err(otherwise().into())
    }
}

fn request(payload: impl Into<Bytes>) -> EchoRequest {
    EchoRequest {
        payload: payload.into(),
    }
}

// Generic, because a generated client does not mind whether its channel is tonic's or ours.
pub(crate) async fn unary<S>(client: &mut EchoClient<S>) -> Result<Outcome, Error>
where
    S: GrpcService<Body>,
    S::Error: Into<StdError>,
    S::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <S::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    let began = Instant::now();
    let answer = client.echo(request("hello, peer")).await?.into_inner();
    ensure(answer.payload == "hello, peer", || {
        format!("the echo said {:?}", answer.payload)
    })?;
    Ok(Outcome {
        what: "\"hello, peer\" and back".to_owned(),
        took: began.elapsed(),
    })
}

pub(crate) async fn server_stream(client: &mut EchoClient<Channel>) -> Result<Outcome, Error> {
    let (count, size) = (1000, 1024);
    let wanted = StreamRequest {
        count,
        size,
        interval_ms: 0,
    };
    let began = Instant::now();
    let mut stream = client.server_stream(wanted).await?.into_inner();
    let mut messages = 0;
    while let Some(message) = stream.message().await? {
        ensure(message.payload.len() == size as usize, || {
            "a message has the wrong size".into()
        })?;
        messages += 1;
    }
    ensure(messages == count, || {
        format!("{messages} of {count} messages came")
    })?;
    Ok(Outcome {
        what: format!("{count} messages of {size} bytes received"),
        took: began.elapsed(),
    })
}

pub(crate) async fn client_stream(client: &mut EchoClient<Channel>) -> Result<Outcome, Error> {
    let (count, size) = (1000_u64, 1024_usize);
    let payload = Bytes::from(vec![7; size]);
    let outgoing = (0..count).map(move |_| request(payload.clone()));
    let began = Instant::now();
    let summary = client
        .client_stream(tokio_stream::iter(outgoing))
        .await?
        .into_inner();
    ensure(
        summary.count == count && summary.bytes == count * size as u64,
        || format!("the server received {} messages of {count}", summary.count),
    )?;
    Ok(Outcome {
        what: format!("{count} messages of {size} bytes sent"),
        took: began.elapsed(),
    })
}

/// Each message is sent only once the one before it has been answered.
pub(crate) async fn bidi_stream(client: &mut EchoClient<Channel>) -> Result<Outcome, Error> {
    let rounds: u32 = 100;
    let (outgoing, messages) = tokio::sync::mpsc::channel(1);
    let began = Instant::now();
    let answers = client.bidi_stream(ReceiverStream::new(messages)).await?;
    let mut answers = answers.into_inner();
    for round in 0..rounds {
        let ping = Bytes::from(round.to_string());
        outgoing.send(request(ping.clone())).await?;
        let pong = answers.message().await?.ok_or("the stream ended early")?;
        ensure(pong.payload == ping, || {
            format!("round {round} was answered {:?}", pong.payload)
        })?;
    }
    drop(outgoing);
    ensure(answers.message().await?.is_none(), || {
        "the stream did not end".into()
    })?;
    Ok(Outcome {
        what: format!("{rounds} rounds of ping and pong"),
        took: began.elapsed(),
    })
}

pub(crate) async fn who_am_i(client: &mut EchoClient<Channel>) -> Result<Seen, Error> {
    let mut request = Request::new(request("who am I?"));
    request.metadata_mut().insert(WHO_AM_I, "please".parse()?);
    let response = client.echo(request).await?;
    let read = |name: &str| -> Result<String, Error> {
        let value = response.metadata().get(name);
        let value = value.ok_or_else(|| format!("the server did not say {name:?}"))?;
        Ok(value.to_str()?.to_owned())
    };
    Ok(Seen {
        id: read(WHO_AM_I)?,
        path: read("path")?,
        rtt: read("rtt")?,
    })
}

/// How many messages the stream has that is open while the server shuts down.
const SLOW_MESSAGES: u32 = 10;

/// Opens a stream that takes a fifth of a second, and waits for its first message: from then on it is in flight.
pub(crate) async fn open_stream(
    client: &mut EchoClient<Channel>,
) -> Result<Streaming<EchoResponse>, Error> {
    let wanted = StreamRequest {
        count: SLOW_MESSAGES,
        size: 16,
        interval_ms: 20,
    };
    let mut stream = client.server_stream(wanted).await?.into_inner();
    stream
        .message()
        .await?
        .ok_or("the stream ended before it began")?;
    Ok(stream)
}

/// Reads such a stream to its end, and says how many messages it had.
pub(crate) async fn read_stream(mut stream: Streaming<EchoResponse>) -> Result<u32, Error> {
    let mut messages = 1;
    while let Some(message) = stream.next().await {
        message.map_err(|status| {
            format!("the open stream broke after {messages} messages: {status}")
        })?;
        messages += 1;
    }
    ensure(messages == SLOW_MESSAGES, || {
        format!("the open stream ended after {messages} of {SLOW_MESSAGES} messages")
    })?;
    Ok(messages)
}
