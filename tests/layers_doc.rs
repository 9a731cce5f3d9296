//! `docs/layers.md` names tests that exist, and a policy that loads.

use std::{collections::BTreeSet, fs, path::Path};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PAGE: &str = include_str!("../docs/layers.md");

/// The name of every function in the sources under `folder`.
fn functions(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let source = fs::read_to_string(&path).expect("a source");
            for rest in source.split("fn ").skip(1) {
                let name = rest.split(['(', '<']).next().expect("one part");
                names.insert(name.to_owned());
            }
        }
    }
}

#[test]
fn every_test_named_in_the_docs_exists() {
    let mut alone = BTreeSet::new();
    functions(&Path::new(ROOT).join("layers"), &mut alone);
    let mut stacked = BTreeSet::new();
    functions(&Path::new(ROOT).join("tests"), &mut stacked);
    let contracts = PAGE.split("## Contracts").nth(1).expect("the section");
    let contracts = contracts.split("\n## ").next().expect("its text");
    let rows = contracts
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1);
    let mut named = 0;
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        assert_eq!(cells.len(), 3, "{row}");
        for (cell, tests) in [(cells[1], &alone), (cells[2], &stacked)] {
            for name in cell.split('`').skip(1).step_by(2) {
                assert!(tests.contains(name), "no test {name}, named in {row}");
                named += 1;
            }
        }
    }
    assert!(named > 80, "{named} tests are named");
}

#[cfg(feature = "authorize")]
#[test]
fn the_policy_loads() {
    use tower_iroh::layers::authorize::{AccessPolicy, Decision, Identity};

    let toml = PAGE.split("```toml\n").nth(1).expect("a policy");
    let toml = toml.split("```").next().expect("its end");
    let policy = AccessPolicy::from_toml_with(toml, tower_iroh::peer_name).expect("valid");
    let anybody = Identity::from("somebody");
    let echo = "/tower_iroh.echo.v1.Echo/Echo";
    assert_eq!(policy.decide(Some(&anybody), echo), Decision::Allowed);
    assert_eq!(policy.decide(None, echo), Decision::Unauthenticated);
    let stream = "/tower_iroh.echo.v1.Echo/ServerStream";
    assert_eq!(policy.decide(Some(&anybody), stream), Decision::Denied);
}
