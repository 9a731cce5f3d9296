//! A message as JSON, by protobuf's JSON mapping, in the order of its `.proto` file.

use data_encoding::BASE64;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value,
};
use serde_json::{Map, Value as Json, json};

use super::any::{ANY, MAX_DEPTH, any_parts, find_type, type_name};

/// How messages are written.
#[derive(Clone, Debug, Default)]
pub(crate) struct ToJson {
    /// Where the types of `Any`s are found; the first that knows a type counts.
    pub(crate) types: Vec<DescriptorPool>,
    pub(crate) emit_defaults: bool,
    pub(crate) keep_proto_names: bool,
}

impl ToJson {
    pub(crate) fn message(&self, message: &DynamicMessage) -> Json {
        self.at_depth(message, 0)
    }

    fn at_depth(&self, message: &DynamicMessage, depth: usize) -> Json {
        let depth = depth + 1;
        let descriptor = message.descriptor();
        let name = descriptor.full_name();
        if name == ANY {
            return self.any(message, depth);
        }
        // serde_json's values have neither NaN nor the short text of a `float`.
        if matches!(
            name,
            "google.protobuf.DoubleValue" | "google.protobuf.FloatValue"
        ) && let Some(field) = descriptor.get_field(1)
            && matches!(field.kind(), Kind::Double | Kind::Float)
        {
            return self.value(&message.get_field(&field), &field.kind(), depth);
        }
        if is_special(name) {
            let value = message.serialize_with_options(
                serde_json::value::Serializer,
                &prost_reflect::SerializeOptions::new(),
            );
            return match value {
                Ok(mut value) => {
                    // A `Struct` is a map, which has no order.
                    value.sort_all_objects();
                    with_short_numbers(value)
                }
                // Such as a time in the year 20000: the rest of the message can be read all the same.
                Err(error) => format!("<{name}: {error}>").into(),
            };
        }
        // Of a stranger's schema a message may have a hundred thousand, and few of them set.
        let mut fields: Vec<_> = match self.emit_defaults {
            true => descriptor.fields().collect(),
            false => message.fields().map(|(field, _)| field).collect(),
        };
        fields.sort_by_key(|field| field.path().last().copied());
        let own = fields.iter().filter_map(|field| {
            let value = self.field(message, field, depth)?;
            let name = match self.keep_proto_names {
                true => field.name(),
                false => field.json_name(),
            };
            Some((name.to_owned(), value))
        });
        let extensions = message.extensions().map(|(extension, value)| {
            let value = self.value(value, &extension.kind(), depth);
            (extension.json_name().to_owned(), value)
        });
        own.chain(extensions).collect()
    }

    fn field(
        &self,
        message: &DynamicMessage,
        field: &FieldDescriptor,
        depth: usize,
    ) -> Option<Json> {
        if message.has_field(field) {
            return Some(self.value(&message.get_field(field), &field.kind(), depth));
        }
        if !self.emit_defaults || field.containing_oneof().is_some() {
            return None;
        }
        Some(match field.supports_presence() {
            true => Json::Null,
            false => self.value(&Value::default_value_for_field(field), &field.kind(), depth),
        })
    }

    fn value(&self, value: &Value, kind: &Kind, depth: usize) -> Json {
        match (value, kind) {
            (Value::Bool(value), _) => (*value).into(),
            (Value::I32(value), _) => (*value).into(),
            (Value::U32(value), _) => (*value).into(),
            // JavaScript's numbers are exact up to 2^53 only.
            (Value::I64(value), _) => value.to_string().into(),
            (Value::U64(value), _) => value.to_string().into(),
            // The `f64` with the same digits: the exact one has more than the `f32` says.
            (Value::F32(value), _) => number(value.to_string().parse().unwrap_or_default()),
            (Value::F64(value), _) => number(*value),
            (Value::String(value), _) => value.as_str().into(),
            (Value::Bytes(value), _) => BASE64.encode(value).into(),
            (Value::EnumNumber(_), Kind::Enum(kind))
                if kind.full_name() == "google.protobuf.NullValue" =>
            {
                Json::Null
            }
            (Value::EnumNumber(value), Kind::Enum(kind)) => match kind.get_value(*value) {
                Some(value) => value.name().into(),
                None => (*value).into(),
            },
            (Value::EnumNumber(value), _) => (*value).into(),
            (Value::Message(message), _) => self.at_depth(message, depth),
            (Value::List(values), kind) => {
                let values = values.iter().map(|value| self.value(value, kind, depth));
                values.collect()
            }
            (Value::Map(values), kind) => {
                let kind = match kind {
                    Kind::Message(entry) if entry.is_map_entry() => {
                        entry.map_entry_value_field().kind()
                    }
                    other => other.clone(),
                };
                let mut values: Vec<_> = values.iter().collect();
                values.sort_by(|one, other| one.0.cmp(other.0));
                let values = values
                    .into_iter()
                    .map(|(key, value)| (key_text(key), self.value(value, &kind, depth)));
                values.collect()
            }
        }
    }

