//! The circuit's rules, without timers: the caller passes the time.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::Notified, watch},
    time::Instant,
};
use tonic::Code;

use super::{
    BreakerConfig,
    gate::{Gate, Held, Phase, Word},
    inner::Inner,
    listeners::Listeners,
    ring::Ring,
    state::{CircuitState, Codes, OpenReason, Rule, Statistics},
};
use crate::{
    classify::{Outcome, Verdict},
    clock,
};

/// Returns the smoothed round-trip time to the peer.
pub(super) type Rtt = Arc<dyn Fn() -> Option<Duration> + Send + Sync>;

pub(super) struct Core {
    config: BreakerConfig,
    gate: Gate<Inner>,
    ring: Ring,
    /// Failures in a row: of any kind in the low half, of the link in the high half.
    run: AtomicU64,
    observe_only: AtomicBool,
    told: Listeners,
    /// Wakes those who wait: the state is another one.
    changed: Notify,
    rtt: Option<Rtt>,
}

const LINK: u64 = 1 << 32;

/// Wakes the waiters when it is dropped.
struct Wakes<'a>(&'a Notify);

impl Drop for Wakes<'_> {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

impl Core {
    pub(super) fn new(
        config: BreakerConfig,
        transport: &'static str,
        rtt: Option<Rtt>,
        now: Instant,
    ) -> Self {
        Self {
            gate: Gate::new(Inner::new(&config)),
            ring: Ring::new(config.window, now),
            run: AtomicU64::new(0),
            observe_only: AtomicBool::new(config.observe_only),
            told: Listeners::new(transport),
            changed: Notify::new(),
            rtt,
            config,
        }
    }

    /// One load.
    #[inline]
    pub(super) fn word(&self) -> Word {
        self.gate.word()
    }

    #[inline]
    pub(super) fn config(&self) -> &BreakerConfig {
        &self.config
    }

