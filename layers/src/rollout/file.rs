//! The state in a file: lines of `key = value`, a subset of TOML that is read strictly and written all at once.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

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

fn unquoted(text: &str) -> Option<String> {
    let mut chars = text.strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut unquoted = String::new();
    while let Some(c) = chars.next() {
        match c {
            '\\' => unquoted.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            '"' => return None,
            c => unquoted.push(c),
        }
    }
    Some(unquoted)
}

/// Replaces the file: whoever reads it, at whatever moment a machine stops, finds the one or the other state.
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

const KEYS: [&str; 12] = [
    "version",
    "canary",
    "to",
    "phase",
    "stage",
    "share",
    "dwelt_ms",
    "since_unix_ms",
    "note",
    "baseline_calls",
    "baseline_failures",
    "baseline_p99_us",
];

type Wrong = (usize, String);

/// The lines by their keys.
struct Lines<'a> {
    values: HashMap<&'a str, (usize, &'a str)>,
    end: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Result<Self, Wrong> {
        let mut values = HashMap::new();
        let mut end = 1;
        for (n, line) in (1..).zip(text.lines()) {
            end = n + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what: String| Err((n, what));
            let Some((key, value)) = line.split_once('=') else {
                return wrong("key = value is expected".into());
            };
            let (key, value) = (key.trim(), value.trim());
            if !KEYS.contains(&key) {
                return wrong(format!("{key} is unknown"));
            }
            if values.insert(key, (n, value)).is_some() {
                return wrong(format!("{key} is there twice"));
            }
        }
        Ok(Self { values, end })
    }

    fn get(&self, key: &str) -> Result<(usize, &'a str), Wrong> {
        let value = self.values.get(key).copied();
        value.ok_or_else(|| (self.end, format!("{key} is missing")))
    }

    fn number(&self, key: &str) -> Result<u64, Wrong> {
        let (line, value) = self.get(key)?;
        let wrong = |_| (line, format!("{key} = {value} is no number"));
        value.parse().map_err(wrong)
    }

    fn words(&self, key: &str) -> Result<(usize, String), Wrong> {
        let (line, value) = self.get(key)?;
        let words = unquoted(value);
        let words = words.ok_or_else(|| (line, format!("{key} is to be in quotes")))?;
        Ok((line, words))
    }
}

fn parse(text: &str, canary: &Canary, to: &str) -> Result<Saved, Wrong> {
    let lines = Lines::new(text)?;
    let version = lines.number("version")?;
    if version != VERSION {
        let (line, _) = lines.get("version")?;
        return Err((line, format!("version {version} is not {VERSION}")));
    }
    for (key, own) in [("canary", canary.name()), ("to", to)] {
        let (line, found) = lines.words(key)?;
        // Written before the arms had their names.
        let is_unnamed = key == "to" && found == canary.to().as_str();
        if found != own && !is_unnamed {
            return Err((line, format!("{key} is {found:?} and not {own:?}")));
        }
    }
    let (line, phase) = lines.words("phase")?;
    let phase = Phase::ALL.into_iter().find(|known| known.as_str() == phase);
    let phase = phase.ok_or_else(|| (line, "phase is none that there is".to_owned()))?;
    let share = lines.number("share")?;
    let share = u32::try_from(share).ok().filter(|s| *s <= Canary::WHOLE);
    let share = match share {
        Some(share) if (share == 0) == (phase == Phase::RolledBack) => share,
        _ => {
            return Err((
                lines.get("share")?.0,
                format!("that is no share of one {phase}"),
            ));
        }
    };
    let since = Duration::from_millis(lines.number("since_unix_ms")?);
    let since = SystemTime::UNIX_EPOCH.checked_add(since);
    let baseline = match lines.values.keys().any(|key| key.starts_with("baseline")) {
        true => {
            let calls = lines.number("baseline_calls")?;
            let failures = lines.number("baseline_failures")?;
            let p99 = lines.values.contains_key("baseline_p99_us");
            let p99 = p99.then(|| lines.number("baseline_p99_us")).transpose()?;
            Some(Baseline {
                calls,
                failures,
                // Nearly: of very many calls only some were timed.
                answered: calls.saturating_sub(failures),
                p99: p99.map(Duration::from_micros),
            })
        }
        false => None,
    };
    Ok(Saved {
        state: RolloutState {
            phase,
            stage: usize::try_from(lines.number("stage")?).unwrap_or(usize::MAX),
            share,
            dwelt: Duration::from_millis(lines.number("dwelt_ms")?),
            since: since.unwrap_or(SystemTime::UNIX_EPOCH),
            note: lines.words("note")?.1,
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
        assert_eq!(wrong("stage = 0", "stag = 0").1, "stag is unknown");
        assert_eq!(wrong("stage = 0", "share = 500").1, "share is there twice");
        assert_eq!(wrong("stage = 0\n", "").1, "stage is missing");
        assert_eq!(wrong("note = \"well\"", "note = well").0, 10);
    }
}
