//! How each kind of value is written, read and checked. The check is the same for what a file says and what a program says.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use iroh::RelayUrl;

use super::{
    found::{Found, Refusal, quote, whole},
    nearest::nearest,
    values::{RaftTransport, Words},
};

/// One way to write a `T`.
pub(super) trait Form<T> {
    /// Reads a value that is of the right kind.
    fn read(found: Found<'_>) -> Result<T, Refusal>;

    /// The value as TOML; `None` where the key is left out.
    fn show(value: &T) -> Option<String>;

    /// Refuses what is of the right kind and cannot be: says what is accepted.
    fn check(_: &T) -> Result<(), String> {
        Ok(())
    }
}

pub(super) struct Flag;

impl Form<bool> for Flag {
    fn read(found: Found<'_>) -> Result<bool, Refusal> {
        found.boolean()
    }

    fn show(value: &bool) -> Option<String> {
        Some(value.to_string())
    }
}

/// One of some words.
pub(super) struct Word;

impl<T: Words> Form<T> for Word {
    fn read(found: Found<'_>) -> Result<T, Refusal> {
        let names = || T::ALL.iter().map(|(name, _)| *name);
        let refused = |nearest| Refusal {
            nearest,
            ..found.refuse(format!("{} is accepted", one_of(names())))
        };
        let word = found.string().map_err(|_| refused(None))?;
        let known = T::ALL.iter().find(|(name, _)| *name == word);
        let meant = || nearest(word, names()).map(quote);
        known
            .map(|(_, value)| *value)
            .ok_or_else(|| refused(meant()))
    }

    fn show(value: &T) -> Option<String> {
        let word = T::ALL.iter().find(|(_, it)| it == value);
        word.map(|(name, _)| quote(name))
    }
}

/// `"a", "b" or "c"`.
pub(super) fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(quote).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "nothing".to_owned(),
    }
}

/// A whole number within bounds.
pub(super) struct Count<const LEAST: u64, const MOST: u64>;

impl<T, const LEAST: u64, const MOST: u64> Form<T> for Count<LEAST, MOST>
where
    T: Copy + TryFrom<u64> + TryInto<u64>,
{
    fn read(found: Found<'_>) -> Result<T, Refusal> {
        let range = LEAST..=MOST;
        let number = found.integer(range.clone())?;
        T::try_from(number).map_err(|_| found.refuse(whole(&range)))
    }

    fn show(value: &T) -> Option<String> {
        let number: u64 = (*value).try_into().unwrap_or(u64::MAX);
        Some(number.to_string())
    }

    fn check(value: &T) -> Result<(), String> {
        let range = LEAST..=MOST;
        match (*value).try_into() {
            Ok(number) if range.contains(&number) => Ok(()),
            _ => Err(whole(&range)),
        }
    }
}

/// A time, as a number of `UNIT` nanoseconds, of at most `MOST` units.
pub(super) struct Time<const UNIT: u64, const MOST: u64>;

pub(super) const MILLISECONDS: u64 = 1_000_000;
pub(super) const SECONDS: u64 = 1_000_000_000;

impl<const UNIT: u64, const MOST: u64> Time<UNIT, MOST> {
    fn accepted() -> String {
        let unit = match UNIT {
            MILLISECONDS => "milliseconds",
            _ => "seconds",
        };
        format!("a number of {unit} above 0, at most {MOST}, is accepted")
    }
}

impl<const UNIT: u64, const MOST: u64> Form<Duration> for Time<UNIT, MOST> {
    fn read(found: Found<'_>) -> Result<Duration, Refusal> {
        let number = found.number(Self::accepted())?;
        let seconds = number * (UNIT as f64 / SECONDS as f64);
        Duration::try_from_secs_f64(seconds).map_err(|_| found.refuse(Self::accepted()))
    }