    /// Changes what is behind the lock. What comes of it is told after the lock is released, since listeners and wakers are foreign code.
    fn with<R>(&self, change: impl FnOnce(&mut Held<'_, Inner>) -> R) -> R {
        self.settle(self.gate.lock(), change)
    }

    /// The same, if nothing has changed since `word`.
    fn with_if(&self, word: Word, change: impl FnOnce(&mut Held<'_, Inner>)) {
        if let Some(held) = self.gate.lock_if(word) {
            self.settle(held, change);
        }
    }

    fn settle<R>(
        &self,
        mut held: Held<'_, Inner>,
        change: impl FnOnce(&mut Held<'_, Inner>) -> R,
    ) -> R {
        let result = change(&mut held);
        let wakes = held.wakes;
        let to = state_of(&held);
        let from = mem::replace(&mut held.told, to.clone());
        held.changes += u64::from(from != to);
        let number = held.changes;
        drop(held);
        // Also if a listener panics, which is foreign code.
        let _woken = wakes.then(|| Wakes(&self.changed));
        if from != to {
            self.told.tell(&from, to, number);
        }
        result
    }

    /// Whether a call may go, and as what, if the word is not plainly closed; otherwise when time alone changes that. With `take` it goes at
    /// once, and takes the permit if it is a probe.
    #[cold]
    pub(super) fn enter(&self, now: Instant, take: bool) -> Result<Word, Option<Instant>> {
        self.with(|held| {
            self.pass_time(held, now);
            let word = held.word();
            match word.phase() {
                Phase::Closed | Phase::ForcedClosed => return Ok(word),
                Phase::Free if !take => return Ok(word),
                Phase::Free => {
                    if let Some(word) = held.take() {
                        held.until = Some(now + self.config.recovery);
                        held.answered = false;
                        return Ok(word);
                    }
                }
                Phase::Open | Phase::Taken | Phase::ForcedOpen => {}
            }
            if self.observe_only.load(Ordering::Relaxed) {
                held.held += u64::from(take);
                return Ok(Word::BYSTANDER);
            }
            Err(held.until)
        })
    }

    /// Resolves at the next change that concerns those who wait.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Counts a caller that waits, until the guard is dropped.
    pub(super) fn waiting(&self) -> Waiting<'_> {
        self.with(|held| {
            held.held += 1;
            held.waiting += 1;
        });
        Waiting(self)
    }

    fn pass_time(&self, held: &mut Held<'_, Inner>, now: Instant) {
        if held.until.is_none_or(|until| now < until) {
            return;
        }
        match held.word().phase() {
            Phase::Open => self.half_open(held),
            // A stream that has gone well for a while. Its end may be days away.
            Phase::Taken if held.answered => self.close(held, now),
            // The probe hangs: let another one try. Its own end decides nothing any more.
            Phase::Taken => self.half_open(held),
            _ => held.until = None,
        }
    }

    /// An attempt that entered with `word` has ended. `counts_application`: an error of the peer's application is a failure.
    #[inline]
    pub(super) fn ended(&self, word: Word, outcome: &Outcome, counts_application: bool) {
        if outcome.code() != Code::Ok || word.phase() != Phase::Closed {
            self.ended_otherwise(word, outcome, counts_application);
        } else if self.gate.word() == word {
            self.succeeded(clock::now());
        }
    }

    #[inline]
    fn succeeded(&self, now: Instant) {
        self.ring.record(now, false);
        if self.run.load(Ordering::Relaxed) != 0 {
            self.run.store(0, Ordering::Relaxed);
        }
    }

    fn ended_otherwise(&self, word: Word, outcome: &Outcome, counts_application: bool) {
        let phase = word.phase();
        if !word.has_a_say() || self.gate.word() != word {
            return;
        }
        let rtt = match (outcome.code(), &self.rtt) {
            (Code::DeadlineExceeded, Some(rtt)) => rtt(),
            _ => None,
        };
        let verdict = match outcome.verdict(rtt) {
            Verdict::Application if counts_application => Verdict::Failure,
            // The peer is there, and serves other calls.
            Verdict::Application => Verdict::Success,
            verdict => verdict,
        };
        let is_closed = phase == Phase::Closed;
        if is_closed && verdict == Verdict::Neutral {
            return;
        }
        let now = clock::now();
        match verdict {
            _ if !is_closed => self.with_if(word, |held| self.probed(held, now, verdict, outcome)),
            Verdict::Success => self.succeeded(now),
            Verdict::Overload => self.with_if(word, |held| self.overloaded(held, now, outcome)),
            _ => self.with_if(word, |held| self.failed(held, now, verdict, outcome)),
        }
    }

    /// The peer answered that it has no capacity for this call. Other calls have their own limits, so this opens nothing.
    #[cold]
    fn overloaded(&self, held: &mut Held<'_, Inner>, now: Instant, outcome: &Outcome) {
        held.heed(now, outcome, &self.config);
        let answered = |run| Some(run % LINK);
        let _ = self
            .run
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, answered);
    }

    #[cold]
    fn failed(
        &self,
        held: &mut Held<'_, Inner>,
        now: Instant,
        verdict: Verdict,
        outcome: &Outcome,
    ) {
        if let Verdict::Link(incident) = verdict
            && !held.is_new(incident)
        {
            return;
        }
        let code = outcome.code();
        held.codes.add(code);
        held.heed(now, outcome, &self.config);
        self.ring.record(now, true);
        let next = |run: u64| match verdict {
            Verdict::Link(_) => run + LINK + 1,
            // It answered, so the link to it works.
            _ if outcome.is_answer() => run % LINK + 1,
            _ => run + 1,
        };
        let counted = |run| Some(next(run));
        let (Ok(run) | Err(run)) =
            self.run
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted);
        let run = next(run);
        if let Some(rule) = self.rule(run, now) {
            let link = matches!(rule, Rule::Link(_));
            let wait = held.backoff.next(now, rand::random());
            self.open(held, now + wait, rule, outcome, link);
        }
    }

    fn rule(&self, run: u64, now: Instant) -> Option<Rule> {
        let (all, link) = ((run % LINK) as u32, (run / LINK) as u32);
        if link >= self.config.link {
            return Some(Rule::Link(link));
        }
        if self.config.run.is_some_and(|threshold| all >= threshold) {
            return Some(Rule::Run(all));
        }
        let counts = self.ring.counts(now);
        let most = f64::from(counts.total) * self.config.rate;
        (counts.total >= self.config.min_calls && f64::from(counts.bad) >= most).then_some(
            Rule::Rate {
                bad: counts.bad,
                total: counts.total,
                window: self.config.window,
            },
        )
    }

