//! When a failed delivery is tried again. Chance and time are arguments: a jitter between 0 and 1, the
//! moment now.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

const MAX_RETRIES: u32 = 50;
const LONGEST_MS: u64 = 30 * 86_400_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// Before retry n: `base` × 2^(n-1), at most `max`, spread by ±20 %.
    Exponential { max_retries: u32, base: Duration, max: Duration },
    /// Before retry n: the n-th of these, to the letter.
    Explicit(Arc<[Duration]>),
}

/// How often and after which delays a delivery is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    pub schedule: Schedule,
}

impl RetryPolicy {
    pub const fn exponential(max_retries: u32, base: Duration, max: Duration) -> Self {
        Self { schedule: Schedule::Exponential { max_retries, base, max } }
    }

    pub fn explicit(delays: impl Into<Arc<[Duration]>>) -> Self {
        Self { schedule: Schedule::Explicit(delays.into()) }
    }

    pub fn max_retries(&self) -> u32 {
        match &self.schedule {
            Schedule::Exponential { max_retries, .. } => *max_retries,
            Schedule::Explicit(delays) => u32::try_from(delays.len()).unwrap_or(u32::MAX),
        }
    }

    /// Delay before retry `retry` (the first is 1), or `None` when they are exhausted. `jitter`, in
    /// 0.0..1.0, scales to 0.8..1.2; the delay stays within the policy's maximum all the same. An explicit
    /// schedule is kept to the letter.
    pub fn delay(&self, retry: u32, jitter: f64) -> Option<Duration> {
        debug_assert!(retry >= 1, "retries are counted from 1");
        match &self.schedule {
            Schedule::Exponential { max_retries, base, max } => (retry <= *max_retries).then(|| {
                let doublings = retry.saturating_sub(1).min(31);
                // Bounded before the jitter, so that delays at the maximum are spread too.
                let delay = base.saturating_mul(1 << doublings).min(*max);
                delay.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0)).min(*max)
            }),
            Schedule::Explicit(delays) => delays.get(retry.saturating_sub(1) as usize).copied(),
        }
    }

    /// No delay of this policy is longer.
    pub fn max_delay(&self) -> Duration {
        match &self.schedule {
            Schedule::Exponential { max, .. } => *max,
            Schedule::Explicit(delays) => delays.iter().max().copied().unwrap_or_default(),
        }
    }
}

/// Which part of a retry override is unusable, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct InvalidRetryOverride {
    pub field: &'static str,
    pub rule: &'static str,
}

/// What a group or an endpoint says about retries; whatever it leaves out it inherits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Given", into = "Given")]
pub struct RetryOverride(Given);

/// The shape in JSON, not validated yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Given {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_backoff_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_backoff_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_seconds: Option<Vec<u64>>,
}

impl TryFrom<Given> for RetryOverride {
    type Error = InvalidRetryOverride;

    fn try_from(given: Given) -> Result<Self, InvalidRetryOverride> {
        let refuse = |field, rule| Err(InvalidRetryOverride { field, rule });
        let millis = 1..=LONGEST_MS;
        if given.max_retries.is_some_and(|retries| retries > MAX_RETRIES) {
            return refuse("max_retries", "must be at most 50");
        }
        if given.base_backoff_ms.is_some_and(|base| !millis.contains(&base)) {
            return refuse("base_backoff_ms", "must be between 1 and 2592000000 (30 days)");
        }
        if given.max_backoff_ms.is_some_and(|max| !millis.contains(&max)) {
            return refuse("max_backoff_ms", "must be between 1 and 2592000000 (30 days)");
        }
        if let (Some(base), Some(max)) = (given.base_backoff_ms, given.max_backoff_ms)
            && base > max
        {
            return refuse("base_backoff_ms", "must not be above max_backoff_ms");
        }
        if let Some(delays) = &given.schedule_seconds {
            if given
                .max_retries
                .or(given.base_backoff_ms.map(|_| 0))
                .or(given.max_backoff_ms.map(|_| 0))
                .is_some()
            {
                return refuse("schedule_seconds", "must stand alone, without max_retries or backoffs");
            }
            if delays.is_empty() || delays.len() > MAX_RETRIES as usize {
                return refuse("schedule_seconds", "must have 1 to 50 delays");
            }
            if delays.iter().any(|delay| !(1..=LONGEST_MS / 1000).contains(delay)) {
                return refuse(
                    "schedule_seconds",
                    "must have delays between 1 and 2592000 seconds (30 days)",
                );
            }
        }
        Ok(Self(given))
    }
}

