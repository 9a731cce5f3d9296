//! How a retry and a selection below it share one copy of a request.
//!
//! Both would keep it, in case an attempt fails before anything was sent: the retry does anyway. So it says so, and the selection, instead of
//! keeping another one and sending that over its other arm, says that there is one.

use std::{error::Error, fmt};

use crate::BoxError;

/// In a request's extensions: who put it there keeps the request, and sends it again at once where the failure is [`Elsewhere`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeps;

/// In a request's extensions: it has just failed unsent over this arm, by its index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avoids(pub(crate) usize);

/// A failure before anything was sent, of a call that may go over another arm. Only who keeps the request sees it.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    pub(crate) error: BoxError,
    /// The arm that failed.
    pub(crate) avoid: Avoids,
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed before anything was sent, and there is another transport")
    }
}

impl Error for Elsewhere {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.error)
    }
}
