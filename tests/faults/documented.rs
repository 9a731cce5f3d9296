//! `docs/faults.md` and the tests name each other.

use std::{collections::BTreeSet, fs, path::Path};

/// `module::test` of every test in a source file.
fn tests_of(module: &str, source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut lines = source.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        // `on_both_arms! { one two }` has a name per line.
        if line.starts_with("on_both_arms! {") {
            for name in lines.by_ref().take_while(|line| *line != "}") {
                names.insert(format!("{module}::{name}"));
            }
        }
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            let signature = lines.find(|line| line.contains("fn ")).unwrap_or_default();
            let name = signature
                .split("fn ")
                .nth(1)
                .and_then(|rest| rest.split('(').next());
            names.insert(format!("{module}::{}", name.expect("a name")));
        }
    }
    names
}

#[test]
fn every_test_named_in_the_docs_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| fs::read_to_string(path).expect("a text file");
    let mut tests = tests_of("bad_input", &read(&root.join("tests/bad_input.rs")));
    for file in fs::read_dir(root.join("tests/faults")).expect("a folder") {
        let path = file.expect("a file").path();
        let module = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a name");
        if !["support", "documented"].contains(&module) {
            tests.extend(tests_of(module, &read(&path)));
        }
    }
    let page = read(&root.join("docs/faults.md"));
    let documented: BTreeSet<_> = page
        .lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|line| line.trim_end_matches('|').rsplit('|').next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    assert!(documented.len() > 50, "the page is read: {documented:?}");
    let missing: Vec<_> = documented.difference(&tests).collect();
    assert!(
        missing.is_empty(),
        "named in docs/faults.md and not there: {missing:?}"
    );
    let unnamed: Vec<_> = tests.difference(&documented).collect();
    assert!(unnamed.is_empty(), "not in docs/faults.md: {unnamed:?}");
}
