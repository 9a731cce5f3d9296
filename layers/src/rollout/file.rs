//! The state in a file: TOML that is read strictly and written all at once.

use std::{
    fs::{self, File},
    io::{self, Write},
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use toml::Spanned;

use super::{
    RolloutError,
    gate::Baseline,
    machine::{Machine, Phase, RolloutState},
};
use crate::select::Canary;

/// A state that was saved.
#[derive(Debug, PartialEq)]
pub(super) struct Saved {
    pub(super) state: RolloutState,
    pub(super) baseline: Option<Baseline>,
}

const VERSION: u64 = 1;
/// More than any state takes.
const LONGEST: u64 = 64 << 10;

/// The text of a state.
pub(super) fn text(machine: &Machine, to: &str) -> String {
    let state = &machine.state;
    let mut text = format!(
        "# How a rollout of tower-iroh stands. It is written anew at each step; to change it, stop the program first.\n\
         version = {VERSION}\n\
         canary = {}\n\
         to = {}\n\
         phase = {}\n\
         stage = {}\n\
         share = {}\n\
         dwelt_ms = {}\n\
         since_unix_ms = {}\n\
         note = {}\n",
        quoted(machine.config().canary()),
        quoted(to),
        quoted(state.phase.as_str()),
        state.stage,
        state.share,
        state.dwelt.as_millis(),
        unix_ms(state.since),
        quoted(&state.note),
    );
    if let Some(baseline) = &machine.baseline {
        let Baseline {
            calls, failures, ..
        } = baseline;
        text += &format!("baseline_calls = {calls}\nbaseline_failures = {failures}\n");
        if let Some(p99) = baseline.p99 {
            text += &format!("baseline_p99_us = {}\n", p99.as_micros());
        }
    }
    text
}

fn unix_ms(time: SystemTime) -> u128 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis()
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Replaces the file: at whatever moment a machine stops, a reader finds either the old state or the new one.
pub(super) fn save(path: &Path, text: &str) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
    let mut beside = name.to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = folder.join(beside);
    let written = (|| {
        let mut file = File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        // The name too. Not every system lets a folder be opened for that.
        if let Ok(folder) = File::open(folder) {
            let _ = folder.sync_all();
        }
        Ok(())
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Reads the file; `None` where there is none yet.
pub(super) fn load(path: &Path, canary: &Canary, to: &str) -> Result<Option<Saved>, RolloutError> {
    let unreadable = |source| RolloutError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let length = match fs::metadata(path) {
        Ok(file) => file.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let corrupt = |(line, what)| RolloutError::Corrupt {
        path: PathBuf::from(path),
        line,
        what,
    };
    if length > LONGEST {
        return Err(corrupt((1, format!("{length} bytes are too many"))));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let text =
        String::from_utf8(bytes).map_err(|_| corrupt((1, "it is not UTF-8 text".to_owned())))?;
    parse(&text, canary, to).map(Some).map_err(corrupt)
}

/// The lines by their keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lines {
    version: Spanned<u64>,
    canary: Spanned<String>,
    to: Spanned<String>,
    phase: Spanned<String>,
    stage: u64,
    share: Spanned<u64>,
    dwelt_ms: u64,
    since_unix_ms: u64,
    note: String,
    baseline_calls: Option<u64>,
    baseline_failures: Option<u64>,
    baseline_p99_us: Option<u64>,
}

type Wrong = (usize, String);

fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let before = span.and_then(|span| text.get(..span.start));
    before.map_or(1, |before| before.matches('\n').count() + 1)
}

fn parse(text: &str, canary: &Canary, to: &str) -> Result<Saved, Wrong> {
    let lines: Lines = toml::from_str(text)
        .map_err(|error| (line_of(text, error.span()), error.message().to_owned()))?;
    let wrong = |span: Range<usize>, what| Err((line_of(text, Some(span)), what));
    let version = lines.version.get_ref();
    if *version != VERSION {
        let what = format!("version {version} is not {VERSION}");
        return wrong(lines.version.span(), what);
    }
    for (key, found, own) in [
        ("canary", &lines.canary, canary.name()),
        ("to", &lines.to, to),
    ] {
        let written = found.get_ref();
        // Written before the arms had their names.
        let is_unnamed = key == "to" && written == canary.to().as_str();
        if written != own && !is_unnamed {
            let what = format!("{key} is {written:?} and not {own:?}");
            return wrong(found.span(), what);
        }
    }
    let phase = lines.phase.get_ref();
    let Some(phase) = Phase::ALL.into_iter().find(|known| known.as_str() == phase) else {
        return wrong(lines.phase.span(), "phase is none that there is".to_owned());
    };
    let share = u32::try_from(*lines.share.get_ref()).ok();
    let share = match share.filter(|share| *share <= Canary::WHOLE) {
        Some(share) if (share == 0) == (phase == Phase::RolledBack) => share,
        _ => {
            return wrong(
                lines.share.span(),
                format!("that is no share of one {phase}"),
            );
        }
    };
    let baseline = match (lines.baseline_calls, lines.baseline_failures) {
        (Some(calls), Some(failures)) => Some(Baseline {
            calls,
            failures,
            // Nearly: of very many calls only some were timed.
            answered: calls.saturating_sub(failures),
            p99: lines.baseline_p99_us.map(Duration::from_micros),
        }),
        (None, None) if lines.baseline_p99_us.is_none() => None,
        _ => {
            let what = "baseline_calls and baseline_failures belong together".to_owned();
            return Err((text.lines().count() + 1, what));
        }
    };
    let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(lines.since_unix_ms));
    Ok(Saved {
        state: RolloutState {
            phase,
            stage: usize::try_from(lines.stage).unwrap_or(usize::MAX),
            share,
            dwelt: Duration::from_millis(lines.dwelt_ms),
            since: since.unwrap_or(SystemTime::UNIX_EPOCH),
            note: lines.note,
            unsaved: None,
        },
        baseline,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{rollout::RolloutConfig, select::Arm};

    fn canary() -> Canary {
        let canary = Canary::builder("shop \"7\" \\ x", Arm::First);
        canary.build().expect("accepted")
    }

    fn machine(note: &str, baseline: bool) -> Machine {
        let config = RolloutConfig::builder(canary().name()).build();
        let config = Arc::new(config.expect("accepted"));
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let mut machine = Machine::new(config, now);
        machine.state.note = note.to_owned();
        machine.state.dwelt = Duration::from_millis(77_001);
        machine.baseline = baseline.then_some(Baseline {
            calls: 5000,
            failures: 10,
            answered: 4990,
            p99: note
                .len()
                .is_multiple_of(2)
                .then_some(Duration::from_micros(12_345)),
        });
        machine
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(note in "[^\\p{Cc}]*", baseline in any::<bool>()) {
            let machine = machine(&note, baseline);
            let saved = parse(&text(&machine, "iroh"), &canary(), "iroh").expect("its own");
            prop_assert_eq!(saved.state, machine.state);
            prop_assert_eq!(saved.baseline, machine.baseline);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            prop_assert!(parse(&text, &canary(), "iroh").is_err());
        }

        /// Cut off anywhere, it is refused, or it says the same.
        #[test]
        fn a_part_is_not_taken_for_the_whole(end in 0usize..400) {
            let machine = machine("well", true);
            let text = text(&machine, "iroh");
            let part = &text[..text.floor_char_boundary(end)];
            if let Ok(saved) = parse(part, &canary(), "iroh") {
                prop_assert_eq!(saved.state, machine.state);
            }
        }
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        let good = text(&machine("well", false), "iroh");
        let wrong = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            parse(&good.replace(from, to), &canary(), "iroh").expect_err("refused")
        };
        assert_eq!(wrong("version = 1", "version = 2").0, 2);
        assert_eq!(wrong("to = \"iroh\"", "to = \"tcp\"").0, 4);
        assert_eq!(wrong("\"running\"", "\"walking\"").0, 5);
        assert_eq!(wrong("share = 500", "share = 10001").0, 7);
        assert_eq!(wrong("share = 500", "share = 0").0, 7);
        assert_eq!(wrong("\"running\"", "\"rolled_back\"").0, 7);
        assert_eq!(wrong("stage = 0", "stage = -1").0, 6);
        for (line, what, from, to) in [
            (6, "unknown field `stag`", "stage = 0", "stag = 0"),
            (7, "duplicate key", "stage = 0", "share = 500"),
            (1, "missing field `stage`", "stage = 0\n", ""),
        ] {
            let (at, told) = wrong(from, to);
            assert!(at == line && told.contains(what), "{at}: {told}");
        }
        assert_eq!(wrong("note = \"well\"", "note = well").0, 10);
    }
}
