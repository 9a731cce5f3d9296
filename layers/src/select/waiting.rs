//! A call that waits for an arm.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use http::Request;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tower::Service;

use super::{
    Arm, SelectReason, Selected,
    flight::{Flight, One},
    group::{Group, Sample},
    kept::{Spare, Templates},
};
use crate::{BoxError, clock, unsent::Unsent};

/// The attempt that a wait leads to.
pub(super) type Begun<I, T> = (
    Flight<<I as Service<Request<Body>>>::Future, <T as Service<Request<Body>>>::Future>,
    Selected,
    Option<Spare<I, T>>,
);

/// A wait, to its end.
pub(super) type Waiting<I, T> = Pin<Box<dyn Future<Output = Result<Begun<I, T>, BoxError>> + Send>>;

/// Waits for an arm, or for either, and no longer than the arms may be not ready.
pub(super) struct Wait<I, T> {
    pub(super) group: Arc<Group>,
    pub(super) templates: Arc<Templates<I, T>>,
    pub(super) request: Request<Body>,
    pub(super) arm: Arm,
    pub(super) reason: SelectReason,
    /// Whether the other arm will do as well.
    pub(super) either: bool,
    /// Whether the error of a call that never left carries its request.
    pub(super) returned: bool,
    /// What the caller is told if it waits in vain: how the attempt before failed, if there was one.
    pub(super) otherwise: Option<BoxError>,
}

impl<I, T> Wait<I, T>
where
    I: Service<Request<Body>> + Clone + Send + 'static,
    T: Service<Request<Body>> + Clone + Send + 'static,
    I::Error: Into<BoxError>,
    T::Error: Into<BoxError>,
{
    #[cold]
    pub(super) fn begin(mut self) -> Waiting<I, T> {
        let now = clock::now();
        let core = &self.group.core;
        let until = core.until(self.arm, self.either, now);
        let head_start = core.config.head_start;
        let since = core.arms.away_since(self.arm).unwrap_or(now);
        let alone = (self.either && !head_start.is_zero()).then(|| since + head_start);
        Box::pin(async move {
            match self.ready(alone, until).await {
                Ok((service, reason)) => Ok(self.send(service, reason)),
                Err(error) if self.returned => Err(Unsent::wrap(error, self.request)),
                Err(error) => Err(error),
            }
        })
    }

    /// Until `alone` the first arm alone is asked.
    async fn ready(
        &mut self,
        alone: Option<Instant>,
        until: Option<Instant>,
    ) -> Result<(One<I, T>, SelectReason), BoxError> {
        let Self { arm, either, .. } = *self;
        let core = &self.group.core;
        let mut first = self.templates.one(arm);
        if let Some(alone) = alone
            && let Ok(Ok(())) = timeout_at(alone, poll_fn(|cx| first.poll_ready(cx))).await
        {
            core.arms.found_ready(arm);
            return Ok((first, self.reason));
        }
        let mut second = either.then(|| self.templates.one(arm.other()));
        let ready = poll_fn(|cx| match (first.poll_ready(cx), &mut second) {
            (Poll::Pending | Poll::Ready(Err(_)), Some(second)) => {
                second.poll_ready(cx).map_ok(|()| false)
            }
            (polled, _) => polled.map_ok(|()| true),
        });
        let ready = match until {
            Some(until) => timeout_at(until, ready).await,
            None => Ok(ready.await),
        };
        let error = match (ready, second) {
            (Ok(Ok(false)), Some(second)) => {
                let now = Instant::now();
                if core.arms.divert(arm, now) {
                    self.group.window(arm).diverted(now);
                }
                return Ok((second, SelectReason::NotReady));
            }
            (Ok(Ok(_)), _) => {
                core.arms.found_ready(arm);
                return Ok((first, self.reason));
            }
            (Ok(Err(error)), _) => Some(error),
            (Err(_), _) => None,
        };
        let not_ready = || core.not_ready(arm, either, Instant::now()).into();
        let otherwise = self.otherwise.take();
        Err(otherwise.or(error).unwrap_or_else(not_ready))
    }

    fn send(self, mut service: One<I, T>, reason: SelectReason) -> Begun<I, T> {
        let Self {
            group,
            templates,
            mut request,
            returned,
            ..
        } = self;
        let selected = group.core.selected(service.arm(), reason);
        let may_fall_back = self.either && selected.arm == self.arm;
        let spare = may_fall_back.then(|| Spare::new(&group, &templates, returned, &mut request));
        group.core.decided(selected);
        let sample = Sample::new(group, selected.arm, Some(Instant::now()));
        (service.call(request, sample), selected, spare)
    }
}
