//! Standard output, which whoever reads it may close.

use std::{
    fmt,
    io::{self, Write},
};

use crate::failure::Failure;

/// Writes a line, at once.
pub(crate) fn line(text: impl fmt::Display) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::failed(format!("standard output: {error}")))
}
