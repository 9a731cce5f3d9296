//! The `grpc-timeout` header: at most eight digits and a unit (PROTOCOL-HTTP2, "Timeout").

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::headers::first;

/// The header's name.
pub const NAME: &str = "grpc-timeout";

/// Reads the header. A malformed one counts as absent, as in tonic: it must not fail a call that would succeed.
pub fn read(headers: &HeaderMap) -> Option<Duration> {
    static HEADER: HeaderName = HeaderName::from_static(NAME);
    let text = first(headers, &HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// Writes the header, in the finest unit whose eight digits hold it, rounded down: the peer must not wait longer than this
/// side.
pub fn write(headers: &mut HeaderMap, timeout: Duration) {
    const MOST: u128 = 99_999_999;
    let units = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (u128::from(timeout.as_secs()), 'S'),
        (u128::from(timeout.as_secs() / 60), 'M'),
    ];
    let (value, unit) = units
        .into_iter()
        .find(|(value, _)| *value <= MOST)
        // 99,999,999 hours are eleven thousand years.
        .unwrap_or((u128::from(timeout.as_secs() / 3600).min(MOST), 'H'));
    // By hand and not by `format!`: every attempt of every call with a deadline runs this.
    let mut text = [0; 9];
    text[8] = unit as u8;
    let mut first = 8;
    let mut value = value as u32;
    loop {
        first -= 1;
        text[first] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(&text[first..]) {
        headers.insert(const { HeaderName::from_static(NAME) }, value);
    }
}

/// How far apart two clocks may end one call: the header's rounding and a timer's tick.
pub(super) const SLACK: Duration = Duration::from_millis(5);

/// Whether a response's head says that the peer's clock ended the call, when ours has `left` on it.
///
/// tonic's server keeps `grpc-timeout` too. If its answer is polled before our timer, the answer is CANCELLED. An earlier
/// CANCELLED is the server's own.
pub fn ended_by_peer(head: &HeaderMap, left: Duration) -> bool {
    left <= SLACK && is_cancelled(head)
}

/// Whether a head or trailers say CANCELLED.
pub(super) fn is_cancelled(said: &HeaderMap) -> bool {
    static STATUS: HeaderName = HeaderName::from_static("grpc-status");
    first(said, &STATUS).is_some_and(|status| status == "1")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(NAME, HeaderValue::from_str(text).ok()?);
        read(&headers)
    }

    #[test]
    fn reads_each_unit_and_refuses_the_rest() {
        assert_eq!(parse("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse("3S"), Some(Duration::from_secs(3)));
        assert_eq!(parse("4m"), Some(Duration::from_millis(4)));
        assert_eq!(parse("5u"), Some(Duration::from_micros(5)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in [
            "",
            "1",
            "S",
            "123456789S",
            "-1S",
            "1.5S",
            "1s",
            "1 S",
            "+1S",
            "1\u{e9}",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_and_never_longer(nanos in any::<u64>()) {
            let timeout = Duration::from_nanos(nanos);
            let mut headers = HeaderMap::new();
            write(&mut headers, timeout);
            let back = read(&headers).expect("well-formed");
            prop_assert!(back <= timeout);
            // A unit is left at eight digits for one a thousand times as coarse, so at least five digits remain.
            prop_assert!(back.as_secs_f64() >= timeout.as_secs_f64() * 0.999_98);
        }

        #[test]
        fn no_text_panics(text in ".{0,16}") {
            let _ = parse(&text);
        }
    }
}
