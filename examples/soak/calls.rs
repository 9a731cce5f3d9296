//! One call, of any kind, with anything that a call may ask for; and what it may end with.

use std::time::Duration;

use futures_util::FutureExt as _;
use rand::{RngExt as _, rngs::SmallRng};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};
use tower_iroh::{
    Urgency,
    layers::{Idempotent, buffer::WaitForReady},
};
use tower_iroh_proto::echo::{EchoRequest, StreamRequest, StreamSummary, echo_client::EchoClient};

use crate::{
    clients::{Arm, DIAL, Service},
    ledger::{End, Ledger, Plan},
    service::{ID, ORDER, Order, payload},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Unary,
    /// A request and an answer of 1 MiB.
    Large,
    ServerStream,
    ClientStream,
    Bidi,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Unary,
        Self::Large,
        Self::ServerStream,
        Self::ClientStream,
        Self::Bidi,
    ];

    fn is_unary(self) -> bool {
        matches!(self, Self::Unary | Self::Large)
    }
}

/// All that is decided about a call before it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) kind: Kind,
    order: Order,
    urgency: Urgency,
    deadline: Duration,
    idempotent: bool,
    wait_for_ready: bool,
    /// After so long the caller has enough.
    leave: Option<Duration>,
    /// The pause between messages, of whoever reads or writes them.
    pause: Duration,
    messages: u32,
    size: usize,
}

impl Wish {
    pub(crate) fn draw(rng: &mut SmallRng) -> Self {
        let kind = match rng.random_range(0..100) {
            0..55 => Kind::Unary,
            55..59 => Kind::Large,
            59..74 => Kind::ServerStream,
            74..86 => Kind::ClientStream,
            _ => Kind::Bidi,
        };
        let order = match rng.random_range(0..100) {
            0..80 => Order::Answer,
            80..86 => Order::Delay(Duration::from_millis(rng.random_range(1..500))),
            86..95 => Order::Fail(CODES[rng.random_range(0..CODES.len())]),
            95..98 => Order::Panic,
            _ => Order::Hang,
        };
        let size = match kind {
            Kind::Large => 1 << 20,
            Kind::Unary => rng.random_range(12..2000),
            _ => [12, 100, 1000, 16_000, 70_000][rng.random_range(0..5)],
        };
        let slow = rng.random_bool(0.15);
        Self {
            kind,
            order,
            urgency: Urgency::new(rng.random_range(0..8)).unwrap_or_default(),
            deadline: Duration::from_millis(match rng.random_range(0..10) {
                0 => rng.random_range(1..100),
                1..4 => rng.random_range(100..1000),
                _ => rng.random_range(1000..6000),
            }),
            idempotent: kind.is_unary() && rng.random_bool(0.25),
            wait_for_ready: kind.is_unary() && rng.random_bool(0.15),
            leave: rng
                .random_bool(0.12)
                .then(|| Duration::from_micros(rng.random_range(0..100_000))),
            pause: Duration::from_millis(if slow { rng.random_range(5..80) } else { 0 }),
            messages: rng.random_range(0..if slow { 20 } else { 60 }),
            size,
        }
    }

    /// A small call that has to succeed.
    pub(crate) fn easy() -> Self {
        Self {
            kind: Kind::Unary,
            order: Order::Answer,
            urgency: Urgency::INTERACTIVE,
            deadline: Duration::from_secs(3),
            idempotent: false,
            wait_for_ready: false,
            leave: None,
            pause: Duration::ZERO,
            messages: 0,
            size: 100,
        }
    }

    /// Makes the call, and writes it into the ledger. Its status, where it has one.
    pub(crate) async fn make(self, ledger: &Ledger, channel: Service, arm: Arm) -> Option<Code> {
        let mut grace = match arm {
            Arm::Channel | Arm::Stacked => Duration::ZERO,
            // tonic applies a timeout to a channel that is connected, and not to a stream's body.
            Arm::Tonic => 2 * DIAL,
        };
        if self.kind == Kind::ServerStream {
            // A slow reader takes the messages that one frame brought at its own pace; a deadline is noticed with the next frame.
            grace += self.pause * self.messages;
        }
        let id = ledger.begin(Plan {
            kind: self.kind,
            idempotent: self.idempotent,
            deadline: self.deadline,
            grace,
        });
        let began = Instant::now();
        let mut client = EchoClient::new(channel);
        let call = async {
            match self.kind {
                Kind::Unary | Kind::Large => self.unary(id, &mut client).await,
                Kind::ServerStream => self.server_stream(id, &mut client).await,
                Kind::ClientStream => self.client_stream(id, &mut client).await,
                Kind::Bidi => self.bidi(id, &mut client).await,
            }
        };
        // tonic bounds no stream, so on its bare channel the caller itself does.
        let own = match arm {
            Arm::Tonic if !self.kind.is_unary() => self.deadline,
            _ => Duration::MAX,
        };
        let bounded = timeout(own, call.boxed()).map(|ended| match ended {
            Ok(outcome) => outcome,
            Err(_) => Err(Broken::Status(Status::deadline_exceeded(
                "the caller's own",
            ))),
        });
        let outcome = match self.leave {
            Some(after) => timeout(after, bounded).await.ok(),
            None => Some(bounded.await),
        };
        let code = match outcome {
            None => {
                ledger.end(id, End::Dropped);
                return None;
            }
            Some(Ok(())) => Code::Ok,
            Some(Err(Broken::Status(status))) => {
                if !self.may_end_with(&status, began.elapsed()) {
                    ledger.fail(format!(
                        "call {id} ended with {status:?} after {:?}, over {arm:?}: {self:?}",
                        began.elapsed()
                    ));
                }
                status.code()
            }
            Some(Err(Broken::Promise(what))) => {
                ledger.fail(format!("call {id}, over {arm:?}: {what}: {self:?}"));
                Code::DataLoss
            }
        };
        if code == Code::Ok && matches!(self.order, Order::Hang | Order::Panic) && self.orders() {
            ledger.fail(format!(
                "call {id} was answered, though ordered to {:?}",
                self.order
            ));
        }
        ledger.end(id, End::Status(code));
        Some(code)
    }

