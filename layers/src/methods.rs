//! What is said of methods in a configuration: of one, or of all methods of a service.

use std::collections::HashMap;

use crate::ConfigError;

/// A set of methods, as configurations list them: `/pkg.Svc/Method`, and for all methods of a service `/pkg.Svc/*` or `pkg.Svc`.
///
/// ```
/// use tower_iroh_layers::MethodSet;
///
/// let set = MethodSet::try_new("server.early_data", ["/shop.v1.Stock/Get", "shop.v1.Prices"])?;
/// assert!(set.contains("/shop.v1.Stock/Get") && set.contains("/shop.v1.Prices/List"));
/// assert!(!set.contains("/shop.v1.Stock/Take"));
/// # Ok::<(), tower_iroh_layers::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodSet(Methods<()>);

impl MethodSet {
    /// The set of what the patterns name; `field` is how an error calls the setting.
    ///
    /// # Errors
    /// [`ConfigError`] for a pattern that names no method.
    pub fn try_new<M: AsRef<str>>(
        field: &'static str,
        patterns: impl IntoIterator<Item = M>,
    ) -> Result<Self, ConfigError> {
        let mut methods = Methods::new();
        for pattern in patterns {
            methods.insert(field, pattern.as_ref(), ())?;
        }
        Ok(Self(methods))
    }

    /// Whether the method at `path` is in it.
    pub fn contains(&self, path: &str) -> bool {
        self.0.get(path).is_some()
    }
}

/// A value per method. A method's own entry outranks that of its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Methods<V> {
    /// By path, `/pkg.Svc/Method`.
    exact: HashMap<String, V>,
    /// By service, `pkg.Svc`.
    services: HashMap<String, V>,
}

impl<V> Methods<V> {
    pub(crate) fn new() -> Self {
        Self {
            exact: HashMap::new(),
            services: HashMap::new(),
        }
    }

    /// Takes `/pkg.Svc/Method`, and for all methods of a service `/pkg.Svc/*` or `pkg.Svc`. Returns what was said of the same before.
    pub(crate) fn insert(
        &mut self,
        field: &'static str,
        pattern: &str,
        value: V,
    ) -> Result<Option<V>, ConfigError> {
        let accepted = "/pkg.Service/Method, /pkg.Service/* or pkg.Service is accepted";
        let refused = || ConfigError::new(field, format_args!("{pattern:?}"), accepted);
        let plain = |name: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_');
            !name.is_empty() && name.chars().all(allowed)
        };
        let (service, method) = match pattern.strip_prefix('/') {
            Some(path) => path.split_once('/').ok_or_else(refused)?,
            None => (pattern, "*"),
        };
        if !plain(service) || !(method == "*" || plain(method)) {
            return Err(refused());
        }
        Ok(match method {
            "*" => self.services.insert(service.to_owned(), value),
            _ => self.exact.insert(pattern.to_owned(), value),
        })
    }

    /// What is said of the method at `path`.
    pub(crate) fn get(&self, path: &str) -> Option<&V> {
        if !self.exact.is_empty()
            && let Some(value) = self.exact.get(path)
        {
            return Some(value);
        }
        if self.services.is_empty() {
            return None;
        }
        let (service, _method) = path.strip_prefix('/')?.rsplit_once('/')?;
        self.services.get(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_outranks_its_service() {
        let mut methods = Methods::new();
        methods.insert("m", "/a.B/*", 1).expect("accepted");
        methods.insert("m", "/a.B/C", 2).expect("accepted");
        methods.insert("m", "x.Y", 3).expect("accepted");
        assert_eq!(methods.get("/a.B/C"), Some(&2));
        assert_eq!(methods.get("/a.B/D"), Some(&1));
        assert_eq!(methods.get("/x.Y/Z"), Some(&3));
        for other in ["/a.C/C", "a.B/C", "", "/", "/a.B", "//"] {
            assert_eq!(methods.get(other), None, "{other:?}");
        }
    }

    #[test]
    fn what_names_no_method_is_refused() {
        for bad in [
            "", "/", "/a.B", "/a.B/", "//C", "a/b", "*", "/*/C", "/a.B/C/D", "/a B/C", "/a.B/C*",
        ] {
            let error = Methods::new()
                .insert("buffer.methods", bad, ())
                .unwrap_err();
            assert_eq!(error.field(), "buffer.methods", "{bad:?}");
        }
    }
}
