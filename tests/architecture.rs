//! Which room of `src/` may use which: `docs/architecture.md` says why.
//!
//! A room is a folder of `src/`. This test reads what each file names with `crate::`, so a new edge is a decision: it has to be written down here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The rooms that each room may use. `lock` is one function that every room may call.
const ALLOWED: [(&str, &[&str]); 12] = [
    // Not in a build that anybody uses.
    ("fuzzing", &["channel", "quic", "tcp"]),
    (
        "config",
        &["error", "peer", "peers", "pool", "quic", "server", "tcp"],
    ),
    (
        "peers",
        &["channel", "error", "peer", "pool", "quic", "tcp"],
    ),
    (
        "channel",
        &["error", "http2", "peer", "pool", "quic", "tcp", "wire"],
    ),
    ("server", &["error", "peer", "pool", "quic", "tcp", "wire"]),
    ("quic", &["error", "http2", "peer", "pool", "wire"]),
    ("tcp", &["error", "http2", "peer", "pool", "wire"]),
    ("http2", &["error", "peer", "pool", "wire"]),
    ("pool", &["error", "peer"]),
    ("peer", &["wire"]),
    ("error", &["wire"]),
    ("wire", &[]),
];

/// What only the rooms of a transport, and `peer` and `error` for its types, may name of the world outside.
const TRANSPORTS: [&str; 6] = [
    "iroh::endpoint",
    "noq_proto",
    "rustls",
    "tokio_rustls",
    "socket2",
    "tokio::net",
];

/// Rooms that must work over any transport.
const GENERIC: [&str; 2] = ["pool", "http2"];

fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The code of a file without its comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("readable");
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.fold(String::new(), |code, line| code + line + "\n")
}

/// The first name of each path in the use tree that follows `crate::`.
fn heads(tree: &str) -> Vec<String> {
    let name = |text: &str| {
        let text = text.trim_start();
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
        text[..end.unwrap_or(text.len())].to_owned()
    };
    let Some(group) = tree.strip_prefix('{') else {
        return vec![name(tree)];
    };
    let (mut depth, mut start, mut heads) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.push(name(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

/// Of each room the files that use another, by the room used.
fn edges() -> BTreeMap<String, BTreeMap<String, BTreeSet<PathBuf>>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    let mut edges = BTreeMap::<_, BTreeMap<_, BTreeSet<_>>>::new();
    for path in all {
        let inside = path.strip_prefix(&src).expect("below src");
        let mut parts = inside.components();
        let room = parts.next().expect("a name").as_os_str();
        if parts.next().is_none() {
            // lib.rs, which names everything, and lock.rs.
            continue;
        }
        if room == "bin" {
            // The program is a crate of its own, which uses the library as any other program does.
            continue;
        }
        let room = room.to_str().expect("a name").to_owned();
        let code = code(&path);
        let used = code.split("crate::").skip(1).flat_map(heads);
        for used in used.filter(|used| *used != room && used != "lock") {
            let files = edges.entry(room.clone()).or_default();
            files.entry(used).or_default().insert(inside.to_owned());
        }
        edges.entry(room).or_default();
    }
    edges
}

#[test]
fn each_room_uses_only_what_it_may() {
    let allowed: BTreeMap<_, _> = ALLOWED.into_iter().collect();
    let mut wrong = Vec::new();
    for (room, uses) in edges() {
        let Some(allowed) = allowed.get(room.as_str()) else {
            wrong.push(format!(
                "`{room}` is a new room: say in ALLOWED what it may use"
            ));
            continue;
        };
        for (used, files) in uses {
            if !allowed.contains(&used.as_str()) {
                wrong.push(format!("`{room}` uses `{used}` in {files:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_two_rooms_use_each_other_by_whatever_way() {
    let edges = edges();
    // A room is taken off once everything that it uses has been: what is left stands in a circle.
    let mut left: BTreeSet<_> = edges.keys().cloned().collect();
    loop {
        let free = left.iter().find(|room| {
            let mut uses = edges[*room].keys();
            uses.all(|used| !left.contains(used))
        });
        match free.cloned() {
            Some(room) => left.remove(&room),
            None => break,
        };
    }
    assert!(
        left.is_empty(),
        "these use each other in a circle: {left:?}"
    );
}

#[test]
fn the_rooms_for_any_transport_name_none() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in GENERIC {
        let mut all = Vec::new();
        files(&src.join(room), &mut all);
        for path in all {
            let code = code(&path);
            for transport in TRANSPORTS {
                assert!(!code.contains(transport), "{path:?} names {transport}");
            }
        }
    }
}

#[test]
fn the_reader_of_use_trees_finds_every_head() {
    let heads = |tree| heads(tree).join(" ");
    assert_eq!(heads("pool::Use;"), "pool");
    assert_eq!(
        heads("{error::{Error, ErrorKind}, pool, wire::{self, close}};"),
        "error pool wire"
    );
    assert_eq!(
        heads("{\n    lock::lock,\n    peer,\n};\nstruct A { b: u8 }"),
        "lock peer"
    );
    assert_eq!(heads("peer::uri(\"http\", id)"), "peer");
}
