//! The task that compares the arms, steps and saves.

use std::{
    future::{Future, poll_fn},
    path::PathBuf,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::SystemTime,
};

use tokio::{
    sync::{Notify, watch},
    time::{Duration, Instant, MissedTickBehavior, interval},
};

use super::{
    file,
    machine::{Machine, Phase, RolloutState, Step},
};
use crate::{
    mutex::Mutex,
    select::{Arm, CanaryStatistics, SelectHandle},
};

/// What a handle and the task share.
pub(super) struct Shared {
    pub(super) select: SelectHandle,
    pub(super) canary: String,
    pub(super) to: Arm,
    path: Option<PathBuf>,
    inside: Mutex<Inside>,
    pub(super) state: watch::Sender<RolloutState>,
    /// Wakes the task for an order.
    pub(super) ordered: Notify,
    /// The wall clock's time when it began, and tokio's, so that a test controls the time through tokio's clock.
    epoch: (SystemTime, Instant),
}

struct Inside {
    /// What is in force.
    machine: Machine,
    /// The last order, until it is saved.
    ordered: Option<Machine>,
    /// Counts the orders, so that a step that was prepared before an order is not taken after it.
    orders: u64,
}

/// The result of a comparison, before it is in force.
struct Considered {
    next: Machine,
    step: Step,
    is_bolder: bool,
    orders: u64,
}

/// The dwell is saved as often as this, beside each step.
const SAVE_EVERY: Duration = Duration::from_secs(10);

impl Shared {
    /// Puts the share in force, unless it has to be saved first.
    pub(super) fn new(
        select: SelectHandle,
        to: Arm,
        path: Option<PathBuf>,
        machine: Machine,
        is_saved: bool,
        now: SystemTime,
    ) -> Self {
        let (machine, ordered) = match is_saved || path.is_none() {
            true => (machine, None),
            false => (machine.unsaved(), Some(machine)),
        };
        let shared = Self {
            select,
            canary: machine.config().canary().to_owned(),
            to,
            path,
            state: watch::Sender::new(machine.state.clone()),
            inside: Mutex::new(Inside {
                machine,
                ordered,
                orders: 0,
            }),
            ordered: Notify::new(),
            epoch: (now, Instant::now()),
        };
        shared.apply(&shared.inside.lock().machine);
        shared.select.clear_canary(&shared.canary);
        shared
    }

    fn now(&self) -> SystemTime {
        let (wall, start) = self.epoch;
        wall + start.elapsed()
    }

    /// Follows an order: at once if it takes calls back or stops the growth, or without a file. Otherwise the task saves it first.
    pub(super) fn order<R>(&self, order: impl FnOnce(&mut Machine, SystemTime) -> R) -> R {
        let mut inside = self.inside.lock();
        let ordered = inside.ordered.take();
        let mut next = ordered.unwrap_or_else(|| inside.machine.clone());
        let result = order(&mut next, self.now());
        inside.orders += 1;
        match self.path.is_some() && next.is_bolder(&inside.machine) {
            true => inside.ordered = Some(next),
            false => self.put(&mut inside, next),
        }
        drop(inside);
        self.ordered.notify_one();
        result
    }

    /// Puts a state in force. Each share is judged by its own calls: earlier calls may have come at a worse time, and to one arm more than to the other.
    fn put(&self, inside: &mut Inside, next: Machine) {
        let share = next.state.share;
        let is_new = share != inside.machine.state.share;
        inside.machine = next;
        self.apply(&inside.machine);
        // After a rollback its causes can still be read.
        if is_new && share > 0 {
            self.select.clear_canary(&self.canary);
        }
    }

    /// Puts the share in force, and tells.
    fn apply(&self, machine: &Machine) {
        // Where the policy has no such canary there is nothing to put in force; the next look says so.
        let _ = self.select.set_share(&self.canary, machine.state.share);
        let state = &machine.state;
        self.state.send_if_modified(|told| {
            let changed = told != state;
            if changed {
                told.clone_from(state);
            }
            changed
        });
    }

