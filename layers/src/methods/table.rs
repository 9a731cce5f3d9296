use std::{collections::BTreeMap, sync::Arc};

use super::{
    MethodConfig, MethodEntry,
    config::place,
    pattern::{MethodMap, Pattern},
};
use crate::ConfigError;

/// What is configured per method: see the [module](crate::methods). Clones share one table.
#[derive(Clone, Debug)]
pub struct Methods(Arc<Table>);

#[derive(Debug, PartialEq)]
struct Table {
    /// The first is the default.
    entries: Vec<(String, MethodEntry)>,
    /// By method, the entry's number.
    numbers: MethodMap<usize>,
    /// `maxTokens` and `tokenRatio` of a service config.
    throttling: Option<(u32, f64)>,
}

impl Default for Methods {
    /// Says nothing of any method.
    fn default() -> Self {
        let entries = vec![("*".to_owned(), MethodEntry::default())];
        Self(Arc::new(Table {
            entries,
            numbers: MethodMap::default(),
            throttling: None,
        }))
    }
}

impl PartialEq for Methods {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Methods {
    /// An empty table, to add entries to.
    pub fn builder() -> MethodsBuilder {
        MethodsBuilder::default()
    }

    /// What the table says of the method at `path`.
    #[inline]
    pub fn get(&self, path: &str) -> &MethodEntry {
        self.at(self.number(path))
    }

    /// What it says of methods that have no entry, and whose service has none.
    pub fn default_entry(&self) -> &MethodEntry {
        self.at(0)
    }

    /// Each pattern, as `/pkg.Svc/Method` or `/pkg.Svc/*`, and its entry. The default is not among them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &MethodEntry)> {
        let entries = self.0.entries.iter().skip(1);
        entries.map(|(pattern, entry)| (&**pattern, entry))
    }

    /// The number of the entry for `path`, for [`at`](Self::at); 0 is the default.
    #[inline]
    pub(crate) fn number(&self, path: &str) -> usize {
        self.0.numbers.get(path).copied().unwrap_or(0)
    }

    #[inline]
    pub(crate) fn at(&self, number: usize) -> &MethodEntry {
        &self.0.entries[number].1
    }

    #[cfg(feature = "retry")]
    pub(crate) fn throttling(&self) -> Option<(u32, f64)> {
        self.0.throttling
    }
}

/// Makes [`Methods`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct MethodsBuilder {
    entries: Vec<(String, MethodConfig)>,
    pub(super) throttling: Option<(u32, f64)>,
}

impl MethodsBuilder {
    /// Adds an entry for `/pkg.Svc/Method`, for all methods of a service, `/pkg.Svc/*` or `pkg.Svc`, or for everything else, `*`. A pattern may be added several times, as
    /// long as no setting of it has two values.
    pub fn method(mut self, pattern: impl Into<String>, config: MethodConfig) -> Self {
        self.entries.push((pattern.into(), config));
        self
    }

    /// Adds the same entry for each of these patterns.
    pub fn methods<M: Into<String>>(
        self,
        patterns: impl IntoIterator<Item = M>,
        config: MethodConfig,
    ) -> Self {
        patterns.into_iter().fold(self, |builder, pattern| {
            builder.method(pattern, config.clone())
        })
    }

