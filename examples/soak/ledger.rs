//! What became of every call: how often a server began it, and how it ended for its caller.
//!
//! Both sides are in one process and write here. A call is kept until ten seconds after its end, so that one which is executed late is
//! found out, and the ledger does not grow with the length of the run.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tonic::Code;

use crate::calls::Kind;

/// How long after its deadline a call may end: two cores are shared with everything else on the machine.
pub(crate) const LATE: Duration = Duration::from_secs(2);
/// How long an ended call is remembered.
const KEPT: Duration = Duration::from_secs(10);
/// So many failures are told; the first is enough to fail.
const TOLD: usize = 10;

/// How a call ended for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// With a status; OK is an answer whose payload was right.
    Status(Code),
    /// The caller dropped it.
    Dropped,
}

/// What is known of a call from the beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    /// May be executed twice.
    pub(crate) idempotent: bool,
    pub(crate) deadline: Duration,
    /// What may come on top of the deadline: a dial, where the deadline does not cover it.
    pub(crate) grace: Duration,
}

#[derive(Debug)]
struct Record {
    plan: Plan,
    began: Instant,
    executions: u32,
    end: Option<(End, Instant)>,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    records: Mutex<HashMap<u64, Record>>,
    next: AtomicU64,
    ended: Mutex<BTreeMap<(Kind, String), u64>>,
    failures: Mutex<Vec<String>>,
    failed: watch::Sender<bool>,
    executions: AtomicU64,
    repeated: AtomicU64,
    handlers: AtomicI64,
    latest: Mutex<(Duration, String)>,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            records: Mutex::default(),
            next: AtomicU64::new(1),
            ended: Mutex::default(),
            failures: Mutex::default(),
            failed: watch::Sender::new(false),
            executions: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            handlers: AtomicI64::new(0),
            latest: Mutex::default(),
        }
    }

    /// A call that is about to be made, by its number.
    pub(crate) fn begin(&self, plan: Plan) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let record = Record {
            plan,
            began: Instant::now(),
            executions: 0,
            end: None,
        };
        locked(&self.records).insert(id, record);
        id
    }

    /// A server's handler has begun; the guard is for as long as it lasts.
    pub(crate) fn execute(self: &Arc<Self>, id: u64) -> Handler {
        self.executions.fetch_add(1, Ordering::Relaxed);
        self.handlers.fetch_add(1, Ordering::Relaxed);
        match locked(&self.records).get_mut(&id) {
            Some(record) => {
                record.executions += 1;
                if record.executions > 1 {
                    self.repeated.fetch_add(1, Ordering::Relaxed);
                    if !record.plan.idempotent {
                        self.fail(format!(
                            "call {id} was executed {} times: {record:?}",
                            record.executions
                        ));
                    }
                }
            }
            None => self.fail(format!(
                "call {id} was executed more than {KEPT:?} after its end"
            )),
        }
        Handler(self.clone())
    }

    /// A call has ended.
    pub(crate) fn end(&self, id: u64, end: End) {
        let mut records = locked(&self.records);
        let Some(record) = records.get_mut(&id) else {
            return self.fail(format!("call {id} ended twice, the second time as {end:?}"));
        };
        if record.end.is_some() {
            return self.fail(format!("call {id} ended again as {end:?}: {record:?}"));
        }
        let now = Instant::now();
        record.end = Some((end, now));
        if end == End::Status(Code::Ok) && record.executions == 0 {
            self.fail(format!("call {id} was answered and never executed"));
        }
        let over = (now - record.began).saturating_sub(record.plan.deadline);
        if end != End::Dropped && record.plan.grace.is_zero() {
            let mut latest = locked(&self.latest);
            if over > latest.0 {
                *latest = (over, format!("{record:?}"));
            }
        }
        if over > LATE + record.plan.grace {
            self.fail(format!(
                "call {id} ended {over:?} after its deadline: {record:?}"
            ));
        }
        let code = match end {
            End::Status(code) => format!("{code:?}"),
            End::Dropped => "(dropped)".to_owned(),
        };
        *locked(&self.ended)
            .entry((record.plan.kind, code))
            .or_default() += 1;
    }

    /// Looks for calls that have no end, and forgets those that had one long ago.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut lost = Vec::new();
        locked(&self.records).retain(|id, record| match record.end {
            Some((_, at)) => now - at < KEPT,
            None => {
                // The caller itself would be late by as much; half a second more is for the sweep.
                let due = record.plan.deadline + record.plan.grace + LATE;
                let lasts = now - record.began;
                if lasts > due + Duration::from_millis(500) {
                    lost.push(format!("call {id} has no end after {lasts:?}: {record:?}"));
                    return false;
                }
                true
            }
        });
        lost.into_iter().for_each(|failure| self.fail(failure));
    }

    pub(crate) fn fail(&self, failure: String) {
        let mut failures = locked(&self.failures);
        if failures.len() < TOLD {
            failures.push(failure);
        }
        drop(failures);
        self.failed.send_replace(true);
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        locked(&self.failures).clone()
    }

    /// Ends with the first failure.
    pub(crate) async fn failed(&self) {
        // The sender is here, so it can't be gone.
        let _ = self.failed.subscribe().wait_for(|failed| *failed).await;
    }

    pub(crate) fn has_failed(&self) -> bool {
        *self.failed.borrow()
    }

    /// Calls that have ended, by kind and code.
    pub(crate) fn tally(&self) -> BTreeMap<(Kind, String), u64> {
        locked(&self.ended).clone()
    }

    pub(crate) fn ended(&self) -> u64 {
        locked(&self.ended).values().sum()
    }

    /// Calls that have no end yet.
    pub(crate) fn open(&self) -> usize {
        let records = locked(&self.records);
        records.values().filter(|it| it.end.is_none()).count()
    }

    /// Handlers that run now.
    pub(crate) fn handlers(&self) -> i64 {
        self.handlers.load(Ordering::Relaxed)
    }

    pub(crate) fn executions(&self) -> u64 {
        self.executions.load(Ordering::Relaxed)
    }

    /// Executions beyond the first of a call that may be executed twice.
    pub(crate) fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// By how much the latest call was past its deadline, and which that was; of those whose deadline covers everything.
    pub(crate) fn latest(&self) -> (Duration, String) {
        locked(&self.latest).clone()
    }
}

/// A handler that runs.
pub(crate) struct Handler(Arc<Ledger>);

impl Drop for Handler {
    fn drop(&mut self) {
        self.0.handlers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
