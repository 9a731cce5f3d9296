//! The page `docs/network.md`.

use std::fmt::Write;

use crate::{fault::Fault, record::Record, targets::Verdict};

pub fn page(_record: &Record, _verdicts: &[Verdict]) -> Result<String, Fault> {
    let mut text = String::new();
    writeln!(text, "# The network, measured")?;
    Ok(text)
}
