//! What the layers do while the server is away: the breaker opens, callers are told at once, and notes wait to be delivered.

use tokio::{
    task::JoinHandle,
    time::{Duration, Instant, sleep, timeout},
};
use tonic::{Code, Request, Status, codegen::Bytes};
use tower_iroh::{
    Channel, Urgency,
    layers::{
        breaker::{BreakerConfig, CircuitState},
        buffer::WaitForReady,
        fail_fast::FailFastConfig,
    },
};
use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};

use crate::{
    Error,
    calls::ensure,
    screen::{Screen, shown},
};

/// Metadata of a call that the server writes down.
pub(crate) const NOTE: &str = "note";

const SOON: Duration = Duration::from_secs(10);

/// A restart on loopback is short, so the times are shorter than the defaults: the breaker tries again after 50 to 300 ms, and who is not
/// served within 100 ms is told so.
pub(crate) fn settings() -> Result<(BreakerConfig, FailFastConfig), Error> {
    let breaker = BreakerConfig::builder()
        .first_wait(Duration::from_millis(50))
        .recovery(Duration::from_millis(300));
    let fail_fast = FailFastConfig::builder().wait(Duration::from_millis(100));
    Ok((breaker.build()?, fail_fast.build()?))
}

/// Waits for the breaker to open, and asks like one who has no patience.
pub(crate) async fn watch_it_open(channel: &Channel, screen: &Screen) -> Result<(), Error> {
    let mut state = channel.stack().circuit().watch();
    let opened = timeout(SOON, state.wait_for(|state| !state.is_closed()));
    let opened = opened
        .await
        .map_err(|_| "the breaker did not open within 10 s")??;
    if let CircuitState::Open { reason, .. } | CircuitState::HalfOpen { reason } = &*opened {
        screen.fact("breaker open", reason);
    }
    drop(opened);

    let mut client = EchoClient::new(channel.clone());
    let refused = async {
        loop {
            let began = Instant::now();
            match client.echo(EchoRequest::default()).await {
                Err(status) if status.message().contains("circuit breaker") => {
                    return (status, began.elapsed());
                }
                // Before the first has waited for as long as one should, there is a call that dials.
                _ => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let (status, took) = timeout(SOON, refused)
        .await
        .map_err(|_| "nobody was told within 10 s that the breaker is open")?;
    ensure(status.code() == Code::Unavailable, || {
        format!("the breaker's code is {:?}", status.code())
    })?;
    screen.fact("callers are told", format_args!("after {}", shown(took)));
    screen.fact("", status.message());
    Ok(())
}

/// Calls that wait for the server, whenever it comes.
pub(crate) struct Notes {
    calls: Vec<JoinHandle<Result<(), Status>>>,
}

impl Notes {
    /// Hands three notes in that are not urgent, and three that are.
    pub(crate) async fn hand_in(channel: &Channel, screen: &Screen) -> Result<Self, Error> {
        let buffer = channel.stack().buffer();
        let mut calls = Vec::new();
        for (name, urgency) in [("bulk", Urgency::BULK), ("control", Urgency::CONTROL)] {
            for n in 1..=3 {
                let payload = Bytes::from(format!("{name} {n}"));
                let mut request = Request::new(EchoRequest { payload });
                request.metadata_mut().insert(NOTE, "please".parse()?);
                request.extensions_mut().insert(urgency);
                request.extensions_mut().insert(WaitForReady);
                let mut client = EchoClient::new(channel.clone());
                calls.push(tokio::spawn(async move {
                    client.echo(request).await.map(|_| ())
                }));
                // One after the other, so that the order in which they come is known.
                let taken = async {
                    while buffer.stats().accepted < calls.len() as u64 {
                        sleep(Duration::from_millis(1)).await;
                    }
                };
                timeout(SOON, taken)
                    .await
                    .map_err(|_| "the buffer did not take a note within 10 s")?;
            }
        }
        let stats = buffer.stats();
        screen.fact(
            "buffer",
            format_args!(
                "{} notes of {} bytes wait for the server, first three bulk, then three control",
                stats.accepted, stats.bytes
            ),
        );
        Ok(Self { calls })
    }

    /// Each has been delivered once. `seen` is what the server wrote down. The buffer sends the urgent ones first, which its own tests show; each urgency has a
    /// stream of its own to the server, so they may arrive in another order.
    pub(crate) async fn check(
        self,
        channel: &Channel,
        seen: impl Fn() -> Vec<String>,
        screen: &Screen,
    ) -> Result<(), Error> {
        let count = self.calls.len();
        for call in self.calls {
            timeout(SOON, call)
                .await
                .map_err(|_| "a note was not delivered within 10 s of the restart")???;
        }
        let seen = seen();
        let mut names = seen.clone();
        names.sort();
        names.dedup();
        ensure(seen.len() == count && names.len() == count, || {
            format!("{count} notes were handed in, and the server saw {seen:?}")
        })?;
        screen.fact("the server saw, each once", seen.join(", "));
        let circuit = channel.stack().circuit();
        let mut state = circuit.watch();
        timeout(SOON, state.wait_for(CircuitState::is_closed))
            .await
            .map_err(|_| "the breaker did not close within 10 s of the restart")??;
        screen.fact(
            "breaker closed again",
            format_args!(
                "it opened {} times and held back {}",
                circuit.statistics().opened,
                circuit.statistics().held
            ),
        );
        Ok(())
    }
}
