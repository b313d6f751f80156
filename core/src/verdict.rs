//! What follows from one attempt: delivered, again later, dead, or the endpoint is gone. Values in, values
//! out; the dispatcher acts on the verdict.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::retry::RetryPolicy;
use crate::text::text_value;

/// Why an attempt failed, as far as it can be told apart. The texts are what `attempt.error` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The host's name has no address.
    Dns,
    /// The address is one that the egress policy forbids.
    EgressDenied,
    Connect,
    Tls,
    Timeout,
    /// The connection broke before the answer's head was there.
    Reset,
    /// The answer is not HTTP, or exceeds a limit.
    Protocol,
    /// An answer, but not a 2xx.
    Status,
}

impl Failure {
    pub const ALL: [Self; 8] = [
        Self::Dns,
        Self::EgressDenied,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Reset,
        Self::Protocol,
        Self::Status,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::EgressDenied => "egress_denied",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Status => "status",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

text_value!(
    /// What dead letters are told apart by: the status code of the last answer, or the kind of error.
    Fingerprint,
    InvalidFingerprint,
    is_fingerprint,
    "must be a status code or a kind of error, such as 503 or timeout"
);

fn is_fingerprint(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=64).contains(&text.len()) && text.bytes().all(is_plain)
}

/// What came back. A status with a failure beside it means that the head of the answer arrived and the rest
/// did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttemptResult {
    pub status_code: Option<u16>,
    pub failure: Option<Failure>,
    pub retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// Try again. `slow_down`: the receiver is overloaded as a whole, so its other deliveries wait as well.
    Retry {
        after: Duration,
        slow_down: bool,
    },
    /// The retries are exhausted.
    Dead,
    /// 410: the receiver wants nothing any more. The endpoint is disabled; this delivery is not retried.
    Gone,
}

/// Standard Webhooks 1.0.0, "Webhook delivery": a 2xx head is a delivery, whatever becomes of the body; 410
/// ends the subscription; 429, 502 and 504 ask for throttling; a redirect is a failure like any other.
///
/// `retries_done` counts the retries before this attempt (0 for the first). `cap` bounds what a receiver may
/// ask for by `Retry-After`, not the policy's own delays.
pub fn verdict(
    result: &AttemptResult,
    retries_done: u32,
    policy: &RetryPolicy,
    cap: Duration,
    jitter: f64,
) -> Verdict {
    match result.status_code {
        Some(200..=299) => return Verdict::Delivered,
        Some(410) => return Verdict::Gone,
        _ => {}
    }
    match policy.delay(retries_done.saturating_add(1), jitter) {
        None => Verdict::Dead,
        Some(backoff) => Verdict::Retry {
            after: backoff.max(result.retry_after.unwrap_or_default().min(cap)),
            slow_down: matches!(result.status_code, Some(429 | 502 | 504)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAP: Duration = Duration::from_secs(3600);

    fn policy() -> RetryPolicy {
        RetryPolicy::exponential(2, Duration::from_secs(1), CAP)
    }

    fn status(code: u16) -> AttemptResult {
        let failure = (!(200..300).contains(&code)).then_some(Failure::Status);
        AttemptResult { status_code: Some(code), failure, retry_after: None }
    }

    fn judged(result: &AttemptResult, retries_done: u32) -> Verdict {
        verdict(result, retries_done, &policy(), CAP, 0.5)
    }

    #[test]
    fn each_status_has_its_verdict() {
        let again = |slow_down| Verdict::Retry { after: Duration::from_secs(1), slow_down };
        for (code, expected) in [
            (200, Verdict::Delivered),
            (204, Verdict::Delivered),
            (299, Verdict::Delivered),
            (301, again(false)),
            (308, again(false)),
            (400, again(false)),
            (404, again(false)),
            (410, Verdict::Gone),
            (429, again(true)),
            (500, again(false)),
            (502, again(true)),
            (503, again(false)),
            (504, again(true)),
            (199, again(false)),
        ] {
            assert_eq!(judged(&status(code), 0), expected, "{code}");
        }
    }

    #[test]
    fn failures_without_an_answer_are_retried_until_the_retries_are_exhausted() {
        for failure in Failure::ALL {
            let result = AttemptResult { status_code: None, failure: Some(failure), retry_after: None };
            assert_eq!(
                judged(&result, 0),
                Verdict::Retry { after: Duration::from_secs(1), slow_down: false }
            );
            assert_eq!(
                judged(&result, 1),
                Verdict::Retry { after: Duration::from_secs(2), slow_down: false }
            );
            assert_eq!(judged(&result, 2), Verdict::Dead);
            assert_eq!(judged(&result, u32::MAX), Verdict::Dead);
        }
    }

    #[test]
    fn a_2xx_whose_body_stalls_is_delivered() {
        let result =
            AttemptResult { status_code: Some(200), failure: Some(Failure::Timeout), retry_after: None };
        assert_eq!(judged(&result, 0), Verdict::Delivered);
    }

    #[test]
    fn retry_after_lengthens_but_never_shortens_the_delay_and_is_capped() {
        for (seconds, expected) in [(0, 1), (1, 1), (30, 30), (3600, 3600), (u64::MAX, 3600)] {
            let result = AttemptResult { retry_after: Some(Duration::from_secs(seconds)), ..status(503) };
            let expected = Verdict::Retry { after: Duration::from_secs(expected), slow_down: false };
            assert_eq!(judged(&result, 0), expected, "{seconds}");
        }
    }

    #[test]
    fn the_cap_does_not_cut_a_schedule_of_days() {
        let policy = RetryPolicy::explicit([Duration::from_secs(36_000)]);
        let expected = Verdict::Retry { after: Duration::from_secs(36_000), slow_down: false };
        assert_eq!(verdict(&status(500), 0, &policy, CAP, 0.5), expected);
    }

    #[test]
    fn texts_of_failures_are_the_same_in_rows_and_json() {
        for failure in Failure::ALL {
            assert_eq!(serde_json::to_value(failure).unwrap(), failure.as_str());
        }
    }

    proptest! {
        #[test]
        fn only_a_2xx_is_delivered_and_dead_comes_exactly_when_retries_are_exhausted(
            code in proptest::option::of(100_u16..600), done in 0_u32..5, asked in proptest::option::of(0_u64..10_000),
            jitter in 0.0..1.0_f64
        ) {
            let result = AttemptResult {
                status_code: code, failure: Some(Failure::Status), retry_after: asked.map(Duration::from_secs),
            };
            match verdict(&result, done, &policy(), CAP, jitter) {
                Verdict::Delivered => prop_assert!(matches!(code, Some(200..=299))),
                Verdict::Gone => prop_assert_eq!(code, Some(410)),
                Verdict::Dead => prop_assert!(done >= 2),
                Verdict::Retry { after, .. } => {
                    prop_assert!(done < 2);
                    prop_assert!(after >= policy().delay(done + 1, jitter).unwrap() && after <= CAP);
                }
            }
        }
    }
}
