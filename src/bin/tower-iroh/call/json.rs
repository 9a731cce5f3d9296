//! JSON that keeps the order of its fields.

use std::fmt;

use serde_json::Value;

use crate::failure::printable;

/// A JSON value. `serde_json`'s own sorts fields by name, and a message is read in the order of its `.proto` file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    /// A number, a string, `true`, `false` or `null`, as it is written.
    Leaf(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub(crate) fn string(text: &str) -> Self {
        Self::Leaf(quoted(text))
    }

    pub(crate) fn null() -> Self {
        Self::Leaf("null".to_owned())
    }

    /// The shortest text that reads back as the same number. `shown` has the value's own precision.
    pub(crate) fn number(shown: impl fmt::Display + fmt::LowerExp, value: f64) -> Self {
        let size = value.abs();
        if value.is_nan() {
            Self::string("NaN")
        } else if value.is_infinite() {
            Self::string(if value > 0.0 { "Infinity" } else { "-Infinity" })
        } else if size != 0.0 && !(1e-6..1e21).contains(&size) {
            Self::Leaf(format!("{shown:e}"))
        } else {
            Self::Leaf(shown.to_string())
        }
    }

    /// The value without the order.
    pub(crate) fn to_value(&self) -> Value {
        serde_json::from_str(&self.to_string())
            .unwrap_or_else(|error| Value::String(error.to_string()))
    }

    fn write(&self, to: &mut String, margin: Option<usize>) {
        let inner = margin.map(|margin| margin + 2);
        match self {
            Self::Leaf(text) => to.push_str(text),
            Self::List(values) => between(to, ['[', ']'], margin, values, |to, value| {
                value.write(to, inner);
            }),
            Self::Object(fields) => between(to, ['{', '}'], margin, fields, |to, (name, value)| {
                to.push_str(&quoted(name));
                to.push_str(if inner.is_some() { ": " } else { ":" });
                value.write(to, inner);
            }),
        }
    }
}

fn between<T>(
    to: &mut String,
    brackets: [char; 2],
    margin: Option<usize>,
    items: &[T],
    write: impl Fn(&mut String, &T),
) {
    let line = |to: &mut String, more: usize| {
        if let Some(margin) = margin.filter(|_| !items.is_empty()) {
            to.push('\n');
            to.extend(std::iter::repeat_n(' ', margin + more));
        }
    };
    to.push(brackets[0]);
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            to.push(',');
        }
        line(to, 2);
        write(to, item);
    }
    line(to, 0);
    to.push(brackets[1]);
}

fn quoted(text: &str) -> String {
    // Not all that a terminal obeys is escaped by JSON.
    printable(&Value::from(text).to_string()).into_owned()
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        match value {
            Value::Array(values) => Self::List(values.into_iter().map(Self::from).collect()),
            Value::Object(fields) => {
                let fields = fields.into_iter();
                Self::Object(fields.map(|(name, value)| (name, value.into())).collect())
            }
            // A whole number is written as one, as Go and JavaScript do.
            Value::Number(number) if number.is_f64() => number
                .as_f64()
                .map_or_else(Self::null, |value| Self::number(value, value)),
            leaf => Self::Leaf(leaf.to_string()),
        }
    }
}

/// `{}` is one line, `{:#}` is indented by two.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text, f.alternate().then_some(0));
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (1.0, "1"),
            (-0.5, "-0.5"),
            (1e300, "1e300"),
            (1e-9, "1e-9"),
            (f64::NEG_INFINITY, "\"-Infinity\""),
        ] {
            assert_eq!(Json::number(value, value).to_string(), text);
        }
        assert_eq!(Json::from(Value::from(2.0)).to_string(), "2");
    }

    #[test]
    fn the_order_stays() {
        let json = Json::Object(vec![
            (
                "z".into(),
                Json::List(vec![Json::string("a\n"), Json::null()]),
            ),
            ("a".into(), Json::Object(vec![])),
        ]);
        assert_eq!(json.to_string(), r#"{"z":["a\n",null],"a":{}}"#);
        let pretty = "{\n  \"z\": [\n    \"a\\n\",\n    null\n  ],\n  \"a\": {}\n}";
        assert_eq!(format!("{json:#}"), pretty);
        assert_eq!(json.to_value()["z"][0], "a\n");
        assert_eq!(Json::from(json.to_value()).to_value(), json.to_value());
    }
}
