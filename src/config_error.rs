use std::fmt;

/// A setting that cannot be: which one, what it was given, and what it accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value}: {accepted}")]
pub struct ConfigError {
    field: &'static str,
    value: String,
    accepted: String,
}

impl ConfigError {
    pub(crate) fn new(
        field: &'static str,
        value: impl fmt::Display,
        accepted: impl Into<String>,
    ) -> Self {
        Self {
            field,
            value: value.to_string(),
            accepted: accepted.into(),
        }
    }

    /// Refuses a zero, which would make the thing that it bounds impossible.
    pub(crate) fn nonzero(field: &'static str, value: usize) -> Result<(), Self> {
        match value {
            0 => Err(Self::new(field, value, "must be at least 1")),
            _ => Ok(()),
        }
    }

    /// Refuses a duration of nothing.
    pub(crate) fn lasting(field: &'static str, value: std::time::Duration) -> Result<(), Self> {
        if value.is_zero() {
            return Err(Self::new(
                field,
                format_args!("{value:?}"),
                "must be longer than zero",
            ));
        }
        Ok(())
    }

    /// The setting's name.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// What it was given.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What it accepts.
    pub fn accepted(&self) -> &str {
        &self.accepted
    }
}
