use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body as HttpBody;
use tonic::body::Body;
use tower::Service;

use super::{
    Arm, SelectBody, SelectFuture, SelectHandle, SelectReason,
    arm_health::Trust,
    arm_slot::{ArmSlot, Readiness},
    flight::{over_first, over_second},
    group::{Active, Group, Plan, Sample},
    kept::{Spare, Templates},
    shared::{Changed, Shared},
    waiting::Waiting,
    watch::Watch,
};
use crate::{BoxError, clock, unsent::Unsent};

/// The service over two services that lead to one peer. Clones share everything; a clone carries no readiness.
pub struct Select<I, T> {
    first: ArmSlot<I>,
    second: ArmSlot<T>,
    /// What a call is made with that goes over another arm than at first.
    templates: Arc<Templates<I, T>>,
    /// Whether the arms return what never left.
    returned: bool,
    /// What the clones share, and with it what they share with handles.
    watch: Arc<Watch>,
    /// The policy at the last look, and its generation: a call looks only whether there is another.
    active: Arc<Active>,
    generation: u64,
    /// Another policy, which may use other arms; waited for while none is ready that this one uses.
    changed: Option<Changed>,
}

impl<I: Clone, T: Clone> Select<I, T> {
    /// Puts the selection of `handle` before two services.
    pub fn new(first: I, second: T, handle: SelectHandle) -> Self {
        let shared = handle.shared;
        Self {
            templates: Templates::new(&first, &second),
            returned: false,
            active: shared.active.load_full(),
            watch: Arc::new(Watch { shared }),
            generation: 0,
            changed: None,
            first: ArmSlot::new(first),
            second: ArmSlot::new(second),
        }
    }

    /// Says that both services return the request of a call that never left, in an [`Unsent`](crate::unsent::Unsent) error. Then nothing is copied
    /// beforehand: a call that comes back goes over the other arm.
    pub fn returned(mut self) -> Self {
        self.returned = true;
        self
    }
}

impl<I, T> Select<I, T> {
    /// The handle that it was made with.
    pub fn handle(&self) -> SelectHandle {
        SelectHandle {
            shared: self.watch.shared.clone(),
        }
    }
}

impl<I, T> Select<I, T>
where
    I: Service<Request<Body>> + Clone + Send + 'static,
    T: Service<Request<Body>> + Clone + Send + 'static,
    I::Error: Into<BoxError>,
    T::Error: Into<BoxError>,
{
    fn poll_arm(&mut self, arm: Arm, cx: &mut Context<'_>) {
        match arm {
            Arm::First => self.first.poll(cx),
            Arm::Second => self.second.poll(cx),
        }
        if self.look(arm).0 && self.watch.shared.core.arms.word().is_troubled(arm) {
            self.watch.shared.core.arms.ready(arm, clock::now());
        }
    }

    /// Whether an arm has an answer that the policy may use. Those that have none wake this task, or the one that waits for both.
    fn poll_arms(&mut self, cx: &mut Context<'_>) -> bool {
        let word = self.watch.shared.core.arms.word();
        let used = |shared: &Shared| Arm::ALL.map(|arm| (arm, shared.uses(arm)));
        let mut any = false;
        let mut away = false;
        for (arm, used) in used(&self.watch.shared) {
            match arm {
                Arm::First => self.first.look = Readiness::None,
                Arm::Second => self.second.look = Readiness::None,
            }
            if used && !word.is_watched(arm) {
                self.poll_arm(arm, cx);
                let answers = self.look(arm).1;
                any |= answers;
                away |= !answers;
            }
        }
        if !any {
            // None but those that the task waits for: they wake this one too.
            for (arm, used) in used(&self.watch.shared) {
                if used && word.is_watched(arm) {
                    self.poll_arm(arm, cx);
                    any |= self.look(arm).1;
                }
            }
        }
        if away {
            let now = clock::now();
            for arm in Arm::ALL {
                let pending = match arm {
                    Arm::First => self.first.is_pending(),
                    Arm::Second => self.second.is_pending(),
                };
                if !pending || word.is_watched(arm) {
                    continue;
                }
                match arm {
                    Arm::First => self.watch.not_ready(arm, now, &self.first.service),
                    Arm::Second => self.watch.not_ready(arm, now, &self.second.service),
                }
            }
        }
        if any {
            self.first.let_go();
            self.second.let_go();
        }
        any
    }

    /// Whether an arm is ready, and whether it answers.
    fn look(&self, arm: Arm) -> (bool, bool) {
        match arm {
            Arm::First => (self.first.is_ready(), self.first.answers()),
            Arm::Second => (self.second.is_ready(), self.second.answers()),
        }
    }

    fn is_ready(&self, arm: Arm) -> bool {
        self.look(arm).0
    }

    /// Where a call goes first, now that it is known which arms are ready.
    #[cold]
    fn reconsider(&self, plan: &mut Plan, group: &Group) {
        let now = clock::now();
        let other = plan.arm.other();
        if !plan.either || plan.reason == SelectReason::Probe || !self.is_ready(other) {
            return;
        }
        let core = &*group.core;
        if self.is_ready(plan.arm) {
            let config = &core.config;
            let arms = &core.arms;
            match arms.trust(plan.arm, now, config.dwell, config.probe_every) {
                Trust::Full => {}
                Trust::Probe => plan.reason = SelectReason::Probe,
                Trust::None => {
                    group.window(plan.arm).diverted(now);
                    plan.arm = other;
                    plan.reason = SelectReason::Returning;
                }
            }
            return;
        }
        let since = core.arms.away_since(plan.arm);
        if since.is_some_and(|since| now >= since + core.config.head_start) {
            core.arms.divert(plan.arm);
            group.window(plan.arm).diverted(now);
            *plan = Plan {
                arm: other,
                reason: SelectReason::NotReady,
                either: false,
            };
        }
    }

    /// The arm that comes first can't take the call now.
    #[cold]
    fn later(&self, request: Request<Body>, plan: &Plan, group: &Arc<Group>) -> SelectFuture<I, T> {
        let now = clock::now();
        let core = &*group.core;
        let &Plan {
            arm,
            reason,
            either,
        } = plan;
        let selected = core.selected(arm, reason);
        let until = core.until(arm, either, now);
        let head_start = core.config.head_start;
        let since = core.arms.away_since(arm).unwrap_or(now);
        let waiting = Waiting {
            group: group.clone(),
            request,
            first: self.templates.one(arm),
            reason,
            second: either.then(|| self.templates.one(arm.other())),
            templates: self.templates.clone(),
            head_start: (either && !head_start.is_zero()).then(|| since + head_start),
            until,
            timer: None,
            otherwise: None,
        };
        SelectFuture::waiting(
            Box::new(waiting),
            selected,
            core.config.response_header,
            self.returned,
        )
    }
}

