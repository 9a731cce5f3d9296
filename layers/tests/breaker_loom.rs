//! The permit and generation protocol, over all interleavings: the gate's own source, with loom's atomics and lock.

#![allow(
    missing_docs,
    unreachable_pub,
    reason = "the gate is private to its crate"
)]

mod sync {
    pub(crate) use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    };
}

#[allow(dead_code, reason = "the models use a part of it")]
#[path = "../src/breaker/gate.rs"]
mod gate;

use gate::{Gate, Phase, Word};
use loom::{sync::Arc, thread};

/// A gate in this phase; its state counts how often it went to `Closed`.
fn gate(phase: Phase) -> Arc<Gate<u32>> {
    let gate = Gate::new(0);
    gate.lock().shift(phase);
    Arc::new(gate)
}

fn settle(gate: &Gate<u32>, word: Word, phase: Phase) -> bool {
    match gate.lock_if(word) {
        Some(mut held) => {
            *held += 1;
            held.shift(phase);
            true
        }
        None => false,
    }
}

#[test]
fn of_two_who_race_for_the_permit_one_at_a_time_has_it() {
    loom::model(|| {
        let gate = gate(Phase::Free);
        let enter = |gate: Arc<Gate<u32>>| {
            thread::spawn(move || {
                let taken = gate.lock().take();
                // A neutral end: the permit goes back.
                taken.is_some_and(|word| settle(&gate, word, Phase::Free))
            })
        };
        let both = [enter(gate.clone()), enter(gate.clone())];
        let probes = both.map(|probed| u32::from(probed.join().expect("no panic")));
        let probes = probes.into_iter().sum::<u32>();
        assert!(probes >= 1);
        assert_eq!(*gate.lock(), probes, "no probe ends another one");
        assert_eq!(gate.word().phase(), Phase::Free);
    });
}

#[test]
fn a_straggler_and_the_probe_end_at_once_and_only_the_probe_decides() {
    loom::model(|| {
        let gate = gate(Phase::Closed);
        let old = gate.word();
        assert!(settle(&gate, old, Phase::Open));
        gate.lock().shift(Phase::Free);
        let probe = gate.lock().take().expect("the permit is there");
        let straggler = {
            let gate = gate.clone();
            thread::spawn(move || settle(&gate, old, Phase::Closed))
        };
        let hung = {
            let gate = gate.clone();
            // Time was up for the probe, as whoever waits sees it.
            thread::spawn(move || settle(&gate, probe, Phase::Free))
        };
        let decided = settle(&gate, probe, Phase::Closed);
        assert!(!straggler.join().expect("no panic"));
        let given_up = hung.join().expect("no panic");
        assert!(decided != given_up, "exactly one of them");
        let end = if decided { Phase::Closed } else { Phase::Free };
        assert_eq!(gate.word().phase(), end);
    });
}

#[test]
fn two_failures_trip_once_and_a_reader_sees_what_was_reset_before_it_closed() {
    loom::model(|| {
        let gate = gate(Phase::Closed);
        let word = gate.word();
        let run = Arc::new(loom::sync::atomic::AtomicU64::new(5));
        let fails = {
            let gate = gate.clone();
            thread::spawn(move || settle(&gate, word, Phase::Open))
        };
        let closes = {
            let (gate, run) = (gate.clone(), run.clone());
            thread::spawn(move || {
                if settle(&gate, word, Phase::Open) {
                    let mut held = gate.lock();
                    run.store(0, loom::sync::atomic::Ordering::Relaxed);
                    held.shift(Phase::Closed);
                    return true;
                }
                false
            })
        };
        let seen = gate.word();
        if seen.phase() == Phase::Closed && seen != word {
            assert_eq!(run.load(loom::sync::atomic::Ordering::Relaxed), 0);
        }
        let (fails, closes) = (
            fails.join().expect("no panic"),
            closes.join().expect("no panic"),
        );
        assert!(fails != closes, "it opens once");
        assert_eq!(*gate.lock(), 1);
    });
}
