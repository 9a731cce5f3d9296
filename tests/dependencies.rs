//! `docs/dependencies.md` lists what the manifests have.

use std::collections::BTreeSet;

const PAGE: &str = include_str!("../docs/dependencies.md");
const MANIFEST: &str = include_str!("../Cargo.toml");
const LAYERS: &str = include_str!("../layers/Cargo.toml");

/// A section of a manifest or of the page: from its head to the next.
fn section<'a>(text: &'a str, head: &str, next: &str) -> &'a str {
    let (_, after) = text.split_once(head).expect(head);
    after.split_once(next).map_or(after, |(section, _)| section)
}

/// The crates of `[dependencies]`, and what is said of each.
fn dependencies(manifest: &str) -> Vec<(&str, &str)> {
    let section = section(manifest, "\n[dependencies]\n", "\n[");
    let lines = section.lines().filter_map(|line| line.split_once('='));
    let named = lines.map(|(name, what)| (name.trim(), what));
    named.filter(|(name, _)| !name.starts_with('#')).collect()
}

/// The rows of the page's tables of crates: name and version, and the other cells.
fn rows(head: &str) -> Vec<(&'static str, Vec<&'static str>)> {
    let table = section(PAGE, head, "\n## ");
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim));
    let named = cells.map(|mut cells| (cells.next().expect("a cell"), cells.collect()));
    named.filter(|(name, _)| *name != "crate").collect()
}

fn name(cell: &str) -> &str {
    cell.split(' ').next().expect("a name")
}

#[test]
fn the_page_lists_the_direct_dependencies_and_no_others() {
    let all = [MANIFEST, LAYERS].map(dependencies).concat();
    let all: BTreeSet<_> = all.into_iter().map(|(name, _)| name).collect();
    let rows = [rows("\n## The library\n"), rows("\n## The program alone\n")].concat();
    let listed: BTreeSet<_> = rows.iter().map(|(cell, _)| name(cell)).collect();
    assert_eq!(listed, all);
    assert_eq!(listed.len(), rows.len(), "each once");
}

/// What has no feature in the library's table is always there, and what has one can be left out.
#[test]
fn the_page_says_of_each_dependency_whether_it_can_be_left_out() {
    let ours = dependencies(MANIFEST);
    let of_the_layers = dependencies(LAYERS);
    for (cell, cells) in rows("\n## The library\n") {
        let name = name(cell);
        // What the root has without a condition is always there, whatever the layers say.
        let optional = match ours.iter().find(|(it, _)| *it == name) {
            Some((_, what)) => what.contains("optional = true"),
            // Of the layers' features the root switches most on.
            None => of_the_layers.iter().any(|(it, _)| *it == name) && cells[1] != "always",
        };
        assert_eq!(cells[1] == "always", !optional, "{name}: {}", cells[1]);
    }
    for (cell, _) in rows("\n## The program alone\n") {
        let name = name(cell);
        let only = format!("\"dep:{name}\"");
        let cli = section(MANIFEST, "\ncli = [", "]");
        assert!(cli.contains(&only), "{name} comes with `cli`");
    }
}

#[test]
fn the_versions_are_those_that_are_locked() {
    let lock = include_str!("../Cargo.lock");
    for (cell, _) in [rows("\n## The library\n"), rows("\n## The program alone\n")].concat() {
        let Some((name, version)) = cell.split_once(' ') else {
            assert_eq!(cell, "tower-iroh-layers", "of this repository");
            continue;
        };
        let locked = format!("name = \"{name}\"\nversion = \"{version}.");
        assert!(lock.contains(&locked), "Cargo.lock has no {name} {version}");
    }
}

/// An iroh-only client has no TLS over TCP.
#[test]
fn a_feature_brings_tls_over_tcp() {
    let tcp = section(MANIFEST, "\ntcp = [", "]");
    let ours = dependencies(MANIFEST);
    for name in ["rustls", "socket2", "tokio-rustls"] {
        assert!(tcp.contains(&format!("\"dep:{name}\"")), "{name}");
        let (_, what) = ours.iter().find(|(it, _)| *it == name).expect(name);
        assert!(what.contains("optional = true"), "{name}");
    }
}
