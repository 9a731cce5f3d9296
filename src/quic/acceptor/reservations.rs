//! Permits of handshakes that iroh's router has, between the filter and the protocol handler.
//!
//! The router tells a handler about a connection only once its ClientHello is complete, and says nothing about one that fails before that. So the filter reserves
//! a permit, the handler claims it by the caller's address, and what nobody claims is released after a while. Pure: it is told the time.

use std::time::{Duration, Instant};

use crate::pool::{Busy, HandshakePermit, Handshakes, Source};

/// How long a caller whose ClientHello is complete is waited for. The router hands it over at once, unless it failed or another protocol's handler has it.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How long a caller whose ClientHello never ended counts as one of those. Its connection is the router's, which cannot be told to drop it and does not say when
/// it ends: as long as packets come, it lives.
const LINGER: Duration = Duration::from_secs(600);

/// What the filter has let in and no handler has claimed. Each entry has a permit of one kind or of both, so there are no more than permits.
#[derive(Debug)]
pub(super) struct Reservations<A> {
    handshakes: Handshakes,
    /// Those whose ClientHello did not come with the first packet, under limits of their own.
    unfinished: Handshakes,
    handshake_timeout: Duration,
    /// In the order of arrival.
    reserved: Vec<Reserved<A>>,
    /// Whether a filter asks at all.
    has_filter: bool,
}

#[derive(Debug)]
struct Reserved<A> {
    from: A,
    since: Instant,
    /// Released in time.
    permit: Option<HandshakePermit>,
    /// `None` if the first packet had the whole ClientHello.
    unfinished: Option<HandshakePermit>,
}

/// Reservations that were released because the ClientHello never ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unfinished(pub(super) usize);

impl<A: PartialEq> Reservations<A> {
    pub(super) fn new(most: usize, handshake_timeout: Duration) -> Self {
        Self {
            handshakes: Handshakes::new(most),
            unfinished: Handshakes::new(most),
            handshake_timeout,
            reserved: Vec::new(),
            has_filter: false,
        }
    }

    /// Releases what has not been claimed in time.
    pub(super) fn expire(&mut self, now: Instant) -> Unfinished {
        let mut given_up = 0;
        self.reserved.retain_mut(|one| {
            let age = now.saturating_duration_since(one.since);
            one.permit.take_if(|permit| permit.is_displaced());
            one.unfinished.take_if(|permit| permit.is_displaced());
            if one.permit.is_none() && one.unfinished.is_none() {
                return false;
            }
            if one.unfinished.is_none() {
                return age < AT_ONCE.min(self.handshake_timeout);
            }
            if age >= self.handshake_timeout && one.permit.take().is_some() {
                given_up += 1;
            }
            age < LINGER.max(self.handshake_timeout)
        });
        Unfinished(given_up)
    }

    /// Reserves a permit for a caller that the filter is about to let in. `is_whole` finds out whether its first packet has the whole ClientHello, which is asked
    /// only if there is a permit.
    ///
    /// A caller that has shown half a ClientHello makes the server wait for the rest, so it has to prove its address at any time.
    pub(super) fn reserve(
        &mut self,
        from: A,
        source: Source,
        is_whole: impl FnOnce() -> bool,
        now: Instant,
    ) -> Result<(), Busy> {
        self.has_filter = true;
        let is_proven = source != Source::Unproven;
        let permit = self.handshakes.try_acquire(source.clone())?;
        let unfinished = match (is_whole(), is_proven) {
            (true, _) => None,
            (false, true) => Some(self.unfinished.try_acquire(source)?),
            (false, false) => return Err(Busy::Unproven),
        };
        self.reserved.push(Reserved {
            from,
            since: now,
            permit: Some(permit),
            unfinished,
        });
        Ok(())
    }

