//! An example of a message with every field, for a person to fill in.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

/// A message in which each field has its default, each list and map one entry, and each message its fields in turn.
pub(crate) fn template(descriptor: &MessageDescriptor) -> DynamicMessage {
    filled(descriptor, &mut Vec::new())
}

fn filled(descriptor: &MessageDescriptor, within: &mut Vec<String>) -> DynamicMessage {
    /// A schema may nest without repeating itself, and the example grows with each level.
    const DEEPEST: usize = 8;
    let mut message = DynamicMessage::new(descriptor.clone());
    let name = descriptor.full_name();
    if within.len() >= DEEPEST || within.iter().any(|it| it == name) {
        return message;
    }
    // `Any` has no type yet, and `Value` would nest.
    if matches!(name, "google.protobuf.Any" | "google.protobuf.Value") {
        return message;
    }
    within.push(name.to_owned());
    for field in descriptor.fields() {
        if let Some(value) = example(&field, within) {
            message.set_field(&field, value);
        }
    }
    within.pop();
    message
}

fn example(field: &FieldDescriptor, within: &mut Vec<String>) -> Option<Value> {
    let kind = field.kind();
    if let (true, Kind::Message(entry)) = (field.is_map(), &kind) {
        let key = entry.map_entry_key_field().default_value().into_map_key()?;
        let value = one(&entry.map_entry_value_field().kind(), within)?;
        return Some(Value::Map(HashMap::<MapKey, Value>::from([(key, value)])));
    }
    let value = match &kind {
        Kind::Message(_) => one(&kind, within)?,
        _ => field.default_value(),
    };
    Some(match field.is_list() {
        true => Value::List(vec![one(&kind, within)?]),
        false => value,
    })
}

fn one(kind: &Kind, within: &mut Vec<String>) -> Option<Value> {
    let Kind::Message(descriptor) = kind else {
        return Some(Value::default_value(kind));
    };
    // A message in itself ends here; an empty one would look like a mistake.
    if within.iter().any(|it| it == descriptor.full_name()) {
        return None;
    }
    Some(Value::Message(filled(descriptor, within)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{files::compiled, message_json::ToJson};

    #[test]
    fn every_field_is_shown_and_recursion_ends() {
        let source = "syntax = \"proto3\"; package a; import \"google/protobuf/timestamp.proto\"; \
            message M { string name = 1; repeated Part parts = 2; map<string, int64> sizes = 3; M again = 4; google.protobuf.Timestamp at = 5; } \
            message Part { E e = 1; repeated M m = 2; } enum E { ZERO = 0; }";
        let types = compiled("a.proto", source).expect("valid");
        let descriptor = types.get_message_by_name("a.M").expect("there");
        let to_json = ToJson {
            types: vec![types],
            emit_defaults: true,
        };
        assert_eq!(
            to_json.message(&template(&descriptor)).to_string(),
            r#"{"name":"","parts":[{"e":"ZERO","m":[]}],"sizes":{"":"0"},"again":null,"at":"1970-01-01T00:00:00Z"}"#
        );
    }
}
