//! A piece of input as a message, or a sentence that says where and how it is wrong.

use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value;

use super::{
    nearest::did_you_mean,
    pieces::{Piece, without_place},
};

/// Reads a message from JSON.
pub(crate) fn json(
    descriptor: &MessageDescriptor,
    piece: &Piece,
    allow_unknown_fields: bool,
) -> Result<DynamicMessage, String> {
    let options = DeserializeOptions::new().deny_unknown_fields(!allow_unknown_fields);
    let mut deserializer = serde_json::Deserializer::from_str(&piece.text);
    let read =
        DynamicMessage::deserialize_with_options(descriptor.clone(), &mut deserializer, &options);
    let read = read.and_then(|message| deserializer.end().map(|()| message));
    read.map_err(|error| {
        let (line, column) = place(piece, &error);
        let text = without_place(&error);
        let hint = serde_json::from_str(&piece.text)
            .ok()
            .and_then(|value| unknown_field(&value, descriptor))
            .filter(|_| !allow_unknown_fields)
            .unwrap_or_default();
        format!("line {line}, column {column}: {text}{hint}")
    })
}

fn place(piece: &Piece, error: &serde_json::Error) -> (usize, usize) {
    match error.line() {
        0 => (piece.line, piece.column),
        1 => (piece.line, piece.column + error.column().saturating_sub(1)),
        line => (piece.line + line - 1, error.column()),
    }
}

/// Says which message lacks the first unknown field, and which field was meant.
fn unknown_field(value: &Value, descriptor: &MessageDescriptor) -> Option<String> {
    if descriptor.full_name().starts_with("google.protobuf.") {
        return None;
    }
    let names = || {
        descriptor
            .fields()
            .map(|field| field.json_name().to_owned())
    };
    value.as_object()?.iter().find_map(|(name, value)| {
        let field = descriptor
            .get_field_by_json_name(name)
            .or_else(|| descriptor.get_field_by_name(name));
        match field {
            Some(field) => unknown_within(value, &field),
            None if name.starts_with('[') => None,
            None => Some(format!(
                "; {} has no field `{name}`{}",
                descriptor.full_name(),
                did_you_mean(name, names())
            )),
        }
    })
}

fn unknown_within(value: &Value, field: &FieldDescriptor) -> Option<String> {
    let Kind::Message(descriptor) = field.kind() else {
        return None;
    };
    match value {
        Value::Object(values) if field.is_map() => {
            let Kind::Message(descriptor) = descriptor.map_entry_value_field().kind() else {
                return None;
            };
            values
                .values()
                .find_map(|it| unknown_field(it, &descriptor))
        }
        Value::Array(values) => values.iter().find_map(|it| unknown_field(it, &descriptor)),
        value => unknown_field(value, &descriptor),
    }
}

/// How deep messages may lie in each other, as everywhere in protobuf. prost-reflect's reader has no limit, and each level costs stack.
const MAX_DEPTH: usize = 100;

/// Reads a message from protobuf's text format.
pub(crate) fn text(descriptor: &MessageDescriptor, text: &str) -> Result<DynamicMessage, String> {
    if is_too_deep(text) {
        return Err(format!(
            "more than {MAX_DEPTH} messages lie in each other, which is the limit"
        ));
    }
    DynamicMessage::parse_text_format(descriptor.clone(), text).map_err(|error| {
        let error = error.to_string();
        let hint = lacking(&error)
            .and_then(|(field, message)| {
                let message = descriptor.parent_pool().get_message_by_name(message)?;
                let names = message.fields().map(|it| it.name().to_owned());
                Some(did_you_mean(field, names.collect::<Vec<_>>()))
            })
            .unwrap_or_default();
        format!("{error}{hint}")
    })
}

/// The type in an `Any` that a reader's sentence says is unknown. Its error has the name in no other way.
pub(crate) fn unknown_type(problem: &str) -> Option<&str> {
    let before = ["message '", "message type '"];
    let (_, rest) = before.iter().find_map(|it| problem.split_once(it))?;
    rest.split_once("' not found").map(|it| it.0)
}