impl<I, T, R> Service<Request<Body>> for Select<I, T>
where
    I: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    T: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    I::Error: Into<BoxError>,
    T::Error: Into<BoxError>,
    R: HttpBody,
    R::Error: Into<BoxError>,
{
    type Response = Response<SelectBody<R>>;
    type Error = BoxError;
    type Future = SelectFuture<I, T>;

    /// Ready when an arm is that the policy may use. Never an error: an arm's readiness error goes to the next call that needs the arm.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            // Before the look at what the policy uses: if that changes meanwhile, the wait is over at once.
            let generation = self.watch.shared.generation();
            if self.poll_arms(cx) {
                self.changed = None;
                return Poll::Ready(Ok(()));
            }
            let shared = &self.watch.shared;
            let changed = self
                .changed
                .get_or_insert_with(|| shared.changed_since(generation));
            ready!(changed.as_mut().poll(cx));
            self.changed = None;
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self {
            watch,
            active,
            generation,
            ..
        } = self;
        watch.shared.refresh(active, generation);
        let (rule, group) = self.active.of(&request);
        let now = group.clock();
        let mut plan = group.plan(rule, &request, now);
        if !self.is_ready(plan.arm) || group.core.arms.word().is_troubled(plan.arm) {
            self.reconsider(&mut plan, group);
        }
        if !self.is_ready(plan.arm) {
            let look = match plan.arm {
                Arm::First => &mut self.first.look,
                Arm::Second => &mut self.second.look,
            };
            let Some(error) = look.take_failure() else {
                return self.later(request, &plan, group);
            };
            let failed = clock::now();
            group.window(plan.arm).ended(failed, true);
            group.core.arms.failed(plan.arm, failed);
            if !plan.either || !self.is_ready(plan.arm.other()) {
                let Plan { arm, reason, .. } = plan;
                let error = match self.returned {
                    true => Unsent::wrap(error, request),
                    false => error,
                };
                return SelectFuture::failed(error, group.core.selected(arm, reason));
            }
            plan = Plan {
                arm: plan.arm.other(),
                reason: SelectReason::FailedUnsent,
                either: false,
            };
        }
        let selected = group.core.selected(plan.arm, plan.reason);
        group.core.decided(selected);
        let (spare, request) = match (plan.either, self.returned) {
            (false, _) => (None, request),
            (true, true) => {
                let spare = Spare::returned(group.clone(), self.templates.clone());
                (Some(spare), request)
            }
            (true, false) => {
                let templates = self.templates.clone();
                let (spare, request) = Spare::keep(group.clone(), templates, request);
                (Some(spare), request)
            }
        };
        let sample = Sample::new(group.clone(), plan.arm, group.clock_of(&plan, now));
        let flight = match plan.arm {
            Arm::First => {
                self.first.look = Readiness::None;
                over_first(&mut self.first.service, request, sample)
            }
            Arm::Second => {
                self.second.look = Readiness::None;
                over_second(&mut self.second.service, request, sample)
            }
        };
        SelectFuture::flying(
            flight,
            selected,
            group.core.config.response_header,
            self.returned,
            spare,
        )
    }
}

impl<I: Clone, T: Clone> Clone for Select<I, T> {
    fn clone(&self) -> Self {
        Self {
            first: ArmSlot::new(self.first.service.clone()),
            second: ArmSlot::new(self.second.service.clone()),
            templates: self.templates.clone(),
            returned: self.returned,
            watch: self.watch.clone(),
            active: self.active.clone(),
            generation: self.generation,
            changed: None,
        }
    }
}

impl<I: fmt::Debug, T: fmt::Debug> fmt::Debug for Select<I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Select")
            .field("first", &self.first.service)
            .field("second", &self.second.service)
            .field("handle", &self.handle())
            .finish()
    }
}
