//! Times as people say and read them.

use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

/// A moment given on the command line: RFC 3339, `now`, or how long ago, such as `90s`, `15m`, `2h`, `1d12h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) DateTime<Utc>);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let now = Utc::now();
        if text == "now" {
            return Ok(Self(now));
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self(time.to_utc()));
        }
        let age = length(text.trim_end_matches("ago").trim_end());
        let age =
            age.ok_or("say it as 2026-11-23T03:00:00Z, or how long ago, as 15m, 2h or 1d12h, or now")?;
        now.checked_sub_signed(age).map(Self).ok_or_else(|| "that is too long ago".into())
    }
}

impl Moment {
    /// For people.
    pub(crate) fn to_seconds(self) -> String {
        seconds(self.0)
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

/// A moment ahead: RFC 3339, or in how long, such as `30d`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(DateTime<Utc>);

impl FromStr for Deadline {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self(time.to_utc()));
        }
        let ahead = length(text).and_then(|length| Utc::now().checked_add_signed(length));
        ahead.map(Self).ok_or_else(|| "say it as 2027-01-01T00:00:00Z, or in how long, as 12h or 30d".into())
    }
}

impl std::fmt::Display for Deadline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

/// Numbers with their units, one after the other.
fn length(text: &str) -> Option<TimeDelta> {
    let mut left = text;
    let mut sum = TimeDelta::zero();
    while !left.is_empty() {
        let digits = left.find(|letter: char| !letter.is_ascii_digit())?;
        let number: i64 = left[..digits].parse().ok()?;
        let unit = match left.as_bytes()[digits] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            _ => return None,
        };
        sum = sum.checked_add(&TimeDelta::try_seconds(number.checked_mul(unit)?)?)?;
        left = &left[digits + 1..];
    }
    (!text.is_empty()).then_some(sum)
}

/// How times are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    /// `3m ago`, as seen from here.
    Relative(DateTime<Utc>),
    /// `2026-11-23T03:00:00Z`.
    Utc,
}

impl Times {
    /// A time of the API in a column of a table.
    pub(crate) fn short(self, text: &str) -> String {
        let Ok(time) = DateTime::parse_from_rfc3339(text) else { return text.to_owned() };
        match self {
            Self::Relative(now) => relative(time.to_utc() - now),
            Self::Utc => seconds(time.to_utc()),
        }
    }

    /// Where there is room for both.
    pub(crate) fn long(self, text: &str) -> String {
        let Ok(time) = DateTime::parse_from_rfc3339(text) else { return text.to_owned() };
        match self {
            Self::Relative(now) => {
                format!("{} ({})", seconds(time.to_utc()), relative(time.to_utc() - now))
            }
            Self::Utc => seconds(time.to_utc()),
        }
    }
}

fn seconds(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn relative(distance: TimeDelta) -> String {
    match distance.num_seconds() {
        0 => "now".to_owned(),
        ahead @ 1.. => format!("in {}", span(ahead)),
        behind => format!("{} ago", span(-behind)),
    }
}

/// A length of time in its two largest units at most: `45s`, `12m`, `3h20m`, `4d`.
pub(crate) fn span(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600, seconds / 60);
    let with = |large: i64, unit: &str, small: i64, next: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{next}"),
    };
    match seconds {
        ..90 => format!("{seconds}s"),
        90..600 => with(minutes, "m", seconds % 60, "s"),
        600..3600 => format!("{minutes}m"),
        3600..36_000 => with(hours, "h", minutes % 60, "m"),
        36_000..86_400 => format!("{hours}h"),
        86_400..864_000 => with(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_absolute_or_how_long_ago() {
        let near = |text: &str, seconds: i64| {
            let moment: Moment = text.parse().unwrap();
            assert!((Utc::now() - moment.0 - TimeDelta::seconds(seconds)).num_seconds().abs() <= 1, "{text}");
        };
        for (text, seconds) in
            [("now", 0), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d12h", 129_600), ("2h ago", 7200)]
        {
            near(text, seconds);
        }
        let moment: Moment = "2026-11-23T03:00:00.123456+01:00".parse().unwrap();
        assert_eq!(moment.to_string(), "2026-11-23T02:00:00.123456Z");
        for text in
            ["", "ago", "2", "h", "2w", "-2h", "2026-11-23", "2026-11-23T03:00:00", "99999999999999d", "2é"]
        {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, text) in [
            (0, "0s"),
            (89, "89s"),
            (90, "1m30s"),
            (120, "2m"),
            (700, "11m"),
            (3600, "1h"),
            (12_000, "3h20m"),
            (90_000, "1d1h"),
            (8_640_000, "100d"),
        ] {
            assert_eq!(span(seconds), text);
        }
        let now = DateTime::parse_from_rfc3339("2026-11-23T03:00:00Z").unwrap().to_utc();
        let times = Times::Relative(now);
        assert_eq!(times.short("2026-11-23T02:00:00.5Z"), "59m ago");
        assert_eq!(times.short("2026-11-23T03:00:30Z"), "in 30s");
        assert_eq!(times.short("2026-11-23T03:00:00.4Z"), "now");
        assert_eq!(times.long("2026-11-23T02:00:00Z"), "2026-11-23T02:00:00Z (1h ago)");
        assert_eq!(Times::Utc.short("2026-11-23T02:00:00.5Z"), "2026-11-23T02:00:00Z");
    }
}
