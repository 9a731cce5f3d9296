//! Addresses, paths and names, which are written as strings.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use iroh::RelayUrl;

use super::{
    super::value::{Found, Refusal, quote},
    Form,
};

/// An address to bind.
pub(in crate::config) struct Address;

impl Form<SocketAddr> for Address {
    fn read(found: Found<'_>) -> Result<SocketAddr, Refusal> {
        let refused = || {
            found.refuse(
                "an IP address with a port, such as \"0.0.0.0:7001\" or \"[::]:7001\", is accepted",
            )
        };
        let text = found.string().map_err(|_| refused())?;
        text.parse().map_err(|_| refused())
    }

    fn show(value: &SocketAddr) -> Option<String> {
        Some(quote(&value.to_string()))
    }
}

/// The address of an interface, or all of them.
pub(in crate::config) struct Interface;

impl Form<Option<IpAddr>> for Interface {
    fn read(found: Found<'_>) -> Result<Option<IpAddr>, Refusal> {
        let refused = || {
            found.refuse("an IP address, such as \"192.0.2.1\", is accepted; leave it out for all")
        };
        let text = found.string().map_err(|_| refused())?;
        text.parse().map(Some).map_err(|_| refused())
    }

    fn show(value: &Option<IpAddr>) -> Option<String> {
        value.map(|ip| quote(&ip.to_string()))
    }
}

/// The URL of a relay, or none.
pub(in crate::config) struct Relay;

impl Relay {
    const ACCEPTED: &'static str =
        "an https:// URL (or http://, for a relay on this machine) or \"none\" is accepted";
}

impl Form<Option<RelayUrl>> for Relay {
    fn read(found: Found<'_>) -> Result<Option<RelayUrl>, Refusal> {
        let refused = || found.refuse(Self::ACCEPTED);
        match found.string().map_err(|_| refused())? {
            "none" => Ok(None),
            url => url.parse().map(Some).map_err(|_| refused()),
        }
    }

    fn show(value: &Option<RelayUrl>) -> Option<String> {
        Some(match value {
            Some(url) => quote(url.as_str()),
            None => quote("none"),
        })
    }

    fn check(value: &Option<RelayUrl>) -> Result<(), String> {
        match value {
            Some(url) if !matches!(url.scheme(), "https" | "http") || !url.has_host() => {
                Err(Self::ACCEPTED.to_owned())
            }
            // The effective configuration is shown, and a password is not to be.
            Some(url) if !url.username().is_empty() || url.password().is_some() => Err(format!(
                "{}, without a user's name or password",
                Self::ACCEPTED
            )),
            _ => Ok(()),
        }
    }
}

/// The path of a file.
pub(in crate::config) struct File;

impl File {
    /// Whether a secret key is in place of its file's name: then it is not shown.
    fn is_secret(path: &std::path::Path) -> bool {
        let text = path.to_string_lossy();
        let text = text.trim();
        text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

impl Form<Option<PathBuf>> for File {
    fn read(found: Found<'_>) -> Result<Option<PathBuf>, Refusal> {
        let text = found
            .string()
            .map_err(|_| found.refuse("the path of a file is accepted"))?;
        let path = PathBuf::from(text);
        if Self::is_secret(&path) {
            return Err(Refusal {
                found: "= (64 hexadecimal digits, not shown)".to_owned(),
                ..found.refuse("the path of a file is accepted; a key does not belong here")
            });
        }
        Ok(Some(path))
    }

    fn show(value: &Option<PathBuf>) -> Option<String> {
        let path = value.as_ref()?;
        Some(match Self::is_secret(path) {
            true => quote("(64 hexadecimal digits, not shown)"),
            false => quote(&path.to_string_lossy()),
        })
    }

    fn check(value: &Option<PathBuf>) -> Result<(), String> {
        match value {
            Some(path) if path.as_os_str().is_empty() || path.to_string_lossy().contains('\0') => {
                Err("the path of a file is accepted".to_owned())
            }
            Some(path) if Self::is_secret(path) => {
                Err("the path of a file is accepted; a key does not belong here".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// The name of a header that calls carry.
pub(in crate::config) struct Metadata;

impl Metadata {
    const ACCEPTED: &'static str =
        "a metadata key in lower case, such as \"x-tenant\", is accepted";
}

impl Form<Option<String>> for Metadata {
    fn read(found: Found<'_>) -> Result<Option<String>, Refusal> {
        let text = found.string().map_err(|_| found.refuse(Self::ACCEPTED))?;
        Ok(Some(text.to_owned()))
    }

    fn show(value: &Option<String>) -> Option<String> {
        value.as_deref().map(quote)
    }

    fn check(value: &Option<String>) -> Result<(), String> {
        match value {
            Some(name) if http::HeaderName::from_lowercase(name.as_bytes()).is_err() => {
                Err(Self::ACCEPTED.to_owned())
            }
            _ => Ok(()),
        }
    }
}
