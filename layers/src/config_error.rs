use std::{fmt, time::Duration};

/// A setting that cannot be: which one, what it was given, and what it accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value}: {accepted}")]
pub struct ConfigError {
    field: &'static str,
    value: String,
    accepted: String,
}

impl ConfigError {
    /// Says that `field`, a path such as `breaker.failure_rate`, cannot be `value`.
    pub fn new(field: &'static str, value: impl fmt::Display, accepted: impl Into<String>) -> Self {
        Self {
            field,
            value: value.to_string(),
            accepted: accepted.into(),
        }
    }

    /// Refuses a zero, which would make the thing that it bounds impossible.
    ///
    /// # Errors
    /// When `value` is 0.
    pub fn nonzero(field: &'static str, value: usize) -> Result<(), Self> {
        match value {
            0 => Err(Self::new(field, value, "must be at least 1")),
            _ => Ok(()),
        }
    }

    /// Refuses a duration of nothing.
    ///
    /// # Errors
    /// When `value` is zero.
    pub fn lasting(field: &'static str, value: Duration) -> Result<(), Self> {
        if value.is_zero() {
            return Err(Self::new(
                field,
                format_args!("{value:?}"),
                "must be longer than zero",
            ));
        }
        Ok(())
    }

    /// Refuses a share that is none: NaN, or outside of 0 to 1.
    ///
    /// # Errors
    /// When `value` is not within 0 to 1.
    pub fn share(field: &'static str, value: f64) -> Result<(), Self> {
        if (0.0..=1.0).contains(&value) {
            return Ok(());
        }
        Err(Self::new(field, value, "0.0 to 1.0 is accepted"))
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
