//! Request headers as `-H` gives them, and metadata as it is printed.

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION},
};
use tonic::metadata::{BinaryMetadataValue, KeyAndValueRef, MetadataMap, MetadataValue};

use crate::failure::Failure;

/// Headers whose values are secrets by their purpose. So is every value that came from the environment.
const SECRET: [HeaderName; 3] = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE];

/// Reads headers of the form `name: value`. A `-bin` value is base64, of either alphabet, padded or not; anything else under such a name is sent as it is, encoded.
pub(crate) fn read<'a>(
    headers: impl IntoIterator<Item = &'a String>,
    expand: bool,
) -> Result<MetadataMap, Failure> {
    let mut map = HeaderMap::new();
    for header in headers {
        // It is not quoted: without a name it may be a secret alone.
        let (name, value) = header.split_once(':').ok_or_else(|| {
            Failure::usage("a header of `-H` has no colon; write `-H 'name: value'`")
        })?;
        let given = value.trim();
        let value = match expand {
            true => expanded(given, |name| std::env::var(name).ok())?,
            false => given.to_owned(),
        };
        let name: HeaderName = name.trim().to_lowercase().parse().map_err(|_| {
            Failure::usage(format!(
                "`{}` is not a header's name; use letters, digits, `-`, `_` and `.`",
                name.trim()
            ))
        })?;
        let is_from_env = value != given;
        let mut value = header_value(&name, &value)?;
        // HTTP/2 keeps these out of its tables, and `-v` does not print them.
        value.set_sensitive(is_from_env || SECRET.contains(&name));
        map.append(name, value);
    }
    Ok(MetadataMap::from_headers(map))
}

fn header_value(name: &HeaderName, value: &str) -> Result<HeaderValue, Failure> {
    let refused = || {
        Failure::usage(format!(
            "the value of the header `{name}` has characters that headers cannot have; bytes go in a header whose name ends in -bin"
        ))
    };
    let text = match name.as_str().ends_with("-bin") {
        false if !value.chars().all(|c| matches!(c, ' '..='~')) => return Err(refused()),
        false => HeaderValue::from_str(value),
        true => {
            // grpcurl takes any of these too, and in this order.
            let bytes = [BASE64, BASE64URL, BASE64_NOPAD, BASE64URL_NOPAD]
                .iter()
                .find_map(|it| it.decode(value.as_bytes()).ok())
                .unwrap_or_else(|| value.into());
            let encoded: BinaryMetadataValue = MetadataValue::from_bytes(&bytes);
            HeaderValue::from_bytes(encoded.as_encoded_bytes())
        }
    };
    text.map_err(|_| refused())
}

/// Puts the environment's values in the place of `${NAME}`.
fn expanded(value: &str, env: impl Fn(&str) -> Option<String>) -> Result<String, Failure> {
    let mut rest = value;
    let mut done = String::new();
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, after)) = after.split_once('}') else {
            break;
        };
        done.push_str(before);
        done.push_str(&env(name).ok_or_else(|| {
            Failure::usage(format!(
                "the environment has no `{name}`, which a header refers to"
            ))
        })?);
        rest = after;
    }
    done.push_str(rest);
    Ok(done)
}

/// Request metadata in grpcurl's form. A value that is a secret is not shown: what `-v` prints goes into reports.
pub(crate) fn printed_request(metadata: &MetadataMap) -> String {
    let mut headers = metadata.clone().into_headers();
    for value in headers.values_mut().filter(|value| value.is_sensitive()) {
        *value = HeaderValue::from_static("(not shown)");
    }
    printed(&MetadataMap::from_headers(headers))
}

/// Metadata in grpcurl's form: sorted lines, bytes as base64.
pub(crate) fn printed(metadata: &MetadataMap) -> String {
    let mut lines: Vec<_> = metadata
        .iter()
        .map(|entry| match entry {
            KeyAndValueRef::Ascii(name, value) => {
                let value = String::from_utf8_lossy(value.as_encoded_bytes());
                format!("{name}: {value}")
            }
            KeyAndValueRef::Binary(name, value) => match value.to_bytes() {
                Ok(bytes) => format!("{name}: {}", BASE64.encode(&bytes)),
                Err(_) => format!("{name}: {value:?}"),
            },
        })
        .collect();
    lines.sort();
    match lines.is_empty() {
        true => "(empty)".to_owned(),
        false => lines.join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(headers: &[&str]) -> Result<MetadataMap, Failure> {
        let headers: Vec<_> = headers.iter().map(ToString::to_string).collect();
        read(&headers, false)
    }

    #[test]
    fn headers_are_read_as_grpcurl_reads_them() {
        let map = read_all(&[
            "X-One:  a:b ",
            "x-one: c",
            "x-two-bin: AQI=",
            "x-raw-bin: \u{fc}!",
        ])
        .expect("valid");
        let printed = printed(&map);
        assert_eq!(
            printed,
            "x-one: a:b\nx-one: c\nx-raw-bin: w7wh\nx-two-bin: AQI="
        );
        for text in ["+/8=", "+/8", "-_8=", "-_8"] {
            let map = read_all(&[&format!("x-bin: {text}")]).expect("valid");
            assert_eq!(super::printed(&map), "x-bin: +/8=", "{text}");
        }
    }

    #[test]
    fn a_secret_is_sent_and_not_shown() {
        let map = read_all(&["authorization: Bearer me", "x-a: b"]).expect("valid");
        assert_eq!(printed_request(&map), "authorization: (not shown)\nx-a: b");
        assert_eq!(map.get("authorization").expect("sent"), "Bearer me");
    }

    #[test]
    fn mistakes_are_named() {
        for (header, says) in [
            ("nothing", "has no colon"),
            ("a b: c", "not a header's name"),
            ("x-a: \u{fc}", "-bin"),
        ] {
            let error = read_all(&[header]).expect_err(header).to_string();
            assert!(error.contains(says), "{error}");
        }
        assert_eq!(super::printed(&MetadataMap::new()), "(empty)");
    }

    #[test]
    fn the_environment_is_filled_in() {
        let env = |name: &str| (name == "TOKEN").then(|| "secret".to_owned());
        let bearer = expanded("Bearer ${TOKEN}!", env).expect("known");
        assert_eq!(bearer, "Bearer secret!");
        assert_eq!(expanded("${TOKEN", env).expect("no name"), "${TOKEN");
        let error = expanded("${TOKNE}", env).expect_err("unknown").to_string();
        assert!(error.contains("`TOKNE`"), "{error}");
    }
}
