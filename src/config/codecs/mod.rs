//! How each kind of value is written, read and checked. The check is the same for a file and for code.

use super::{
    nearest::nearest,
    value::{Found, Refusal, quote},
    values::Words,
};

mod numbers;
mod tables;
mod texts;

pub(super) use numbers::{Between, Count, MILLISECONDS, Number, SECONDS, Time};
pub(super) use tables::{Names, Raft, Stages};
pub(super) use texts::{Address, File, Interface, Metadata, Relay};

/// One way to write a `T`.
pub(super) trait Form<T> {
    /// Reads a value that is of the right kind.
    fn read(found: Found<'_>) -> Result<T, Refusal>;

    /// The value as TOML; `None` where the key is left out.
    fn show(value: &T) -> Option<String>;

    /// Refuses a value of the right kind that is out of range; the error says what is accepted.
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
