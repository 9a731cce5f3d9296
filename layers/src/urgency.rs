//! How soon a call's bytes should go.
//!
//! The scale is that of [RFC 9218] (Extensible Prioritization Scheme for HTTP): 0 is the most urgent, 7 the least, and a
//! request without an urgency has 3. The same number travels in three places: the `priority` request header, the preamble of a
//! lane's QUIC stream, and, if the caller put it there, a request's extensions.
//!
//! ```
//! use tower_iroh_layers::Urgency;
//!
//! let mut request = http::Request::new(());
//! request.extensions_mut().insert(Urgency::BULK);
//! assert_eq!(Urgency::of(&request), Urgency::BULK);
//!
//! let mut request = http::Request::new(());
//! request.headers_mut().insert("priority", "u=1, i".parse().unwrap());
//! assert_eq!(Urgency::of(&request), Urgency::CONTROL);
//! ```
//!
//! [RFC 9218]: https://www.rfc-editor.org/rfc/rfc9218

use std::fmt;

use http::{HeaderMap, HeaderName};

use crate::headers;

/// The header that carries an urgency, RFC 9218 section 5.
pub const PRIORITY: &str = "priority";

/// How soon a call's bytes should go: 0 is the most urgent, 7 the least.
///
/// Smaller is more urgent, so `Urgency::CONTROL < Urgency::BULK` reads "control before bulk" in any sorted collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Urgency(u8);

impl Urgency {
    /// The most urgent there is: 0.
    pub const HIGHEST: Self = Self(0);
    /// Small messages that steer others: heartbeats, elections, cancellations. 1.
    pub const CONTROL: Self = Self(1);
    /// 3: calls that a caller waits for. The default for requests without an urgency.
    pub const INTERACTIVE: Self = Self(3);
    /// Large transfers that nobody waits for byte by byte. 6.
    pub const BULK: Self = Self(6);
    /// The least urgent there is: 7.
    pub const LOWEST: Self = Self(7);

    /// An urgency from its number.
    ///
    /// # Errors
    /// [`OutOfRange`] when `value` is above 7.
    pub const fn new(value: u8) -> Result<Self, OutOfRange> {
        if value <= Self::LOWEST.0 {
            Ok(Self(value))
        } else {
            Err(OutOfRange(value))
        }
    }

    /// The number, 0 to 7.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The urgency that a request asks for: its extension, else its `priority` header, else none.
    ///
    /// The extension comes first because code on this side put it there; a header may come from anywhere.
    pub fn requested<B>(request: &http::Request<B>) -> Option<Self> {
        match request.extensions().get::<Self>() {
            Some(urgency) => Some(*urgency),
            None => Self::from_headers(request.headers()),
        }
    }

    /// Like [`requested`](Self::requested), with RFC 9218's default for a request without an urgency.
    pub fn of<B>(request: &http::Request<B>) -> Self {
        Self::requested(request).unwrap_or_default()
    }

    /// Reads the `priority` header. A malformed one counts as absent, as RFC 9218 section 4 asks: a bad hint must
    /// not fail a good call.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        static NAME: HeaderName = HeaderName::from_static(PRIORITY);
        // Most requests have none; this is the fast path.
        headers::first(headers, &NAME)?;
        // The header may be sent in several lines; in a structured dictionary the last value of a key counts.
        headers
            .get_all(&NAME)
            .iter()
            .filter_map(|value| Self::parse(value.as_bytes()))
            .next_back()
    }

    /// Finds `u=N` in a structured-field dictionary such as `u=1, i`.
    fn parse(value: &[u8]) -> Option<Self> {
        let value = std::str::from_utf8(value).ok()?;
        value
            .split(',')
            .filter_map(|member| {
                // `u=1;x=y`: parameters after the value are allowed and mean nothing here.
                let member = member.split(';').next()?;
                let (key, number) = member.trim().split_once('=')?;
                // An integer begins with a digit here: Rust would accept `+1`, structured fields do not.
                if key != "u" || !number.starts_with(|first: char| first.is_ascii_digit()) {
                    return None;
                }
                Self::new(number.parse().ok()?).ok()
            })
            .next_back()
    }
}

impl Default for Urgency {
    /// RFC 9218's default, 3.
    fn default() -> Self {
        Self::INTERACTIVE
    }
}

impl TryFrom<u8> for Urgency {
    type Error = OutOfRange;

    fn try_from(value: u8) -> Result<Self, OutOfRange> {
        Self::new(value)
    }
}

impl fmt::Display for Urgency {
    /// As the header's member: `u=3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "u={}", self.0)
    }
}

/// An urgency above 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("urgency {0} is out of range: 0 (most urgent) to 7 (least) are accepted")]
pub struct OutOfRange(pub u8);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(value: &str) -> Option<Urgency> {
        let mut headers = HeaderMap::new();
        headers.insert(PRIORITY, value.parse().expect("a header value"));
        Urgency::from_headers(&headers)
    }

    #[test]
    fn reads_the_forms_that_rfc_9218_shows() {
        assert_eq!(header("u=5"), Urgency::new(5).ok());
        assert_eq!(header("u=0, i"), Some(Urgency::HIGHEST));
        assert_eq!(header("i,u=7"), Some(Urgency::LOWEST));
        assert_eq!(header("i, u=2;x=1"), Urgency::new(2).ok());
        assert_eq!(
            header("u=1, u=4"),
            Urgency::new(4).ok(),
            "the last member counts"
        );
    }

    #[test]
    fn what_is_malformed_counts_as_absent() {
        for value in [
            "", "i", "u", "u=", "u=8", "u=-1", "u=+1", "u=256", "u=1.5", "v=1", "uu=1", "=", "u=?1",
        ] {
            assert_eq!(header(value), None, "{value:?}");
        }
    }

    #[test]
    fn a_request_s_extension_outranks_its_header() {
        let mut request = http::Request::new(());
        assert_eq!(Urgency::of(&request), Urgency::INTERACTIVE);
        request
            .headers_mut()
            .insert(PRIORITY, "u=6".parse().expect("a value"));
        assert_eq!(Urgency::of(&request), Urgency::BULK);
        request.extensions_mut().insert(Urgency::CONTROL);
        assert_eq!(Urgency::of(&request), Urgency::CONTROL);
    }

    proptest! {
        #[test]
        fn any_bytes_parse_without_panic_and_in_range(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(urgency) = Urgency::parse(&bytes) {
                prop_assert!(urgency <= Urgency::LOWEST);
            }
        }

        #[test]
        fn what_is_shown_is_read_back(n in 0u8..=7) {
            let urgency = Urgency::new(n).expect("in range");
            prop_assert_eq!(Urgency::parse(urgency.to_string().as_bytes()), Some(urgency));
        }
    }
}
