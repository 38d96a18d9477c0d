//! Durations as people write them: `10m`, `365d`, `1y 6mo`.

use anyhow::Context;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use std::str::FromStr;
use std::time;

/// A positive duration, in calendar units where it was given so.
#[derive(Clone, Debug)]
pub(crate) struct Duration(Span);

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span: Span = text.parse().map_err(|_| "a duration is like 10m, 12h, 365d or 1y".to_owned())?;
        if !span.is_positive() {
            return Err("a duration is longer than nothing".to_owned());
        }
        Ok(Self(span))
    }
}

impl Duration {
    /// The instant this long after `start`.
    pub(crate) fn after(&self, start: Timestamp) -> anyhow::Result<Timestamp> {
        let end = start.to_zoned(TimeZone::UTC).checked_add(self.0);
        Ok(end
            .with_context(|| format!("{start} plus {} is no time that can be written", self.0))?
            .timestamp())
    }

    /// Its length when it begins at `start`.
    pub(crate) fn length(&self, start: Timestamp) -> anyhow::Result<time::Duration> {
        let length = self.after(start)?.duration_since(start);
        time::Duration::try_from(length).context("The duration is too long")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_years_are_calendar_days_and_years() {
        let start: Timestamp = "2027-12-31T12:00:00Z".parse().unwrap();
        let after = |text: &str| text.parse::<Duration>().unwrap().after(start).unwrap().to_string();
        assert_eq!(after("365d"), "2028-12-30T12:00:00Z");
        assert_eq!(after("1y"), "2028-12-31T12:00:00Z");
        assert_eq!(after("90m"), "2027-12-31T13:30:00Z");
    }

    #[test]
    fn nothing_and_less_is_refused() {
        for bad in ["", "0s", "-5m", "soon", "10"] {
            assert!(bad.parse::<Duration>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_duration_beyond_the_calendar_is_an_error() {
        let span: Duration = "9999y".parse().unwrap();
        assert!(span.after(Timestamp::now()).is_err());
    }
}
