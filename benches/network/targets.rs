//! What issue 4 wants ("To reach"), each with what was measured.

use serde::Serialize;

use crate::record::Record;

/// One wish and how it went.
#[derive(Debug, Serialize)]
pub struct Verdict {
    pub wish: String,
    /// What was measured, as text.
    pub measured: String,
    /// Measured by bound: at most 1 where less is wanted, at least 1 where more is. `None` if nothing was measured.
    pub ratio: Option<f64>,
    pub reached: Option<bool>,
}

impl Verdict {
    /// "reached", or by how much it was missed.
    pub fn word(&self) -> String {
        match (self.reached, self.ratio) {
            (Some(true), _) => "reached".into(),
            (Some(false), Some(ratio)) => format!("missed by {ratio:.2} x"),
            _ => "no data".into(),
        }
    }

    pub fn line(&self) -> String {
        format!("{:<18} {}: {}", self.word(), self.wish, self.measured)
    }
}

pub fn judge(_record: &Record) -> Vec<Verdict> {
    Vec::new()
}
