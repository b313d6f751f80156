//! The topology: groups, subscriptions, feeds and parked intervals, read in one snapshot by the relay;
//! and what the relay itself changes in it.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::feed::{FeedKind, GoesBack, Selection};
use crate::group::GroupName;
use crate::ids::{EndpointId, ReplayId};
use crate::protocol::Addressed;

/// A feed that the relay serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    pub id: i64,
    pub group_id: i64,
    pub group: GroupName,
    pub kind: FeedKind,
    pub epoch: i64,
    pub ask: i64,
    /// The one endpoint of a feed that is not live.
    pub endpoint_id: Option<EndpointId>,
    pub goes_back: Option<GoesBack>,
    /// What is above this was still owed, to those who were subscribed at the event, when the feed went back.
    pub owed_from: Option<i64>,
    /// What a replay or redrive picks out.
    pub selection: Option<Selection>,
    pub to_position: Option<i64>,
    pub settled_position: i64,
}

impl Feed {
    /// Whom it addresses.
    pub fn addressed(&self) -> Addressed {
        Addressed { as_of: self.goes_back.map(|back| back.as_of), owed_from: self.owed_from }
    }
}

/// An endpoint's interval of the log, with its filter as text.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SubscriptionRow {
    pub endpoint_id: EndpointId,
    pub group_id: i64,
    pub from_position: i64,
    pub to_position: Option<i64>,
    pub event_types: Vec<String>,
    pub sources: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct ParkedRow {
    pub id: i64,
    pub feed_id: i64,
    pub endpoint_id: EndpointId,
    pub from_position: i64,
    pub to_position: Option<i64>,
}

/// All that decides who is owed an event.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub version: i64,
    pub feeds: Vec<Feed>,
    pub subscriptions: Vec<SubscriptionRow>,
    pub parked: Vec<ParkedRow>,
}

#[derive(sqlx::FromRow)]
struct FeedRow {
    id: i64,
    group_id: i64,
    group_name: String,
    kind: String,
    epoch: i64,
    ask: i64,
    endpoint_id: Option<EndpointId>,
    as_of_position: Option<i64>,
    owed_from: Option<i64>,
    only_missing: bool,
    resend_id: Option<ReplayId>,
    replay_id: Option<ReplayId>,
    event_type: Option<String>,
    source: Option<String>,
    error: Option<String>,
    rate_per_second: Option<i32>,
    to_position: Option<i64>,
    settled_position: i64,
}

impl FeedRow {
    /// `None` for what this version does not understand.
    fn into_feed(self) -> Option<Feed> {
        let selection = match self.replay_id {
            Some(replay_id) => Some(Selection {
                replay_id,
                event_type: self.event_type.map(|text| text.parse()).transpose().ok()?,
                source: self.source.map(|text| text.parse()).transpose().ok()?,
                error: self.error,
                rate_per_second: self.rate_per_second.and_then(|rate| u32::try_from(rate).ok()),
            }),
            None => None,
        };
        Some(Feed {
            id: self.id,
            group_id: self.group_id,
            group: self.group_name.parse().ok()?,
            kind: FeedKind::parse(&self.kind)?,
            epoch: self.epoch,
            ask: self.ask,
            endpoint_id: self.endpoint_id,
            goes_back: self.as_of_position.map(|as_of| GoesBack {
                as_of,
                only_missing: self.only_missing,
                resend: self.resend_id,
            }),
            owed_from: self.owed_from,
            selection,
            to_position: self.to_position,
            settled_position: self.settled_position,
        })
    }
}

/// Reads the whole topology. The caller's transaction must be `REPEATABLE READ`.
///
/// # Errors
/// PostgreSQL is away.
pub async fn read(connection: &mut PgConnection) -> sqlx::Result<Snapshot> {
    let version = version(&mut *connection).await?;
    let feeds: Vec<FeedRow> = sqlx::query_as(
        "select f.id, f.group_id, g.name as group_name, f.kind, f.epoch, f.ask, f.endpoint_id,
                f.as_of_position, f.owed_from, f.only_missing, f.resend_id, f.replay_id, f.to_position,
                f.settled_position, r.event_type, r.source, r.error, r.rate_per_second
         from feed f join consumer_group g on g.id = f.group_id left join replay r on r.id = f.replay_id
         where f.status = 'active'",
    )
    .fetch_all(&mut *connection)
    .await?;
    // Closed intervals matter as long as a feed may still come by: above the lowest settled position.
    let subscriptions = sqlx::query_as(
        "select s.endpoint_id, e.group_id, s.from_position, s.to_position, s.event_types, s.sources
         from subscription s join endpoint e on e.id = s.endpoint_id
         where s.to_position is null
            or s.to_position > (select coalesce(min(settled_position), 0) from feed where status = 'active')",
    )
    .fetch_all(&mut *connection)
    .await?;
    let parked = sqlx::query_as(
        "select id, feed_id, endpoint_id, from_position, to_position from parked p
         where p.to_position is null
            or p.to_position > (select f.settled_position from feed f where f.id = p.feed_id)",
    )
    .fetch_all(&mut *connection)
    .await?;
    let feeds = feeds.into_iter().filter_map(FeedRow::into_feed).collect();
    Ok(Snapshot { version, feeds, subscriptions, parked })
}

/// # Errors
/// PostgreSQL is away.
pub async fn version(executor: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar("select version from topology").fetch_one(executor).await
}

/// The version, and when the server was started: after a restored backup the same version may mean another
/// topology.
///
/// # Errors
/// PostgreSQL is away.
pub async fn version_of_server(executor: impl PgExecutor<'_>) -> sqlx::Result<(i64, DateTime<Utc>)> {
    sqlx::query_as("select version, pg_postmaster_start_time() from topology").fetch_one(executor).await
}

/// # Errors
/// PostgreSQL is away.
pub async fn raise_version(connection: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("select raise_topology_version()").fetch_one(connection).await
}
