//! The fuzz targets over their corpora, and over what a seeded mutator makes of those for two seconds each.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "it is a crate of its own as well")]
mod targets;

/// How long each target is given mutated bytes. `TOWER_IROH_FUZZ_SECONDS` is another number of seconds.
const TIME: Duration = Duration::from_secs(2);
/// The longest input.
const LONGEST: usize = 4096;

macro_rules! over_its_corpus {
    ($($name:ident)*) => {
        $(#[test] fn $name() { fuzz(stringify!($name)); })*

        #[test]
        fn no_target_goes_without_a_test() {
            let tested = [$(stringify!($name)),*];
            assert_eq!(targets::TARGETS.map(|(name, _)| name), tested);
        }
    };
}

over_its_corpus!(
    preamble copies farewell screen peer config timeout priority traceparent status acceptor
);

fn fuzz(name: &str) {
    let (_, target) = targets::TARGETS
        .into_iter()
        .find(|(known, _)| *known == name)
        .expect("a target");
    let corpus = corpus(name);
    for (file, bytes) in &corpus {
        let held = catch_unwind(|| target(bytes));
        assert!(held.is_ok(), "fuzz/corpus/{name}/{file}");
    }
    let time = std::env::var("TOWER_IROH_FUZZ_SECONDS").ok();
    let time = time.map_or(TIME, |seconds| {
        Duration::from_secs(seconds.parse().expect("seconds"))
    });
    let seed: u64 = rand::random();
    let mut rng = SmallRng::seed_from_u64(seed);
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < time {
        let bytes = mutated(&mut rng, &corpus);
        let held = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
        assert!(
            held.is_ok(),
            "{name}, seed {seed}, input {count}: {bytes:?}"
        );
        count += 1;
    }
    println!(
        "{name}: {} files, {count} mutated, seed {seed}",
        corpus.len()
    );
}

fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut corpus: Vec<_> = files
        .map(|file| {
            let file = file.expect("an entry");
            let bytes = fs::read(file.path()).expect("readable");
            (file.file_name().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    // A folder has no order of its own, and the seed has to say what happened.
    corpus.sort();
    assert!(!corpus.is_empty(), "{folder:?} is empty");
    corpus
}

/// Something like a file of the corpus.
fn mutated(rng: &mut SmallRng, corpus: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = any(rng, corpus).to_vec();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..6) {
            0 => bytes.insert(at, rng.random()),
            1 => bytes.truncate(at),
            2 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            3 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            4 => drop(bytes.drain(at..(at + rng.random_range(0..9)).min(bytes.len()))),
            _ => {
                // A part of some file, put in.
                let other = any(rng, corpus);
                let from = rng.random_range(0..=other.len());
                let to = (from + rng.random_range(0..64)).min(other.len());
                drop(bytes.splice(at..at, other[from..to].iter().copied()));
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

fn any<'a>(rng: &mut SmallRng, corpus: &'a [(String, Vec<u8>)]) -> &'a [u8] {
    &corpus[rng.random_range(0..corpus.len())].1
}