    /// The permit of a caller that the handler is told about, and when its handshake began. Two callers behind one address may get each other's.
    ///
    /// A caller without a reservation has either taken too long or has met no filter. It gets a permit if there is one; where a filter asks, only within the
    /// quarter for addresses that are not proved.
    pub(super) fn claim(
        &mut self,
        from: &A,
        now: Instant,
    ) -> Result<(HandshakePermit, Instant), Busy> {
        let of_it =
            |one: &Reserved<A>, has_permit| one.from == *from && one.permit.is_some() == has_permit;
        // One that has run out counts only if there is no other: the same caller may have come again.
        let mut find = |has_permit| {
            let mut all = self.reserved.iter();
            let index = all.position(|one| of_it(one, has_permit))?;
            Some(self.reserved.remove(index))
        };
        if let Some(reserved) = find(true).or_else(|| find(false))
            && let Some(permit) = reserved.permit
        {
            return Ok((permit, reserved.since));
        }
        let source = match self.has_filter {
            true => Source::Unproven,
            false => Source::Unknown,
        };
        Ok((self.handshakes.try_acquire(source)?, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn reservations(most: usize) -> (Reservations<u8>, Instant) {
        (Reservations::new(most, TIMEOUT), Instant::now())
    }

    fn source(last: u8) -> Source {
        Source::address([10, 0, 0, last].into())
    }

    #[test]
    fn a_claimed_permit_is_held_until_it_is_dropped() {
        let (mut reservations, start) = reservations(1);
        let reserved = reservations.reserve(1, source(1), || true, start);
        assert_eq!(reserved, Ok(()));
        let later = start + Duration::from_millis(300);
        let (permit, since) = reservations.claim(&1, later).expect("reserved");
        assert_eq!(since, start);
        assert_eq!(reservations.expire(start + TIMEOUT * 2), Unfinished(0));
        let refused = reservations.reserve(2, source(2), || true, later);
        assert_eq!(refused, Err(Busy::Handshakes(1)));
        drop(permit);
        let reserved = reservations.reserve(2, source(2), || true, later);
        assert_eq!(reserved, Ok(()));
    }

    #[test]
    fn what_nobody_claims_is_released() {
        let (mut reservations, start) = reservations(2);
        for (from, is_whole) in [(1, true), (2, false)] {
            let reserved = reservations.reserve(from, source(from), || is_whole, start);
            assert_eq!(reserved, Ok(()));
        }
        let just_before = |end: Duration| start + end - Duration::from_millis(1);
        assert_eq!(reservations.expire(just_before(AT_ONCE)), Unfinished(0));
        assert_eq!(reservations.handshakes.taken(), 2);
        // Failed, or of another protocol.
        assert_eq!(reservations.expire(start + AT_ONCE), Unfinished(0));
        assert_eq!(reservations.handshakes.taken(), 1);
        assert_eq!(reservations.expire(just_before(TIMEOUT)), Unfinished(0));
        assert_eq!(reservations.handshakes.taken(), 1);
        assert_eq!(reservations.expire(start + TIMEOUT), Unfinished(1));
        assert_eq!(reservations.handshakes.taken(), 0);
        assert_eq!(reservations.unfinished.taken(), 1);
        assert_eq!(reservations.expire(start + LINGER), Unfinished(0));
        assert_eq!(reservations.unfinished.taken(), 0);
        assert!(reservations.reserved.is_empty());
    }

    #[test]
    fn connections_that_may_live_for_ever_do_not_add_up() {
        let (mut reservations, start) = reservations(16);
        let mut let_in = 0;
        // One source begins a ClientHello whenever the time of the last is over, beside an honest caller.
        for round in 0..50 {
            let now = start + TIMEOUT * round;
            reservations.expire(now);
            let one = reservations.reserve(1, source(1), || false, now);
            let_in += usize::from(one.is_ok());
            assert!(reservations.reserve(2, source(2), || true, now).is_ok());
        }
        assert_eq!(let_in, 5, "a quarter and one more");
    }

    #[test]
    fn half_a_client_hello_has_to_prove_its_address_at_any_time() {
        let (mut reservations, now) = reservations(256);
        let refused = reservations.reserve(1, Source::Unproven, || false, now);
        assert_eq!(refused, Err(Busy::Unproven));
        let reserved = reservations.reserve(1, Source::Unproven, || true, now);
        assert_eq!(reserved, Ok(()));
        let reserved = reservations.reserve(1, source(1), || false, now);
        assert_eq!(reserved, Ok(()));
    }

    #[test]
    fn without_a_filter_all_permits_may_be_claimed_and_with_one_a_quarter() {
        let (mut unfiltered, now) = reservations(8);
        let claimed: Vec<_> = (0..8).map(|from| unfiltered.claim(&from, now)).collect();
        assert!(claimed.iter().all(Result::is_ok), "{claimed:?}");
        let refused = unfiltered.claim(&9, now).map(|_| ());
        assert_eq!(refused, Err(Busy::Handshakes(8)));

        let (mut filtered, now) = reservations(8);
        let reserved = filtered.reserve(0, source(0), || false, now);
        assert_eq!(reserved, Ok(()));
        assert_eq!(filtered.expire(now + TIMEOUT), Unfinished(1));
        // The same caller comes again in time.
        assert_eq!(
            filtered.reserve(0, source(0), || true, now + TIMEOUT),
            Ok(())
        );
        let in_time = filtered.claim(&0, now + TIMEOUT * 2).expect("reserved");
        assert_eq!(in_time.1, now + TIMEOUT);
        drop(in_time);
        let late: Vec<_> = (0..3).map(|_| filtered.claim(&0, now + TIMEOUT)).collect();
        assert!(late.iter().all(Result::is_ok), "{late:?}");
        let refused = filtered.claim(&0, now + TIMEOUT).map(|_| ());
        assert_eq!(refused, Err(Busy::Unproven));
    }
}
