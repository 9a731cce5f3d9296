//! A value as it stands in the text.

use std::ops::{Range, RangeInclusive};

use toml::{Spanned, de::DeValue};

/// A value, and the text that it stands in.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) text: &'a str,
    pub(super) value: &'a Spanned<DeValue<'a>>,
}

/// Why a value is not accepted.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) at: Range<usize>,
    pub(super) found: String,
    pub(super) accepted: String,
    pub(super) nearest: Option<String>,
}

impl<'a> Found<'a> {
    pub(super) fn span(&self) -> Range<usize> {
        self.value.span()
    }

    pub(super) fn refuse(&self, accepted: impl Into<String>) -> Refusal {
        Refusal {
            at: self.span(),
            found: format!("= {}", self.shown()),
            accepted: accepted.into(),
            nearest: None,
        }
    }

    /// The value as it was written, abridged.
    fn shown(&self) -> String {
        const MOST: usize = 60;
        let written = self.text.get(self.span()).unwrap_or_default();
        if self.value.get_ref().is_table() && !written.starts_with('{') {
            return "a table".to_owned();
        }
        let line = written.lines().next().unwrap_or_default();
        match line.char_indices().nth(MOST) {
            Some((end, _)) => format!("{}...", &line[..end]),
            None if line.len() < written.len() => format!("{line}..."),
            None => line.to_owned(),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, Refusal> {
        let refused = || self.refuse("true or false is accepted");
        self.value.get_ref().as_bool().ok_or_else(refused)
    }

    pub(super) fn string(&self) -> Result<&'a str, Refusal> {
        let refused = || self.refuse("a string is accepted");
        self.value.get_ref().as_str().ok_or_else(refused)
    }

    /// A whole number.
    pub(super) fn integer(&self, range: RangeInclusive<u64>) -> Result<u64, Refusal> {
        let number = self.value.get_ref().as_integer();
        let number =
            number.and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok());
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.refuse(whole(&range)))
    }

    /// A number, which may be whole; whether it is a sensible one is for the caller.
    pub(super) fn number(&self, accepted: impl Into<String>) -> Result<f64, Refusal> {
        let number = match self.value.get_ref() {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            _ => None,
        };
        number
            .filter(|number: &f64| number.is_finite())
            .ok_or_else(|| self.refuse(accepted))
    }

    pub(super) fn list(
        &self,
        accepted: &str,
    ) -> Result<impl Iterator<Item = Found<'a>> + use<'a>, Refusal> {
        let Some(list) = self.value.get_ref().as_array() else {
            return Err(self.refuse(accepted));
        };
        let text = self.text;
        Ok(list.iter().map(move |value| Found { text, value }))
    }
}

/// Says which whole numbers are accepted.
pub(super) fn whole(range: &RangeInclusive<u64>) -> String {
    format!(
        "a whole number from {} to {} is accepted",
        range.start(),
        range.end()
    )
}

/// Line and column of a place in the text, both from 1; columns count characters.
pub(super) fn place(text: &str, at: usize) -> (usize, usize) {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[begin..].chars().count() + 1)
}

/// A string as TOML has it.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use toml::de::DeTable;

    use super::*;

    #[test]
    fn lines_and_columns_begin_with_one() {
        let text = "a = 1\nä = 2\r\n\nb";
        for (at, expected) in [
            (0, (1, 1)),
            (4, (1, 5)),
            (6, (2, 1)),
            (8, (2, 2)),
            (7, (2, 1)), // within the ä
            (15, (4, 1)),
            (usize::MAX, (4, 2)),
        ] {
            assert_eq!(place(text, at), expected, "{at}");
        }
        assert_eq!(place("", 0), (1, 1));
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read_as_it_was(text in "\\PC{0,40}|.{0,40}|[\u{0}-\u{7f}]{0,40}") {
            let toml = format!("key = {}", quote(&text));
            let table = DeTable::parse(&toml).expect("TOML");
            let value = table.get_ref().get("key").and_then(|it| it.get_ref().as_str());
            prop_assert_eq!(value, Some(text.as_str()));
        }
    }
}
