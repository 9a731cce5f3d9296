//! The size of a header list, checked where only the call itself fails. h2 ends the whole connection for a list that is four times its limit, and does not
//! say which header was too large.

use http::{HeaderMap, HeaderName};
use tower_iroh_layers::Origin;

use crate::error::{Error, ErrorKind};

/// The largest list of a request that is sent, unless a larger one is accepted in responses. h2's servers end the connection for more, as they come.
const MOST_SENT: usize = 64 * 1024;
/// What h2 itself takes of a response, unless more is accepted. It holds so much until the list is checked.
const MOST_HELD: u32 = 1024 * 1024;

/// How large a header list may be, in bytes as RFC 9113, section 6.5.2, counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeaderListLimit(pub(super) u32);

impl HeaderListLimit {
    /// For h2.
    pub(super) fn held(self) -> u32 {
        self.0.max(MOST_HELD)
    }

    /// # Errors
    /// [`ErrorKind::Exhausted`], naming the limit and the largest header.
    pub(crate) fn check_request(self, headers: &HeaderMap) -> Result<(), Error> {
        let most = MOST_SENT.max(self.0 as usize);
        check(
            headers,
            most,
            "request",
            "put large values into the message",
        )
    }

    /// # Errors
    /// [`ErrorKind::Exhausted`], naming the limit and the largest header.
    pub(crate) fn check_response(self, headers: &HeaderMap) -> Result<(), Error> {
        let advice = "raise Lanes::max_header_list_size to accept it";
        check(headers, self.0 as usize, "response", advice).map_err(Error::perhaps_processed)
    }
}

fn size(name: &HeaderName, value: usize) -> usize {
    name.as_str().len() + value + 32
}

fn check(headers: &HeaderMap, most: usize, whose: &str, advice: &str) -> Result<(), Error> {
    let sizes = || {
        headers
            .iter()
            .map(|(name, value)| (size(name, value.len()), name))
    };
    let total: usize = sizes().map(|(size, _)| size).sum();
    if total <= most {
        return Ok(());
    }
    let (size, name) = sizes().max_by_key(|(size, _)| *size).unzip();
    let (size, name) = (
        size.unwrap_or_default(),
        name.map_or("", HeaderName::as_str),
    );
    let message = format!(
        "the {whose}'s headers take {total} bytes, and {most} are accepted; the largest is `{name}` with {size}: {advice}"
    );
    Err(Error::new(ErrorKind::Exhausted, message).blamed_on(Origin::Ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_too_large_is_refused_with_its_largest_header() {
        let mut headers = HeaderMap::new();
        headers.insert("small", "x".parse().expect("valid"));
        headers.insert("large", "x".repeat(63).parse().expect("valid"));
        // 5 + 1 + 32 and 5 + 63 + 32.
        let limit = HeaderListLimit(138);
        limit.check_response(&headers).expect("it fits");
        let refused = HeaderListLimit(137)
            .check_response(&headers)
            .expect_err("too large");
        assert_eq!(refused.kind(), ErrorKind::Exhausted);
        assert!(!refused.not_processed());
        let text = refused.status().message().to_owned();
        assert!(
            text.contains("138") && text.contains("137") && text.contains("`large` with 100"),
            "{text}"
        );
        // More is sent than is accepted.
        HeaderListLimit(137)
            .check_request(&headers)
            .expect("it fits");
        headers.insert("large", "x".repeat(MOST_SENT).parse().expect("valid"));
        let refused = HeaderListLimit(137)
            .check_request(&headers)
            .expect_err("too large");
        assert!(refused.not_processed());
        HeaderListLimit(1 << 20)
            .check_request(&headers)
            .expect("it fits");
    }
}
