//! Prometheus' text format, one line at a time.

use std::str::FromStr;

/// A series and its value.
#[derive(Debug, PartialEq)]
pub(super) struct Sample<'a> {
    pub(super) name: &'a str,
    labels: Vec<(&'a str, String)>,
    pub(super) value: f64,
}

impl<'a> Sample<'a> {
    /// Reads a line that is neither empty nor a comment; `None` if it is not a sample.
    pub(super) fn read(line: &'a str) -> Option<Self> {
        let (name, mut rest) = name(line, |c| c.is_ascii_alphanumeric() || "_:".contains(c))?;
        let mut labels = Vec::new();
        let bare = rest.trim_start();
        if let Some(inside) = bare.strip_prefix('{') {
            rest = read_labels(inside, &mut labels)?;
        } else if bare.len() == rest.len() {
            return None;
        }
        let mut words = rest.split_ascii_whitespace();
        let value = words.next()?.parse().ok()?;
        // A time may follow, and in OpenMetrics an exemplar. A sentence that begins with a word and a number is not a sample.
        let is_time = |word: &str| word == "#" || f64::from_str(word).is_ok();
        words.next().is_none_or(is_time).then_some(Self {
            name,
            labels,
            value,
        })
    }

    /// The value of a label; empty where the series does not have it, as Prometheus defines it.
    pub(super) fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(label, _)| *label == name);
        found.map_or("", |(_, value)| value)
    }
}

/// A name at the beginning, and what follows it.
fn name(text: &str, belongs: impl Fn(char) -> bool) -> Option<(&str, &str)> {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let begins_well = !name.starts_with(|c: char| c.is_ascii_digit());
    (!name.is_empty() && begins_well).then_some((name, rest))
}

/// Reads `a="1",b="2"}` and returns what follows.
fn read_labels<'a>(mut text: &'a str, labels: &mut Vec<(&'a str, String)>) -> Option<&'a str> {
    loop {
        text = text.trim_start();
        if let Some(rest) = text.strip_prefix('}') {
            return Some(rest);
        }
        let (label, rest) = name(text, |c| c.is_ascii_alphanumeric() || c == '_')?;
        let rest = rest.trim_start().strip_prefix('=')?;
        let (value, rest) = quoted(rest.trim_start().strip_prefix('"')?)?;
        labels.push((label, value));
        let rest = rest.trim_start();
        text = match rest.strip_prefix(',') {
            Some(rest) => rest,
            None if rest.starts_with('}') => rest,
            None => return None,
        };
    }
}

/// Reads up to the closing quote, and returns what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('\\' | '"') => value.push(escaped),
                // Not in the format; Prometheus keeps both characters.
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sample_has_labels_a_value_and_perhaps_a_time() {
        let sample = Sample::read(r#"a_b:c{x="1", y = "q\"\\\n\t",} 2.5 1700000000000"#);
        let sample = sample.expect("a sample");
        assert_eq!((sample.name, sample.value), ("a_b:c", 2.5));
        assert_eq!((sample.label("x"), sample.label("z")), ("1", ""));
        assert_eq!(sample.label("y"), "q\"\\\n\\t");
        let infinite = Sample::read("a{le=\"+Inf\"} +Inf # {t=\"1\"} 3").expect("an exemplar");
        assert_eq!(infinite.value, f64::INFINITY);
        assert_eq!(Sample::read("a\t7").expect("a sample").value, 7.0);
    }

    #[test]
    fn other_text_is_no_sample() {
        for line in [
            "<html>",
            "HTTP/1.1 404 Not Found",
            "Error 404 not found",
            "a",
            "a b",
            "a{",
            "a{} ",
            "a{x} 1",
            "a{x=\"1} 1",
            "a{x=\"1\\",
            "a{x=\"1\" y=\"2\"} 1",
            "1a 1",
            "{} 1",
            "ä 1",
        ] {
            assert_eq!(Sample::read(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in ".*", tail in r#"[a-z{}="\\, 0-9]*"#) {
            let _ = Sample::read(&line);
            let _ = Sample::read(&tail);
            let _ = Sample::read(&format!("a{{{tail}"));
        }

        #[test]
        fn what_was_written_is_read(label in "[a-z_]{1,8}", text in ".*", value in any::<f64>()) {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let line = format!("m{{{label}=\"{escaped}\"}} {value}");
            let sample = Sample::read(&line).expect("a sample");
            prop_assert_eq!(sample.label(&label), text);
            prop_assert!(sample.value == value || value.is_nan());
        }
    }
}
