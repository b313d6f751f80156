//! Whether endpoints only fail. The recorder notes each attempt here, in memory; once a second what has changed
//! is written to the record, and what stays as it is once in a period, for another dispatcher may see the
//! contrary. Endpoints that only fail for `AUTO_DISABLE_AFTER` are disabled.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use eventrail_core::db::health;
use eventrail_core::ids::EndpointId;

use crate::prepare::Context;

/// What is seen unchanged is written no more often than this.
const LONGEST_PERIOD: Duration = Duration::from_secs(60);
/// What was written is forgotten after so many periods: the endpoint is not sent to any more.
const KEPT_PERIODS: u32 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Healthy,
    Failing,
}

#[derive(Default)]
struct Seen {
    /// Since the last look.
    succeeded: bool,
    failed: bool,
    written: Option<(Standing, Instant)>,
}

/// What this dispatcher has seen.
pub(crate) struct Health {
    /// How long an endpoint may only fail; `None` for ever.
    after: Option<Duration>,
    endpoints: Mutex<HashMap<EndpointId, Seen>>,
}

/// What is to be written.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    healthy: Vec<EndpointId>,
    failing: Vec<EndpointId>,
}

impl Health {
    pub(crate) fn new(after: Option<Duration>) -> Self {
        Self { after, endpoints: Mutex::default() }
    }

    /// An attempt has ended.
    pub(crate) fn note(&self, endpoint: EndpointId, succeeded: bool) {
        if self.after.is_none() {
            return;
        }
        let mut endpoints = self.lock();
        let seen = endpoints.entry(endpoint).or_default();
        seen.succeeded |= succeeded;
        seen.failed |= !succeeded;
    }

    /// What has changed since it was written, or was written a period ago. An endpoint that has taken
    /// anything is healthy.
    fn news(&self, period: Duration, now: Instant) -> News {
        let mut news = News::default();
        let mut endpoints = self.lock();
        for (endpoint, seen) in endpoints.iter_mut() {
            let standing = match (seen.succeeded, seen.failed) {
                (true, _) => Standing::Healthy,
                (false, true) => Standing::Failing,
                (false, false) => continue,
            };
            (seen.succeeded, seen.failed) = (false, false);
            if seen.written.is_some_and(|(written, at)| written == standing && now < at + period) {
                continue;
            }
            seen.written = Some((standing, now));
            match standing {
                Standing::Healthy => news.healthy.push(*endpoint),
                Standing::Failing => news.failing.push(*endpoint),
            }
        }
        endpoints.retain(|_, seen| seen.written.is_none_or(|(_, at)| now < at + period * KEPT_PERIODS));
        news
    }

    /// These could not be written: they are with the next attempt.
    fn not_written(&self, endpoints: &[EndpointId]) {
        let mut seen = self.lock();
        for endpoint in endpoints {
            seen.remove(endpoint);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointId, Seen>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what has changed, and disables what has only failed for too long.
///
/// # Errors
/// PostgreSQL is away.
pub(super) async fn step(context: &Context) -> anyhow::Result<()> {
    let Some(after) = context.health.after else { return Ok(()) };
    let news = context.health.news(LONGEST_PERIOD.min(after / 10), Instant::now());
    if !news.healthy.is_empty()
        && let Err(error) = health::note_healthy(&context.pool, &news.healthy).await
    {
        context.health.not_written(&news.healthy);
        context.health.not_written(&news.failing);
        return Err(error.into());
    }
    if news.failing.is_empty() {
        return Ok(());
    }
    let failing = health::note_failing(&context.pool, &news.failing, after).await;
    for endpoint in failing.inspect_err(|_| context.health.not_written(&news.failing))? {
        if health::disable_failing(&context.pool, endpoint, after).await? {
            tracing::warn!(endpoint.id = %endpoint, "endpoint disabled: it has only failed for too long");
            context.recipients.refresh().await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    fn healthy(endpoint: EndpointId) -> News {
        News { healthy: vec![endpoint], ..News::default() }
    }

    fn failing(endpoint: EndpointId) -> News {
        News { failing: vec![endpoint], ..News::default() }
    }

    #[test]
    fn changes_are_written_at_once_and_what_stays_once_in_a_period() {
        let (health, endpoint) = (Health::new(Some(PERIOD * 10)), EndpointId::generate());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let noted = |attempts: &[bool], seconds| {
            attempts.iter().for_each(|succeeded| health.note(endpoint, *succeeded));
            health.news(PERIOD, at(seconds))
        };
        assert_eq!(noted(&[true], 0), healthy(endpoint));
        assert_eq!(noted(&[true, true], 1), News::default());
        assert_eq!(noted(&[false], 2), failing(endpoint));
        assert_eq!(noted(&[false], 3), News::default());
        assert_eq!(noted(&[], 62), News::default(), "nothing was sent");
        assert_eq!(noted(&[false], 63), failing(endpoint));
        assert_eq!(noted(&[false, true, false], 64), healthy(endpoint), "it does not only fail");
        assert_eq!(noted(&[true], 124), healthy(endpoint));
    }

    #[test]
    fn what_could_not_be_written_is_written_with_the_next_attempt() {
        let (health, endpoint, now) = (Health::new(Some(PERIOD)), EndpointId::generate(), Instant::now());
        health.note(endpoint, false);
        assert_eq!(health.news(PERIOD, now), failing(endpoint));
        health.not_written(&[endpoint]);
        health.note(endpoint, false);
        assert_eq!(health.news(PERIOD, now), failing(endpoint));
    }

    #[test]
    fn nothing_is_noted_where_it_is_off() {
        let health = Health::new(None);
        health.note(EndpointId::generate(), false);
        assert_eq!(health.news(PERIOD, Instant::now()), News::default());
        assert!(health.lock().is_empty());
    }
}
