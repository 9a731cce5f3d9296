//! One call, of any of the four kinds.

use std::{
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _, stream, stream::BoxStream};
use prost_reflect::{DynamicMessage, MethodDescriptor};
use tokio::sync::{Mutex, mpsc};
use tonic::{Request, Status, metadata::MetadataMap};

use super::{
    any::Anys, codec::DynamicCodec, input::Input, metadata::printed, method, output::Output,
    schema::Schema, session::Session, status,
};
use crate::failure::Failure;

/// What a call is made of.
pub(crate) struct Call<'a> {
    pub(crate) session: &'a Session,
    pub(crate) method: &'a MethodDescriptor,
    pub(crate) headers: MetadataMap,
}

/// What is known of a call that has ended.
#[derive(Debug, Default)]
pub(crate) struct CallStats {
    pub(crate) sent: u64,
    /// From the start of the call to the head of its response.
    pub(crate) first_byte: Option<Duration>,
    /// From the start of the call to its status.
    pub(crate) last_byte: Duration,
    pub(crate) attempts: u32,
}

impl Call<'_> {
    /// Makes the call, and prints what comes. The call's own failure is in the second place.
    pub(crate) async fn run(
        self,
        mut input: Input,
        output: &mut Output,
        schema: &mut Schema,
    ) -> Result<(CallStats, Result<(), Failure>), Failure> {
        let schema = Mutex::new(schema);
        let (requests, pump) = self.requests(&mut input, &schema).await?;
        let sent = AtomicU64::new(u64::from(pump.is_none()));
        let mut first_byte = None;
        let before = self.session.connection.attempts();
        let begun = Instant::now();
        let ended = {
            let pump = async {
                match pump {
                    Some(sender) => self.forward(&mut input, &schema, sender, &sent).await,
                    None => Ok(()),
                }
            };
            let receive = self.receive(requests, output, &schema, &mut first_byte, begun);
            let (mut pump, mut receive) = (pin!(pump), pin!(receive));
            let mut pumping = true;
            loop {
                tokio::select! {
                    // What has come is printed before a mistake in the next request ends the call.
                    biased;
                    ended = &mut receive => break ended?,
                    pumped = &mut pump, if pumping => {
                        pumped?;
                        pumping = false;
                    }
                }
            }
        };
        let stats = CallStats {
            sent: sent.load(Ordering::Relaxed),
            first_byte,
            last_byte: begun.elapsed(),
            attempts: self.session.connection.attempts() - before,
        };
        let failed = match ended {
            Ok(()) => Ok(()),
            Err(status) => Err(status::failure(status, schema.into_inner()).await),
        };
        Ok((stats, failed))
    }

    /// The requests, and for a stream of them where the next ones are to be put.
    async fn requests(
        &self,
        input: &mut Input,
        schema: &Mutex<&mut Schema>,
    ) -> Result<
        (
            BoxStream<'static, DynamicMessage>,
            Option<mpsc::Sender<DynamicMessage>>,
        ),
        Failure,
    > {
        if self.method.is_client_streaming() {
            let (sender, receiver) = mpsc::channel(1);
            return Ok((from_channel(receiver).boxed(), Some(sender)));
        }
        let descriptor = self.method.input();
        let first = input.next(&descriptor, schema).await?;
        if first.is_some() && input.next(&descriptor, schema).await?.is_some() {
            return Err(Failure::failed(format!(
                "{} takes one request, and there are more",
                self.method.full_name()
            )));
        }
        let first = first.unwrap_or_else(|| DynamicMessage::new(descriptor));
        Ok((stream::iter([first]).boxed(), None))
    }

    /// The response. `Err` is a failure of this side, the inner one the call's status.
    async fn receive(
        &self,
        requests: BoxStream<'static, DynamicMessage>,
        output: &mut Output,
        schema: &Mutex<&mut Schema>,
        first_byte: &mut Option<Duration>,
        begun: Instant,
    ) -> Result<Result<(), Status>, Failure> {
        let mut request = Request::new(requests);
        *request.metadata_mut() = self.headers.clone();
        if let Some(left) = self.session.deadline.left() {
            request.set_timeout(left);
        }
        let path = method::path(self.method)?;
        let mut client = self.session.grpc();
        if let Err(status) = client.ready().await {
            return Ok(Err(status));
        }
        let codec = DynamicCodec(self.method.output());
        let response = match client.streaming(request, path, codec).await {
            Ok(response) => response,
            Err(status) => {
                trailers(output, status.metadata())?;
                return Ok(Err(status));
            }
        };
        *first_byte = Some(begun.elapsed());
        let head = printed(response.metadata());
        output.note(&format!("\nResponse headers received:\n{head}"))?;
        let mut body = response.into_inner();
        // The only response counts once the status is known to be OK.
        let mut only = None;
        loop {
            match body.message().await {
                Ok(Some(message)) => {
                    if only.is_some() {
                        let message = "the server sent more than one response";
                        return Ok(Err(Status::internal(message)));
                    }
                    let mut schema = schema.lock().await;
                    let anys = Anys::of(&message, &schema.pools());
                    schema.learn_all(anys.unknown).await;
                    match self.method.is_server_streaming() {
                        true => output.response(&message, schema.pools())?,
                        false => only = Some(message),
                    }
                }
                Ok(None) => break,
                Err(status) => {
                    trailers(output, status.metadata())?;
                    return Ok(Err(status));
                }
            }
        }
        let found = match body.trailers().await {
            Ok(found) => found.unwrap_or_default(),
            Err(status) => return Ok(Err(status)),
        };
        match only {
            Some(message) => output.response(&message, schema.lock().await.pools())?,
            None if self.method.is_server_streaming() => {}
            None => return Ok(Err(Status::internal("the server sent no response"))),
        }
        trailers(output, &found)?;
        Ok(Ok(()))
    }

    /// Sends each request as soon as it is complete.
    async fn forward(
        &self,
        input: &mut Input,
        schema: &Mutex<&mut Schema>,
        sender: mpsc::Sender<DynamicMessage>,
        sent: &AtomicU64,
    ) -> Result<(), Failure> {
        let descriptor = self.method.input();
        while let Some(message) = input.next(&descriptor, schema).await? {
            // A call that has ended takes no more; its status says why.
            if sender.send(message).await.is_err() {
                break;
            }
            sent.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn trailers(output: &Output, metadata: &MetadataMap) -> Result<(), Failure> {
    let mut metadata = metadata.clone();
    // The status is told by itself.
    for name in ["grpc-status", "grpc-message"] {
        metadata.remove(name);
    }
    metadata.remove_bin("grpc-status-details-bin");
    let shown = printed(&metadata);
    output.note(&format!("\nResponse trailers received:\n{shown}"))
}

fn from_channel(
    receiver: mpsc::Receiver<DynamicMessage>,
) -> impl Stream<Item = DynamicMessage> + Send + 'static {
    stream::unfold(receiver, |mut receiver| async {
        let message = receiver.recv().await?;
        Some((message, receiver))
    })
}