    fn show(value: &Duration) -> Option<String> {
        let (unit, nanos) = (u128::from(UNIT), value.as_nanos());
        let (whole, part) = (nanos / unit, nanos % unit);
        let digits = UNIT.ilog10() as usize;
        let part = format!("{part:0digits$}");
        Some(match part.trim_end_matches('0') {
            "" => whole.to_string(),
            part => format!("{whole}.{part}"),
        })
    }

    fn check(value: &Duration) -> Result<(), String> {
        let most = u128::from(MOST) * u128::from(UNIT);
        match value.as_nanos() {
            nanos if (1..=most).contains(&nanos) => Ok(()),
            _ => Err(Self::accepted()),
        }
    }
}

/// A number of seconds within bounds.
pub(super) struct Between<const LEAST: u64, const MOST: u64>;

impl<const LEAST: u64, const MOST: u64> Between<LEAST, MOST> {
    fn accepted() -> String {
        format!("a number of seconds from {LEAST} to {MOST} is accepted")
    }
}

impl<const LEAST: u64, const MOST: u64> Form<Duration> for Between<LEAST, MOST> {
    fn read(found: Found<'_>) -> Result<Duration, Refusal> {
        let number = found.number(Self::accepted())?;
        Duration::try_from_secs_f64(number).map_err(|_| found.refuse(Self::accepted()))
    }

    fn show(value: &Duration) -> Option<String> {
        Time::<SECONDS, MOST>::show(value)
    }

    fn check(value: &Duration) -> Result<(), String> {
        match (Duration::from_secs(LEAST)..=Duration::from_secs(MOST)).contains(value) {
            true => Ok(()),
            false => Err(Self::accepted()),
        }
    }
}

/// A number within bounds, which are given in thousandths.
pub(super) struct Number<const LEAST: u64, const MOST: u64>;

impl<const LEAST: u64, const MOST: u64> Number<LEAST, MOST> {
    const BOUNDS: (f64, f64) = (LEAST as f64 / 1000.0, MOST as f64 / 1000.0);

    fn accepted() -> String {
        let (least, most) = Self::BOUNDS;
        format!("a number from {least} to {most} is accepted")
    }
}

impl<const LEAST: u64, const MOST: u64> Form<f64> for Number<LEAST, MOST> {
    fn read(found: Found<'_>) -> Result<f64, Refusal> {
        found.number(Self::accepted())
    }

    fn show(value: &f64) -> Option<String> {
        Some(match value.is_nan() {
            true => "nan".to_owned(),
            false => format!("{value:?}"),
        })
    }

    fn check(value: &f64) -> Result<(), String> {
        let (least, most) = Self::BOUNDS;
        match (least..=most).contains(value) {
            true => Ok(()),
            false => Err(Self::accepted()),
        }
    }
}

/// An address to bind.
pub(super) struct Address;

impl Form<SocketAddr> for Address {
    fn read(found: Found<'_>) -> Result<SocketAddr, Refusal> {
        let refused = || {
            found.refuse(
                "an IP address with a port, such as \"0.0.0.0:7001\" or \"[::]:7001\", is accepted",
            )
        };
        let text = found.string().map_err(|_| refused())?;
        text.parse().map_err(|_| refused())
    }

    fn show(value: &SocketAddr) -> Option<String> {
        Some(quote(&value.to_string()))
    }
}

/// The address of an interface, or all of them.
pub(super) struct Interface;

impl Form<Option<IpAddr>> for Interface {
    fn read(found: Found<'_>) -> Result<Option<IpAddr>, Refusal> {
        let refused = || {
            found.refuse("an IP address, such as \"192.0.2.1\", is accepted; leave it out for all")
        };
        let text = found.string().map_err(|_| refused())?;
        text.parse().map(Some).map_err(|_| refused())
    }

    fn show(value: &Option<IpAddr>) -> Option<String> {
        value.map(|ip| quote(&ip.to_string()))
    }
}

/// The URL of a relay, or none.
pub(super) struct Relay;

impl Relay {
    const ACCEPTED: &'static str =
        "an https:// URL (or http://, for a relay on this machine) or \"none\" is accepted";
}

