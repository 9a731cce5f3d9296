//! The policy of who may call what, from the file that a configuration names.

use tower_iroh_layers::authorize::AccessPolicy;

use super::{Config, TransportError, reader::text_of};

/// The policy of a configuration, and its text. Without a file every call is permitted to those who prove an identity, and to nobody else unless the
/// configuration says so.
pub(super) fn read(config: &Config) -> Result<(AccessPolicy, Option<String>), TransportError> {
    let Some(path) = config.authorization_file() else {
        let mut all = AccessPolicy::builder()
            .role("all", ["*"])
            .authenticated(["all"]);
        if config.allow_anonymous() {
            all = all.anonymous(["all"]);
        }
        return match all.build() {
            Ok(all) => Ok((all, None)),
            Err(source) => Err(TransportError::policy("".as_ref(), source)),
        };
    };
    let text = text_of(path).map_err(|source| TransportError::ReadPolicy {
        path: path.to_owned(),
        source,
    })?;
    match AccessPolicy::from_toml_with(&text, crate::server::peer_name) {
        Ok(policy) => Ok((policy, Some(text))),
        Err(source) => Err(TransportError::policy(path, source)),
    }
}
