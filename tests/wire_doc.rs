//! `docs/wire.md` says what `src/wire.rs` does.

use tower_iroh::{
    Urgency,
    wire::{self, Kind, Preamble, close, reset},
};

const PAGE: &str = include_str!("../docs/wire.md");

#[test]
fn every_code_stands_in_the_page_with_its_name() {
    for (name, code) in [
        ("GONE", close::GONE),
        ("IDLE", close::IDLE),
        ("CLIENT_CLOSED", close::CLIENT_CLOSED),
        ("RETIRED", close::RETIRED),
        ("UNHEALTHY", close::UNHEALTHY),
        ("DRAINING", close::DRAINING),
        ("DRAINED", close::DRAINED),
        ("DRAIN_EXPIRED", close::DRAIN_EXPIRED),
        ("TOO_MANY_CONNECTIONS", close::TOO_MANY_CONNECTIONS),
        ("UNAUTHENTICATED", close::UNAUTHENTICATED),
        ("FORBIDDEN", close::FORBIDDEN),
        ("DROPPED", reset::DROPPED),
        ("BAD_PREAMBLE", reset::BAD_PREAMBLE),
        ("TOO_MANY_LANES", reset::TOO_MANY_LANES),
        ("DRAINING", reset::DRAINING),
    ] {
        let row = format!("| `{:#x}` | {name}", u64::from(code));
        assert!(PAGE.contains(&row), "docs/wire.md has no row {row:?}");
    }
}

#[test]
fn the_page_names_the_alpn_the_window_and_the_bytes() {
    assert!(PAGE.contains(std::str::from_utf8(wire::ALPN).expect("text")));
    assert_eq!(wire::MAX_STREAM_WINDOW, 1_250_000);
    assert!(PAGE.contains("1,250,000"));
    let preamble = Preamble {
        kind: Kind::Ping,
        urgency: Urgency::LOWEST,
    };
    assert_eq!(preamble.encode(), [1, 1, 7]);
    for row in [
        "| 0 | version | `01` |",
        "| 1 | kind | `00` HTTP/2, `01` ping |",
        "| 2 | urgency | `00` (most urgent) to `07`",
    ] {
        assert!(PAGE.contains(row), "{row}");
    }
}

#[test]
fn every_decision_is_listed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/decisions");
    let index = std::fs::read_to_string(format!("{folder}/README.md")).expect("an index");
    for page in std::fs::read_dir(folder).expect("a folder") {
        let name = page.expect("an entry").file_name();
        let name = name.to_str().expect("text");
        assert!(
            name == "README.md" || index.contains(&format!("({name})")),
            "{name}"
        );
    }
}
