use std::time::Duration;

use http::{HeaderName, Request};

use super::{Arm, StickyKey, key::fnv1a};
use crate::{ConfigError, headers, setters::setters};

/// A share of the calls goes to one arm, the rest to the other.
///
/// A key decides, so that calls with the same key stay together: the [`StickyKey`] in the request's extensions; else the value of the configured [metadata
/// header](CanaryBuilder::key_header); else the key of the layer's [configuration](super::SelectConfigBuilder::sticky_key), which all calls of the channel then
/// share. A call without any of these is its own key: the share is right, and nothing sticks.
///
/// A key is in the canary if its hash, with the canary's name as the salt, is below the share. So a larger share only adds keys, and canaries with different
/// names begin with different keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Canary {
    name: String,
    salt: u64,
    to: Arm,
    share: u32,
    key_header: Option<HeaderName>,
    window: Duration,
}

impl Canary {
    /// The whole traffic, in basis points.
    pub const WHOLE: u32 = 10_000;

    /// Builds a canary with a share of 0 unless set. `name` is its salt, and identifies it to a handle and a rollout.
    pub fn builder(name: impl Into<String>, to: Arm) -> CanaryBuilder {
        let name = name.into();
        let canary = Self {
            salt: fnv1a(name.as_bytes()),
            name,
            to,
            share: 0,
            key_header: None,
            window: Duration::from_secs(30),
        };
        CanaryBuilder {
            canary,
            key_header: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The arm that it tries out.
    pub fn to(&self) -> Arm {
        self.to
    }

    /// Its share of the traffic, in basis points: 10,000 is all.
    pub fn share(&self) -> u32 {
        self.share
    }

    /// How long the arms' results count in its [statistics](super::SelectHandle::canary).
    pub fn window(&self) -> Duration {
        self.window
    }

    /// The same with another share.
    ///
    /// # Errors
    /// When it is above 10,000.
    pub fn with_share(mut self, share: u32) -> Result<Self, ConfigError> {
        basis_points("select.canary.share", share)?;
        self.share = share;
        Ok(self)
    }

    /// Whether a call with this key is in the canary.
    pub fn includes(&self, key: StickyKey) -> bool {
        key.place(self.salt) < self.share
    }

    /// The key that a request brings.
    pub(super) fn key_of<B>(&self, request: &Request<B>) -> Option<StickyKey> {
        if let Some(key) = request.extensions().get::<StickyKey>() {
            return Some(*key);
        }
        let value = headers::first(request.headers(), self.key_header.as_ref()?)?;
        Some(StickyKey::new(value.as_bytes()))
    }

    /// Whether what was measured for `other` is true for this one too.
    pub(super) fn continues(&self, other: &Self) -> bool {
        self.name == other.name && self.to == other.to && self.window == other.window
    }
}

/// Makes a [`Canary`].
#[derive(Clone, Debug)]
#[must_use]
pub struct CanaryBuilder {
    canary: Canary,
    key_header: Option<String>,
}

impl CanaryBuilder {
    setters! {
        /// The share in basis points, 0 to 10,000. 0 unless set.
        pub fn share(basis_points: u32) => canary.share = basis_points;

        /// The metadata whose value is the key of a call without a [`StickyKey`], such as `x-tenant`. None unless set.
        pub fn key_header(name: impl Into<String>) => key_header = Some(name.into());

        /// How long the arms' results count in its statistics: 30 s; 1 s to an hour. A [rollout](crate::rollout) also compares them over three times as long.
        pub fn window(window: Duration) => canary.window = window;
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When the name is empty, longer than 100 bytes or has control characters, the share is above 10,000, the header is not a header's name, or the window is
    /// out of its range.
    pub fn build(self) -> Result<Canary, ConfigError> {
        let mut canary = self.canary;
        let name = &canary.name;
        ConfigError::require(
            (1..=100).contains(&name.len()) && !name.chars().any(char::is_control),
            "select.canary.name",
            name,
            "1 to 100 bytes without control characters are accepted",
        )?;
        basis_points("select.canary.share", canary.share)?;
        window("select.canary.window", canary.window)?;
        if let Some(name) = self.key_header {
            let header = HeaderName::try_from(name.as_str()).ok();
            let accepted = "a metadata key such as x-tenant is accepted";
            ConfigError::require(header.is_some(), "select.canary.key_header", name, accepted)?;
            canary.key_header = header;
        }
        Ok(canary)
    }
}

pub(super) fn basis_points(field: &'static str, value: u32) -> Result<(), ConfigError> {
    ConfigError::within(field, value, 0..=Canary::WHOLE)
}

pub(super) fn window(field: &'static str, value: Duration) -> Result<(), ConfigError> {
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    ConfigError::require(
        range.contains(&value),
        field,
        value,
        "1 s to 1 h is accepted",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canary(share: u32) -> Canary {
        let canary = Canary::builder("to-iroh", Arm::First).share(share);
        canary.key_header("x-tenant").build().expect("accepted")
    }

    #[test]
    fn the_extension_outranks_the_header() {
        let mut request = Request::new(());
        assert_eq!(canary(0).key_of(&request), None);
        let headers = request.headers_mut();
        headers.insert("x-tenant", "seven".parse().expect("a value"));
        assert_eq!(canary(0).key_of(&request), Some(StickyKey::new("seven")));
        request.extensions_mut().insert(StickyKey::new("eight"));
        assert_eq!(canary(0).key_of(&request), Some(StickyKey::new("eight")));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let field = |builder: CanaryBuilder| builder.build().expect_err("refused").field();
        let new = || Canary::builder("n", Arm::First);
        assert_eq!(field(Canary::builder("", Arm::First)), "select.canary.name");
        assert_eq!(field(new().share(10_001)), "select.canary.share");
        assert_eq!(field(new().key_header("x y")), "select.canary.key_header");
        for bad in [Duration::ZERO, Duration::MAX] {
            assert_eq!(field(new().window(bad)), "select.canary.window");
        }
        assert!(canary(0).with_share(10_001).is_err());
    }

    #[test]
    fn the_same_keys_as_ever() {
        // Written down, so that a release which moves users fails here.
        let within: Vec<u32> = (0..40)
            .filter(|n| canary(2500).includes(StickyKey::new(n.to_string())))
            .collect();
        assert_eq!(within, SAME_AS_EVER);
    }

    const SAME_AS_EVER: &[u32] = &[2, 3, 5, 12, 13, 16, 20, 23, 28, 38];

    proptest! {
        #[test]
        fn growing_only_adds_keys(key in any::<u64>(), a in 0..=10_000u32, b in 0..=10_000u32) {
            let key = StickyKey::new(key.to_be_bytes());
            let (small, large) = (canary(a.min(b)), canary(a.max(b)));
            prop_assert!(!small.includes(key) || large.includes(key));
            prop_assert!(canary(10_000).includes(key) && !canary(0).includes(key));
        }
    }
}