    /// Whether the handler comes to where it follows its order.
    fn orders(self) -> bool {
        match self.kind {
            Kind::Unary | Kind::Large | Kind::ClientStream => true,
            // Half-way.
            Kind::ServerStream => self.messages > 0,
            // With the second message.
            Kind::Bidi => self.messages > 1,
        }
    }

    fn may_end_with(self, status: &Status, took: Duration) -> bool {
        match status.code() {
            Code::Unavailable => true,
            // The server's clock begins later than ours, and its word takes a while; but nobody may be told so much too early.
            Code::DeadlineExceeded => took + Duration::from_millis(20) >= self.deadline,
            // HTTP/2's guard against many resets, a full lane, a full buffer.
            Code::ResourceExhausted => true,
            code if self.order == Order::Fail(code) => true,
            // HTTP/2 resets the call; the code is what gRPC's table makes of that.
            Code::Cancelled | Code::Internal | Code::Unknown => self.order == Order::Panic,
            _ => false,
        }
    }

    fn request<T>(self, id: u64, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline);
        let metadata = request.metadata_mut();
        metadata.insert(ID, id.into());
        if let Ok(order) = self.order.encode().parse() {
            metadata.insert(ORDER, order);
        }
        let extensions = request.extensions_mut();
        extensions.insert(self.urgency);
        if self.idempotent {
            extensions.insert(Idempotent);
        }
        if self.wait_for_ready {
            extensions.insert(WaitForReady);
        }
        request
    }

    async fn unary(self, id: u64, client: &mut EchoClient<Service>) -> Result<(), Broken> {
        let payload = payload(id, 0, self.size);
        let request = EchoRequest {
            payload: payload.clone(),
        };
        let answer = client.echo(self.request(id, request)).await?.into_inner();
        promised(answer.payload == payload, || "another payload came back")
    }

    async fn server_stream(self, id: u64, client: &mut EchoClient<Service>) -> Result<(), Broken> {
        let wanted = StreamRequest {
            count: self.messages,
            size: self.size as u32,
            interval_ms: 0,
        };
        let answers = client.server_stream(self.request(id, wanted)).await?;
        let mut answers = answers.into_inner();
        let mut came = 0;
        while let Some(message) = answers.message().await? {
            promised(
                message.payload == payload(id, came, self.size),
                || "a message is not the next one",
            )?;
            came += 1;
            // A slow reader: what follows waits in the lane's windows.
            pause(self.pause).await;
        }
        promised(
            came == self.messages,
            || "a stream ended early, and as if all were well",
        )
    }

    async fn client_stream(self, id: u64, client: &mut EchoClient<Service>) -> Result<(), Broken> {
        let messages = futures_util::stream::unfold(0, move |number| async move {
            if number == self.messages {
                return None;
            }
            pause(self.pause).await;
            let payload = payload(id, number, self.size);
            Some((EchoRequest { payload }, number + 1))
        });
        let messages = Box::pin(messages);
        let summary = client.client_stream(self.request(id, messages)).await?;
        let count = u64::from(self.messages);
        let expected = StreamSummary {
            count,
            bytes: count * self.size as u64,
        };
        promised(
            summary.into_inner() == expected,
            || "the server did not hear all of it",
        )
    }

    async fn bidi(self, id: u64, client: &mut EchoClient<Service>) -> Result<(), Broken> {
        let (outgoing, messages) = mpsc::channel(1);
        let messages = ReceiverStream::new(messages);
        let answers = client.bidi_stream(self.request(id, messages)).await?;
        let mut answers = answers.into_inner();
        for number in 0..self.messages {
            let payload = payload(id, number, self.size);
            let request = EchoRequest {
                payload: payload.clone(),
            };
            // Where the call is over nobody takes it, and the answers say why.
            let _ = outgoing.send(request).await;
            match answers.message().await? {
                Some(answer) => promised(
                    answer.payload == payload,
                    || "an answer is not that to the last message",
                )?,
                None => {
                    return Err(Broken::Promise(
                        "a talk ended early, and as if all were well",
                    ));
                }
            }
            pause(self.pause).await;
        }
        drop(outgoing);
        let more = answers.message().await?;
        promised(more.is_none(), || "a talk goes on after its end")
    }
}

/// What the handlers fail with when ordered to.
const CODES: [Code; 8] = [
    Code::NotFound,
    Code::InvalidArgument,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::Internal,
    Code::Unavailable,
    Code::ResourceExhausted,
    Code::PermissionDenied,
];

/// Why a call was no success.
enum Broken {
    Status(Status),
    /// Something that can't be, whatever the network does.
    Promise(&'static str),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

fn promised(holds: bool, otherwise: impl FnOnce() -> &'static str) -> Result<(), Broken> {
    if holds {
        Ok(())
    } else {
        Err(Broken::Promise(otherwise()))
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}
