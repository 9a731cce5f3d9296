use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body as HttpBody;
use tonic::body::Body;
use tower::Service;

use super::{
    Arm, SelectBody, SelectFuture, SelectHandle, SelectReason, Selected,
    arm_health::Trust,
    flight::Flight,
    future::State,
    group::{Active, Group, Plan, Sample},
    kept::{Spare, Templates},
    shared::Changed,
    waiting::Wait,
    watch::Watch,
};
use crate::{BoxError, clock, unsent::Unsent};

/// The service over two services that lead to one peer. Clones share everything; a clone carries no readiness.
pub struct Select<I, T> {
    first: I,
    second: T,
    /// What the last look at each arm found.
    looks: [Look; 2],
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

/// How an arm was found.
#[derive(Default)]
enum Look {
    #[default]
    None,
    Ready,
    /// Its readiness failed, which the call that needs it is told.
    Failed(BoxError),
    /// It has been asked to wake this task, and may hold capacity for it.
    Pending,
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
            first,
            second,
            looks: Default::default(),
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
    /// Looks at an arm. Returns whether there is something to tell a call: it can go, or has failed.
    fn poll_arm(&mut self, arm: Arm, is_watched: bool, cx: &mut Context<'_>) -> bool {
        let polled = match arm {
            Arm::First => self.first.poll_ready(cx).map_err(Into::into),
            Arm::Second => self.second.poll_ready(cx).map_err(Into::into),
        };
        let look = match polled {
            Poll::Ready(Ok(())) => {
                self.watch.shared.core.arms.found_ready(arm);
                Look::Ready
            }
            Poll::Ready(Err(error)) => Look::Failed(error),
            Poll::Pending => {
                match arm {
                    _ if is_watched => {}
                    Arm::First => self.watch.not_ready(arm, clock::now(), &self.first),
                    Arm::Second => self.watch.not_ready(arm, clock::now(), &self.second),
                }
                Look::Pending
            }
        };
        let answers = !matches!(look, Look::Pending);
        self.looks[arm.index()] = look;
        answers
    }

    /// Whether an arm has an answer that the policy may use. Those that have none wake this task, or the one that waits for them.
    fn poll_arms(&mut self, cx: &mut Context<'_>) -> bool {
        let word = self.watch.shared.core.arms.word();
        for look in &mut self.looks {
            if !matches!(look, Look::Pending) {
                *look = Look::None;
            }
        }
        let mut any = false;
        for is_watched in [false, true] {
            // Those that a task waits for only if no other answers: they wake this task too.
            for arm in Arm::ALL {
                let counts = word.is_watched(arm) == is_watched && self.watch.shared.uses(arm);
                if counts && !(is_watched && any) {
                    any |= self.poll_arm(arm, is_watched, cx);
                }
            }
        }
        for arm in Arm::ALL {
            let look = &mut self.looks[arm.index()];
            if any && matches!(look, Look::Pending) {
                // Nobody will come for what it may hold.
                *look = Look::None;
                match arm {
                    Arm::First => self.first = self.first.clone(),
                    Arm::Second => self.second = self.second.clone(),
                }
            }
        }
        any
    }

    fn is_ready(&self, arm: Arm) -> bool {
        matches!(self.looks[arm.index()], Look::Ready)
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
            if core.arms.divert(plan.arm, now) {
                group.window(plan.arm).diverted(now);
            }
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
        let wait = Wait {
            group: group.clone(),
            templates: self.templates.clone(),
            request,
            arm: plan.arm,
            reason: plan.reason,
            either: plan.either,
            returned: self.returned,
            otherwise: None,
        };
        let waiting = wait.begin();
        let selected = group.core.selected(plan.arm, plan.reason);
        self.future(State::Waiting { waiting }, selected, group, None)
    }

    #[inline]
    fn future(
        &self,
        state: State<I, T, I::Future, T::Future>,
        selected: Selected,
        group: &Group,
        spare: Option<Spare<I, T>>,
    ) -> SelectFuture<I, T> {
        SelectFuture {
            state,
            selected,
            header: group.core.config.response_header,
            returned: self.returned,
            spare,
        }
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
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
            let look = &mut self.looks[plan.arm.index()];
            let taken = mem::take(look);
            let Look::Failed(error) = taken else {
                *look = taken;
                return self.later(request, &plan, group);
            };
            let failed = clock::now();
            group.window(plan.arm).ended(failed, true);
            group.core.arms.failed(plan.arm, failed);
            if !plan.either || !self.is_ready(plan.arm.other()) {
                let error = match self.returned {
                    true => Unsent::wrap(error, request),
                    false => error,
                };
                let state = State::Failed { error: Some(error) };
                let selected = group.core.selected(plan.arm, plan.reason);
                return self.future(state, selected, group, None);
            }
            plan = Plan {
                arm: plan.arm.other(),
                reason: SelectReason::FailedUnsent,
                either: false,
            };
        }
        let selected = group.core.selected(plan.arm, plan.reason);
        group.core.decided(selected);
        let spare = plan
            .either
            .then(|| Spare::new(group, &self.templates, self.returned, &mut request));
        let sample = Sample::new(group.clone(), plan.arm, group.clock_of(&plan, now));
        let flight = match plan.arm {
            Arm::First => Flight::first(&mut self.first, request, sample),
            Arm::Second => Flight::second(&mut self.second, request, sample),
        };
        self.looks[plan.arm.index()] = Look::None;
        self.future(State::Flight { flight }, selected, group, spare)
    }
}

impl<I: Clone, T: Clone> Clone for Select<I, T> {
    fn clone(&self) -> Self {
        Self {
            first: self.first.clone(),
            second: self.second.clone(),
            looks: Default::default(),
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
            .field("first", &self.first)
            .field("second", &self.second)
            .field("handle", &self.handle())
            .finish()
    }
}