    /// Writes the file, on a thread for blocking work.
    async fn save(&self, machine: &Machine, saved: &mut Saved) -> Result<(), String> {
        saved.at = Instant::now();
        let Some(path) = self.path.clone() else {
            saved.state = Some(machine.state.clone());
            return Ok(());
        };
        let text = file::text(machine, self.select.name(self.to));
        let shown = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || file::save(&path, &text)).await;
        let error = match written {
            Ok(Ok(())) => {
                saved.state = Some(machine.state.clone());
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(target: "tower_iroh::rollout", path = %shown, %error, "the state is not saved");
        Err(format!("{shown}: {error}"))
    }

    /// Stops the growth, since it cannot be saved.
    fn hold(&self, inside: &mut Inside, error: String) {
        // After a rollback its reason stays.
        if inside.machine.state.phase != Phase::RolledBack {
            inside.machine.state.note = "holds: its state can't be saved".into();
        }
        inside.machine.state.unsaved = Some(error);
        self.apply(&inside.machine);
    }

    /// Saves the last order, and puts it in force.
    async fn obey(&self, saved: &mut Saved) {
        let (mut ordered, orders) = {
            let inside = self.inside.lock();
            match &inside.ordered {
                Some(ordered) => (ordered.clone(), inside.orders),
                None => return,
            }
        };
        let result = self.save(&ordered, saved).await;
        let mut inside = self.inside.lock();
        if inside.orders != orders {
            // A later order, which has woken the task again.
            return;
        }
        match result {
            Ok(()) => {
                inside.ordered = None;
                ordered.state.unsaved = None;
                self.put(&mut inside, ordered);
            }
            Err(error) => self.hold(&mut inside, error),
        }
    }

    /// Compares the arms and returns the result.
    fn consider(&self, seen: impl FnOnce() -> Option<CanaryStatistics>) -> Considered {
        let (machine, orders) = {
            let inside = self.inside.lock();
            (inside.machine.clone(), inside.orders)
        };
        // Only now: an order after this makes the step void, and one before it has cleared what it makes obsolete.
        let seen = seen();
        let mut next = machine.clone();
        let step = next.look(self.now(), seen.as_ref());
        Considered {
            is_bolder: next.is_bolder(&machine),
            next,
            step,
            orders,
        }
    }

    /// Takes a step, unless an order came meanwhile.
    fn take(&self, considered: Considered) {
        let Considered {
            mut next,
            step,
            orders,
            ..
        } = considered;
        {
            let mut inside = self.inside.lock();
            if inside.orders != orders {
                // The order takes precedence.
                return;
            }
            if step == Step::RolledBack {
                inside.ordered = None;
            }
            next.state.unsaved = inside.machine.state.unsaved.take();
            // Even if the state is the same: this sets the share again if another handle has changed it.
            self.put(&mut inside, next);
        }
        self.tell(step);
    }

    /// One comparison of the arms. A larger share is saved before it is in force, so that no crash forgets it; a smaller one after.
    async fn look(&self, saved: &mut Saved) {
        let considered = self.consider(|| self.select.canary(&self.canary));
        if considered.is_bolder
            && let Err(error) = self.save(&considered.next, saved).await
        {
            let mut inside = self.inside.lock();
            if inside.orders == considered.orders {
                self.hold(&mut inside, error);
            }
            return;
        }
        self.take(considered);
    }

    fn tell(&self, step: Step) {
        let state = self.state.borrow().clone();
        let name = match step {
            Step::None => return,
            Step::Advanced => "advanced",
            Step::Completed => "completed",
            Step::RolledBack => "rolled_back",
        };
        #[cfg(feature = "metrics")]
        metrics::counter!("tower_iroh_rollout_steps_total", "canary" => self.canary.clone(), "step" => name)
            .increment(1);
        let to = self.to;
        let RolloutState { share, note, .. } = &state;
        match step {
            Step::RolledBack => {
                tracing::warn!(target: "tower_iroh::rollout", canary = self.canary, %to, note, "rolled back");
            }
            _ => {
                tracing::info!(target: "tower_iroh::rollout", canary = self.canary, %to, share, note, step = name, "a step");
            }
        }
    }

    /// Saves what changed since it was saved last.
    async fn save_changes(&self, saved: &mut Saved) {
        let (machine, due) = {
            let inside = self.inside.lock();
            // What was ordered is saved next.
            let due =
                inside.ordered.is_none() && saved.is_due(&inside.machine.state, Instant::now());
            (inside.machine.clone(), due)
        };
        if !due {
            return;
        }
        let result = self.save(&machine, saved).await;
        let mut inside = self.inside.lock();
        inside.machine.state.unsaved = result.err();
        self.apply(&inside.machine);
    }
}

/// What the file holds, as far as it is known.
struct Saved {
    state: Option<RolloutState>,
    at: Instant,
}

impl Saved {
    fn is_due(&self, now: &RolloutState, at: Instant) -> bool {
        let Some(saved) = &self.state else {
            return true;
        };
        (saved.phase, saved.stage, saved.share) != (now.phase, now.stage, now.share)
            || (saved.dwelt != now.dwelt && at >= self.at + SAVE_EVERY)
            || now.unsaved.is_some()
    }
}

/// Runs until it is aborted.
pub(super) async fn run(this: Arc<Shared>, tick: Duration) {
    let mut ticks = interval(tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut saved = Saved {
        state: None,
        at: Instant::now(),
    };
    let mut policies = this.select.subscribe();
    let mut generation = 0;
    loop {
        this.obey(&mut saved).await;
        this.look(&mut saved).await;
        this.save_changes(&mut saved).await;
        generation = generation.max(policies.borrow_and_update().generation);
        let mut ordered = pin!(this.ordered.notified());
        let mut changed = pin!(policies.wait_for(|state| state.generation > generation));
        poll_fn(|cx| {
            let ticks = ticks.poll_tick(cx).is_ready();
            // Another policy has another share, until this puts its own in force.
            let changed = changed.as_mut().poll(cx).is_ready();
            match ticks || changed || ordered.as_mut().poll(cx).is_ready() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::RolloutConfig;
    use crate::select::{ArmStatistics, Canary, Choice, SelectPolicy};

    #[test]
    fn a_look_from_before_an_order_changes_nothing_after_it() {
        let canary = Canary::builder("n", Arm::First).build().expect("accepted");
        let select = SelectHandle::new(SelectPolicy::from(Choice::Canary(canary.clone())));
        let config = RolloutConfig::builder("n").build().expect("accepted");
        let now = SystemTime::UNIX_EPOCH;
        let machine = Machine::new(Arc::new(config), now);
        let shared = Shared::new(select, Arm::First, None, machine, false, now);
        let mut bad = ArmStatistics::new();
        (bad.calls, bad.failures) = (500, 500);
        let bad = CanaryStatistics {
            canary,
            longer: [bad.clone(), bad.clone()],
            new: bad.clone(),
            old: bad,
        };
        shared.take(shared.consider(|| Some(bad.clone())));
        assert_eq!(shared.state.borrow().phase, Phase::RolledBack);
        let considered = shared.consider(|| {
            shared.order(Machine::resume);
            Some(bad)
        });
        shared.take(considered);
        assert_eq!(shared.state.borrow().phase, Phase::Running);
    }
}
