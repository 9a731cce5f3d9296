//! A piece of input as a message, or a sentence that says where and how it is wrong.

use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value;

use super::{nearest::did_you_mean, split::Piece};

/// Reads a message from JSON.
pub(crate) fn json(
    descriptor: &MessageDescriptor,
    piece: &Piece,
    allow_unknown_fields: bool,
) -> Result<DynamicMessage, String> {
    let options = DeserializeOptions::new().deny_unknown_fields(!allow_unknown_fields);
    let mut deserializer = serde_json::Deserializer::from_slice(&piece.text);
    let read =
        DynamicMessage::deserialize_with_options(descriptor.clone(), &mut deserializer, &options);
    let read = read.and_then(|message| deserializer.end().map(|()| message));
    read.map_err(|error| {
        let (line, column) = place(piece, &error);
        let text = error.to_string();
        // serde_json's own place counts from the beginning of the piece.
        let text = text
            .rsplit_once(" at line ")
            .map_or(text.as_str(), |it| it.0);
        let hint = serde_json::from_slice(&piece.text)
            .ok()
            .and_then(|value| unknown_field(&value, descriptor))
            .filter(|_| !allow_unknown_fields)
            .unwrap_or_default();
        format!(
            "line {line}, column {column}: {text}{hint} (a JSON object for {} is expected)",
            descriptor.full_name()
        )
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

/// Reads a message from protobuf's text format.
pub(crate) fn text(descriptor: &MessageDescriptor, piece: &[u8]) -> Result<DynamicMessage, String> {
    let what = |error: &dyn std::fmt::Display| {
        format!(
            "{error} ({} is expected, in the text format)",
            descriptor.full_name()
        )
    };
    let text = std::str::from_utf8(piece).map_err(|error| what(&error))?;
    DynamicMessage::parse_text_format(descriptor.clone(), text).map_err(|error| {
        let error = error.to_string();
        let hint = lacking(&error)
            .and_then(|(field, message)| {
                let message = descriptor.parent_pool().get_message_by_name(message)?;
                let names = message.fields().map(|it| it.name().to_owned());
                Some(did_you_mean(field, names.collect::<Vec<_>>()))
            })
            .unwrap_or_default();
        what(&format!("{error}{hint}"))
    })
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
            text: text.as_bytes().to_vec(),
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
            assert!(error.contains("a.Outer is expected"), "{error}");
        }
    }

    #[test]
    fn the_nearest_field_is_named_in_the_text_format_too() {
        let pool = compiled("a.proto", PROTO).expect("valid");
        let outer = pool.get_message_by_name("a.Outer").expect("there");
        let error = super::text(&outer, b"items { frist_name: \"\" }").expect_err("unknown");
        assert!(error.contains("did you mean `first_name`?"), "{error}");
        let error = super::text(&outer, &[0xff]).expect_err("no text");
        assert!(error.contains("a.Outer is expected"), "{error}");
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