    /// Checks the entries.
    ///
    /// # Errors
    /// [`ConfigError`] for a pattern that names no method, a setting that has two values, a duration of zero or above 365 days, or a transport of `*`. It names the pattern
    /// and the setting, such as `methods."/shop.v1.Stock/Get".timeout`.
    pub fn build(self) -> Result<Methods, ConfigError> {
        let mut default = MethodConfig::new();
        // Services come before their methods: `None` is less than any name.
        let mut all: BTreeMap<Pattern, MethodConfig> = BTreeMap::new();
        for (name, config) in self.entries {
            config.check(&name)?;
            let entry = match &*name {
                "*" => &mut default,
                _ => {
                    let pattern = Pattern::new("methods", &name)?;
                    all.entry(pattern).or_default()
                }
            };
            entry.merge(config).map_err(|setting| {
                let accepted = "one value per method is accepted; remove the other one";
                let error = ConfigError::new("methods", "two values", accepted);
                error.at(place(&name, setting))
            })?;
        }
        let mut entries = vec![("*".to_owned(), MethodEntry(default))];
        let mut numbers = MethodMap::default();
        for (pattern, mut config) in all {
            let method = pattern.method.as_deref().unwrap_or("*");
            let name = format!("/{}/{method}", pattern.service);
            // Only the service is in the map so far, where this is one of its methods.
            let above = numbers.get(&name).copied().unwrap_or(0);
            let (_, above): &(String, MethodEntry) = &entries[above];
            config.inherit(&above.0);
            numbers.insert(&pattern, entries.len());
            entries.push((name, MethodEntry(config)));
        }
        Ok(Methods(Arc::new(Table {
            entries,
            numbers,
            throttling: self.throttling,
        })))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::Urgency;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn bad_input_is_refused_by_name() {
        let new = MethodConfig::new;
        for (pattern, config, expected) in [
            (
                "/a.B/C",
                new().timeout(Duration::ZERO),
                "methods.\"/a.B/C\".timeout = 0ns: longer than zero and at most 365 days is accepted",
            ),
            (
                "*",
                new().buffer_ttl(400 * DAY),
                "methods.\"*\".buffer_ttl = 34560000s: longer than zero and at most 365 days is accepted",
            ),
            (
                "/a.B/",
                new(),
                "methods = \"/a.B/\": /pkg.Service/Method, /pkg.Service/* or pkg.Service is accepted",
            ),
            #[cfg(feature = "select")]
            (
                "*",
                new().transport(crate::select::Choice::Adaptive(Default::default())),
                "methods.\"*\".transport = ",
            ),
        ] {
            let error = Methods::builder().method(pattern, config).build();
            let error = error.expect_err(expected).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_setting_has_one_value() {
        let new = MethodConfig::new;
        let twice = |second| {
            let builder = Methods::builder().method("a.B", new().idempotent(true));
            builder.method("/a.B/*", second).build()
        };
        let both = twice(new().urgency(Urgency::BULK)).expect("two settings of one service");
        let entry = both.get("/a.B/C");
        assert!(entry.is_idempotent() && entry.urgency() == Some(Urgency::BULK));
        assert!(twice(new().idempotent(true)).is_ok());
        let error = twice(new().idempotent(false)).expect_err("a contradiction");
        assert_eq!(
            error.to_string(),
            "methods.\"/a.B/*\".idempotent = two values: one value per method is accepted; remove the other one"
        );
    }

    proptest! {
        /// As a naive model says: each setting is that of the most specific of method, service and default that has it.
        #[test]
        fn the_most_specific_entry_counts(
            own in any::<(Option<bool>, Option<u32>)>(),
            service in any::<Option<(Option<bool>, Option<u32>)>>(),
            default in any::<Option<(Option<bool>, Option<u32>)>>(),
        ) {
            let config = |(idempotent, timeout): (Option<bool>, Option<u32>)| {
                let mut config = MethodConfig::new();
                if let Some(idempotent) = idempotent {
                    config = config.idempotent(idempotent);
                }
                if let Some(timeout) = timeout {
                    config = config.timeout(Duration::from_secs(u64::from(timeout % 1000) + 1));
                }
                config
            };
            let mut builder = Methods::builder().method("/a.B/Own", config(own));
            let (mut at, mut model) = ([config(own), MethodConfig::new(), MethodConfig::new()], Vec::new());
            if let Some(service) = service {
                builder = builder.method("a.B", config(service));
                at[1] = config(service);
            }
            if let Some(default) = default {
                builder = builder.method("*", config(default));
                at[2] = config(default);
            }
            for from in 0..3 {
                let mut entry = MethodConfig::new();
                for config in &at[from..] {
                    entry.inherit(config);
                }
                model.push(MethodEntry(entry));
            }
            let methods = builder.build().expect("accepted");
            for (path, expected) in [("/a.B/Own", 0), ("/a.B/Other", 1), ("/a.C/Own", 2), ("", 2)] {
                prop_assert_eq!(methods.get(path), &model[expected], "{}", path);
            }
        }
    }
}
