//! The task that hands calls over while any wait. It begins with the first waiting call and ends with the last.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
};

use http::{Request, Response};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};
use tonic::body::Body;
use tower::Service;

use super::{
    entry::{End, Ticket},
    held::{Verdict, Waiter, judge},
    shared::{Flight, Plan, Shared},
};
use crate::BoxError;

/// Starts the driver on the runtime of the current task.
///
/// Without a runtime, all waiting calls fail.
pub(super) fn start<S, R>(shared: &Arc<Shared<R>>, template: &S)
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: Send + 'static,
{
    let driver = Driver {
        alive: Alive(Some(shared.clone())),
        shared: shared.clone(),
        template: template.clone(),
    };
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(driver.run())),
        // The driver reports that itself.
        Err(_) => drop(driver),
    }
}

struct Driver<S, R> {
    alive: Alive<R>,
    shared: Arc<Shared<R>>,
    template: S,
}

/// What the driver does next.
enum Step {
    /// No call waits.
    Done,
    /// Waits for the peer or the time, whichever comes first.
    Wait { until: Instant, deliver: bool },
}

enum Event {
    Ready(Result<(), BoxError>),
    Look,
}

/// Fails the waiting calls if the driver ends early, with its runtime or in a panic of the service below, perhaps before its first
/// poll.
struct Alive<R>(Option<Arc<Shared<R>>>);

impl<R> Drop for Alive<R> {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.stopped();
        }
    }
}

impl<S, R> Driver<S, R>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: Send + 'static,
{
    async fn run(mut self) {
        let mut service = self.template.clone();
        let mut next_sweep = Instant::now() + self.shared.config.sweep;
        loop {
            let (until, deliver) = match self.step(&mut next_sweep) {
                Step::Done => break,
                Step::Wait { until, deliver } => (until, deliver),
            };
            if !deliver {
                // It may hold a permit, or a position in the queue for one, and no call is to be sent now.
                service = self.template.clone();
            }
            let event = {
                let mut changed = pin!(self.shared.changed.notified());
                let mut time = pin!(sleep_until(until));
                poll_fn(|cx| {
                    if changed.as_mut().poll(cx).is_ready() || time.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Event::Look);
                    }
                    if deliver && let Poll::Ready(ready) = service.poll_ready(cx) {
                        return Poll::Ready(Event::Ready(ready.map_err(Into::into)));
                    }
                    Poll::Pending
                })
                .await
            };
            match event {
                Event::Look => {}
                Event::Ready(Ok(())) => match self.hand_over(&mut service) {
                    // Polled once here, so that calls begin in the order of the queue; then in its own task, so that it needs no other
                    // poll.
                    Some(call) => {
                        let mut call = Box::pin(call);
                        let first = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
                        if first.is_pending() {
                            tokio::spawn(call);
                        }
                    }
                    // As above: readiness is not kept for later.
                    None => service = self.template.clone(),
                },
                Event::Ready(Err(error)) => {
                    service = self.template.clone();
                    self.unready(error);
                }
            }
            tokio::task::coop::consume_budget().await;
        }
        self.alive.0 = None;
    }

    /// Ends the calls whose time is over, and returns the next step.
    fn step(&self, next_sweep: &mut Instant) -> Step {
        let now = Instant::now();
        let sweep = now >= *next_sweep;
        if sweep {
            *next_sweep = now + self.shared.config.sweep;
        }
        let (gone, step) = self.shared.with(|state| {
            let gone = state.queue.expire(now, sweep);
            if state.queue.is_empty() {
                state.driver = None;
                return (gone, Step::Done);
            }
            let deadline = state.queue.next_deadline();
            let look = deadline.map_or(*next_sweep, |at| at.min(*next_sweep));
            let next_try = state.next_try(now);
            state.driver = Some(Plan { look, next_try });
            let until = next_try.map_or(look, |at| at.min(look));
            let deliver = next_try.is_none();
            (gone, Step::Wait { until, deliver })
        });
        self.shared.expire(gone);
        step
    }

    /// Takes the first call that may go and whose caller is still there. `None` if it has to wait, or there is none.
    fn take(&self, now: Instant) -> Option<(Ticket, Box<Waiter<R>>)> {
        loop {
            let (taken, gone, left) = self.shared.with(|state| {
                if state.pace.holds_until(now).is_some() {
                    return (None, Vec::new(), false);
                }
                let (taken, gone) = state.queue.take(now);
                let left = match &taken {
                    Some((ticket, waiter)) if waiter.caller.is_closed() => {
                        // It is about to leave the queue, and finds itself gone.
                        state.queue.end(ticket, End::Cancelled);
                        true
                    }
                    Some(_) => {
                        state.pace.handed_over(now);
                        false
                    }
                    None => false,
                };
                (taken, gone, left)
            });
            self.shared.expire(gone);
            if !left {
                return taken;
            }
        }
    }

    /// Makes the head's call with `service`, which is ready. `None` if no call is to be sent now.
    fn hand_over(&self, service: &mut S) -> Option<impl Future<Output = ()> + Send + use<S, R>> {
        let now = Instant::now();
        let (ticket, waiter) = self.take(now)?;
        let flight = Flight::new(self.shared.clone(), ticket, now, End::Failed);
        let call = service.call(waiter.held.request_after_wait());
        let (shared, template) = (self.shared.clone(), self.template.clone());
        Some(async move {
            if fly(call, flight, waiter).await {
                start(&shared, &template);
            }
        })
    }

    /// The service reports that it cannot become ready: for the head that is an attempt like any other.
    fn unready(&self, error: BoxError) {
        let now = Instant::now();
        if let Some((ticket, waiter)) = self.take(now) {
            let flight = Flight::new(self.shared.clone(), ticket, now, End::Failed);
            if failed(error, false, flight, waiter) {
                start(&self.shared, &self.template);
            }
        }
    }
}

/// Follows one call to its answer or until its caller leaves. Returns whether the driver has to be started.
async fn fly<F, E, R>(call: F, flight: Flight<R>, mut waiter: Box<Waiter<R>>) -> bool
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    let answer = {
        let mut call = pin!(call);
        let caller = &mut waiter.caller;
        poll_fn(|cx| {
            if caller.poll_closed(cx).is_ready() {
                return Poll::Ready(None);
            }
            call.as_mut().poll(cx).map(Some)
        })
        .await
    };
    match answer {
        None => flight.end(End::Cancelled),
        Some(Ok(response)) => {
            flight.answered(judge(&response));
            // A caller who leaves at this moment misses it.
            let _ = waiter.caller.send(Ok(response));
        }
        Some(Err(error)) => return failed(error.into(), true, flight, waiter),
    }
    false
}

/// Puts back a call that may be sent again; otherwise gives its caller the error. `sent`: the call was handed over.
fn failed<R>(error: BoxError, sent: bool, flight: Flight<R>, mut waiter: Box<Waiter<R>>) -> bool {
    let error = match waiter.held.story.verdict(&error, sent) {
        Verdict::Again => return flight.put_back(waiter, false),
        Verdict::Rejected => return flight.put_back(waiter, true),
        Verdict::Final => {
            flight.end(End::Failed);
            error
        }
        Verdict::Spent => flight.spent(waiter.held.story).into(),
    };
    let _ = waiter.caller.send(Err(error));
    false
}
