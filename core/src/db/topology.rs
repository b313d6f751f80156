//! The topology: groups, subscriptions, feeds and parked intervals, read in one snapshot by the relay;
//! and what the relay itself changes in it.

use sqlx::{PgConnection, PgExecutor};

use crate::group::GroupName;
use crate::ids::EndpointId;

/// A feed that the relay serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    pub id: i64,
    pub group_id: i64,
    pub group: GroupName,
    pub live: bool,
    pub epoch: i64,
    pub ask: i64,
    /// The one endpoint of a catch-up.
    pub endpoint_id: Option<EndpointId>,
    pub to_position: Option<i64>,
    pub settled_position: i64,
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
    to_position: Option<i64>,
    settled_position: i64,
}

/// Reads the whole topology. The caller's transaction must be `REPEATABLE READ`.
///
/// # Errors
/// PostgreSQL is away.
pub async fn read(connection: &mut PgConnection) -> sqlx::Result<Snapshot> {
    let version = version(&mut *connection).await?;
    let feeds: Vec<FeedRow> = sqlx::query_as(
        "select f.id, f.group_id, g.name as group_name, f.kind, f.epoch, f.ask, f.endpoint_id, f.to_position,
                f.settled_position
         from feed f join consumer_group g on g.id = f.group_id where f.status = 'active'",
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
    let feeds = feeds
        .into_iter()
        .filter_map(|row| {
            Some(Feed {
                id: row.id,
                group_id: row.group_id,
                group: row.group_name.parse().ok()?,
                live: row.kind == "live",
                epoch: row.epoch,
                ask: row.ask,
                endpoint_id: row.endpoint_id,
                to_position: row.to_position,
                settled_position: row.settled_position,
            })
        })
        .collect();
    Ok(Snapshot { version, feeds, subscriptions, parked })
}

/// # Errors
/// PostgreSQL is away.
pub async fn version(executor: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar("select version from topology").fetch_one(executor).await
}

/// # Errors
/// PostgreSQL is away.
pub async fn raise_version(connection: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("select raise_topology_version()").fetch_one(connection).await
}
