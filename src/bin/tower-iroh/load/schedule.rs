//! When each call is due. Nothing that happens to a call changes it: that is what makes the loop an open one.

use std::time::Duration;

use crate::failure::Failure;

/// The calls of a run, by their number: first those of the warm-up, then those that count. The targets take turns.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    /// Calls a second to each target.
    rate: f64,
    targets: usize,
    warm_up: u64,
    counted: u64,
    slices: usize,
}

impl Schedule {
    pub(super) fn new(
        rate: f64,
        warm_up: Duration,
        duration: Duration,
        targets: usize,
    ) -> Result<Self, Failure> {
        /// A histogram is kept for each slice.
        const MOST_SLICES: u64 = 60;
        let calls = |time: Duration| (time.as_secs_f64() * rate).round() as u64;
        if calls(duration) == 0 {
            return Err(Failure::usage(format!(
                "`--rate {rate}` makes no call within `--duration {}`; raise one of them",
                duration.as_secs_f64()
            )));
        }
        Ok(Self {
            rate,
            targets,
            warm_up: calls(warm_up) * targets as u64,
            counted: calls(duration) * targets as u64,
            slices: duration.as_secs().clamp(1, MOST_SLICES) as usize,
        })
    }

    pub(super) fn targets(&self) -> usize {
        self.targets
    }

    /// How many calls there are in all.
    pub(super) fn calls(&self) -> u64 {
        self.warm_up + self.counted
    }

    /// When a call is due, from the start of the run.
    pub(super) fn due(&self, call: u64) -> Duration {
        Duration::from_secs_f64(call as f64 / (self.rate * self.targets as f64))
    }

    /// When the first call that counts is due.
    pub(super) fn counts_from(&self) -> Duration {
        self.due(self.warm_up)
    }

    /// Who is first changes from round to round: two calls that are due in one tick of the timer start one after the other.
    pub(super) fn target(&self, call: u64) -> usize {
        let targets = self.targets as u64;
        ((call + call / targets) % targets) as usize
    }

    /// Into how many parts of equal length the run is cut, to compare two targets under the same circumstances: seconds, or 60 parts of a longer run.
    pub(super) fn slices(&self) -> usize {
        self.slices
    }

    /// The slice that a call belongs to; `None` in the warm-up.
    pub(super) fn slice(&self, call: u64) -> Option<usize> {
        let number = call.checked_sub(self.warm_up)?;
        Some((u128::from(number) * self.slices as u128 / u128::from(self.counted)) as usize)
    }
}

/// The time from which a call's latency is measured: when it was due. A call that started within two ticks of tokio's timer was on time, and is measured from its
/// start: a tick is a millisecond, which is longer than many calls take.
pub(super) fn counts_since<T>(due: T, started: T) -> T
where
    T: Copy + std::ops::Sub<Output = Duration>,
{
    const TICK: Duration = Duration::from_millis(2);
    match started - due < TICK {
        true => started,
        false => due,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(rate: f64, warm_up: u32, duration: u32, targets: usize) -> Schedule {
        Schedule::new(rate, SECOND * warm_up, SECOND * duration, targets).expect("valid")
    }

    #[test]
    fn calls_are_due_at_even_intervals_and_the_targets_take_turns() {
        let schedule = schedule(100.0, 1, 2, 2);
        assert_eq!(schedule.calls(), 600);
        assert_eq!(schedule.counts_from(), SECOND);
        for call in 0..600 {
            assert_eq!(schedule.due(call), SECOND * call as u32 / 200, "{call}");
            assert_eq!(schedule.target(call), [0, 1, 1, 0][call as usize % 4]);
            let slice = (call >= 200).then(|| (call as usize - 200) / 200);
            assert_eq!(schedule.slice(call), slice, "{call}");
        }
    }

    #[test]
    fn a_fraction_of_a_call_is_rounded_and_no_call_at_all_is_refused() {
        assert_eq!(schedule(0.7, 0, 10, 1).calls(), 7);
        let refused = Schedule::new(0.1, SECOND, SECOND, 1).expect_err("no call");
        assert!(refused.to_string().contains("`--rate 0.1`"), "{refused}");
        assert_eq!(refused.exit_code(), 2);
    }

    #[test]
    fn a_slice_is_a_second_and_there_are_sixty_at_most() {
        assert_eq!(schedule(10.0, 0, 30, 1).slices(), 30);
        let long = schedule(10.0, 0, 1000, 2);
        assert_eq!(long.slices(), 60);
        assert_eq!(long.slice(long.calls() - 1), Some(59));
        let short = Schedule::new(10.0, SECOND, SECOND / 2, 1).expect("valid");
        assert_eq!(short.slices(), 1);
    }

    #[test]
    fn only_a_timers_own_tick_is_left_out() {
        let ms = Duration::from_millis;
        assert_eq!(counts_since(ms(10), ms(11)), ms(11));
        assert_eq!(counts_since(ms(10), ms(12)), ms(10));
    }
}
