//! Two hosts, a link between them that was checked, and how to use several at once.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tower_iroh_lab::{Conditions, Counts, Direction, Host, LabError, Link, Network};

use crate::fault::Fault;

/// A client and a server with a link of their own.
pub struct Bed {
    network: Network,
    conditions: Conditions,
}

/// What a link did while something was measured.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Wire {
    pub forth: Way,
    pub back: Way,
}

/// One of its directions.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Way {
    pub packets: u64,
    pub lost: u64,
    pub queue_full: u64,
}

impl Bed {
    /// Makes the hosts and the link, and measures the link. One that is not what it should be after half a minute is a fault.
    pub fn new(conditions: Conditions, seed: u64) -> Result<Self, Fault> {
        let network = Network::with_seed(["client", "server"], seed)?;
        let bed = Self {
            network,
            conditions,
        };
        bed.link().set(conditions);
        for seconds in [1, 2, 4, 8, 16] {
            match bed.link().check() {
                Err(LabError::Inexact { what }) => eprintln!("  once more: {what}"),
                checked => return checked.map(|_| bed).map_err(Fault::from),
            }
            // Whatever took the processor may have ended.
            bed.wait(Duration::from_secs(seconds));
        }
        bed.link().check()?;
        Ok(bed)
    }

    /// One to ask things on, not to measure on.
    pub fn unshaped() -> Result<Self, Fault> {
        Ok(Self {
            network: Network::new(["client", "server"])?,
            conditions: Conditions::default(),
        })
    }

    pub fn link(&self) -> Link<'_> {
        self.network.link("client", "server")
    }

    pub fn client(&self) -> &Host {
        self.network.host("client")
    }

    pub fn server(&self) -> &Host {
        self.network.host("server")
    }

    /// What the link has done since it was asked last.
    pub fn take_wire(&self) -> Wire {
        let way = |direction| Way::from(self.link().take_counts(direction));
        Wire {
            forth: way(Direction::Forth),
            back: way(Direction::Back),
        }
    }

    /// Waits without being in the way of either host.
    pub fn wait(&self, time: Duration) {
        // The timer must be made on the host's runtime.
        self.client()
            .block_on(async move { tokio::time::sleep(time).await });
    }

    /// Lets everything that is under way arrive.
    pub fn drain(&self) {
        let Conditions { delay, queue, .. } = self.conditions;
        self.wait(delay * 2 + queue + Duration::from_millis(50));
        self.take_wire();
    }
}

impl From<Counts> for Way {
    fn from(counts: Counts) -> Self {
        Self {
            packets: counts.packets,
            lost: counts.lost,
            queue_full: counts.queue_full,
        }
    }
}

impl Way {
    /// The share that the link lost by itself, in percent.
    pub fn loss(self) -> f64 {
        100.0 * self.lost as f64 / self.packets.max(1) as f64
    }
}

/// Several of them, each with hosts of its own; the links are checked one after the other.
pub fn beds(number: usize, conditions: Conditions, seed: u64) -> Result<Vec<Bed>, Fault> {
    let seeds = (0..number as u64).map(|number| seed + number);
    seeds.map(|seed| Bed::new(conditions, seed)).collect()
}

/// Works through `items` on all beds at once; the results are in the order of the items.
pub fn side_by_side<T: Sync, R: Send>(
    beds: &[Bed],
    items: &[T],
    work: impl Fn(&Bed, &T) -> Result<R, Fault> + Sync,
) -> Result<Vec<R>, Fault> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for bed in beds {
            let (next, done, work) = (&next, &done, &work);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(number) else {
                        break;
                    };
                    let result = work(bed, item);
                    bed.drain();
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