    fn any(&self, any: &DynamicMessage, depth: usize) -> Json {
        let (url, bytes) = any_parts(any);
        self.any_of(&url, &bytes, depth)
    }

    /// The message in an `Any`. What cannot be read is given as base64, with the reason.
    pub(crate) fn any_of(&self, url: &str, bytes: &[u8], depth: usize) -> Json {
        if url.is_empty() && bytes.is_empty() {
            return json!({});
        }
        let mut fields = Map::new();
        fields.insert("@type".to_owned(), url.into());
        let name = type_name(url);
        let problem = if depth > MAX_DEPTH {
            format!("more than {MAX_DEPTH} messages lie in each other")
        } else {
            match find_type(&self.types, name) {
                None => format!("{name} is not recognized; see @value for the message's bytes"),
                Some(descriptor) => match DynamicMessage::decode(descriptor, bytes) {
                    Err(error) => format!("this is not a {name}: {error}"),
                    Ok(message) => {
                        match self.at_depth(&message, depth) {
                            Json::Object(inner) if !has_own_form(name) => fields.extend(inner),
                            value => drop(fields.insert("value".to_owned(), value)),
                        }
                        return Json::Object(fields);
                    }
                },
            }
        };
        fields.insert("@error".to_owned(), problem.into());
        fields.insert("@value".to_owned(), BASE64.encode(bytes).into());
        Json::Object(fields)
    }
}

/// A whole number is written as one, as Go and JavaScript do; what is none has a name.
fn number(value: f64) -> Json {
    /// Up to here each whole number has digits of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        value if value.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        value if value.fract() == 0.0 && value.abs() <= EXACT => json!(value as i64),
        value => value.into(),
    }
}

