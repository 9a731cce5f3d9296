//! `google.protobuf.Any`: messages in messages, whose types a server chooses.

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage, Value};

/// How deep an `Any` may lie in other messages. prost limits what nests without one; each `Any` begins anew, a message of 4 MiB has room for 80,000, and each
/// level costs stack.
pub(crate) const MAX_DEPTH: usize = 100;

pub(crate) const ANY: &str = "google.protobuf.Any";

/// The type's URL and the bytes of an `Any`; empty for a server's own type of that name with other fields.
pub(crate) fn any_parts(any: &DynamicMessage) -> (String, Vec<u8>) {
    let url = any.get_field_by_number(1);
    let value = any.get_field_by_number(2);
    let url = url.as_deref().and_then(Value::as_str).unwrap_or_default();
    let value = value.as_deref().and_then(Value::as_bytes);
    (
        url.to_owned(),
        value.map(|bytes| bytes.to_vec()).unwrap_or_default(),
    )
}

/// The name in `type.googleapis.com/pkg.Name`.
pub(crate) fn type_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

pub(crate) fn find_type(types: &[DescriptorPool], name: &str) -> Option<MessageDescriptor> {
    types.iter().find_map(|pool| pool.get_message_by_name(name))
}

/// What lies in the `Any`s of a message.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Anys {
    /// The unknown types, 64 at most.
    pub(crate) unknown: Vec<String>,
    /// Whether they lie in each other more deeply than is read.
    pub(crate) too_deep: bool,
}

impl Anys {
    pub(crate) fn of(message: &DynamicMessage, types: &[DescriptorPool]) -> Self {
        let mut anys = Self::default();
        anys.look_in(message, types, 0);
        anys
    }

    fn look(&mut self, value: &Value, types: &[DescriptorPool], depth: usize) {
        match value {
            Value::List(values) => values.iter().for_each(|it| self.look(it, types, depth)),
            Value::Map(values) => values.values().for_each(|it| self.look(it, types, depth)),
            Value::Message(message) => self.look_in(message, types, depth),
            _ => {}
        }
    }

    fn look_in(&mut self, message: &DynamicMessage, types: &[DescriptorPool], depth: usize) {
        const MOST: usize = 64;
        let depth = depth + 1;
        if message.descriptor().full_name() != ANY {
            for (_, value) in message.fields() {
                self.look(value, types, depth);
            }
            return;
        }
        if depth > MAX_DEPTH {
            self.too_deep = true;
            return;
        }
        let (url, bytes) = any_parts(message);
        let name = type_name(&url);
        match find_type(types, name) {
            Some(descriptor) => {
                if let Ok(inner) = DynamicMessage::decode(descriptor, bytes.as_slice()) {
                    self.look_in(&inner, types, depth);
                }
            }
            None if name.is_empty() || self.unknown.len() >= MOST => {}
            None if self.unknown.iter().any(|it| it == name) => {}
            None => self.unknown.push(name.to_owned()),
        }
    }
}
