//! The caller of every arm that speaks gRPC: the generated client over that arm's channel.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    body::Body,
    client::GrpcService,
    codegen::{Body as HttpBody, StdError},
};
use tower_iroh_proto::echo::{EchoRequest, StreamRequest, echo_client::EchoClient};

use super::{
    Fault,
    transport::{Caller, Link, OnMessage},
};

type Closing = Box<dyn FnOnce() + Send + Sync>;

/// A channel, and what closes it.
pub struct GrpcLink<S> {
    channel: S,
    closing: Option<Closing>,
}

impl<S> GrpcLink<S> {
    /// A channel that is closed by dropping it.
    pub fn new(channel: S) -> Self {
        Self {
            channel,
            closing: None,
        }
    }

    /// A channel that is closed by `closing`.
    #[allow(
        dead_code,
        reason = "not every crate that includes this folder needs it"
    )]
    pub fn closed_by(channel: S, closing: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self {
            channel,
            closing: Some(Box::new(closing)),
        }
    }
}

/// What the generated client asks of a channel, in one name.
pub trait Channel:
    GrpcService<
        Body,
        ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
        Error: Into<StdError>,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
}

impl<S> Channel for S where
    S: GrpcService<
            Body,
            ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
            Error: Into<StdError>,
            Future: Send,
        > + Clone
        + Send
        + 'static
{
}

/// The generated client.
pub struct GrpcCaller<S>(EchoClient<S>);

impl<S: Channel + Sync> Link for GrpcLink<S> {
    type Caller = GrpcCaller<S>;

    async fn caller(&self) -> Result<Self::Caller, Fault> {
        Ok(GrpcCaller(EchoClient::new(self.channel.clone())))
    }

    async fn close(self) {
        drop(self.channel);
        if let Some(closing) = self.closing {
            closing();
        }
    }
}

impl<S: Channel> Caller for GrpcCaller<S> {
    async fn unary(&mut self, payload: Bytes) -> Result<Bytes, Fault> {
        let answer = self.0.echo(EchoRequest { payload }).await?;
        Ok(answer.into_inner().payload)
    }

    async fn server_stream(
        &mut self,
        count: u32,
        size: u32,
        on_message: &mut OnMessage<'_>,
    ) -> Result<(), Fault> {
        let request = StreamRequest {
            count,
            size,
            interval_ms: 0,
        };
        let mut messages = self.0.server_stream(request).await?.into_inner();
        while let Some(message) = messages.message().await? {
            on_message(&message.payload)?;
        }
        Ok(())
    }

    async fn ping_pong(
        &mut self,
        payload: Bytes,
        on_message: &mut OnMessage<'_>,
    ) -> Result<(), Fault> {
        let (send, outgoing) = mpsc::channel(1);
        send.send(EchoRequest {
            payload: payload.clone(),
        })
        .await?;
        let mut replies = self
            .0
            .bidi_stream(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        while let Some(reply) = replies.message().await? {
            if !on_message(&reply.payload)? {
                drop(send);
                // The server ends its side when ours has ended; a reply now would be one too many.
                return match replies.message().await? {
                    None => Ok(()),
                    Some(_) => Err("a reply to nothing".into()),
                };
            }
            send.send(EchoRequest {
                payload: payload.clone(),
            })
            .await?;
        }
        Err("the server ended a ping-pong that was still going on".into())
    }
}
