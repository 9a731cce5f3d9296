use super::PolicyError;
use crate::setters::setters;

/// How much one caller may do. What is not said is not limited; of a peer's own limits, it is as for all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    pub(super) rate: Option<f64>,
    pub(super) burst: Option<u32>,
    pub(super) concurrent: Option<u32>,
    pub(super) max_message_bytes: Option<u32>,
}

impl Limits {
    /// No limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls per second, on average; `burst` of them at once after a pause.
    pub fn rate(mut self, per_second: f64, burst: u32) -> Self {
        self.rate = Some(per_second);
        self.burst = Some(burst);
        self
    }

    setters! {
        /// Calls that are open at a time.
        pub fn concurrent(calls: u32) => concurrent = Some(calls);

        /// Bytes of each message of a request, as they come over the wire: compressed, if they are.
        pub fn max_message_bytes(bytes: u32) => max_message_bytes = Some(bytes);
    }

    /// These, and from `all` what they do not say. A burst goes with its rate.
    pub(super) fn or(&self, all: &Self) -> Self {
        let rated = if self.rate.is_some() { self } else { all };
        Self {
            rate: rated.rate,
            burst: rated.burst,
            concurrent: self.concurrent.or(all.concurrent),
            max_message_bytes: self.max_message_bytes.or(all.max_message_bytes),
        }
    }

    /// Rate and burst, which is one second's worth where it is not said.
    pub(super) fn bucket(&self) -> Option<(f64, f64)> {
        let rate = self.rate?;
        let burst = self.burst.map_or(rate.ceil(), f64::from);
        Some((rate, burst.max(1.0)))
    }

    pub(super) fn check(&self, key: &str, line: Option<usize>) -> Result<(), PolicyError> {
        let refuse = |name: &str, problem: &str| {
            Err(PolicyError::new(line, format!("{key}.{name}"), problem))
        };
        match self.rate {
            // Slower than one call in a day is a mistake, as is NaN.
            Some(rate) if !(1e-5..=1e9).contains(&rate) => {
                return refuse(
                    "rate",
                    "0.00001 to 1000000000 calls per second are accepted",
                );
            }
            None if self.burst.is_some() => return refuse("burst", "it needs a rate beside it"),
            _ => {}
        }
        for (name, value) in [
            ("burst", self.burst),
            ("concurrent", self.concurrent),
            ("max_message_bytes", self.max_message_bytes),
        ] {
            if value == Some(0) {
                return refuse(
                    name,
                    "must be at least 1; to permit nothing, grant no roles",
                );
            }
        }
        Ok(())
    }
}
