//! Decides which losses BBR3 is told of, and whether a path is too lossy for Cubic. Pure.
//!
//! BBR3 treats a loss of 2 % of a round trip's packets as congestion. On a link that loses 1 % by itself, some round trips lose 2 % by chance, and each of them
//! lowers BBR3's window for seconds. Over a minute it reaches two thirds of the rate of TCP's BBR (version 1, which ignores losses). A loss by
//! congestion comes after a queue has built up, or takes many packets (`docs/decisions/losses-without-a-queue.md`).

use std::time::Duration;

/// The share of recent packets above which losses count as congestion, whatever the round trip is.
const MOST: f64 = 0.05;
/// The share of recent packets above which a link counts as lossy, until it loses half of that. Cubic itself loses one packet in thousands.
const LOSSY: f64 = 0.005;
/// How many packets count as recent. The weight of earlier packets decays.
const WHILE: f64 = 1000.0;

/// The share of recent packets that were lost.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses {
    packets: f64,
    lost: f64,
    lossy: bool,
}

impl Losses {
    pub(super) fn acked(&mut self) {
        self.count(0.0);
    }

    /// A packet was lost; whether that is congestion. `shortest` is unknown while the path has acknowledged nothing.
    pub(super) fn lost(&mut self, smoothed: Duration, shortest: Option<Duration>) -> bool {
        self.count(1.0);
        // Of few packets one is a large share.
        let many = self.packets >= WHILE / 10.0 && self.lost > self.packets * MOST;
        // A smoothed round trip this far above the shortest one means that a queue has built up.
        many || shortest.is_some_and(|shortest| smoothed >= shortest + shortest / 2)
    }

    /// Whether the path loses more packets than a queue makes it lose that is full at times.
    pub(super) fn is_lossy(&self) -> bool {
        self.lossy
    }

    fn count(&mut self, lost: f64) {
        let kept = 1.0 - 1.0 / WHILE;
        self.packets = self.packets * kept + 1.0;
        self.lost = self.lost * kept + lost;
        let least = match self.lossy {
            true => LOSSY / 2.0,
            false => LOSSY,
        };
        self.lossy = self.packets >= WHILE / 2.0 && self.lost > self.packets * least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTEST: Duration = Duration::from_millis(40);

    /// How many of the losses of every `nth` packet are congestion.
    fn congestion(nth: u32, smoothed: Duration) -> (u32, u32) {
        let mut losses = Losses::default();
        let (mut all, mut told) = (0, 0);
        for number in 1..=20_000 {
            if number % nth == 0 {
                all += 1;
                told += u32::from(losses.lost(smoothed, Some(SHORTEST)));
            } else {
                losses.acked();
            }
        }
        (told, all)
    }

    #[test]
    fn one_in_a_hundred_is_lossy_and_one_in_a_thousand_is_not() {
        let mut losses = Losses::default();
        let mut lose = |nth: u32| {
            for number in 1..=20_000 {
                if number % nth == 0 {
                    losses.lost(SHORTEST, Some(SHORTEST));
                } else {
                    losses.acked();
                }
            }
            losses.is_lossy()
        };
        assert!(!lose(1000));
        assert!(lose(100));
        // Between the two bounds it stays what it was.
        assert!(lose(250));
        assert!(!lose(2000));
        assert!(!lose(250));
    }

    #[test]
    fn a_burst_at_the_beginning_says_little() {
        let mut losses = Losses::default();
        for number in 0..420 {
            match number < 400 {
                true => losses.acked(),
                false => _ = losses.lost(SHORTEST, Some(SHORTEST)),
            }
        }
        assert!(!losses.is_lossy());
    }

    #[test]
    fn a_few_losses_without_a_queue_are_the_links_own() {
        assert_eq!(congestion(100, Duration::from_millis(45)).0, 0);
        assert_eq!(congestion(33, Duration::from_millis(45)).0, 0);
    }

    #[test]
    fn with_a_queue_each_is_congestion() {
        let (told, all) = congestion(100, Duration::from_millis(60));
        assert_eq!(told, all);
    }

    #[test]
    fn many_are_congestion() {
        let (told, all) = congestion(10, Duration::from_millis(40));
        assert!(told > all * 9 / 10, "{told} of {all}");
    }
}
