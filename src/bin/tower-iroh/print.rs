//! Standard output, which whoever reads it may close.

use std::{
    fmt,
    io::{self, Write},
};

use crate::failure::{Failure, printable};

/// Writes a line, at once. Parts of it may come from a peer, so what a terminal would obey is escaped.
pub(crate) fn line(text: impl fmt::Display) -> Result<(), Failure> {
    raw(&printable(&text.to_string()))
}

/// Writes a line as it is, at once.
pub(crate) fn raw(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::failed(format!("standard output cannot be written: {error}")))
}