impl From<RetryOverride> for Given {
    fn from(valid: RetryOverride) -> Self {
        valid.0
    }
}

impl RetryOverride {
    /// The policy that holds where this override stands and `defaults` would hold without it.
    ///
    /// Over an explicit schedule, `max_retries` alone shortens it or repeats its last delay; a backoff
    /// replaces it, with 500 ms and an hour for what is left out.
    pub fn apply(&self, defaults: &RetryPolicy) -> RetryPolicy {
        let given = &self.0;
        if let Some(seconds) = &given.schedule_seconds {
            return RetryPolicy::explicit(
                seconds.iter().copied().map(Duration::from_secs).collect::<Arc<[_]>>(),
            );
        }
        let max_retries = given.max_retries.unwrap_or_else(|| defaults.max_retries());
        let (base, max) = match &defaults.schedule {
            Schedule::Exponential { base, max, .. } => (*base, *max),
            Schedule::Explicit(delays)
                if given.base_backoff_ms.is_none() && given.max_backoff_ms.is_none() =>
            {
                let last = delays.last().copied();
                let repeated =
                    delays.iter().copied().chain(std::iter::repeat_with(|| last).map_while(|last| last));
                return RetryPolicy::explicit(repeated.take(max_retries as usize).collect::<Arc<[_]>>());
            }
            Schedule::Explicit(_) => (Duration::from_millis(500), Duration::from_secs(3600)),
        };
        let base = given.base_backoff_ms.map_or(base, Duration::from_millis);
        // A base alone may lie above the maximum that it inherits; it was asked for, so it counts.
        let max = given.max_backoff_ms.map_or(max.max(base), Duration::from_millis);
        RetryPolicy::exponential(max_retries, base.min(max), max)
    }
}

