//! Who may call what, from the file that a configuration names.

use tower_iroh_layers::authorize::Policy;

use super::TransportError;
use crate::config::{Config, text_of};

/// The policy of a configuration. Without a file that says so nobody is refused.
pub(super) fn read(config: &Config) -> Result<Policy, TransportError> {
    let Some(path) = config.authorization_file() else {
        let all = Policy::builder()
            .role("all", ["*"])
            .authenticated(["all"])
            .anonymous(["all"]);
        return all
            .try_build()
            .map_err(|source| TransportError::policy("".as_ref(), source));
    };
    let text = text_of(path).map_err(|source| TransportError::ReadPolicy {
        path: path.to_owned(),
        source,
    })?;
    Policy::from_toml_with(&text, crate::peer_name)
        .map_err(|source| TransportError::policy(path, source))
}
