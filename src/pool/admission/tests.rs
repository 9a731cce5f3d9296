use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    connections: 5,
    per_peer: 2,
    anonymous: 3,
};

/// A connection with a call in flight.
fn busy(now: Instant) -> Arc<OpenConnection> {
    let connection = OpenConnection::new(now);
    assert!(connection.begin());
    connection
}

#[test]
fn a_refusal_names_its_limit() {
    let admission = Admission::new(LIMITS);
    let now = Instant::now();
    let admit = |caller| admission.admit(caller, &busy(now), now);
    let mut open: Vec<_> = (0..2).map(|_| admit(Some('a'))).collect();
    let refused = admit(Some('a')).expect_err("the third of a peer");
    assert_eq!(refused, Full::PerPeer(2));
    assert!(refused.to_string().contains("2 connections of one peer"));
    open.extend((0..3).map(|_| admit(None)));
    assert!(open.iter().all(Result::is_ok));
    let refused = admit(Some('b')).expect_err("the sixth of all");
    assert_eq!(refused, Full::Connections(5));
    drop(open.swap_remove(0));
    let refused = admit(None).expect_err("the fourth without a key");
    assert_eq!(refused, Full::Anonymous(3));
}

#[tokio::test(start_paused = true)]
async fn the_oldest_connection_of_a_caller_that_gives_no_sign_of_life_goes() {
    let admission = Admission::new(LIMITS);
    let now = Instant::now();
    let own = [busy(now), busy(now)];
    let _open = own.each_ref().map(|one| {
        admission
            .admit(Some('a'), one, now)
            .expect("within the limit")
    });
    let more = busy(now);
    let refused = admission.admit_over_dead('a', &more).await;
    assert_eq!(refused.expect_err("both live"), Full::PerPeer(2));
    own[1].probed_by(Box::new(|| Box::pin(async { false })));
    let admitted = admission.admit_over_dead('a', &more).await;
    let _admitted = admitted.expect("in the place of the dead one");
    assert_eq!(
        own.each_ref().map(|one| one.stage()),
        [Stage::Open, Stage::Shut]
    );
    assert_eq!(admission.open(), 2);
}

#[test]
fn those_that_are_ending_have_a_bound() {
    let admission = Admission::new(LIMITS);
    let now = Instant::now();
    let mut open = Vec::new();
    let admitted = (0..).map_while(|number| {
        let connection = OpenConnection::new(now);
        open.push(admission.admit(Some(number), &connection, now).ok()?);
        Some(connection)
    });
    assert_eq!(admitted.count(), LIMITS.connections + LIMITS.ending());
    open.remove(0);
    assert!(admission.admit(Some(1000), &busy(now), now).is_ok());
}

#[derive(Clone, Debug)]
enum Step {
    Open(Option<u8>),
    Close(prop::sample::Index),
    Begin(prop::sample::Index),
    End(prop::sample::Index),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        3 => proptest::option::of(0..4u8).prop_map(Step::Open),
        1 => which().prop_map(Step::Close),
        2 => which().prop_map(Step::Begin),
        2 => which().prop_map(Step::End),
        1 => (0..2000u64).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever happens in whatever order: the counts are those of the open connections, no limit is exceeded, none goes that has a call in flight, and
    /// nobody is refused while there is one that could go.
    #[test]
    fn the_counts_hold_and_no_call_is_cut(steps in proptest::collection::vec(step(), 0..300)) {
        let admission = Admission::new(LIMITS);
        let mut now = Instant::now();
        let mut open: Vec<(Option<u8>, Arc<OpenConnection>, Admitted<u8>)> = Vec::new();
        for step in steps {
            match step {
                Step::Pass(millis) => now += Duration::from_millis(millis),
                Step::Close(which) if !open.is_empty() => {
                    open.swap_remove(which.index(open.len()));
                }
                Step::Begin(which) if !open.is_empty() => {
                    let one = &open[which.index(open.len())].1;
                    prop_assert_eq!(one.begin(), one.stage() != Stage::Shut);
                }
                Step::End(which) if !open.is_empty() => {
                    let one = &open[which.index(open.len())].1;
                    one.end(one.calls().min(1), now);
                }
                Step::Open(caller) => {
                    let counted = open.iter().filter(|(_, one, _)| one.stage() != Stage::Shut);
                    let counted: Vec<_> = counted.collect();
                    let own = counted.iter().filter(|one| one.0 == caller).count();
                    let most = if caller.is_some() { LIMITS.per_peer } else { LIMITS.anonymous };
                    let rested = |one: &OpenConnection| one.unused_for(now).is_some_and(|unused| unused >= REST);
                    let may_go = |one: &OpenConnection, young: bool| {
                        one.calls() == 0 && (rested(one) || young && !one.has_called())
                    };
                    let takes = if own >= most {
                        counted.iter().any(|one| one.0 == caller && may_go(&one.1, false))
                    } else if counted.len() >= LIMITS.connections {
                        counted.iter().any(|one| may_go(&one.1, true))
                    } else {
                        true
                    };
                    let ending = open.len() - counted.len();
                    let (full, before) = (ending >= LIMITS.ending(), counted.len());
                    let connection = OpenConnection::new(now);
                    match admission.admit(caller, &connection, now) {
                        Ok(admitted) => {
                            prop_assert!(takes);
                            open.push((caller, connection, admitted));
                        }
                        Err(_) => {
                            prop_assert!(!takes || full);
                            prop_assert_eq!(admission.open(), before, "a refusal evicts nobody");
                        }
                    }
                }
                _ => {}
            }
            // The step that shut one is the one that took its place.
            prop_assert!(open.iter().all(|(_, one, _)| one.stage() != Stage::Shut || one.calls() == 0));
            let mut counts = BTreeMap::new();
            for (caller, ..) in open.iter().filter(|(_, one, _)| one.stage() != Stage::Shut) {
                *counts.entry(*caller).or_insert(0) += 1;
            }
            let inside = lock(&admission.shared.open);
            let by_caller: BTreeMap<_, _> =
                inside.by_caller.iter().map(|(caller, roll)| (*caller, roll.len())).collect();
            prop_assert_eq!(&by_caller, &counts);
            let all = counts.values().sum::<usize>();
            prop_assert_eq!((inside.all.len(), inside.owners.len()), (all, all));
            prop_assert_eq!(inside.ending, open.len() - all);
            prop_assert!(all <= LIMITS.connections && inside.ending <= LIMITS.ending());
        }
    }
}
