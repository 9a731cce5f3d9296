//! One open call, and whether it is still permitted.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
};

use http::Uri;
use pin_project_lite::pin_project;
use tokio::sync::futures::OwnedNotified;
use tonic::Status;

use super::{
    Decision, Denial, DenialReason, Identity,
    audit::{Kind, status},
    handle::Shared,
    layer::Hook,
    limits::Limits,
};

/// A call: who makes it, and to what.
pub(super) struct Call {
    pub(super) shared: Arc<Shared>,
    pub(super) hook: Option<Hook>,
    pub(super) identity: Option<Identity>,
    pub(super) uri: Uri,
    /// Whether it has been written down that the permission is gone: the response and the request's stream both see it.
    pub(super) revoked: AtomicBool,
}

impl Call {
    /// Writes a denial down, and says what the caller is told.
    pub(super) fn deny(&self, reason: DenialReason, generation: u64) -> Status {
        self.note(reason, generation);
        status(reason, self.identity.as_ref(), self.uri.path())
    }

    /// Says what the caller is told whose permission is gone. Who asks first writes it down.
    pub(super) fn revoke(&self, generation: u64) -> Status {
        if !self.revoked.swap(true, Ordering::Relaxed) {
            self.note(DenialReason::Revoked, generation);
        }
        status(
            DenialReason::Revoked,
            self.identity.as_ref(),
            self.uri.path(),
        )
    }

    pub(super) fn note(&self, reason: DenialReason, generation: u64) {
        let kind = match &self.identity {
            None => Kind::Anonymous,
            Some(_) if reason == DenialReason::Revoked => Kind::Known,
            Some(identity) if self.shared.current().policy.lists(identity) => Kind::Known,
            Some(_) => Kind::Stranger,
        };
        let denial = Denial {
            identity: self.identity.as_ref(),
            method: self.uri.path(),
            reason,
            generation,
        };
        self.shared.audit.denied(&denial, kind);
        if let Some(hook) = &self.hook {
            hook(&denial);
        }
    }
}

pin_project! {
    /// Looks whether a reload took the permission of a call, and wakes the task for each reload.
    pub(super) struct Watch {
        call: Arc<Call>,
        // Of the policy that last permitted the call.
        generation: u64,
        // Only while something waits: a call that is answered at once never gets one.
        #[pin]
        reloaded: Option<OwnedNotified>,
        // Which task `reloaded` wakes, and after which reload it began to, so that it is not asked again at each poll.
        armed: Option<(Waker, u64)>,
    }
}

/// What a look found.
pub(super) enum Look {
    Same,
    /// Another policy, which permits the call too, with these limits.
    Reloaded(Limits),
    /// By this policy the call is over.
    Revoked(u64),
}

impl Watch {
    pub(super) fn new(call: Arc<Call>, generation: u64) -> Self {
        Self {
            call,
            generation,
            reloaded: None,
            armed: None,
        }
    }

    pub(super) fn call(&self) -> &Arc<Call> {
        &self.call
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Asks the policy in force, if it is another than the last time.
    pub(super) fn look(self: Pin<&mut Self>) -> Look {
        let this = self.project();
        let Call {
            shared,
            identity,
            uri,
            ..
        } = &**this.call;
        if shared.generation() <= *this.generation {
            return Look::Same;
        }
        let current = shared.current();
        *this.generation = current.generation;
        match current.policy.decide(identity.as_ref(), uri.path()) {
            Decision::Allowed => {
                let entry = current.policy.entry(identity.as_ref());
                Look::Reloaded(entry.map(|entry| entry.limits.clone()).unwrap_or_default())
            }
            Decision::Unauthenticated | Decision::Denied => Look::Revoked(current.generation),
        }
    }

    /// Has the task woken by the next reload. Returns whether there has been one since the last look: look again then.
    pub(super) fn wait(self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool {
        let mut this = self.project();
        let shared = &this.call.shared;
        // Only reloads after this one are still to wake anybody.
        let told = shared.told();
        let is_armed = this
            .armed
            .as_ref()
            .is_some_and(|(waker, since)| *since == told && waker.will_wake(cx.waker()));
        if is_armed && shared.generation() == told && told == *this.generation {
            return false;
        }
        if this.reloaded.is_none() {
            let reloaded = shared.reloaded.clone().notified_owned();
            this.reloaded.set(Some(reloaded));
        }
        if let Some(reloaded) = this.reloaded.as_mut().as_pin_mut()
            && reloaded.poll(cx).is_ready()
        {
            this.reloaded.set(None);
            *this.armed = None;
            return true;
        }
        *this.armed = Some((cx.waker().clone(), told));
        // A reload right before the registration woke nobody.
        shared.generation() > *this.generation
    }
}
