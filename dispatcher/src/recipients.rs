//! Endpoints as they are sent to: a copy of the record, refreshed when the topology changes.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use eventrail_core::db::recipient::{self, Recipient, State};
use eventrail_core::db::{feed, topology};
use eventrail_core::group::GroupName;
use eventrail_core::ids::EndpointId;
use eventrail_core::metrics as names;
use eventrail_core::retry::RetryPolicy;
use eventrail_core::signature::SigningKey;
use eventrail_core::vault::Vault;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use sqlx::PgPool;

use crate::http_client::Destination;
use crate::lane::Limits;

/// An endpoint with all that does not change from one delivery to the next.
pub(crate) struct Target {
    pub(crate) id: EndpointId,
    pub(crate) group_id: i64,
    pub(crate) group: GroupName,
    pub(crate) destination: Destination,
    keys: Vec<(SigningKey, Option<DateTime<Utc>>)>,
    pub(crate) timeout: Duration,
    pub(crate) max_in_flight: u32,
    pub(crate) policy: RetryPolicy,
    pub(crate) rate_per_second: Option<u32>,
    pub(crate) state: State,
    /// The whole group is paused.
    pub(crate) paused: bool,
}

impl Target {
    /// # Errors
    /// A header or the URL of the row is none.
    pub(crate) fn new(recipient: &Recipient, defaults: &Defaults) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        for (name, value) in recipient.headers.iter() {
            let mut value = HeaderValue::from_str(value)?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_bytes(name.as_bytes())?, value);
        }
        if let Some(authorization) = &recipient.authorization {
            let mut value = HeaderValue::from_str(authorization)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        headers.insert(
            HeaderName::from_static("eventrail-group"),
            HeaderValue::from_str(recipient.group.as_ref())?,
        );
        let policy = match &recipient.group_retry {
            Some(group) => group.apply(&defaults.policy),
            None => defaults.policy.clone(),
        };
        let policy = recipient.retry.as_ref().map_or_else(|| policy.clone(), |own| own.apply(&policy));
        Ok(Self {
            id: recipient.id,
            group_id: recipient.group_id,
            group: recipient.group.clone(),
            destination: Destination::new(recipient.url.url(), headers)?,
            keys: recipient.secrets.iter().map(|(secret, end)| (SigningKey::new(secret), *end)).collect(),
            timeout: recipient.timeout.unwrap_or(defaults.timeout),
            max_in_flight: recipient.max_in_flight.unwrap_or(defaults.max_in_flight),
            policy,
            rate_per_second: recipient.rate_per_second,
            state: recipient.state,
            paused: recipient.paused,
        })
    }

    /// What its lane must know.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            group_id: self.group_id,
            max_in_flight: self.max_in_flight as usize,
            rate_per_second: self.rate_per_second,
        }
    }

    /// The keys that sign at this time, newest first.
    pub(crate) fn signing_keys(&self, now: DateTime<Utc>) -> impl Iterator<Item = &SigningKey> {
        self.keys.iter().filter(move |(_, end)| end.is_none_or(|end| end > now)).map(|(key, _)| key)
    }
}

/// What holds where an endpoint says nothing.
pub(crate) struct Defaults {
    pub(crate) timeout: Duration,
    pub(crate) max_in_flight: u32,
    pub(crate) policy: RetryPolicy,
}

pub(crate) struct Recipients {
    pool: PgPool,
    vault: Arc<Vault>,
    defaults: Defaults,
    held: RwLock<Held>,
}

#[derive(Default)]
struct Held {
    /// What has been read: the topology's version, on the server that was started then.
    read: Option<(i64, DateTime<Utc>)>,
    targets: HashMap<EndpointId, Arc<Target>>,
    /// Active endpoints of each group.
    groups: HashMap<i64, Vec<EndpointId>>,
    /// Groups that are paused.
    paused: HashSet<i64>,
    /// Feeds that were ended by hand lately.
    ended: HashSet<i64>,
}

impl Recipients {
    pub(crate) fn new(pool: PgPool, vault: Arc<Vault>, defaults: Defaults) -> Self {
        Self { pool, vault, defaults, held: RwLock::default() }
    }

    pub(crate) fn get(&self, id: EndpointId) -> Option<Arc<Target>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).targets.get(&id).cloned()
    }

    /// Calls `each` with the active endpoints of a group until it answers false.
    pub(crate) fn each_of_group(&self, group_id: i64, each: impl FnMut(&EndpointId) -> bool) {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let mut each = each;
        for id in held.groups.get(&group_id).into_iter().flatten() {
            if !each(id) {
                break;
            }
        }
    }

    pub(crate) fn is_paused(&self, group_id: i64) -> bool {
        self.held.read().unwrap_or_else(PoisonError::into_inner).paused.contains(&group_id)
    }

    /// Whether a feed was ended by hand lately.
    pub(crate) fn is_ended(&self, feed_id: i64) -> bool {
        self.held.read().unwrap_or_else(PoisonError::into_inner).ended.contains(&feed_id)
    }

    pub(crate) fn active_in_group(&self, group_id: i64) -> usize {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.groups.get(&group_id).map_or(0, Vec::len)
    }

    /// Reads what has changed since the last time.
    ///
    /// # Errors
    /// PostgreSQL is away, or holds a row that cannot be read.
    pub(crate) async fn refresh(&self) -> anyhow::Result<()> {
        let known = self.held.read().unwrap_or_else(PoisonError::into_inner).read;
        let (version, server) = topology::version_of_server(&self.pool).await?;
        // Another server, or a restored backup: nothing that is known holds, so everything is read again.
        let known = known.filter(|(known, of)| *of == server && *known <= version);
        let since = known.map_or(-1, |(known, _)| known);
        if since == version {
            return Ok(());
        }
        let changed = recipient::changed_since(&self.pool, &self.vault, since).await?;
        let ended = feed::ended_lately(&self.pool).await?.into_iter().collect();
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            *held = Held::default();
        }
        held.ended = ended;
        held.read = Some((version, server));
        for recipient in changed {
            match Target::new(&recipient, &self.defaults) {
                Ok(target) => held.place(Arc::new(target)),
                // What is owed to it waits: an endpoint that is not known is put off, never passed over.
                Err(error) => tracing::error!(endpoint.id = %recipient.id, %error, "endpoint can't be used"),
            }
        }
        let sealed = held.targets.values().filter(|target| target.state == State::Sealed).count();
        metrics::gauge!(names::ENDPOINTS_SEALED).set(sealed as f64);
        Ok(())
    }
}

impl Held {
    fn place(&mut self, target: Arc<Target>) {
        let group = self.groups.entry(target.group_id).or_default();
        group.retain(|id| *id != target.id);
        if target.paused {
            self.paused.insert(target.group_id);
        } else {
            self.paused.remove(&target.group_id);
        }
        match target.state {
            State::Active => group.push(target.id),
            State::Disabled | State::Sealed => {}
            State::Deleted => {
                // Kept as a tombstone: entries that name it owe nothing, without asking the record again.
            }
        }
        self.targets.insert(target.id, target);
    }
}
