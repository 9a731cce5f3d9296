//! The end of an attempt as headers and trailers report it.

use std::time::Duration;

use http::{
    HeaderMap, StatusCode,
    header::{self, HeaderName},
};
use tonic::Code;

use crate::headers::first;

static STATUS: HeaderName = HeaderName::from_static("grpc-status");
static PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What a server says about trying again, gRPC proposal A6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// Not before this.
    After(Duration),
    /// Not at all. A value that cannot be read means this too.
    Never,
}

impl Pushback {
    /// Reads `grpc-retry-pushback-ms`.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let value = first(headers, &PUSHBACK)?;
        // A 32-bit number by the proposal; a negative one means no further attempt.
        let millis = value
            .to_str()
            .ok()
            .and_then(|text| text.parse::<i32>().ok());
        Some(match millis.and_then(|millis| u64::try_from(millis).ok()) {
            Some(millis) => Self::After(Duration::from_millis(millis)),
            None => Self::Never,
        })
    }
}

/// The status in headers or trailers; one that cannot be read is UNKNOWN.
pub(crate) fn status(headers: &HeaderMap) -> Option<Code> {
    first(headers, &STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// Whether a head announces another protocol. Without a content type it is taken for gRPC: the status decides.
pub(crate) fn is_foreign(headers: &HeaderMap) -> bool {
    first(headers, &header::CONTENT_TYPE)
        .is_some_and(|value| !value.as_bytes().starts_with(b"application/grpc"))
}

/// The codes' names, as gRPC spells them.
pub(crate) const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A code's name, as gRPC spells it: `UNAVAILABLE`.
pub fn name_of(code: Code) -> &'static str {
    CODES[(code as usize).min(CODES.len() - 1)]
}

/// The code of a name, as gRPC spells it: `UNAVAILABLE`.
pub fn code_named(name: &str) -> Option<Code> {
    let number = CODES.iter().position(|it| *it == name)?;
    Some(Code::from_i32(number as i32))
}

/// Whether a code is the server's own doing, as OpenTelemetry has it.
#[cfg(any(feature = "metrics", feature = "trace"))]
pub(crate) fn is_server_error(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// gRPC's "HTTP to gRPC Status Code Mapping".
pub(crate) fn code_of_http(status: StatusCode) -> Code {
    match status {
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn pushback(value: &[u8]) -> Option<Pushback> {
        let mut headers = HeaderMap::new();
        headers.insert(&PUSHBACK, HeaderValue::from_bytes(value).ok()?);
        Pushback::read(&headers)
    }

    #[test]
    fn pushback_as_a6_has_it() {
        assert_eq!(Pushback::read(&HeaderMap::new()), None);
        let ms = |n| Some(Pushback::After(Duration::from_millis(n)));
        assert_eq!(pushback(b"0"), ms(0));
        assert_eq!(pushback(b"1500"), ms(1500));
        for never in [
            "-1",
            "",
            "soon",
            "1.5",
            "99999999999999999999",
            "2147483648",
        ] {
            assert_eq!(
                pushback(never.as_bytes()),
                Some(Pushback::Never),
                "{never:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.insert(&STATUS, value.clone());
                headers.insert(&PUSHBACK, value.clone());
                headers.insert(header::CONTENT_TYPE, value);
                prop_assert!(status(&headers).is_some());
                prop_assert!(Pushback::read(&headers).is_some());
                is_foreign(&headers);
            }
        }
    }
}
