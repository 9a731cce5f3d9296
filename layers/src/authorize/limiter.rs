//! What each caller has used of its limits.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Identity, Limits, bucket::Bucket};
use crate::mutex::Mutex;

/// How many callers that the policy does not list are kept account of at a time.
pub(super) const UNLISTED_MAX: usize = 10_000;

/// How often a full table is searched for callers that may be forgotten: a stranger must not make that the work of each call.
const SWEEP: Duration = Duration::from_secs(1);

/// The accounts of all callers that have limits on calls.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    by_caller: HashMap<Option<Identity>, Account>,
    unlisted: usize,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Account {
    open: u32,
    bucket: Bucket,
    /// The rate that the bucket fills at, so that a sweep knows when it is full.
    rate: f64,
    listed: bool,
}

/// Why a call may not go on now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exhausted {
    /// Until this much later.
    Rate(Duration),
    Concurrent,
    Callers,
}

impl Limiter {
    /// Takes a call's place, which is free again when the permit is dropped. A call that is refused takes nothing.
    ///
    /// `listed` callers are as many as the policy has, and always have an account.
    pub(super) fn admit(
        self: &Arc<Self>,
        caller: Option<&Identity>,
        limits: &Limits,
        listed: bool,
    ) -> Result<Option<Permit>, Exhausted> {
        let bucket = limits.bucket();
        if bucket.is_none() && limits.concurrent.is_none() {
            return Ok(None);
        }
        let now = Instant::now();
        let caller = caller.cloned();
        let mut accounts = self.accounts.lock();
        if !listed && accounts.unlisted >= UNLISTED_MAX && !accounts.by_caller.contains_key(&caller)
        {
            accounts.sweep(now);
            if accounts.unlisted >= UNLISTED_MAX {
                return Err(Exhausted::Callers);
            }
        }
        let accounts = &mut *accounts;
        let account = accounts.by_caller.entry(caller.clone()).or_insert_with(|| {
            accounts.unlisted += usize::from(!listed);
            Account {
                open: 0,
                bucket: Bucket::new(now),
                rate: 0.0,
                listed,
            }
        });
        if limits.concurrent.is_some_and(|most| account.open >= most) {
            return Err(Exhausted::Concurrent);
        }
        if let Some((rate, burst)) = bucket {
            account.rate = rate;
            account
                .bucket
                .take(now, rate, burst)
                .map_err(Exhausted::Rate)?;
        }
        account.open += 1;
        Ok(Some(Permit {
            limiter: self.clone(),
            caller,
        }))
    }

    /// Forgets all who have no call open and would start with a full bucket anyway.
    pub(super) fn sweep(&self) {
        let mut accounts = self.accounts.lock();
        accounts.swept = None;
        accounts.sweep(Instant::now());
    }

    /// How many callers are kept account of.
    pub(super) fn len(&self) -> usize {
        self.accounts.lock().by_caller.len()
    }
}

impl Accounts {
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now < swept + SWEEP) {
            return;
        }
        self.swept = Some(now);
        let unlisted = &mut self.unlisted;
        self.by_caller.retain(|_, account| {
            let keep = account.open > 0 || !account.bucket.is_full(now, account.rate);
            *unlisted -= usize::from(!keep && !account.listed);
            keep
        });
    }
}

/// An open call's place.
#[derive(Debug)]
pub(super) struct Permit {
    limiter: Arc<Limiter>,
    caller: Option<Identity>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(account) = self.limiter.accounts.lock().by_caller.get_mut(&self.caller) {
            account.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str) -> Option<Identity> {
        Some(name.into())
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_are_forgotten_when_that_changes_nothing_and_bounded_otherwise() {
        let limiter = Arc::new(Limiter::default());
        let limits = Limits::new().rate(0.1, 1);
        for stranger in 0..UNLISTED_MAX {
            let admitted = limiter.admit(who(&stranger.to_string()).as_ref(), &limits, false);
            assert!(admitted.is_ok());
        }
        let more =
            |name: &str, listed| limiter.admit(who(name).as_ref(), &limits, listed).map(drop);
        assert_eq!(more("one more", false), Err(Exhausted::Callers));
        assert_eq!(more("known", true), Ok(()), "strangers take nobody's place");
        assert_eq!(
            more("0", false),
            Err(Exhausted::Rate(Duration::from_secs(10)))
        );
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(more("one more", false), Ok(()));
        assert_eq!(
            limiter.accounts.lock().unlisted,
            1,
            "the others are forgotten"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_call_is_not_forgotten_and_its_place_returns_once() {
        let limiter = Arc::new(Limiter::default());
        let limits = Limits::new().concurrent(1);
        let permit = limiter
            .admit(who("a").as_ref(), &limits, false)
            .expect("free");
        limiter.sweep();
        let full = limiter.admit(who("a").as_ref(), &limits, false);
        assert_eq!(full.expect_err("one is open"), Exhausted::Concurrent);
        drop(permit);
        assert!(limiter.admit(who("a").as_ref(), &limits, false).is_ok());
        limiter.sweep();
        assert!(limiter.accounts.lock().by_caller.is_empty());
    }
}
