//! Most tests over the public interface, as one program: each program here links iroh, tonic and rustls again.
//!
//! A file of `tests/` stands by itself only where it needs a process or a `main` of its own: it installs a recorder, reads its own memory, or enters
//! the network lab. Cargo looks for no tests by itself (`autotests` in Cargo.toml), so a new file is named here or there.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]
#![allow(clippy::duplicate_mod, reason = "several share tests/support")]

mod allow_list;
mod architecture;
mod authorize;
mod bad_input;
mod copies;
mod details;
mod endings;
mod header_lists;
mod lanes;
mod layers_doc;
mod migration;
mod peers;
mod readers;
mod readme;
mod runtimes;
mod secrets;
mod selection;
mod server;
mod transport;
mod wire_doc;

/// A file that nobody names would never run.
#[test]
fn every_file_of_tests_is_part_of_a_program() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let manifest = include_str!("../Cargo.toml");
    for file in std::fs::read_dir(here).expect("a folder") {
        let name = file.expect("an entry").file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".rs")) else {
            continue;
        };
        let ours = include_str!("suite.rs").contains(&format!("\nmod {name};\n"));
        let own = manifest.contains(&format!("\n[[test]]\nname = \"{name}\"\n"));
        assert!(
            ours ^ own,
            "tests/{name}.rs is in {}: name it in tests/suite.rs, or in Cargo.toml if it needs a process of its own",
            if ours { "two programs" } else { "no program" }
        );
    }
}
