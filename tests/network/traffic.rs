//! Calls and streams that go on while something happens to the network, and what became of each.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status};
use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};

use crate::support::{Desk, Service, request};

/// What goes on.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Unary calls at a time.
    pub callers: usize,
    /// Between the end of a caller's call and the next.
    pub pause: Duration,
    /// Streams that echo numbers, one message in each pause.
    pub streams: usize,
    /// How long each unary call may take, where the channel does not say so.
    pub deadline: Option<Duration>,
}

impl Pace {
    /// Unary calls alone: a timeout would end the streams as well.
    pub fn calls() -> Self {
        Self {
            streams: 0,
            ..Self::default()
        }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            callers: 4,
            pause: Duration::from_millis(20),
            streams: 1,
            deadline: None,
        }
    }
}

/// A unary call that has ended.
#[derive(Debug)]
pub struct Call {
    pub id: String,
    pub began: Instant,
    pub ended: Instant,
    pub outcome: Result<(), Status>,
}

impl Call {
    pub fn took(&self) -> Duration {
        self.ended - self.began
    }
}

/// A stream that has ended. Its numbers came back in order and none twice, else there would be a panic instead.
#[derive(Debug)]
pub struct Talk {
    /// How many came back.
    pub heard: u64,
    /// How many were handed to the stream.
    pub said: u64,
    pub outcome: Result<(), Status>,
}

/// What became of everything.
#[derive(Debug, Default)]
pub struct Report {
    pub calls: Vec<Call>,
    pub talks: Vec<Talk>,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    answers: u64,
    /// When the call began that was answered last, of those that began last.
    latest: Option<Instant>,
    heard: u64,
}

/// Calls and streams that go on until [`stop`](Self::stop), or until this is dropped.
pub struct Traffic {
    stop: watch::Sender<bool>,
    seen: watch::Receiver<Seen>,
    calls: JoinSet<Vec<Call>>,
    talks: JoinSet<Talk>,
}

impl Traffic {
    /// Begins; `name` is what the ids of its calls begin with.
    pub async fn start(name: &str, service: &Service, pace: Pace) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (tell, seen) = watch::channel(Seen::default());
        let mut traffic = Self {
            stop,
            seen,
            calls: JoinSet::new(),
            talks: JoinSet::new(),
        };
        for number in 0..pace.callers {
            let name = format!("{name}-{number}");
            let call = calls(name, service.clone(), pace, stopped.clone(), tell.clone());
            traffic.calls.spawn(call);
        }
        for _ in 0..pace.streams {
            let talk = talk(service.clone(), pace, stopped.clone(), tell.clone());
            traffic.talks.spawn(talk);
        }
        traffic
    }

    /// Waits until so many more calls were answered, and so many messages of streams came back.
    pub async fn goes_on(&mut self, answers: u64, heard: u64) {
        let before = *self.seen.borrow();
        let enough = |seen: &Seen| {
            seen.answers >= before.answers + answers && seen.heard >= before.heard + heard
        };
        let waited = timeout(PATIENCE, self.seen.wait_for(enough)).await;
        let waited = waited.map(|seen| seen.is_ok());
        assert_eq!(waited, Ok(true), "the traffic goes on");
    }

    /// Waits until a call was answered that began after `since`.
    pub async fn answers_to_what_began_after(&mut self, since: Instant) {
        let later = |seen: &Seen| seen.latest.is_some_and(|latest| latest > since);
        let waited = timeout(PATIENCE, self.seen.wait_for(later)).await;
        let waited = waited.map(|seen| seen.is_ok());
        assert_eq!(waited, Ok(true), "calls are answered again");
    }

    /// Begins nothing further, waits for the end of what there is, and says what became of it all.
    pub async fn stop(mut self) -> Report {
        self.stop.send_replace(true);
        let ends = async {
            let mut report = Report::default();
            while let Some(calls) = self.calls.join_next().await {
                report.calls.extend(calls.expect("no panic"));
            }
            while let Some(talk) = self.talks.join_next().await {
                report.talks.push(talk.expect("no panic"));
            }
            report
        };
        let report = timeout(PATIENCE, ends).await;
        report.expect("every call and every stream ends")
    }
}

/// How long what has to happen may take before the test fails. A breaker that is open waits up to 30 s before it tries again.
const PATIENCE: Duration = Duration::from_secs(45);