/// The delay that a `Retry-After` header asks for (RFC 9110, section 10.2.3): seconds, or a date in any of
/// the three forms of section 5.6.7. A date that has passed is a delay of zero. `None`: no such header.
pub fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    const FORMS: [&str; 3] =
        ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let value = value.trim_matches([' ', '\t']);
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // All digits and yet no number: too large to hold, so "very long".
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = FORMS.iter().find_map(|form| NaiveDateTime::parse_from_str(value, form).ok())?;
    Some((date.and_utc() - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIDDLE: f64 = 0.5;

    fn default_policy() -> RetryPolicy {
        RetryPolicy::exponential(5, Duration::from_millis(500), Duration::from_secs(3600))
    }

    fn parse(json: &str) -> RetryOverride {
        serde_json::from_str(json).unwrap()
    }

    fn delays(policy: &RetryPolicy) -> Vec<u64> {
        (1..)
            .map_while(|n| policy.delay(n, MIDDLE))
            .map(|delay| u64::try_from(delay.as_millis()).unwrap())
            .collect()
    }

    #[test]
    fn the_default_doubles_from_half_a_second_and_ends_after_five() {
        assert_eq!(delays(&default_policy()), [500, 1000, 2000, 4000, 8000]);
        assert_eq!(default_policy().max_retries(), 5);
    }

    #[test]
    fn jitter_spreads_by_a_fifth_both_ways_but_never_above_the_maximum() {
        let policy = RetryPolicy::exponential(9, Duration::from_secs(1), Duration::from_secs(4));
        assert_eq!(policy.delay(1, 0.0), Some(Duration::from_millis(800)));
        assert_eq!(policy.delay(1, 1.0), Some(Duration::from_millis(1200)));
        assert_eq!(policy.delay(9, 0.0), Some(Duration::from_millis(3200)));
        assert_eq!(policy.delay(9, 1.0), Some(Duration::from_secs(4)));
    }

    #[test]
    fn an_explicit_schedule_is_kept_to_the_letter() {
        let policy = parse(r#"{"schedule_seconds":[5,300,60]}"#).apply(&default_policy());
        assert_eq!(delays(&policy), [5_000, 300_000, 60_000]);
        assert_eq!(policy.delay(2, 0.9), Some(Duration::from_secs(300)));
        assert_eq!(policy.max_delay(), Duration::from_secs(300));
    }

    #[test]
    fn an_override_inherits_what_it_leaves_out() {
        for (json, expected) in [
            ("{}", vec![500, 1000, 2000, 4000, 8000]),
            (r#"{"max_retries":0}"#, vec![]),
            (r#"{"max_retries":2}"#, vec![500, 1000]),
            (r#"{"base_backoff_ms":10,"max_backoff_ms":30}"#, vec![10, 20, 30, 30, 30]),
            (r#"{"max_retries":2,"max_backoff_ms":100}"#, vec![100, 100]),
            (r#"{"max_retries":1,"base_backoff_ms":7200000}"#, vec![7_200_000]),
        ] {
            assert_eq!(delays(&parse(json).apply(&default_policy())), expected, "{json}");
        }
    }

    #[test]
    fn an_override_of_a_schedule_shortens_lengthens_or_replaces_it() {
        let schedule = parse(r#"{"schedule_seconds":[1,2]}"#).apply(&default_policy());
        for (json, expected) in [
            ("{}", vec![1000, 2000]),
            (r#"{"max_retries":1}"#, vec![1000]),
            (r#"{"max_retries":4}"#, vec![1000, 2000, 2000, 2000]),
            (r#"{"base_backoff_ms":10}"#, vec![10, 20]),
        ] {
            assert_eq!(delays(&parse(json).apply(&schedule)), expected, "{json}");
        }
    }

    #[test]
    fn unusable_overrides_are_refused_with_the_field() {
        for (json, field) in [
            (r#"{"max_retries":51}"#, "max_retries"),
            (r#"{"base_backoff_ms":0}"#, "base_backoff_ms"),
            (r#"{"max_backoff_ms":2592000001}"#, "max_backoff_ms"),
            (r#"{"base_backoff_ms":2,"max_backoff_ms":1}"#, "base_backoff_ms must not be above"),
            (r#"{"schedule_seconds":[]}"#, "schedule_seconds"),
            (r#"{"schedule_seconds":[0]}"#, "schedule_seconds"),
            (r#"{"schedule_seconds":[2592001]}"#, "schedule_seconds"),
            (r#"{"schedule_seconds":[1],"max_retries":1}"#, "schedule_seconds must stand alone"),
            (r#"{"schedule_seconds":[1],"max_backoff_ms":1}"#, "schedule_seconds must stand alone"),
            (r#"{"max_retry":1}"#, "max_retry"),
        ] {
            let error = serde_json::from_str::<RetryOverride>(json).unwrap_err().to_string();
            assert!(error.contains(field), "{json}: {error}");
        }
    }

    #[test]
    fn an_override_is_written_as_it_was_given() {
        for json in [r#"{"max_retries":3}"#, r#"{"schedule_seconds":[1,2]}"#, "{}"] {
            assert_eq!(serde_json::to_string(&parse(json)).unwrap(), json);
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = "1994-11-06T08:49:07Z".parse().unwrap();
        for (value, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(30)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(30)),
            ("Sun Nov  6 08:49:37 1994", Some(30)),
            ("Sat, 05 Nov 1994 08:49:37 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("", None),
            ("soon", None),
            ("Mon, 06 Nov 1994 08:49:37 GMT", None),
        ] {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds_and_grow_until_the_maximum(
            max_retries in 0_u32..=50, base in 1_u64..=86_400_000, max in 1_u64..=LONGEST_MS, jitter in 0.0..1.0_f64
        ) {
            let (base, max) = (Duration::from_millis(base.min(max)), Duration::from_millis(max));
            let policy = RetryPolicy::exponential(max_retries, base, max);
            let delays: Vec<Duration> = (1..=max_retries).map(|n| policy.delay(n, jitter).unwrap()).collect();
            prop_assert!(policy.delay(max_retries + 1, jitter).is_none());
            prop_assert!(delays.is_sorted());
            for (n, delay) in delays.iter().enumerate() {
                let plain = base.saturating_mul(1 << n.min(31)).min(max);
                prop_assert!(*delay >= plain.mul_f64(0.79999) && *delay <= max);
                prop_assert!(*delay <= plain.mul_f64(1.20001));
            }
        }

        #[test]
        fn no_header_value_breaks_the_parser(value in "\\PC{0,40}|[A-Za-z0-9 ,:-]{0,40}") {
            retry_after(&value, Utc::now());
        }
    }
}
