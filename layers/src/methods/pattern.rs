//! How configurations name methods: one, or all methods of a service.

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodSet(MethodMap<()>);

impl MethodSet {
    /// The methods that the patterns name; `field` is the setting's name in an error.
    ///
    /// # Errors
    /// [`ConfigError`] for a pattern that names no method.
    pub fn try_new<M: AsRef<str>>(
        field: &'static str,
        patterns: impl IntoIterator<Item = M>,
    ) -> Result<Self, ConfigError> {
        let mut methods = MethodMap::default();
        for pattern in patterns {
            methods.insert(&Pattern::new(field, pattern.as_ref())?, ());
        }
        Ok(Self(methods))
    }

    /// Whether the method at `path` is in it.
    pub fn contains(&self, path: &str) -> bool {
        self.0.get(path).is_some()
    }
}

/// What a pattern names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pattern {
    pub(super) service: String,
    /// `None` for all methods of the service.
    pub(super) method: Option<String>,
}

impl Pattern {
    /// Reads `/pkg.Svc/Method`, `/pkg.Svc/*` or `pkg.Svc`.
    pub(crate) fn new(field: &'static str, pattern: &str) -> Result<Self, ConfigError> {
        let accepted = "/pkg.Service/Method, /pkg.Service/* or pkg.Service is accepted";
        let refused = || ConfigError::new(field, format_args!("{pattern:?}"), accepted);
        let (service, method) = match pattern.strip_prefix('/') {
            Some(path) => path.split_once('/').ok_or_else(refused)?,
            None => (pattern, "*"),
        };
        if !is_name(service) || !(method == "*" || is_name(method)) {
            return Err(refused());
        }
        Ok(Self {
            service: service.to_owned(),
            method: (method != "*").then(|| method.to_owned()),
        })
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_');
    !name.is_empty() && name.chars().all(allowed)
}

/// A value per method. A method's own value outranks that of its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MethodMap<V> {
    services: HashMap<String, Service<V>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Service<V> {
    /// For methods that have no value of their own.
    whole: Option<V>,
    methods: HashMap<String, V>,
}

impl<V> Default for MethodMap<V> {
    fn default() -> Self {
        Self {
            services: HashMap::new(),
        }
    }
}

impl<V> MethodMap<V> {
    pub(crate) fn insert(&mut self, pattern: &Pattern, value: V) {
        let none = || Service {
            whole: None,
            methods: HashMap::new(),
        };
        let service = self.services.entry(pattern.service.clone());
        let service = service.or_insert_with(none);
        match &pattern.method {
            Some(method) => drop(service.methods.insert(method.clone(), value)),
            None => service.whole = Some(value),
        }
    }

    /// The value of the method at `path`. Each byte of the path is hashed once at most.
    pub(crate) fn get(&self, path: &str) -> Option<&V> {
        if self.services.is_empty() {
            return None;
        }
        let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
        let service = self.services.get(service)?;
        let own = match service.methods.is_empty() {
            true => None,
            false => service.methods.get(method),
        };
        own.or(service.whole.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_outranks_its_service() {
        let mut methods = MethodMap::default();
        for (pattern, value) in [("/a.B/*", 1), ("/a.B/C", 2), ("x.Y", 3)] {
            methods.insert(&Pattern::new("m", pattern).expect("accepted"), value);
        }
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
            let error = Pattern::new("buffer.methods", bad).unwrap_err();
            assert_eq!(error.field(), "buffer.methods", "{bad:?}");
        }
    }
}