fn with_short_numbers(value: Json) -> Json {
    match value {
        Json::Number(it) if it.is_f64() => it.as_f64().map_or(Json::Null, number),
        Json::Array(values) => values.into_iter().map(with_short_numbers).collect(),
        Json::Object(fields) => {
            let fields = fields.into_iter();
            fields
                .map(|(name, it)| (name, with_short_numbers(it)))
                .collect()
        }
        other => other,
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// Whether the JSON mapping has its own form for the type, which has no `Any` in it.
fn is_special(name: &str) -> bool {
    has_own_form(name) && name != ANY
}

/// Whether a message of this type in an `Any` is the `Any`'s `value`.
fn has_own_form(name: &str) -> bool {
    let Some(name) = name.strip_prefix("google.protobuf.") else {
        return false;
    };
    matches!(
        name,
        "Any"
            | "Timestamp"
            | "Duration"
            | "Struct"
            | "Value"
            | "ListValue"
            | "FieldMask"
            | "Empty"
            | "DoubleValue"
            | "FloatValue"
            | "Int32Value"
            | "Int64Value"
            | "UInt32Value"
            | "UInt64Value"
            | "BoolValue"
            | "StringValue"
            | "BytesValue"
    )
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::call::{any::Anys, files::compiled};

    const PROTO: &str = r#"
        syntax = "proto3";
        package a;
        import "google/protobuf/any.proto";
        import "google/protobuf/timestamp.proto";
        message M {
            string z_last = 9;
            int64 big = 1;
            float f = 2;
            bytes b = 3;
            map<int32, string> m = 4;
            google.protobuf.Any any = 5;
            google.protobuf.Timestamp at = 6;
            E e = 7;
            repeated M more = 8;
            oneof o { string left = 10; string right = 11; }
            optional int32 maybe = 12;
        }
        enum E { ZERO = 0; ONE = 1; }
    "#;

    fn to_json(emit_defaults: bool) -> ToJson {
        let types = compiled("a.proto", PROTO).expect("valid");
        ToJson {
            types: vec![types],
            emit_defaults,
            ..ToJson::default()
        }
    }

    fn message(to: &ToJson, text: &str) -> DynamicMessage {
        let descriptor = to.types[0].get_message_by_name("a.M").expect("there");
        DynamicMessage::parse_text_format(descriptor, text).expect("valid")
    }

    #[test]
    fn the_mapping_is_protobufs_and_the_order_is_the_files() {
        let to = to_json(false);
        let text = r#"big: -5 z_last: "x" f: 0.1 b: "\001\002" m { key: 9 value: "n" } m { key: -1 value: "o" } e: ONE more { right: "r" } at { seconds: 1 } any { type_url: "t/a.M" value: "\010\001" }"#;
        let json = to.message(&message(&to, text));
        assert_eq!(
            json.to_string(),
            r#"{"zLast":"x","big":"-5","f":0.1,"b":"AQI=","m":{"-1":"o","9":"n"},"any":{"@type":"t/a.M","big":"1"},"at":"1970-01-01T00:00:01Z","e":"ONE","more":[{"right":"r"}]}"#
        );
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (1.0, "1"),
            (-0.5, "-0.5"),
            (1e300, "1e+300"),
            (1e-9, "1e-9"),
            (1e15, "1000000000000000"),
            (f64::NEG_INFINITY, "\"-Infinity\""),
        ] {
            assert_eq!(number(value).to_string(), text);
        }
        let values = json!({ "a": [2.0, { "b": 0.5 }] });
        assert_eq!(
            with_short_numbers(values).to_string(),
            r#"{"a":[2,{"b":0.5}]}"#
        );
    }

    #[test]
    fn names_are_the_files_where_that_is_said() {
        let mut to = to_json(false);
        to.keep_proto_names = true;
        let json = to.message(&message(&to, "z_last: 'x'"));
        assert_eq!(json.to_string(), r#"{"z_last":"x"}"#);
    }

    #[test]
    fn defaults_are_written_where_they_are_wanted() {
        let to = to_json(true);
        let json = to.message(&message(&to, "")).to_string();
        assert_eq!(
            json,
            r#"{"zLast":"","big":"0","f":0,"b":"","m":{},"any":null,"at":null,"e":"ZERO","more":[]}"#
        );
    }

    #[test]
    fn what_cannot_be_read_is_told_in_its_place() {
        let to = to_json(false);
        let text = r#"any { type_url: "t/no.Such" value: "\001" } at { seconds: 999999999999999 } e: ONE f: inf"#;
        let json = to.message(&message(&to, text));
        assert_eq!(json["any"]["@value"], "AQ==");
        let error = json["any"]["@error"].as_str().expect("a sentence");
        assert!(error.contains("no.Such is not recognized"), "{error}");
        assert!(json["at"].as_str().expect("text").contains("out of range"));
        assert_eq!(
            (&json["e"], &json["f"]),
            (&"ONE".into(), &"Infinity".into())
        );
        let anys = Anys::of(&message(&to, text), &to.types);
        assert_eq!(
            (anys.unknown.as_slice(), anys.too_deep),
            (&["no.Such".to_owned()][..], false)
        );
    }

    #[test]
    fn anys_in_anys_do_not_end_the_stack() {
        let to = to_json(false);
        let mut any = prost_types::Any::default();
        for _ in 0..2000 {
            any = prost_types::Any {
                type_url: "t/google.protobuf.Any".to_owned(),
                value: any.encode_to_vec(),
            };
        }
        let descriptor = to.types[0].get_message_by_name(ANY).expect("there");
        let any = DynamicMessage::decode(descriptor, any.encode_to_vec().as_slice());
        let any = any.expect("valid");
        assert!(to.message(&any).to_string().contains("lie in each other"));
        assert!(Anys::of(&any, &to.types).too_deep);
    }

    #[test]
    fn messages_between_anys_count_too() {
        let to = to_json(false);
        let descriptor = to.types[0].get_message_by_name("a.M").expect("there");
        let mut message = DynamicMessage::new(descriptor.clone());
        for level in 0..90 * 32 {
            let mut outer = DynamicMessage::new(descriptor.clone());
            if level % 90 == 0 {
                let any = to.types[0].get_message_by_name(ANY).expect("there");
                let mut any = DynamicMessage::new(any);
                any.set_field_by_name("type_url", Value::String("t/a.M".into()));
                any.set_field_by_name("value", Value::Bytes(message.encode_to_vec().into()));
                outer.set_field_by_name("any", Value::Message(any));
            } else {
                outer.set_field_by_name("more", Value::List(vec![Value::Message(message)]));
            }
            message = outer;
        }
        // A worker of tokio has 2 MiB.
        let shown = std::thread::Builder::new()
            .stack_size(2 << 20)
            .spawn(move || {
                let anys = Anys::of(&message, &to.types);
                (anys.too_deep, to.message(&message).to_string())
            });
        let (too_deep, text) = shown.expect("started").join().expect("no panic");
        assert!(too_deep && text.contains("lie in each other"));
    }

    #[test]
    fn wrapped_numbers_are_written_as_others_are() {
        let to = ToJson {
            types: vec![
                compiled(
                    "w.proto",
                    "syntax = \"proto3\"; package w; import \"google/protobuf/wrappers.proto\"; \
                     message W { google.protobuf.FloatValue f = 1; google.protobuf.DoubleValue d = 2; google.protobuf.Int64Value i = 3; }",
                )
                .expect("valid"),
            ],
            ..ToJson::default()
        };
        let descriptor = to.types[0].get_message_by_name("w.W").expect("there");
        let text = "f { value: 0.1 } d { value: nan } i { value: 7 }";
        let message = DynamicMessage::parse_text_format(descriptor, text).expect("valid");
        assert_eq!(
            to.message(&message).to_string(),
            r#"{"f":0.1,"d":"NaN","i":"7"}"#
        );
    }
}
