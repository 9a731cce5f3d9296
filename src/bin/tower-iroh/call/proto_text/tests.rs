use super::*;
use crate::call::{
    files::{compiled, from_protos, write_protos},
    symbol::find,
};

const PROTO: &str = r#"syntax = "proto3";
package a;
import "google/protobuf/descriptor.proto";
extend google.protobuf.MethodOptions { string note = 50000; }
// What it does.
service S {
  rpc Second(stream M) returns (M);
  // Deprecated.
  rpc First(M) returns (stream M) { option deprecated = true; option (note) = "x"; }
}
message M {
  reserved 7, 20 to 22, 100 to max;
  reserved "old";
  repeated int32 many = 3 [packed = false];
  // Its name.
  string first_name = 1;
  optional bool maybe = 4 [json_name = "other"];
  map<string, E> by_name = 5;
  oneof choice { string left = 2; M right = 6; }
  message Inner {}
}
enum E { ZERO = 0; ONE = 1 [deprecated = true]; }
"#;

fn described(name: &str) -> String {
    let pool = compiled("a.proto", PROTO).expect("valid");
    proto_text(&find(&pool, name).expect(name))
}

#[test]
fn a_service_is_sorted_and_has_its_comments() {
    let expected = "// What it does.\nservice S {\n  // Deprecated.\n  rpc First ( .a.M ) returns ( stream .a.M ) {\n    option deprecated = true;\n    option (.a.note) = \"x\";\n  }\n  rpc Second ( stream .a.M ) returns ( .a.M );\n}";
    assert_eq!(described("a.S"), expected);
    assert_eq!(
        described("a.S.Second"),
        "rpc Second ( stream .a.M ) returns ( .a.M );"
    );
}

#[test]
fn a_message_is_in_the_order_of_its_numbers() {
    let expected = "message M {\n  // Its name.\n  string first_name = 1;\n  oneof choice {\n    string left = 2;\n    .a.M right = 6;\n  }\n  repeated int32 many = 3 [packed = false];\n  optional bool maybe = 4 [json_name = \"other\"];\n  map<string, .a.E> by_name = 5;\n  message Inner {\n  }\n  reserved 7, 20 to 22, 100 to max;\n  reserved \"old\";\n}";
    assert_eq!(described("a.M"), expected);
    assert_eq!(
        described("a.M.maybe"),
        "optional bool maybe = 4 [json_name = \"other\"];"
    );
    let expected = "enum E {\n  ZERO = 0;\n  ONE = 1 [deprecated = true];\n}";
    assert_eq!(described("a.E"), expected);
    assert_eq!(described("a.ONE"), "ONE = 1 [deprecated = true];");
}

/// Google's own files too: they have most of what a file can have.
#[test]
fn a_whole_file_compiles_to_the_same_types() {
    let folder = tempfile::tempdir().expect("a folder");
    let pool = compiled("a.proto", PROTO).expect("valid");
    let files: Vec<_> = pool.files().collect();
    write_protos(&files, folder.path()).expect("written");
    let again = from_protos(&["a.proto".into()], &[folder.path().to_owned()]).expect("valid");
    assert_eq!(again.files().count(), 2);
    for file in files {
        let other = again.get_file_by_name(file.name()).expect("there");
        assert_eq!(file_text(&other), file_text(&file));
    }
}

#[test]
fn what_is_described_can_be_compiled_again() {
    let source = "syntax = \"proto2\"; package b; message M { required int32 f = 1 [default = 5]; optional string s = 2 [default = \"a\\\"b\"]; \
        optional group G = 3 { optional bytes x = 1; } extensions 100 to 200; } extend M { repeated M ext = 100; }";
    let pool = compiled("b.proto", source).expect("valid");
    let text = proto_text(&find(&pool, "b.M").expect("there"));
    let extension = proto_text(&find(&pool, "b.ext").expect("there"));
    let again = format!("syntax = \"proto2\"; package b;\n{text}\n{extension}");
    let again = compiled("b.proto", &again).expect(&again);
    assert_eq!(proto_text(&find(&again, "b.M").expect("there")), text);
}