async fn calls(
    name: String,
    service: Service,
    pace: Pace,
    stopped: watch::Receiver<bool>,
    tell: watch::Sender<Seen>,
) -> Vec<Call> {
    let mut client = EchoClient::new(service);
    let mut calls = Vec::new();
    while !*stopped.borrow() {
        let id = format!("{name}-{}", calls.len());
        let began = Instant::now();
        let mut request = request(id.clone());
        if let Some(deadline) = pace.deadline {
            request.set_timeout(deadline);
        }
        let outcome = client.echo(request).await.map(|answer| {
            assert_eq!(answer.get_ref().payload, id, "the answer to another call");
        });
        if outcome.is_ok() {
            tell.send_modify(|seen| {
                seen.answers += 1;
                seen.latest = seen.latest.max(Some(began));
            });
        }
        calls.push(Call {
            id,
            began,
            ended: Instant::now(),
            outcome,
        });
        sleep(pace.pause).await;
    }
    calls
}

async fn talk(
    service: Service,
    pace: Pace,
    stopped: watch::Receiver<bool>,
    tell: watch::Sender<Seen>,
) -> Talk {
    let (said, says) = watch::channel(0u64);
    let numbers = stream::unfold((said, stopped), move |(said, stopped)| async move {
        sleep(pace.pause).await;
        if *stopped.borrow() {
            return None;
        }
        let number = *said.borrow();
        said.send_replace(number + 1);
        let payload = Bytes::copy_from_slice(&number.to_be_bytes());
        Some((EchoRequest { payload }, (said, stopped)))
    });
    let mut talk = Talk {
        heard: 0,
        said: 0,
        outcome: Ok(()),
    };
    let listen = async {
        let mut client = EchoClient::new(service);
        let mut answers = client.bidi_stream(numbers).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            let number = talk.heard.to_be_bytes();
            assert_eq!(answer.payload, number[..], "in order, none twice");
            talk.heard += 1;
            tell.send_modify(|seen| seen.heard += 1);
        }
        Ok(())
    };
    let outcome = listen.await;
    Talk {
        said: *says.borrow(),
        outcome,
        ..talk
    }
}

impl Report {
    /// Checks what holds whatever has happened: the server saw no call twice and each that was answered, every failure has one of these
    /// codes, and a stream that ended well had an answer to each message.
    pub fn check(&self, desk: &Desk, codes: &[Code]) {
        let seen: HashMap<Bytes, usize> = desk.counts();
        for call in &self.calls {
            let times = seen.get(call.id.as_bytes()).copied().unwrap_or(0);
            match &call.outcome {
                Ok(()) => assert_eq!(times, 1, "{call:?}"),
                Err(status) => {
                    assert!(codes.contains(&status.code()), "{call:?}");
                    assert!(times <= 1, "sent {times} times: {call:?}");
                }
            }
        }
        for talk in &self.talks {
            match &talk.outcome {
                Ok(()) => assert_eq!(talk.heard, talk.said, "{talk:?}"),
                Err(status) => assert!(codes.contains(&status.code()), "{talk:?}"),
            }
        }
    }

    /// Checks that nothing failed.
    pub fn check_all_well(&self, desk: &Desk) {
        self.check(desk, &[]);
        assert!(!self.calls.is_empty(), "there were calls");
    }

    pub fn failures(&self) -> usize {
        self.calls
            .iter()
            .filter(|call| call.outcome.is_err())
            .count()
    }

    /// The first answer that came after `since`.
    pub fn first_answer(&self, since: Instant) -> Option<Duration> {
        first(self.answered().filter(|call| call.ended > since), since)
    }

    /// The first answer to a call that began after `since`.
    pub fn first_fresh_answer(&self, since: Instant) -> Option<Duration> {
        first(self.answered().filter(|call| call.began > since), since)
    }

    fn answered(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| call.outcome.is_ok())
    }

    /// How long the calls took that began and were answered within this time: the quantile, from 0 to 1.
    pub fn quantile(&self, from: Instant, to: Instant, share: f64) -> Duration {
        let within = self.answered();
        let within = within.filter(|call| call.began >= from && call.ended <= to);
        let mut took: Vec<_> = within.map(Call::took).collect();
        took.sort_unstable();
        let last = took.len().checked_sub(1).expect("there were calls");
        took[(last as f64 * share).ceil() as usize]
    }
}

fn first<'a>(calls: impl Iterator<Item = &'a Call>, since: Instant) -> Option<Duration> {
    calls.map(|call| call.ended - since).min()
}
