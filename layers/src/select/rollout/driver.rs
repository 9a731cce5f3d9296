//! The task that looks, steps and saves.

use std::{
    future::{Future, poll_fn},
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::SystemTime,
};

use tokio::{
    sync::{Notify, watch},
    time::{Duration, Instant, MissedTickBehavior, interval},
};

use super::{
    file,
    machine::{Machine, RolloutState, Step},
};
use crate::select::{Arm, SelectHandle};

/// What a handle and the task share.
pub(super) struct Shared {
    pub(super) select: SelectHandle,
    pub(super) canary: String,
    pub(super) to: Arm,
    path: Option<PathBuf>,
    inside: Mutex<Inside>,
    pub(super) state: watch::Sender<RolloutState>,
    /// Somebody gave an order.
    pub(super) ordered: Notify,
    /// The wall's time when it began, and tokio's: so that time is a test's where tokio's is.
    epoch: (SystemTime, Instant),
}

struct Inside {
    machine: Machine,
    /// Counts the orders, so that a step which was prepared before one is not taken after it.
    orders: u64,
}

/// The dwell is saved as often as this, beside each step.
const SAVE_EVERY: Duration = Duration::from_secs(10);

impl Shared {
    pub(super) fn new(
        select: SelectHandle,
        to: Arm,
        path: Option<PathBuf>,
        machine: Machine,
        now: SystemTime,
    ) -> Self {
        Self {
            select,
            canary: machine.config().canary().to_owned(),
            to,
            path,
            state: watch::Sender::new(machine.state.clone()),
            inside: Mutex::new(Inside { machine, orders: 0 }),
            ordered: Notify::new(),
            epoch: (now, Instant::now()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> SystemTime {
        let (wall, start) = self.epoch;
        wall + start.elapsed()
    }

    /// Follows an order at once; the task saves it.
    pub(super) fn order<R>(&self, order: impl FnOnce(&mut Machine, SystemTime) -> R) -> R {
        let mut inside = self.lock();
        let result = order(&mut inside.machine, self.now());
        inside.orders += 1;
        self.apply(&inside.machine);
        drop(inside);
        self.ordered.notify_one();
        result
    }

    /// Puts the share in force, and tells.
    pub(super) fn apply(&self, machine: &Machine) {
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

    async fn save(&self, machine: &Machine) -> Result<(), String> {
        let Some(path) = self.path.clone() else {
            return Ok(());
        };
        let text = file::text(machine, self.to);
        let shown = path.display().to_string();
        let saved = tokio::task::spawn_blocking(move || file::save(&path, &text)).await;
        let error = match saved {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(target: "tower_iroh::rollout", path = %shown, %error, "the state is not saved");
        Err(format!("{shown}: {error}"))
    }

    /// One look at the arms. A larger share is saved before it is in force, so that no crash forgets it; a smaller one after.
    async fn look(&self) {
        let seen = self.select.canary(&self.canary);
        let (mut next, orders, share) = {
            let inside = self.lock();
            let share = inside.machine.state.share;
            (inside.machine.clone(), inside.orders, share)
        };
        let step = next.look(self.now(), seen.as_ref());
        if next.state.share > share
            && let Err(error) = self.save(&next).await
        {
            let mut inside = self.lock();
            inside.machine.state.note = "holds: its state can't be saved".into();
            inside.machine.state.unsaved = Some(error);
            self.apply(&inside.machine);
            return;
        }
        {
            let mut inside = self.lock();
            if inside.orders != orders {
                // Whoever gave the order knew better.
                return;
            }
            next.state.unsaved = inside.machine.state.unsaved.take();
            inside.machine = next;
            // Also where somebody else has changed the share: this is what it is for.
            self.apply(&inside.machine);
            if step == Step::Advanced {
                self.select.clear_canary(&self.canary);
            }
        }
        self.tell(step, seen.map(|seen| seen.canary.to()));
    }

    fn tell(&self, step: Step, to: Option<Arm>) {
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
        let RolloutState { share, note, .. } = &state;
        match step {
            Step::RolledBack => {
                tracing::warn!(target: "tower_iroh::rollout", canary = self.canary, ?to, note, "rolled back");
            }
            _ => {
                tracing::info!(target: "tower_iroh::rollout", canary = self.canary, ?to, share, note, step = name, "a step");
            }
        }
    }

    /// Saves what changed since it was saved last.
    async fn save_changes(&self, saved: &mut Saved) {
        let (machine, due) = {
            let inside = self.lock();
            let due = saved.is_due(&inside.machine.state, Instant::now());
            (inside.machine.clone(), due)
        };
        if !due {
            return;
        }
        let result = self.save(&machine).await;
        saved.at = Instant::now();
        if result.is_ok() {
            saved.state = Some(machine.state);
        }
        let mut inside = self.lock();
        inside.machine.state.unsaved = result.err();
        self.apply(&inside.machine);
    }
}

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
        this.look().await;
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
