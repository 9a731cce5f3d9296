use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{AccessPolicyBuilder, Identity, Limits, PolicyError};

/// Who may call what, and how much: see the [module's page](super) for its TOML.
///
/// A caller is one of three: without an identity, by the entry for [anonymous](AccessPolicyBuilder::anonymous) callers; with an identity that the
/// policy lists, by that [peer](AccessPolicyBuilder::peer)'s entry and nothing else; with any other, by the entry for
/// [authenticated](AccessPolicyBuilder::authenticated) ones. Where there is no such entry the answer is no.
#[derive(Debug)]
pub struct AccessPolicy {
    pub(super) peers: HashMap<Arc<str>, Arc<Entry>>,
    pub(super) authenticated: Option<Arc<Entry>>,
    pub(super) anonymous: Option<Arc<Entry>>,
}

/// What one caller may.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) grants: Grants,
    pub(super) limits: Limits,
}

/// The union of an entry's roles.
#[derive(Debug, Default)]
pub(super) struct Grants {
    pub(super) all: bool,
    /// `/package.Service/`.
    pub(super) services: HashSet<Box<str>>,
    /// `/package.Service/Method`.
    pub(super) methods: HashSet<Box<str>>,
}

impl Grants {
    fn is_empty(&self) -> bool {
        !self.all && self.services.is_empty() && self.methods.is_empty()
    }

    fn permits(&self, path: &str) -> bool {
        self.all
            || self.methods.contains(path)
            || (!self.services.is_empty()
                && service_of(path).is_some_and(|service| self.services.contains(service)))
    }
}

/// `/package.Service/` of `/package.Service/Method`; `None` of what is not exactly that.
pub(super) fn service_of(path: &str) -> Option<&str> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let is_method = !service.is_empty() && !method.is_empty() && !method.contains('/');
    is_method.then(|| &path[..service.len() + 2])
}

/// What a policy says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may go on.
    Allowed,
    /// The caller has no identity, and callers without one may not do this: UNAUTHENTICATED.
    Unauthenticated,
    /// The caller may not do this: PERMISSION_DENIED.
    Denied,
}

impl AccessPolicy {
    /// A policy in code.
    pub fn builder() -> AccessPolicyBuilder {
        AccessPolicyBuilder::default()
    }

    /// A policy from TOML, with the names of peers as they are written there.
    ///
    /// A peer under another spelling than the transport's has no entry, and so what other peers have: where names have more than
    /// one, [`from_toml_with`](Self::from_toml_with) is safer.
    ///
    /// # Errors
    /// [`PolicyError`], with line and key: for what is no TOML, a key or a role that does not exist, a method that is none, a limit
    /// that nothing could meet, or whitespace around a peer's name.
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        Self::from_toml_with(text, |name| Ok(name.to_owned()))
    }

    /// A policy from TOML, with `name` to check each key of `[peers]` and to put it into the spelling that the transport has.
    ///
    /// ```
    /// use tower_iroh_layers::authorize::AccessPolicy;
    ///
    /// let hexadecimal = |name: &str| match name.chars().all(|c| c.is_ascii_hexdigit()) {
    ///     true => Ok(name.to_ascii_lowercase()),
    ///     false => Err("an id has hexadecimal digits only".to_owned()),
    /// };
    /// let policy = AccessPolicy::from_toml_with("[peers.2B8C]\nroles = []", hexadecimal).unwrap();
    /// assert!(policy.lists(&"2b8c".into()));
    /// let error = AccessPolicy::from_toml_with("\n[peers.alice]\nroles = []", hexadecimal).unwrap_err();
    /// assert_eq!(error.to_string(), "line 2: peers.\"alice\": an id has hexadecimal digits only");
    /// ```
    ///
    /// # Errors
    /// [`PolicyError`] as of [`from_toml`](Self::from_toml), and with what `name` said.
    pub fn from_toml_with(
        text: &str,
        name: impl FnMut(&str) -> Result<String, String>,
    ) -> Result<Self, PolicyError> {
        super::file::read(text, name)?.build()
    }

    /// What it says of a call to `path`, such as `/package.Service/Method`. Limits are not part of that. An empty identity is none.
    pub fn decide(&self, identity: Option<&Identity>, path: &str) -> Decision {
        let identity = identity.filter(|it| !it.is_empty());
        match (self.entry(identity), identity) {
            (Some(entry), _) if entry.grants.permits(path) => Decision::Allowed,
            (_, None) => Decision::Unauthenticated,
            (_, Some(_)) => Decision::Denied,
        }
    }

    /// Whether it has an entry for this identity by name.
    pub fn lists(&self, identity: &Identity) -> bool {
        self.peers.contains_key(identity.as_str())
    }

    /// Whether it permits this caller any call at all. To a caller that it does not admit, [`decide`](Self::decide) says no for every method, so its
    /// connection can be refused. An empty identity is none.
    ///
    /// ```
    /// use tower_iroh_layers::authorize::AccessPolicy;
    ///
    /// let policy = AccessPolicy::builder()
    ///     .role("reader", ["/shop.v1.Stock/Get"])
    ///     .peer("alice", ["reader"])
    ///     .peer("mallory", Vec::<String>::new())
    ///     .build()?;
    /// assert!(policy.admits(Some(&"alice".into())));
    /// assert!(!policy.admits(Some(&"mallory".into())) && !policy.admits(Some(&"bob".into())) && !policy.admits(None));
    /// # Ok::<(), tower_iroh_layers::authorize::PolicyError>(())
    /// ```
    pub fn admits(&self, identity: Option<&Identity>) -> bool {
        let entry = self.entry(identity.filter(|it| !it.is_empty()));
        entry.is_some_and(|entry| !entry.grants.is_empty())
    }

    pub(super) fn entry(&self, identity: Option<&Identity>) -> Option<&Arc<Entry>> {
        match identity {
            None => self.anonymous.as_ref(),
            Some(identity) => self
                .peers
                .get(identity.as_str())
                .or(self.authenticated.as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_the_path_of_two_segments() {
        assert_eq!(service_of("/p.S/M"), Some("/p.S/"));
        for path in [
            "", "/", "*", "p.S/M", "/p.S", "/p.S/", "//M", "//", "/p.S/M/", "/p.S/M/N", "//p.S/M",
        ] {
            assert_eq!(service_of(path), None, "{path:?}");
        }
    }
}
