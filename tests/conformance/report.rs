//! Runs a case and keeps what came of it; the last case of a whole run writes the table.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    panic::{AssertUnwindSafe, resume_unwind},
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::time::timeout;
use tonic::Code;

use crate::{
    CASES,
    support::{Arm, ServerOptions, World},
};

/// A case that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// When set, a whole run puts its table into the page.
const WRITE_PAGE: &str = "TOWER_IROH_CONFORMANCE_PAGE";
/// Behind this line of the page comes the table, and nothing else.
const TABLE: &str = "<!-- as written by the run -->";

/// What came of a case on an arm: its note, or nothing when it failed.
type Outcome = Option<String>;

static OUTCOMES: Mutex<BTreeMap<(&str, Arm), Outcome>> = Mutex::new(BTreeMap::new());

/// Runs `case` against a server of its own, which must then shut down gracefully.
pub async fn run(arm: Arm, name: &'static str, case: impl AsyncFnOnce(&World) -> String) {
    let whole = async {
        let world = World::start(arm, ServerOptions::default()).await;
        let note = case(&world).await;
        world.stop().await;
        note
    };
    let patient = timeout(PATIENCE, whole);
    match AssertUnwindSafe(patient).catch_unwind().await {
        Ok(Ok(note)) => keep(arm, name, Some(note)),
        Ok(Err(_)) => {
            keep(arm, name, None);
            panic!("{name} over {} hangs", arm.name());
        }
        Err(panic) => {
            keep(arm, name, None);
            resume_unwind(panic);
        }
    }
}

fn keep(arm: Arm, name: &'static str, outcome: Outcome) {
    let mut outcomes = OUTCOMES.lock().expect("nothing in here panics twice");
    outcomes.insert((name, arm), outcome);
    // A filtered run is no table.
    if outcomes.len() == CASES.len() * Arm::ALL.len() {
        let (target, table) = (target(), table(&outcomes));
        fs::write(target.join("conformance.md"), &table).expect("target is writable");
        fs::write(target.join("conformance.json"), json(&outcomes)).expect("target is writable");
        if std::env::var_os(WRITE_PAGE).is_some() {
            let text = fs::read_to_string(page()).expect("docs/conformance.md");
            let (above, _) = text
                .split_once(TABLE)
                .expect("a line where the table begins");
            fs::write(page(), format!("{above}{TABLE}\n{table}")).expect("docs are writable");
        }
    }
}

/// The page that has the table at its end.
fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md")
}

/// Cargo gives tests a directory in `target/`.
fn target() -> &'static Path {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().expect("target/")
}

fn table(outcomes: &BTreeMap<(&str, Arm), Outcome>) -> String {
    let mut table = "| case |".to_owned();
    for arm in Arm::ALL {
        write!(table, " {} |", arm.name()).expect("a String");
    }
    table.push_str(&format!("\n|---|{}\n", "---|".repeat(Arm::ALL.len())));
    for case in CASES {
        write!(table, "| `{case}` |").expect("a String");
        for arm in Arm::ALL {
            let cell = match &outcomes[&(*case, arm)] {
                None => "**failed**".to_owned(),
                Some(note) if note.is_empty() => "pass".to_owned(),
                Some(note) => format!("pass: {note}"),
            };
            write!(table, " {cell} |").expect("a String");
        }
        table.push('\n');
    }
    table
}

fn json(outcomes: &BTreeMap<(&str, Arm), Outcome>) -> String {
    let rows: Vec<_> = outcomes
        .iter()
        .map(|((case, arm), outcome)| {
            serde_json::json!({
                "case": case,
                "arm": arm.name(),
                "passed": outcome.is_some(),
                "note": outcome,
            })
        })
        .collect();
    serde_json::to_string_pretty(&rows).expect("JSON")
}

/// The page must have a row for each case that exists, none for another, and no failure.
#[test]
fn docs_name_exactly_the_cases() {
    let page = fs::read_to_string(page()).expect("docs/conformance.md");
    let rows: Vec<&str> = page.lines().filter(|it| it.starts_with("| `")).collect();
    let named: Vec<&str> = rows
        .iter()
        .map(|row| row.split('`').nth(1).expect("a name"))
        .collect();
    assert_eq!(named, CASES);
    for row in rows {
        assert_eq!(row.matches("| pass").count(), Arm::ALL.len(), "{row}");
    }
}

/// As gRPC's documentation spells it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