/// Whether more brackets are open than may be, outside of strings and comments.
fn is_too_deep(text: &str) -> bool {
    let mut depth = 0_usize;
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'<' => depth += 1,
            b'}' | b'>' => depth = depth.saturating_sub(1),
            b'#' => while bytes.next().is_some_and(|it| it != b'\n') {},
            quote @ (b'"' | b'\'') => {
                while let Some(byte) = bytes.next().filter(|it| *it != quote) {
                    if byte == b'\\' {
                        bytes.next();
                    }
                }
            }
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// The field and the message in prost-reflect's sentence about an unknown field. Its error has them in no other way.
fn lacking(error: &str) -> Option<(&str, &str)> {
    let rest = error.strip_prefix("field '")?;
    let (field, rest) = rest.split_once('\'')?;
    let (_, rest) = rest.split_once('\'')?;
    Some((field, rest.strip_suffix('\'')?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::files::compiled;

    const PROTO: &str = r#"
        syntax = "proto3";
        package a;
        message Outer { repeated Inner items = 1; map<string, Inner> by_name = 2; int32 response_size = 3; }
        message Inner { string first_name = 1; }
    "#;

    fn read(text: &str, allow: bool) -> Result<DynamicMessage, String> {
        let pool = compiled("a.proto", PROTO).expect("valid");
        let outer = pool.get_message_by_name("a.Outer").expect("there");
        let piece = Piece {
            text: text.into(),
            line: 3,
            column: 5,
        };
        json(&outer, &piece, allow)
    }

    #[test]
    fn a_mistake_has_its_place_in_the_whole_input() {
        for (text, place) in [
            ("{\"items\": 5}", "line 3, column 1"),
            ("{\"responseSize\": \"x\"}", "line 3, column "),
            ("{\n \"responseSize\" 5}", "line 4, column 17"),
            ("{", "line 3, column 5: EOF"),
        ] {
            let error = read(text, false).expect_err(text);
            assert!(error.starts_with(place), "{text}: {error}");
        }
    }

    #[test]
    fn the_nearest_field_is_named_in_the_text_format_too() {
        let pool = compiled("a.proto", PROTO).expect("valid");
        let outer = pool.get_message_by_name("a.Outer").expect("there");
        let error = super::text(&outer, "items { frist_name: \"\" }").expect_err("unknown");
        assert!(error.contains("did you mean `first_name`?"), "{error}");
    }

    #[test]
    fn the_text_format_is_bounded_in_depth_and_strings_do_not_count() {
        let source = "syntax = \"proto3\"; package a; message M { M m = 1; string s = 2; }";
        let pool = compiled("m.proto", source).expect("valid");
        let m = pool.get_message_by_name("a.M").expect("there");
        let nested = |depth: usize| "m{".repeat(depth) + &"}".repeat(depth);
        super::text(&m, &nested(MAX_DEPTH)).expect("as deep as may be");
        for text in [
            nested(MAX_DEPTH + 1),
            "m{".repeat(1_000_000),
            "m<".repeat(1_000_000),
            "{".repeat(1_000_000),
        ] {
            let error = super::text(&m, &text).expect_err("too deep");
            assert!(error.contains("more than 100 messages"), "{error}");
        }
        super::text(&m, &"m:[".repeat(1_000_000)).expect_err("lists do not nest");
        let brackets = "{".repeat(1000);
        let text = format!("s: \"\\\"{brackets}\" # {brackets}\n m {{ s: '{brackets}\\'' }}");
        super::text(&m, &text).expect("one message in another");
    }

    #[test]
    fn the_nearest_field_is_named() {
        for (text, says) in [
            (
                "{\"responsSize\": 1}",
                "a.Outer has no field `responsSize`; did you mean `responseSize`?",
            ),
            (
                "{\"items\": [{\"fristName\": \"\"}]}",
                "a.Inner has no field `fristName`; did you mean `firstName`?",
            ),
            (
                "{\"byName\": {\"x\": {\"firstNam\": \"\"}}}",
                "did you mean `firstName`?",
            ),
            (
                "{\"quite_another\": 1}",
                "a.Outer has no field `quite_another`; it has `items`, `byName`, `responseSize`",
            ),
        ] {
            let error = read(text, false).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
            read(text, true).expect("unknown fields are allowed");
        }
        read("{\"response_size\": 1}", false).expect("the name in the file is as good");
    }
}
