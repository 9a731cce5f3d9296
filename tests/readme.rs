//! README.md says what is so: its code is the examples' code, its commands exist, its links lead somewhere.

use std::{fs, path::Path};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every Rust block names the region of the example that it is, and is that region. The compiler sees the region, and
/// `tests/examples.rs` runs it.
#[test]
fn code_is_the_examples_code() {
    let mut snippets = 0;
    for (above, code) in blocks("rust") {
        let marker = above
            .strip_prefix("<!-- ")
            .and_then(|it| it.strip_suffix(" -->"));
        let (file, region) = marker
            .and_then(|it| it.split_once(": "))
            .unwrap_or_else(|| panic!("no <!-- file: region --> above\n{code}"));
        assert_eq!(code, self::region(file, region), "{file}, region {region}");
        snippets += 1;
    }
    assert!(snippets >= 3, "{snippets} snippets");
}

#[test]
fn commands_exist() {
    let ci = read(".ci/run");
    let manifest = read("Cargo.toml");
    let mut commands = 0;
    for line in blocks("sh").iter().flat_map(|(_, code)| code.lines()) {
        let words: Vec<_> = line.split_whitespace().collect();
        let after = |flag| {
            let place = words.iter().position(|word| *word == flag)?;
            words.get(place + 1).copied()
        };
        let proven = match (words.as_slice(), after("--example"), after("--bench")) {
            // Each file in examples/ is run by tests/examples.rs, which fails for one that it does not know.
            (["cargo", "run", ..], Some(name), _) => {
                exists(&format!("examples/{name}.rs"))
                    || exists(&format!("examples/{name}/main.rs"))
            }
            (["cargo", "bench", ..], _, Some(name)) => {
                manifest.contains(&format!("[[bench]]\nname = \"{name}\"")) && ci.contains(line)
            }
            (["cargo", "test", "--workspace"], ..) => ci.contains(line),
            ([".ci/run"], ..) => true,
            (["cargo", "install", ..], ..) => ci.contains(line),
            // tests/program runs each verb.
            (["tower-iroh", verb, ..], ..)
            | (
                [
                    "cargo",
                    "run",
                    "--features",
                    "cli",
                    "--bin",
                    "tower-iroh",
                    "--",
                    verb,
                ],
                ..,
            ) => {
                exists(&format!("src/bin/tower-iroh/{verb}.rs"))
                    || exists(&format!("src/bin/tower-iroh/{verb}/mod.rs"))
            }
            _ => false,
        };
        assert!(proven, "nothing proves `{line}`");
        commands += 1;
    }
    assert!(commands >= 2, "{commands} commands");
}

#[test]
fn links_lead_somewhere() {
    for (file, folder) in [
        ("README.md", "."),
        ("CHANGELOG.md", "."),
        ("SECURITY.md", "."),
        ("docs/security.md", "docs"),
        ("docs/decisions/README.md", "docs/decisions"),
    ] {
        for target in read(file).split("](").skip(1) {
            let target = target.split([')', '#']).next().unwrap_or_default();
            if !target.starts_with("http") {
                assert!(
                    exists(&format!("{folder}/{target}")),
                    "{file} links to {target:?}"
                );
            }
        }
    }
}

/// The last column of the page's tables says where a limit is shown, as `tests/file.rs::test`.
#[test]
fn the_limits_of_the_security_page_have_tests() {
    let mut named = 0;
    let page = read("docs/security.md");
    for cell in page.lines().filter(|line| line.starts_with('|')) {
        for name in cell.split('`').skip(1).step_by(2) {
            let Some((file, test)) = name.split_once(".rs::") else {
                continue;
            };
            let file = format!("{file}.rs");
            assert!(exists(&file), "no file {file}");
            let test = format!("fn {test}(");
            assert!(read(&file).contains(&test), "{file} has no `{test}`");
            named += 1;
        }
    }
    assert!(named >= 20, "{named} tests");
}

/// The fenced blocks of README.md in a language, each with the line above it.
fn blocks(language: &str) -> Vec<(String, String)> {
    let readme = read("README.md");
    let mut blocks = Vec::new();
    let mut above = "";
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        if let Some(found) = line.strip_prefix("```") {
            let code: Vec<_> = lines.by_ref().take_while(|it| *it != "```").collect();
            if found == language {
                blocks.push((above.to_owned(), code.join("\n")));
            }
        }
        above = line;
    }
    blocks
}

/// What stands between `// README: <region>` and `// README: end`, without the indentation of the first line.
fn region(file: &str, region: &str) -> String {
    let source = read(file);
    let begin = format!("// README: {region}");
    let lines: Vec<_> = source
        .lines()
        .skip_while(|line| line.trim() != begin)
        .skip(1)
        .take_while(|line| line.trim() != "// README: end")
        .collect();
    let indented = lines
        .first()
        .map_or(0, |line| line.len() - line.trim_start().len());
    let shifted: Vec<_> = lines
        .iter()
        .map(|line| line.get(indented..).unwrap_or_default())
        .collect();
    shifted.join("\n")
}

fn read(file: &str) -> String {
    let path = Path::new(ROOT).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn exists(file: &str) -> bool {
    Path::new(ROOT).join(file).exists()
}
