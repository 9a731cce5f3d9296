//! The details of a call's status, decoded.

use data_encoding::BASE64;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, text_format::FormatOptions};
use serde_json::json;
use tonic::Status;
use tonic_types::pb::{FILE_DESCRIPTOR_SET, Status as RpcStatus};

use super::{
    any::{find_type, type_name},
    format::Format,
    message_json::ToJson,
    schema::Schema,
};
use crate::failure::Failure;

/// `google.rpc.Status` and Google's own error details.
fn standard_types() -> DescriptorPool {
    // It can be read: a test says so.
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap_or_default()
}

/// The failure that a status is, with its details decoded by the schema, the standard types, and what the server knows beside.
pub(crate) async fn failure(status: Status, schema: &mut Schema) -> Failure {
    let details = match RpcStatus::decode(status.details()) {
        Ok(decoded) => {
            let types = |schema: &Schema| [schema.pools(), vec![standard_types()]].concat();
            let known = types(schema);
            let names = decoded.details.iter().map(|any| type_name(&any.type_url));
            let unknown = names.filter(|name| find_type(&known, name).is_none());
            schema.learn_all(unknown.map(String::from).collect()).await;
            let to_json = ToJson {
                types: types(schema),
                ..ToJson::default()
            };
            let details = decoded.details.iter();
            details
                .map(|any| to_json.any_of(&any.type_url, &any.value, 0))
                .collect()
        }
        Err(error) => {
            let error = format!("the status' details are no google.rpc.Status: {error}");
            vec![json!({ "@error": error, "@value": BASE64.encode(status.details()) })]
        }
    };
    Failure::Status {
        details,
        status: Box::new(status),
    }
}

/// The failure as `google.rpc.Status` in the responses' format: `-format-error`.
pub(crate) fn formatted(failure: &Failure, format: Format) -> String {
    match (failure, format) {
        (Failure::Status { status, .. }, Format::Text) => {
            let mut rpc = RpcStatus::decode(status.details()).unwrap_or_default();
            rpc.code = status.code() as i32;
            rpc.message = status.message().to_owned();
            let types = standard_types();
            let text = types
                .get_message_by_name("google.rpc.Status")
                .and_then(|it| DynamicMessage::decode(it, rpc.encode_to_vec().as_slice()).ok())
                .map(|message| {
                    let options = FormatOptions::new().pretty(true).expand_any(false);
                    message.to_text_format_with_options(&options)
                });
            text.unwrap_or_else(|| failure.to_string())
        }
        _ => format!("{:#}", failure.json()),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn status() -> Status {
        let types = standard_types();
        let info = types.get_message_by_name("google.rpc.ErrorInfo");
        let info =
            DynamicMessage::parse_text_format(info.expect("it compiles"), "reason: \"FULL\"");
        let any = |name: &str, value| prost_types::Any {
            type_url: format!("type.googleapis.com/{name}"),
            value,
        };
        let details = RpcStatus {
            code: 8,
            message: "full".to_owned(),
            details: vec![
                any("google.rpc.ErrorInfo", info.expect("valid").encode_to_vec()),
                any("no.Such", vec![1]),
            ],
        };
        Status::with_details(
            Code::ResourceExhausted,
            "full",
            details.encode_to_vec().into(),
        )
    }

    #[tokio::test]
    async fn standard_details_need_no_server() {
        let mut schema = Schema::default();
        let failed = failure(status(), &mut schema).await;
        let json = failed.json();
        assert_eq!(json["details"][0]["reason"], "FULL");
        assert_eq!(json["details"][1]["@value"], "AQ==");
        let text = failed.to_string();
        assert!(text.contains("  1)\t{\n    \t  \"@type\""), "{text}");
        let text = formatted(&failed, Format::Json);
        assert!(
            text.starts_with("{\n  \"code\": 8,\n  \"message\": \"full\",\n  \"details\": ["),
            "{text}"
        );
        let text = formatted(&failed, Format::Text);
        assert!(
            text.contains("code: 8") && text.contains("google.rpc.ErrorInfo"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn details_that_are_no_status_are_shown_as_bytes() {
        let status = Status::with_details(Code::Aborted, "", vec![0xff].into());
        let failed = failure(status, &mut Schema::default()).await;
        assert_eq!(failed.json()["details"][0]["@value"], "/w==");
    }
}
