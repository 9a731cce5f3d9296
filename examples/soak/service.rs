//! The service: does what a call's metadata orders, and writes down that it began.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::sleep;
use tonic::{Code, Request, Response, Status, Streaming, codegen::Bytes};
use tower_iroh_proto::echo::{
    EchoRequest, EchoResponse, StreamRequest, StreamSummary, echo_server::Echo,
};

use crate::ledger::Ledger;

/// The call's number.
pub(crate) const ID: &str = "soak-id";
/// What the handler is to do.
pub(crate) const ORDER: &str = "soak-order";
/// The words of a panic that was ordered.
pub(crate) const PANIC: &str = "a handler's panic, as the soak ordered it";

/// What a handler is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Answer,
    /// Half of a stream's messages come before it.
    Fail(Code),
    Panic,
    Delay(Duration),
    /// Nothing, until the caller has gone.
    Hang,
}

impl Order {
    pub(crate) fn encode(self) -> String {
        match self {
            Self::Answer => "answer 0".to_owned(),
            Self::Fail(code) => format!("fail {}", code as i32),
            Self::Panic => "panic 0".to_owned(),
            Self::Delay(time) => format!("delay {}", time.as_millis()),
            Self::Hang => "hang 0".to_owned(),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let (word, number) = text.split_once(' ')?;
        let number = number.parse::<i32>().ok()?;
        Some(match word {
            "answer" => Self::Answer,
            "fail" => Self::Fail(Code::from_i32(number)),
            "panic" => Self::Panic,
            "delay" => Self::Delay(Duration::from_millis(number.try_into().ok()?)),
            "hang" => Self::Hang,
            _ => return None,
        })
    }

    /// What comes before a handler's first word.
    async fn follow(self) -> Result<(), Status> {
        match self {
            Self::Answer => {}
            Self::Fail(code) => return Err(Status::new(code, "as ordered")),
            Self::Panic => panic!("{PANIC}"),
            Self::Delay(time) => sleep(time).await,
            Self::Hang => std::future::pending().await,
        }
        Ok(())
    }
}

/// A payload that no other message has: the call's number, the message's number, and as many bytes more as are wanted.
pub(crate) fn payload(id: u64, number: u32, size: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(size.max(12));
    bytes.extend(id.to_be_bytes());
    bytes.extend(number.to_be_bytes());
    bytes.resize(size.max(12), (id as u8).wrapping_add(number as u8));
    bytes.into()
}

#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Ledger>);

impl Service {
    fn told<T>(&self, request: &Request<T>) -> Result<(u64, Order), Status> {
        let read = |name| request.metadata().get(name)?.to_str().ok();
        let id = read(ID).and_then(|id| id.parse().ok());
        id.zip(read(ORDER).and_then(Order::decode)).ok_or_else(|| {
            self.0.fail("a call came without its metadata".to_owned());
            Status::invalid_argument("no number and order")
        })
    }
}

type Outgoing = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Service {
    type ServerStreamStream = Outgoing;
    type BidiStreamStream = Outgoing;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let (id, order) = self.told(&request)?;
        let _running = self.0.execute(id);
        order.follow().await?;
        let EchoRequest { payload } = request.into_inner();
        Ok(Response::new(EchoResponse { payload }))
    }

    async fn server_stream(
        &self,
        request: Request<StreamRequest>,
    ) -> Result<Response<Outgoing>, Status> {
        let (id, order) = self.told(&request)?;
        let ledger = self.0.clone();
        let StreamRequest {
            count,
            size,
            interval_ms,
        } = request.into_inner();
        let pause = Duration::from_millis(interval_ms.into());
        // One stream that owns the guard, so that a handler lasts as long as its stream.
        let messages = streamed(ledger, id, move |number| async move {
            if let Order::Fail(code) = order
                && number >= count / 2
            {
                return Some(Err(Status::new(code, "as ordered")));
            }
            if number == count {
                return None;
            }
            if number == count / 2 {
                // A failure was dealt with above, so this is a delay, a panic or nothing.
                let _ = order.follow().await;
            }
            if number > 0 && !pause.is_zero() {
                sleep(pause).await;
            }
            let payload = payload(id, number, size as usize);
            Some(Ok(EchoResponse { payload }))
        });
        Ok(Response::new(messages))
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<StreamSummary>, Status> {
        let (id, order) = self.told(&request)?;
        let _running = self.0.execute(id);
        let mut incoming = request.into_inner();
        let mut summary = StreamSummary::default();
        order.follow().await?;
        while let Some(EchoRequest { payload: came }) = incoming.message().await? {
            self.check(id, summary.count as u32, &came);
            summary.count += 1;
            summary.bytes += came.len() as u64;
        }
        Ok(Response::new(summary))
    }

    async fn bidi_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Outgoing>, Status> {
        let (id, order) = self.told(&request)?;
        let service = self.clone();
        let incoming = Arc::new(tokio::sync::Mutex::new(request.into_inner()));
        let messages = streamed(self.0.clone(), id, move |number| {
            let (service, incoming) = (service.clone(), incoming.clone());
            async move {
                // Nobody else takes it: it is in an Arc because each message's future needs it in turn.
                let next = incoming.lock().await.message().await;
                match next {
                    Ok(Some(EchoRequest { payload })) => {
                        service.check(id, number, &payload);
                        if number == 1
                            && let Err(status) = order.follow().await
                        {
                            return Some(Err(status));
                        }
                        Some(Ok(EchoResponse { payload }))
                    }
                    Ok(None) => None,
                    Err(status) => Some(Err(status)),
                }
            }
        });
        Ok(Response::new(messages))
    }
}

impl Service {
    /// What came of a stream has to be its next message.
    fn check(&self, id: u64, number: u32, came: &Bytes) {
        if *came != payload(id, number, came.len()) {
            let start = came.get(..12.min(came.len())).unwrap_or_default();
            self.0.fail(format!(
                "call {id}: message {number} is not what was sent, it begins {start:?}"
            ));
        }
    }
}

/// Messages 0, 1, ... until `None` or an error; the handler counts as running until the stream is gone.
fn streamed<F, Next>(ledger: Arc<Ledger>, id: u64, next: F) -> Outgoing
where
    F: Fn(u32) -> Next + Send + 'static,
    Next: Future<Output = Option<Result<EchoResponse, Status>>> + Send,
{
    let running = ledger.execute(id);
    let state = Some((running, next, 0));
    stream::unfold(state, |state| async {
        let (running, next, number) = state?;
        let message = next(number).await?;
        let more = message.is_ok().then_some((running, next, number + 1));
        Some((message, more))
    })
    .boxed()
}