    #[cold]
    fn probed(
        &self,
        held: &mut Held<'_, Inner>,
        now: Instant,
        verdict: Verdict,
        outcome: &Outcome,
    ) {
        held.heed(now, outcome, &self.config);
        match verdict {
            Verdict::Success | Verdict::Application => self.close(held, now),
            Verdict::Neutral if outcome.shows_life() => self.close(held, now),
            Verdict::Neutral => self.half_open(held),
            // The peer is there. It is left alone only for as long as it asks.
            Verdict::Overload if held.not_before.is_none_or(|at| at <= now) => {
                self.close(held, now);
            }
            Verdict::Overload => self.open(held, now, Rule::Probe, outcome, false),
            Verdict::Failure | Verdict::Link(_) => {
                let mut link = false;
                if let Verdict::Link(incident) = verdict {
                    link = true;
                    held.is_new(incident);
                }
                held.codes.add(outcome.code());
                let wait = held.backoff.next(now, rand::random());
                self.open(held, now + wait, Rule::Probe, outcome, link);
            }
        }
    }

    /// The probe that entered with `word` is gone, and nothing is known of it.
    #[cold]
    pub(super) fn given_up(&self, word: Word) {
        self.with_if(word, |held| self.half_open(held));
    }

    /// The probe that entered with `word` has a head that is no failure.
    #[cold]
    pub(super) fn answered(&self, word: Word, now: Instant) {
        self.with_if(word, |held| {
            held.answered = true;
            held.until = Some(now + self.config.first_wait);
            held.wakes = true;
        });
    }

    /// A circuit that is open because of its link lets a probe through.
    pub(super) fn sign_of_life(&self) {
        self.half_open_if(|reason| reason.link);
    }

    /// The same, also where it was open because nothing answered.
    pub(super) fn heard_again(&self) {
        self.half_open_if(|reason| reason.link || reason.unanswered);
    }

    fn half_open_if(&self, disproved: impl FnOnce(&OpenReason) -> bool) {
        if self.gate.word().phase() != Phase::Open {
            return;
        }
        self.with(|held| {
            let disproved = held.reason.as_ref().is_some_and(disproved);
            if held.word().phase() == Phase::Open && disproved {
                self.half_open(held);
            }
        });
    }

    pub(super) fn force(&self, open: bool) {
        self.with(|held| {
            held.until = None;
            held.shift(match open {
                true => Phase::ForcedOpen,
                false => Phase::ForcedClosed,
            });
        });
    }

    pub(super) fn release(&self, now: Instant) {
        let word = self.word();
        if matches!(word.phase(), Phase::ForcedOpen | Phase::ForcedClosed) {
            self.with_if(word, |held| self.close(held, now));
        }
    }

    pub(super) fn reset(&self, now: Instant) {
        self.with(|held| {
            held.backoff.reset();
            self.close(held, now);
        });
    }

    pub(super) fn observe_only(&self, observe_only: bool) {
        self.observe_only.store(observe_only, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// Opens it until `due`, or for as long as the peer asked for.
    fn open(
        &self,
        held: &mut Held<'_, Inner>,
        due: Instant,
        rule: Rule,
        outcome: &Outcome,
        link: bool,
    ) {
        let until = due.max(held.not_before.unwrap_or(due));
        let codes = held.codes.clone();
        let code = outcome.code();
        let reason = OpenReason {
            rule,
            code,
            link,
            unanswered: code == Code::DeadlineExceeded && !outcome.is_answer(),
            codes,
        };
        held.until = Some(until);
        held.reason = Some(reason);
        held.opened += 1;
        held.shift(Phase::Open);
    }

    fn half_open(&self, held: &mut Held<'_, Inner>) {
        held.until = None;
        held.shift(Phase::Free);
    }

    fn close(&self, held: &mut Held<'_, Inner>, now: Instant) {
        self.ring.clear();
        self.run.store(0, Ordering::Relaxed);
        held.until = None;
        held.reason = None;
        held.not_before = None;
        held.codes = Codes::default();
        held.backoff.closed(now);
        // Last: who reads this word sees what is above.
        held.shift(Phase::Closed);
    }

    /// What it lets through now.
    pub(super) fn state(&self, now: Instant) -> CircuitState {
        if self.word().phase() == Phase::Closed {
            return CircuitState::Closed;
        }
        self.with(|held| {
            self.pass_time(held, now);
            state_of(held)
        })
    }

    pub(super) fn changes(&self) -> &watch::Sender<CircuitState> {
        self.told.changes()
    }

    /// Whether a new circuit would be the same, so that this one may be forgotten.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        match self.word().phase() {
            Phase::Closed | Phase::Free => true,
            Phase::Open => self.gate.lock().until.is_none_or(|until| until < now),
            Phase::Taken | Phase::ForcedOpen | Phase::ForcedClosed => false,
        }
    }

