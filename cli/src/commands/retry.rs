//! How a group or endpoint retries, as flags.

use std::fmt::Display;
use std::str::FromStr;

use clap::Args;
use serde_json::{Map, Value, json};

/// A value, or `none`, which takes it away.
#[derive(Debug, Clone)]
pub(crate) enum OrNone<T> {
    Value(T),
    None,
}

impl<T: FromStr> FromStr for OrNone<T>
where
    T::Err: Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            text => text.parse().map(Self::Value).map_err(|error: T::Err| format!("{error} (or none)")),
        }
    }
}

impl<T: Into<Value>> From<OrNone<T>> for Value {
    fn from(given: OrNone<T>) -> Self {
        match given {
            OrNone::Value(value) => value.into(),
            OrNone::None => Self::Null,
        }
    }
}

#[derive(Args)]
#[command(next_help_heading = "Retries")]
pub(crate) struct RetryArgs {
    /// Retries after the first attempt
    #[arg(long, value_name = "NUMBER")]
    max_retries: Option<u32>,
    /// Delay before the first retry; each further one doubles it
    #[arg(long, value_name = "MS")]
    base_backoff_ms: Option<u64>,
    /// Longest delay before a retry
    #[arg(long, value_name = "MS")]
    max_backoff_ms: Option<u64>,
    /// A delay for each retry instead, in seconds: 5,300,1800
    #[arg(
        long,
        value_name = "SECONDS",
        value_delimiter = ',',
        conflicts_with_all = ["max_retries", "base_backoff_ms", "max_backoff_ms"]
    )]
    schedule_seconds: Vec<u64>,
    /// Retry as the group, or the dispatcher, says
    #[arg(
        long,
        conflicts_with_all = ["max_retries", "base_backoff_ms", "max_backoff_ms", "schedule_seconds"]
    )]
    inherit_retry: bool,
}

impl RetryArgs {
    /// Adds `retry` to a body or a merge patch, if any of it was given.
    pub(crate) fn add_to(&self, body: &mut Map<String, Value>, is_patch: bool) {
        let delays = [
            ("max_retries", self.max_retries.map(Value::from)),
            ("base_backoff_ms", self.base_backoff_ms.map(Value::from)),
            ("max_backoff_ms", self.max_backoff_ms.map(Value::from)),
        ];
        let mut retry = Map::new();
        if self.inherit_retry {
            body.insert("retry".into(), Value::Null);
        } else if !self.schedule_seconds.is_empty() {
            retry.insert("schedule_seconds".into(), json!(self.schedule_seconds));
            if is_patch {
                // A schedule stands alone: what was there before goes.
                retry.extend(delays.map(|(name, _)| (name.to_owned(), Value::Null)));
            }
        } else {
            retry.extend(delays.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
            if is_patch && !retry.is_empty() {
                retry.insert("schedule_seconds".into(), Value::Null);
            }
        }
        if !retry.is_empty() {
            body.insert("retry".into(), retry.into());
        }
    }
}

/// How something retries, in words.
pub(crate) fn describe(retry: &Value) -> String {
    let number = |member: &str| retry[member].as_i64();
    if let Some(delays) = retry["schedule_seconds"].as_array() {
        let delays = delays.iter().filter_map(Value::as_i64).map(super::time::span);
        return format!("after {}", delays.collect::<Vec<_>>().join(", "));
    }
    let parts = [
        number("max_retries").map(|count| format!("{count} times")),
        number("base_backoff_ms").map(|delay| format!("first after {delay} ms")),
        number("max_backoff_ms").map(|delay| format!("at most {delay} ms apart")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "as inherited".into() } else { parts.join(", ") }
}
