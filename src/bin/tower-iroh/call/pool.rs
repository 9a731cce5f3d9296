//! Descriptors of a stranger as types that can be used without fear.

use prost::Message;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

/// `FileDescriptorSet` with its files as they came.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawFiles {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) file: Vec<Vec<u8>>,
}

/// The types of the files, if they fit together.
pub(crate) fn pool_of<'a>(
    files: impl IntoIterator<Item = &'a Vec<u8>>,
) -> Result<DescriptorPool, String> {
    let file = files.into_iter().cloned().collect();
    let set = RawFiles { file }.encode_to_vec();
    let mut pool = DescriptorPool::new();
    pool.decode_file_descriptor_set(set.as_slice())
        .map_err(|error| error.to_string())?;
    check(&pool)?;
    Ok(pool)
}

/// Checks what prost-reflect takes for granted: that the entries of maps have a key and a value. Otherwise it panics when they are used.
pub(crate) fn check(pool: &DescriptorPool) -> Result<(), String> {
    for entry in pool.all_messages().filter(MessageDescriptor::is_map_entry) {
        let is_key = entry.get_field(1).is_some_and(|key| {
            let kind = key.kind();
            !key.is_list()
                && !matches!(
                    kind,
                    Kind::Message(_) | Kind::Enum(_) | Kind::Float | Kind::Double | Kind::Bytes
                )
        });
        let is_value = entry.get_field(2).is_some_and(|value| !value.is_list());
        if !is_key || !is_value {
            let name = entry.full_name();
            return Err(format!("`{name}` is no map's entry with a key and a value"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_reflect::DynamicMessage;

    use super::*;
    use crate::call::{
        files::compiled, message_json::ToJson, proto_text::proto_text, symbol, template::template,
    };

    const PROTO: &str = r#"syntax = "proto2";
package a;
import "google/protobuf/any.proto";
service S { rpc Go(M) returns (stream N) { option deprecated = true; } }
message M {
  optional int32 number = 1 [default = 5];
  map<string, N> by_name = 2;
  oneof choice { string left = 3; N right = 4; }
  repeated E many = 5 [packed = true];
  optional group G = 6 { optional bytes x = 1; }
  extensions 100 to 200;
  reserved 50, 60 to 70;
}
message N { optional M m = 1; optional google.protobuf.Any any = 2; }
enum E { ZERO = 0; ONE = 1; }
"#;

    fn files() -> Vec<Vec<u8>> {
        let pool = compiled("a.proto", PROTO).expect("valid");
        pool.files().map(|file| file.encode_to_vec()).collect()
    }

    /// Does with a schema whatever the verbs do.
    fn use_all(pool: &DescriptorPool, bytes: &[u8]) {
        let to_json = ToJson {
            types: vec![pool.clone()],
            emit_defaults: true,
            ..ToJson::default()
        };
        for name in symbol::names(pool) {
            if let Some(symbol) = symbol::find(pool, &name) {
                proto_text(&symbol);
            }
        }
        for message in pool.all_messages() {
            to_json.message(&template(&message));
            for piece in [
                "{}",
                "{\"byName\": {\"a\": {}}, \"many\": [\"ONE\"], \"number\": 1}",
            ] {
                let _ = DynamicMessage::deserialize(
                    message.clone(),
                    &mut serde_json::Deserializer::from_str(piece),
                );
            }
            if let Ok(message) = DynamicMessage::decode(message, bytes) {
                to_json.message(&message);
                message.to_text_format();
            }
        }
    }

    proptest! {
        #[test]
        fn a_schema_that_was_tampered_with_ends_in_no_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut files = files();
            let last = files.last_mut().expect("one");
            for (at, byte) in changes {
                let at = at.index(last.len());
                last[at] = byte;
            }
            if let Ok(pool) = pool_of(&files) {
                use_all(&pool, &bytes);
            }
        }
    }
}
