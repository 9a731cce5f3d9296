//! Counts, times and shares.

use std::time::Duration;

use super::{
    super::value::{Found, Refusal, whole},
    Form,
};

/// A whole number within bounds.
pub(in crate::config) struct Count<const LEAST: u64, const MOST: u64>;

impl<T, const LEAST: u64, const MOST: u64> Form<T> for Count<LEAST, MOST>
where
    T: Copy + TryFrom<u64> + TryInto<u64>,
{
    fn read(found: Found<'_>) -> Result<T, Refusal> {
        let range = LEAST..=MOST;
        let number = found.integer(range.clone())?;
        T::try_from(number).map_err(|_| found.refuse(whole(&range)))
    }

    fn show(value: &T) -> Option<String> {
        let number: u64 = (*value).try_into().unwrap_or(u64::MAX);
        Some(number.to_string())
    }

    fn check(value: &T) -> Result<(), String> {
        let range = LEAST..=MOST;
        match (*value).try_into() {
            Ok(number) if range.contains(&number) => Ok(()),
            _ => Err(whole(&range)),
        }
    }
}

/// A time, as a number of `UNIT` nanoseconds, of at most `MOST` units.
pub(in crate::config) struct Time<const UNIT: u64, const MOST: u64>;

pub(in crate::config) const MILLISECONDS: u64 = 1_000_000;
pub(in crate::config) const SECONDS: u64 = 1_000_000_000;

impl<const UNIT: u64, const MOST: u64> Time<UNIT, MOST> {
    fn accepted() -> String {
        let unit = match UNIT {
            MILLISECONDS => "milliseconds",
            _ => "seconds",
        };
        format!("a number of {unit} above 0, at most {MOST}, is accepted")
    }
}

impl<const UNIT: u64, const MOST: u64> Form<Duration> for Time<UNIT, MOST> {
    fn read(found: Found<'_>) -> Result<Duration, Refusal> {
        let number = found.number(Self::accepted())?;
        let seconds = number * (UNIT as f64 / SECONDS as f64);
        Duration::try_from_secs_f64(seconds).map_err(|_| found.refuse(Self::accepted()))
    }

    fn show(value: &Duration) -> Option<String> {
        let (unit, nanos) = (u128::from(UNIT), value.as_nanos());
        let (whole, part) = (nanos / unit, nanos % unit);
        let digits = UNIT.ilog10() as usize;
        let part = format!("{part:0digits$}");
        Some(match part.trim_end_matches('0') {
            "" => whole.to_string(),
            part => format!("{whole}.{part}"),
        })
    }

    fn check(value: &Duration) -> Result<(), String> {
        let most = u128::from(MOST) * u128::from(UNIT);
        match value.as_nanos() {
            nanos if (1..=most).contains(&nanos) => Ok(()),
            _ => Err(Self::accepted()),
        }
    }
}

/// A time that may be left out.
impl<const UNIT: u64, const MOST: u64> Form<Option<Duration>> for Time<UNIT, MOST> {
    fn read(found: Found<'_>) -> Result<Option<Duration>, Refusal> {
        <Self as Form<Duration>>::read(found).map(Some)
    }

    fn show(value: &Option<Duration>) -> Option<String> {
        value.as_ref().and_then(Self::show)
    }

    fn check(value: &Option<Duration>) -> Result<(), String> {
        value.as_ref().map_or(Ok(()), Self::check)
    }
}

/// A number of seconds within bounds.
pub(in crate::config) struct Between<const LEAST: u64, const MOST: u64>;

impl<const LEAST: u64, const MOST: u64> Between<LEAST, MOST> {
    fn accepted() -> String {
        format!("a number of seconds from {LEAST} to {MOST} is accepted")
    }
}

impl<const LEAST: u64, const MOST: u64> Form<Duration> for Between<LEAST, MOST> {
    fn read(found: Found<'_>) -> Result<Duration, Refusal> {
        let number = found.number(Self::accepted())?;
        Duration::try_from_secs_f64(number).map_err(|_| found.refuse(Self::accepted()))
    }

    fn show(value: &Duration) -> Option<String> {
        Time::<SECONDS, MOST>::show(value)
    }

    fn check(value: &Duration) -> Result<(), String> {
        match (Duration::from_secs(LEAST)..=Duration::from_secs(MOST)).contains(value) {
            true => Ok(()),
            false => Err(Self::accepted()),
        }
    }
}

/// A number within bounds, which are given in thousandths.
pub(in crate::config) struct Number<const LEAST: u64, const MOST: u64>;

impl<const LEAST: u64, const MOST: u64> Number<LEAST, MOST> {
    const BOUNDS: (f64, f64) = (LEAST as f64 / 1000.0, MOST as f64 / 1000.0);

    fn accepted() -> String {
        let (least, most) = Self::BOUNDS;
        format!("a number from {least} to {most} is accepted")
    }
}

impl<const LEAST: u64, const MOST: u64> Form<f64> for Number<LEAST, MOST> {
    fn read(found: Found<'_>) -> Result<f64, Refusal> {
        found.number(Self::accepted())
    }

    fn show(value: &f64) -> Option<String> {
        Some(match value.is_nan() {
            true => "nan".to_owned(),
            false => format!("{value:?}"),
        })
    }

    fn check(value: &f64) -> Result<(), String> {
        let (least, most) = Self::BOUNDS;
        match (least..=most).contains(value) {
            true => Ok(()),
            false => Err(Self::accepted()),
        }
    }
}
