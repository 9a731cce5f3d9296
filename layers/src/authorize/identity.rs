use std::{fmt, sync::Arc};

use http::Extensions;

/// Who calls, as the transport proved it: a name, such as an endpoint id in hexadecimal.
///
/// Names are compared byte by byte, so whoever makes them keeps to one spelling. A name that could come from two kinds of proof
/// needs a prefix that says which.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Arc<str>);

impl Identity {
    /// An identity by its name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An empty name names nobody.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Identity {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Identity {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Finds out who calls, from what the transport left in a request's extensions. A closure is one.
///
/// It must not look at headers: anybody can write those, and it does not see them.
pub trait Identify: Clone + Send + Sync + 'static {
    /// The caller's identity; `None` for a caller that has none. An empty name is none either.
    fn identify(&self, extensions: &Extensions) -> Option<Identity>;
}

impl<F> Identify for F
where
    F: Fn(&Extensions) -> Option<Identity> + Clone + Send + Sync + 'static,
{
    fn identify(&self, extensions: &Extensions) -> Option<Identity> {
        self(extensions)
    }
}