    pub(super) fn is_forced(&self) -> bool {
        matches!(self.word().phase(), Phase::ForcedOpen | Phase::ForcedClosed)
    }

    pub(super) fn statistics(&self, now: Instant) -> Statistics {
        self.with(|held| {
            self.pass_time(held, now);
            let counts = self.ring.counts(now);
            Statistics {
                state: state_of(held),
                observe_only: self.observe_only.load(Ordering::Relaxed),
                opened: held.opened,
                waiting: held.waiting,
                held: held.held,
                calls: counts.total,
                failed: counts.bad,
                codes: held.codes.iter().collect(),
            }
        })
    }
}

/// What the gate lets through, as its users see it.
fn state_of(held: &Held<'_, Inner>) -> CircuitState {
    match (held.word().phase(), &held.reason, held.until) {
        (Phase::ForcedOpen, ..) => CircuitState::ForcedOpen,
        (Phase::ForcedClosed, ..) => CircuitState::ForcedClosed,
        (Phase::Open, Some(reason), Some(until)) => CircuitState::Open {
            until,
            reason: reason.clone(),
        },
        (Phase::Free | Phase::Taken, Some(reason), _) => CircuitState::HalfOpen {
            reason: reason.clone(),
        },
        // What is not closed has a reason, and what is open an end.
        _ => CircuitState::Closed,
    }
}

/// A caller that waits.
pub(super) struct Waiting<'a>(&'a Core);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.with(|held| held.waiting -= 1);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.told.gone(&state_of(&self.gate.lock()));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Future as _, ready},
        pin::pin,
        sync::mpsc,
        task::{Context, Waker},
        thread,
        time::Duration,
    };

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Empty;
    use tower::{Service as _, service_fn};

    use crate::{
        BoxError,
        breaker::{Breaker, BreakerConfig, Circuit},
        clock::LOOKS,
    };

    #[test]
    fn forced_closed_a_call_needs_neither_the_lock_nor_the_clock() {
        let circuit = Circuit::new(BreakerConfig::default());
        let timed = || Request::builder().header("grpc-timeout", "1S").body(());
        circuit.force_closed();
        let held = circuit.core().gate.lock();
        let (done, is_done) = mpsc::channel();
        let caller = thread::spawn({
            let circuit = circuit.clone();
            move || {
                let peer = service_fn(|_: Request<()>| {
                    ready(Ok::<_, BoxError>(Response::new(Empty::<Bytes>::new())))
                });
                let call = |circuit| {
                    let mut breaker = Breaker::new(peer, circuit);
                    let mut cx = Context::from_waker(Waker::noop());
                    assert!(breaker.poll_ready(&mut cx).is_ready());
                    let mut call = pin!(breaker.call(timed().expect("a request")));
                    assert!(call.as_mut().poll(&mut cx).is_ready());
                    LOOKS.replace(0)
                };
                let closed = call(Circuit::new(BreakerConfig::default()));
                assert!(closed > 0, "else they are not counted");
                let _ = done.send(call(circuit));
            }
        });
        let passed = is_done.recv_timeout(Duration::from_secs(10));
        drop(held);
        caller.join().expect("no panic");
        assert_eq!(
            passed.expect("it waited for the lock"),
            0,
            "looks at the clock"
        );
    }
}
