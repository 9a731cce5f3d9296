//! The policy of who may call what, from the file that a configuration names.

use tower_iroh_layers::authorize::AccessPolicy;

use super::{Config, TransportError, reader::text_of};

/// The policy of a configuration, and its text. Without a file every call is permitted.
pub(super) fn read(config: &Config) -> Result<(AccessPolicy, Option<String>), TransportError> {
    let Some(path) = config.authorization_file() else {
        let all = AccessPolicy::builder()
            .role("all", ["*"])
            .authenticated(["all"])
            .anonymous(["all"]);
        let all = all.build();
        return match all {
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
