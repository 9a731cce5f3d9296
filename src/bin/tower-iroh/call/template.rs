//! An example of a message with every field, for a person to fill in.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

/// A message in which each field has its default, each list and map one entry, and each message its fields in turn.
pub(crate) fn template(descriptor: &MessageDescriptor) -> DynamicMessage {
    let mut nesting = Nesting {
        names: Vec::new(),
        left: 10_000,
    };
    filled(descriptor, &mut nesting)
}

/// Where in the example a field is.
struct Nesting {
    /// The messages around it.
    names: Vec<String>,
    /// How many fields the example may still have: a schema of eight levels with twenty fields each has billions.
    left: usize,
}

fn filled(descriptor: &MessageDescriptor, nesting: &mut Nesting) -> DynamicMessage {
    /// A schema may nest without repeating itself, and the example grows with each level.
    const DEEPEST: usize = 8;
    let mut message = DynamicMessage::new(descriptor.clone());
    let name = descriptor.full_name();
    if nesting.names.len() >= DEEPEST || nesting.names.iter().any(|it| it == name) {
        return message;
    }
    // `Any` has no type yet, and `Value` would nest.
    if matches!(name, "google.protobuf.Any" | "google.protobuf.Value") {
        return message;
    }
    nesting.names.push(name.to_owned());
    for field in descriptor.fields() {
        let Some(left) = nesting.left.checked_sub(1) else {
            break;
        };
        nesting.left = left;
        if let Some(value) = example(&field, nesting) {
            message.set_field(&field, value);
        }
    }
    nesting.names.pop();
    message
}

fn example(field: &FieldDescriptor, nesting: &mut Nesting) -> Option<Value> {
    let kind = field.kind();
    if let (true, Kind::Message(entry)) = (field.is_map(), &kind) {
        let key = entry.map_entry_key_field().default_value().into_map_key()?;
        let value = one(&entry.map_entry_value_field().kind(), nesting)?;
        return Some(Value::Map(HashMap::<MapKey, Value>::from([(key, value)])));
    }
    let value = match &kind {
        Kind::Message(_) => one(&kind, nesting)?,
        _ => field.default_value(),
    };
    Some(match field.is_list() {
        true => Value::List(vec![one(&kind, nesting)?]),
        false => value,
    })
}

fn one(kind: &Kind, nesting: &mut Nesting) -> Option<Value> {
    let Kind::Message(descriptor) = kind else {
        return Some(Value::default_value(kind));
    };
    // A message in itself ends here; an empty one would look like a mistake.
    if nesting.names.iter().any(|it| it == descriptor.full_name()) {
        return None;
    }
    Some(Value::Message(filled(descriptor, nesting)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{files::compiled, message_json::ToJson};

    #[test]
    fn a_wide_schema_has_an_example_too() {
        let message = |level: usize| {
            let fields = (1..=20).map(|field| format!("M{} f{field} = {field};", level + 1));
            format!("message M{level} {{ {} }}", fields.collect::<String>())
        };
        let messages: String = (0..8).map(message).collect();
        let source = format!("syntax = \"proto3\"; package a; {messages} message M8 {{ }}");
        let types = compiled("a.proto", &source).expect("valid");
        let descriptor = types.get_message_by_name("a.M0").expect("there");
        template(&descriptor);
    }

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
            ..ToJson::default()
        };
        assert_eq!(
            to_json.message(&template(&descriptor)).to_string(),
            r#"{"name":"","parts":[{"e":"ZERO","m":[]}],"sizes":{"":"0"},"again":null,"at":"1970-01-01T00:00:00Z"}"#
        );
    }
}
