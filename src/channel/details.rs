//! A peer's `grpc-status-details-bin`, before tonic reads it: tonic 0.14 panics if the header is not base64.

use http::{HeaderMap, HeaderName};

static DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// Drops the details of a status that cannot be read. The code and the message stay.
pub(crate) fn drop_unreadable(headers: &mut HeaderMap) {
    let unreadable = headers
        .get(&DETAILS)
        .is_some_and(|value| !is_base64(value.as_bytes()));
    if unreadable {
        headers.remove(&DETAILS);
        tracing::debug!("dropped a status's details: the peer's {DETAILS} is not base64");
    }
}

/// Whether a text is base64 in its canonical form (RFC 4648, section 4), padded or not, as gRPC sends it.
fn is_base64(text: &[u8]) -> bool {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = &text[..text.len() - padding];
    let Some(last) = digits.last() else {
        return padding == 0;
    };
    // A last group of one digit has no whole byte; of two or three it has bits to spare, which are zero.
    let (missing, spare) = match digits.len() % 4 {
        0 => (0, 0),
        2 => (2, 0b1111),
        3 => (1, 0b11),
        _ => return false,
    };
    (padding == 0 || padding == missing)
        && digits.iter().all(|digit| value(*digit).is_some())
        && value(*last).is_some_and(|value| value & spare == 0)
}

fn value(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use tonic::{Code, Status};

    use super::*;

    fn read(details: &[u8]) -> Status {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", "5".parse().expect("a value"));
        headers.insert("grpc-message", "gone".parse().expect("a value"));
        if let Ok(value) = http::HeaderValue::from_bytes(details) {
            headers.insert(&DETAILS, value);
        }
        drop_unreadable(&mut headers);
        Status::from_header_map(&headers).expect("a status")
    }

    #[test]
    fn what_is_no_base64_costs_the_details_alone() {
        for bad in [
            "!!!", "A", "AB", "ABC", "AA=", "AA===", "====", "A=A=", "AAAA=", "\u{e9}A",
        ] {
            let status = read(bad.as_bytes());
            assert_eq!((status.code(), status.message()), (Code::NotFound, "gone"));
            assert!(status.details().is_empty(), "{bad}");
        }
        for good in ["CAMSA2JhZA", "CAMSA2JhZA=="] {
            assert_eq!(read(good.as_bytes()).details(), b"\x08\x03\x12\x03bad");
        }
    }

    proptest! {
        #[test]
        fn tonic_reads_whatever_stays(text in "[A-Za-z0-9+/=!-]{0,12}") {
            let _ = read(text.as_bytes());
        }

        #[test]
        fn what_tonic_writes_stays(details in proptest::collection::vec(any::<u8>(), 0..40)) {
            let status = Status::with_details(Code::NotFound, "gone", Bytes::from(details.clone()));
            let mut headers = status.into_http::<()>().headers().clone();
            drop_unreadable(&mut headers);
            let status = Status::from_header_map(&headers).expect("a status");
            prop_assert_eq!(status.details(), details);
        }
    }
}