impl Form<Option<RelayUrl>> for Relay {
    fn read(found: Found<'_>) -> Result<Option<RelayUrl>, Refusal> {
        let refused = || found.refuse(Self::ACCEPTED);
        match found.string().map_err(|_| refused())? {
            "none" => Ok(None),
            url => url.parse().map(Some).map_err(|_| refused()),
        }
    }

    fn show(value: &Option<RelayUrl>) -> Option<String> {
        Some(match value {
            Some(url) => quote(url.as_str()),
            None => quote("none"),
        })
    }

    fn check(value: &Option<RelayUrl>) -> Result<(), String> {
        match value {
            Some(url) if !matches!(url.scheme(), "https" | "http") || !url.has_host() => {
                Err(Self::ACCEPTED.to_owned())
            }
            // The effective configuration is shown, and a password is not to be.
            Some(url) if !url.username().is_empty() || url.password().is_some() => Err(format!(
                "{}, without a user's name or password",
                Self::ACCEPTED
            )),
            _ => Ok(()),
        }
    }
}

/// The path of a file.
pub(super) struct File;

impl File {
    /// Whether somebody wrote the secret where its file's name belongs: then it is not shown.
    fn is_secret(path: &std::path::Path) -> bool {
        let text = path.to_string_lossy();
        let text = text.trim();
        text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

impl Form<Option<PathBuf>> for File {
    fn read(found: Found<'_>) -> Result<Option<PathBuf>, Refusal> {
        let text = found
            .string()
            .map_err(|_| found.refuse("the path of a file is accepted"))?;
        let path = PathBuf::from(text);
        if Self::is_secret(&path) {
            return Err(Refusal {
                found: "= (64 hexadecimal digits, not shown)".to_owned(),
                ..found.refuse("the path of a file is accepted; a key does not belong here")
            });
        }
        Ok(Some(path))
    }

    fn show(value: &Option<PathBuf>) -> Option<String> {
        let path = value.as_ref()?;
        Some(match Self::is_secret(path) {
            true => quote("(64 hexadecimal digits, not shown)"),
            false => quote(&path.to_string_lossy()),
        })
    }

    fn check(value: &Option<PathBuf>) -> Result<(), String> {
        match value {
            Some(path) if path.as_os_str().is_empty() || path.to_string_lossy().contains('\0') => {
                Err("the path of a file is accepted".to_owned())
            }
            Some(path) if Self::is_secret(path) => {
                Err("the path of a file is accepted; a key does not belong here".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// The name of a header that calls carry.
pub(super) struct Metadata;

impl Metadata {
    const ACCEPTED: &'static str =
        "a metadata key in lower case, such as \"x-tenant\", is accepted";
}

impl Form<Option<String>> for Metadata {
    fn read(found: Found<'_>) -> Result<Option<String>, Refusal> {
        let text = found.string().map_err(|_| found.refuse(Self::ACCEPTED))?;
        Ok(Some(text.to_owned()))
    }

    fn show(value: &Option<String>) -> Option<String> {
        value.as_deref().map(quote)
    }

    fn check(value: &Option<String>) -> Result<(), String> {
        match value {
            Some(name) if http::HeaderName::from_lowercase(name.as_bytes()).is_err() => {
                Err(Self::ACCEPTED.to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Names of groups. Whether they are known is asked when all groups are.
pub(super) struct Names;

impl Form<Vec<String>> for Names {
    fn read(found: Found<'_>) -> Result<Vec<String>, Refusal> {
        const ACCEPTED: &str = "a list of names of groups, such as [\"health\"], is accepted";
        let mut names = Vec::new();
        for name in found.list(ACCEPTED)? {
            names.push(name.string().map_err(|_| name.refuse(ACCEPTED))?.to_owned());
        }
        Ok(names)
    }

    fn show(value: &Vec<String>) -> Option<String> {
        let names: Vec<_> = value.iter().map(|name| quote(name)).collect();
        Some(format!("[{}]", names.join(", ")))
    }
}

/// A word, or `{ adaptive = { latency_threshold_ms = 50.0 } }`.
pub(super) struct Raft;

/// A minute: what is slower than that is not a transport for Raft.
type Threshold = Time<MILLISECONDS, 60_000>;

impl Form<RaftTransport> for Raft {
    fn read(found: Found<'_>) -> Result<RaftTransport, Refusal> {
        const ACCEPTED: &str = "{ adaptive = { latency_threshold_ms = 50.0 } } is accepted, or one of the words \
            \"always_grpc\", \"grpc\", \"always_iroh\", \"iroh\", \"adaptive\"";
        let Some(table) = found.value.get_ref().as_table() else {
            return Word::read(found);
        };
        let text = found.text;
        let within = |table: &'_ toml::de::DeTable<'_>, key| {
            let known = |name: &str| name == key;
            table
                .iter()
                .find(|(name, _)| !known(name.get_ref()))
                .map(|(name, _)| Refusal {
                    at: name.span(),
                    found: format!("has no key {}", quote(name.get_ref())),
                    accepted: ACCEPTED.to_owned(),
                    nearest: nearest(name.get_ref(), [key]).map(str::to_owned),
                })
        };
        if let Some(refusal) = within(table, "adaptive") {
            return Err(refusal);
        }
        let Some(value) = table.get("adaptive") else {
            return Err(found.refuse(ACCEPTED));
        };
        let found = Found { text, value };
        let Some(table) = value.get_ref().as_table() else {
            return Err(found.refuse(ACCEPTED));
        };
        if let Some(refusal) = within(table, "latency_threshold_ms") {
            return Err(refusal);
        }
        let latency_threshold = match table.get("latency_threshold_ms") {
            None => RaftTransport::LATENCY_THRESHOLD,
            Some(value) => {
                let found = Found { text, value };
                let threshold = Threshold::read(found)?;
                Threshold::check(&threshold).map_err(|accepted| found.refuse(accepted))?;
                threshold
            }
        };
        Ok(RaftTransport::Adaptive { latency_threshold })
    }

    fn show(value: &RaftTransport) -> Option<String> {
        match value {
            RaftTransport::Adaptive { latency_threshold } => {
                let threshold = Threshold::show(latency_threshold)?;
                Some(format!(
                    "{{ adaptive = {{ latency_threshold_ms = {threshold} }} }}"
                ))
            }
            word => Word::show(word),
        }
    }

    fn check(value: &RaftTransport) -> Result<(), String> {
        match value {
            RaftTransport::Adaptive { latency_threshold } => Threshold::check(latency_threshold),
            _ => Ok(()),
        }
    }
}

/// The stages of a rollout: percentages that rise.
pub(super) struct Stages;

impl Stages {
    const ACCEPTED: &'static str = "a list of 1 to 20 percentages that rise, above 0 and at most 100, in steps of 0.01, \
        such as [5, 25, 50, 100], is accepted";
}

impl Form<Vec<f64>> for Stages {
    fn read(found: Found<'_>) -> Result<Vec<f64>, Refusal> {
        let mut stages = Vec::new();
        for stage in found.list(Self::ACCEPTED)? {
            stages.push(stage.number(Self::ACCEPTED)?);
        }
        Ok(stages)
    }

    fn show(value: &Vec<f64>) -> Option<String> {
        let stages: Vec<_> = value.iter().map(f64::to_string).collect();
        Some(format!("[{}]", stages.join(", ")))
    }

    fn check(value: &Vec<f64>) -> Result<(), String> {
        let is_share = |stage: &f64| {
            let basis_points = stage * 100.0;
            *stage > 0.0 && *stage <= 100.0 && (basis_points - basis_points.round()).abs() < 1e-6
        };
        let rises = value.windows(2).all(|pair| pair[0] < pair[1]);
        match (1..=20).contains(&value.len()) && rises && value.iter().all(is_share) {
            true => Ok(()),
            false => Err(Self::ACCEPTED.to_owned()),
        }
    }
}
