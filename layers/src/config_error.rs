use std::{fmt, ops::RangeInclusive, time::Duration};

/// A setting that is not accepted: its name, the value that it was given, and what it accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} = {value}: {accepted}", self.place())]
pub struct ConfigError {
    field: &'static str,
    place: Option<String>,
    value: String,
    accepted: String,
}

impl ConfigError {
    /// An error that says: `field`, a path such as `breaker.failure_rate`, does not accept `value`.
    pub fn new(field: &'static str, value: impl fmt::Display, accepted: impl Into<String>) -> Self {
        Self {
            field,
            place: None,
            value: value.to_string(),
            accepted: accepted.into(),
        }
    }

    /// Refuses `value` unless it `holds`.
    ///
    /// # Errors
    /// When it does not hold.
    pub fn require(
        holds: bool,
        field: &'static str,
        value: impl fmt::Debug,
        accepted: impl Into<String>,
    ) -> Result<(), Self> {
        match holds {
            true => Ok(()),
            false => Err(Self::new(field, format_args!("{value:?}"), accepted)),
        }
    }

    /// Refuses zero, for a limit that would let nothing pass.
    ///
    /// # Errors
    /// When `value` is 0.
    pub fn nonzero<T: Default + PartialEq + fmt::Debug>(
        field: &'static str,
        value: T,
    ) -> Result<(), Self> {
        Self::require(value != T::default(), field, value, "must be at least 1")
    }

    /// The longest duration that [`lasting`](Self::lasting) accepts: 365 days. Any clock can add it to the present, several times over.
    pub const LONGEST: Duration = Duration::from_secs(365 * 86_400);

    /// Refuses a duration of zero, and one above [365 days](Self::LONGEST).
    ///
    /// # Errors
    /// When `value` is zero or above the bound.
    pub fn lasting(field: &'static str, value: Duration) -> Result<(), Self> {
        let holds = (Duration::from_nanos(1)..=Self::LONGEST).contains(&value);
        let accepted = "longer than zero and at most 365 days is accepted";
        Self::require(holds, field, value, accepted)
    }

    /// Refuses a value outside of a range, and NaN.
    ///
    /// # Errors
    /// When `value` is not within `range`.
    pub fn within<T: PartialOrd + fmt::Debug>(
        field: &'static str,
        value: T,
        range: RangeInclusive<T>,
    ) -> Result<(), Self> {
        let accepted = format!("{:?} to {:?} is accepted", range.start(), range.end());
        Self::require(range.contains(&value), field, value, accepted)
    }

    /// Refuses NaN, and a share outside of 0 to 1.
    ///
    /// # Errors
    /// When `value` is not within 0 to 1.
    pub fn share(field: &'static str, value: f64) -> Result<(), Self> {
        Self::within(field, value, 0.0..=1.0)
    }

    /// Says where the setting is, where its name alone does not.
    pub(crate) fn at(mut self, place: String) -> Self {
        self.place = Some(place);
        self
    }

    /// Where the setting is: its name, with the entry of a table or the path within a file, such as `methods."/shop.v1.Stock/Get".timeout`.
    pub fn place(&self) -> &str {
        self.place.as_deref().unwrap_or(self.field)
    }

    /// The setting's name.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// The value that it was given.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What it accepts.
    pub fn accepted(&self) -> &str {
        &self.accepted
    }
}
