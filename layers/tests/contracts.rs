//! The layers' contracts over their public interfaces, as one program: each program here links tonic and tokio again.
//!
//! A file of `tests/` stands by itself only where it needs a process of its own (it counts allocations, installs a subscriber) or is a folder. Cargo looks
//! for no tests by itself (`autotests` in Cargo.toml), so a new file is named here or there.

#[cfg(feature = "authorize")]
mod authorize_policy;
#[cfg(feature = "authorize")]
mod authorize_server;
#[cfg(feature = "batch")]
mod batch;
#[cfg(feature = "buffer")]
mod buffer;
#[cfg(feature = "classify")]
mod classify;
#[cfg(feature = "deadline")]
mod deadline;
#[cfg(feature = "fail-fast")]
mod fail_fast;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "priority")]
mod priority;
// Every layer has a part in it.
#[cfg(all(feature = "full", feature = "prometheus"))]
mod recorder;
#[cfg(feature = "retry")]
mod retry;
#[cfg(feature = "rollout")]
mod rollout;

/// A file that nobody names would never run.
#[test]
fn every_file_of_tests_is_part_of_a_program() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let manifest = include_str!("../Cargo.toml");
    for file in std::fs::read_dir(here).expect("a folder") {
        let name = file.expect("an entry").file_name();
        let name = name.to_str().expect("text").trim_end_matches(".rs");
        let ours = name == "contracts"
            || include_str!("contracts.rs").contains(&format!("\nmod {name};\n"));
        let own =
            name != "contracts" && manifest.contains(&format!("\n[[test]]\nname = \"{name}\"\n"));
        assert!(
            ours ^ own,
            "tests/{name} is in {}: name it in tests/contracts.rs, or in Cargo.toml if it needs a process of its own",
            if ours { "two programs" } else { "no program" }
        );
    }
}
