//! The one implementation of [`Echo`].

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep};
use tonic::{Request, Response, Status, Streaming, codegen::tokio_stream::Stream};

use crate::echo::{EchoRequest, EchoResponse, StreamRequest, StreamSummary, echo_server::Echo};

/// The largest message that [`EchoService`] makes in a `ServerStream`: 64 MiB.
///
/// The size is the caller's wish, and a server should not allocate four gigabytes because someone wishes it.
pub const MAX_MESSAGE: u32 = 64 << 20;

/// Answers with what it gets.
///
/// It is benchmarked, so it does as little as it can: a payload is handed on without a copy, a stream is a
/// struct that is polled, and no task is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct EchoService;

#[tonic::async_trait]
impl Echo for EchoService {
    type ServerStreamStream = Repeat;
    type BidiStreamStream = EchoBack;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let EchoRequest { payload } = request.into_inner();
        Ok(Response::new(EchoResponse { payload }))
    }

    async fn server_stream(
        &self,
        request: Request<StreamRequest>,
    ) -> Result<Response<Repeat>, Status> {
        let request = request.into_inner();
        if request.size > MAX_MESSAGE {
            return Err(Status::invalid_argument(format!(
                "size {} is above the {MAX_MESSAGE} bytes that this server sends in a message",
                request.size
            )));
        }
        Ok(Response::new(Repeat::new(request)))
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<StreamSummary>, Status> {
        let mut incoming = request.into_inner();
        let mut summary = StreamSummary::default();
        while let Some(EchoRequest { payload }) = incoming.message().await? {
            summary.count += 1;
            summary.bytes += payload.len() as u64;
        }
        Ok(Response::new(summary))
    }

    async fn bidi_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoBack>, Status> {
        Ok(Response::new(EchoBack(request.into_inner())))
    }
}

/// The messages of a `ServerStream`: one payload of zeros, shared by them all.
#[derive(Debug)]
pub struct Repeat {
    left: u32,
    payload: Bytes,
    interval: Duration,
    /// The pause before the next message; `None` where no pause was asked for, and before the first message.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Repeat {
    fn new(request: StreamRequest) -> Self {
        Self {
            left: request.count,
            payload: Bytes::from(vec![0; request.size as usize]),
            interval: Duration::from_millis(request.interval_ms.into()),
            pause: None,
        }
    }
}

impl Stream for Repeat {
    type Item = Result<EchoResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.left == 0 {
            return Poll::Ready(None);
        }
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
        }
        this.left -= 1;
        if !this.interval.is_zero() && this.left > 0 {
            match &mut this.pause {
                Some(pause) => pause.as_mut().reset(Instant::now() + this.interval),
                None => this.pause = Some(Box::pin(sleep(this.interval))),
            }
        }
        let payload = this.payload.clone();
        Poll::Ready(Some(Ok(EchoResponse { payload })))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

/// The messages of a `BidiStream`: each that came, as it came.
#[derive(Debug)]
pub struct EchoBack(Streaming<EchoRequest>);

impl Stream for EchoBack {
    type Item = Result<EchoResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(cx).map_ok(|request| {
            let EchoRequest { payload } = request;
            EchoResponse { payload }
        })
    }
}
