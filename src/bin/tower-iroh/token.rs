//! The token that callers show where other machines reach the gateway.

use std::path::Path;

use data_encoding::BASE64;
use http::{HeaderMap, HeaderValue, header};
use subtle::ConstantTimeEq;

use crate::failure::Failure;

/// A secret of the gateway and its callers.
pub(crate) struct Token(Vec<u8>);

/// A shorter one can be guessed.
const SHORTEST: usize = 16;

impl Token {
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| Failure::file(path, error))?;
        let token = text.trim();
        if token.len() < SHORTEST {
            return Err(Failure::usage(format!(
                "{} holds a token of {} characters; use at least {SHORTEST}",
                path.display(),
                token.len()
            )));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::usage(format!(
                "{} holds no token: it is one word of printable ASCII characters",
                path.display()
            )));
        }
        Ok(Self(token.as_bytes().to_vec()))
    }

    /// Whether the head shows the token, as `Bearer TOKEN` or as the password of `Basic`, and takes it out: it is not for the peer.
    pub(crate) fn take_from(&self, headers: &mut HeaderMap) -> bool {
        let Some(value) = headers.remove(header::PROXY_AUTHORIZATION) else {
            return false;
        };
        let Some((scheme, shown)) = value.to_str().ok().and_then(|text| text.split_once(' '))
        else {
            return false;
        };
        let shown = shown.trim().as_bytes();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.is(shown);
        }
        // From `http://user:token@host:port` in `grpc_proxy`.
        let pair = BASE64.decode(shown).unwrap_or_default();
        let password = pair
            .iter()
            .position(|byte| *byte == b':')
            .map(|at| &pair[at + 1..]);
        scheme.eq_ignore_ascii_case("basic") && password.is_some_and(|password| self.is(password))
    }

    /// What shows it, as a value of `proxy-authorization`.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_bytes(&[b"Bearer ", &self.0[..]].concat()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// In a time that does not tell how much of it is right.
    fn is(&self, shown: &[u8]) -> bool {
        self.0.ct_eq(shown).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_in_two_ways() {
        let token = Token(b"0123456789abcdef".to_vec());
        let shown = |value: &str| {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_str(value).expect("a header");
            headers.insert(header::PROXY_AUTHORIZATION, value);
            let shown = token.take_from(&mut headers);
            assert!(headers.is_empty());
            shown
        };
        assert!(shown("Bearer 0123456789abcdef"));
        assert!(shown(&format!(
            "Basic {}",
            BASE64.encode(b"any:0123456789abcdef")
        )));
        for wrong in [
            "Bearer 0123456789abcde",
            "Bearer",
            "0123456789abcdef",
            "Basic x",
            "Basic ",
            "bearer  ",
        ] {
            assert!(!shown(wrong), "{wrong}");
        }
        assert!(!token.take_from(&mut HeaderMap::new()));
    }
}
