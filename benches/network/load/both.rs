//! Small calls, bulk, or both at once, and what the link did meanwhile.

use std::{
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{Bulk, Latency, Pace, paced::paced};
use crate::{
    arms::Session,
    bed::{Bed, Wire},
};

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Both {
    pub pace: Option<Pace>,
    pub bulk: Option<Bulk>,
    /// How long bulk runs before anything counts.
    pub warm_up: Duration,
    /// How long it is measured where there is no pace to say so.
    pub lasting: Duration,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub latency: Option<Latency>,
    /// Bulk payload per second that arrived, in Mbit.
    pub mbit: Option<f64>,
    pub wire: Wire,
    /// Errors that calls ended with.
    pub errors: Vec<String>,
}

impl Both {
    /// Small calls alone.
    pub fn calls(pace: Pace) -> Self {
        Self {
            pace: Some(pace),
            bulk: None,
            warm_up: Duration::ZERO,
            lasting: pace.lasting,
        }
    }

    /// Bulk alone.
    pub fn bulk(bulk: Bulk, warm_up: Duration, lasting: Duration) -> Self {
        Self {
            pace: None,
            bulk: Some(bulk),
            warm_up,
            lasting,
        }
    }
}

/// Does it on a session that has connected.
pub fn measure(bed: &Bed, session: &Session, both: Both) -> Outcome {
    let running = both.bulk.map(|bulk| {
        let running = bulk.start(bed.client(), &session.bulk);
        bed.wait(both.warm_up);
        running
    });
    bed.take_wire();
    let carried = session.carried.clone();
    let read = move || (Instant::now(), carried.load(Ordering::Relaxed));
    let (since, before) = read();
    let at_end = Arc::new(OnceLock::new());
    let latency = match both.pace {
        Some(pace) => {
            let (small, at_end, read) = (session.small.clone(), at_end.clone(), read.clone());
            let ended = move || {
                at_end.get_or_init(read);
            };
            Some(bed.client().block_on(paced(small, pace, ended)))
        }
        None => {
            bed.wait(both.lasting);
            None
        }
    };
    let (until, after) = *at_end.get_or_init(read);
    let wire = bed.take_wire();
    let mbit = both
        .bulk
        .map(|_| (after - before) as f64 * 8.0 / 1e6 / (until - since).as_secs_f64());
    let mut errors = Vec::new();
    errors.extend(latency.as_ref().and_then(|latency| latency.error.clone()));
    errors.extend(running.and_then(|running| running.end()));
    Outcome {
        latency,
        mbit,
        wire,
        errors,
    }
}
