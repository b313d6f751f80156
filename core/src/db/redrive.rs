//! Dead letters are sent again: a replay of kind `redrive`, whose feeds bring each endpoint those of its dead
//! letters that are meant, as they were when they were counted.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::audit::{self, Author};
use super::change;
use super::dead_letter::{DeadFilter, dead_rows, is_of_type};
use super::replay::{self, NewFeed, NewReplay};
use super::replay_create::{Created, MOST_ENDPOINTS};
use crate::group::GroupName;
use crate::ids::{EndpointId, EventId, ReplayId};
use crate::matching::Pattern;
use crate::verdict::Fingerprint;

/// A redrive as it is asked for.
#[derive(Debug, Clone)]
pub struct Redrive {
    /// For the record: the group that `filter` was narrowed to; `None` for all.
    pub group: Option<GroupName>,
    pub filter: DeadFilter,
    pub rate_per_second: Option<i32>,
}

/// Whether a dead row is redriven that asks for the fingerprint, if any is asked for. What a cancelled replay has
/// ended may have been delivered before: it must be asked for.
macro_rules! is_redriven {
    ($error:literal, $row:literal) => {
        concat!(
            "case when ",
            $error,
            "::text is null then ",
            $row,
            ".last_error is distinct from 'cancelled' else fingerprint(",
            $row,
            ".last_error, ",
            $row,
            ".last_status_code) is not distinct from ",
            $error,
            " end"
        )
    };
}
pub(super) use is_redriven;

/// The dead letters of one endpoint.
#[derive(Debug, sqlx::FromRow)]
struct Share {
    endpoint_id: EndpointId,
    group_id: i64,
    letters: i64,
    first: EventId,
    counted_at: DateTime<Utc>,
}

/// How many dead letters a redrive would bring, and to how many endpoints; not those of deleted ones.
///
/// # Errors
/// PostgreSQL is away.
pub async fn measure(pool: &PgPool, filter: &DeadFilter) -> sqlx::Result<(i64, usize)> {
    let shares = shares(pool, filter).await?;
    Ok((shares.iter().map(|share| share.letters).sum(), shares.len()))
}

/// Creates a redrive of the dead letters that there are now.
///
/// # Errors
/// PostgreSQL is away.
pub async fn create(pool: &PgPool, author: &Author, redrive: &Redrive) -> sqlx::Result<Created> {
    let filter = &redrive.filter;
    let mut shares = shares(pool, filter).await?;
    if shares.len() > MOST_ENDPOINTS {
        return Ok(Created::TooManyEndpoints(shares.len()));
    }
    let mut transaction = change::begin(pool).await?;
    let positions = positions(&mut transaction, &shares).await?;
    // What was deleted meanwhile is sent nothing.
    shares.retain(|share| positions.iter().any(|(endpoint, _)| *endpoint == share.endpoint_id));
    let feeds: Vec<NewFeed> = shares
        .iter()
        .zip(&positions)
        .map(|(share, (endpoint_id, first))| NewFeed {
            group_id: share.group_id,
            endpoint_id: *endpoint_id,
            from_position: first - 1,
        })
        .collect();
    let matched = shares.iter().map(|share| share.letters).sum();
    let new = NewReplay {
        id: ReplayId::generate(),
        kind: "redrive",
        group_name: redrive.group.as_ref().map_or("*", GroupName::as_str),
        endpoint_id: filter.endpoint_id,
        event_type: filter.event_type.as_ref().map(Pattern::as_str),
        source: None,
        error: filter.error.as_ref().map(Fingerprint::as_str),
        from_at: None,
        to_at: None,
        event_limit: None,
        only_missing: false,
        rate_per_second: redrive.rate_per_second,
        matched,
        owed: matched,
        measured_at: shares.iter().map(|share| share.counted_at).next(),
    };
    if !replay::has_room(&mut transaction, new.group_name, feeds.len()).await? {
        return Ok(Created::TooManyReplays);
    }
    replay::insert(&mut transaction, &new, &feeds, None).await?;
    let detail = json!({
        "group": new.group_name,
        "endpoint_id": new.endpoint_id,
        "event_type": new.event_type,
        "error": new.error,
        "rate_per_second": new.rate_per_second,
        "matched": matched,
    });
    audit::write(&mut *transaction, author, &new.id.to_string(), detail).await?;
    transaction.commit().await?;
    Ok(Created::Created(new.id))
}

/// By endpoint id.
async fn shares(pool: &PgPool, filter: &DeadFilter) -> sqlx::Result<Vec<Share>> {
    sqlx::query_as(concat!(
        "with mine as (",
        dead_rows!(""),
        "), share as (
             select m.endpoint_id, count(*) as letters, min(array[m.event_id]) as first
             from mine m
             where ",
        is_redriven!("$3", "m"),
        " and ",
        is_of_type!("$4", "m.event_id"),
        "
             group by m.endpoint_id
         )
         select s.endpoint_id, e.group_id, s.letters, s.first[1] as first, now() as counted_at
         from share s join endpoint e on e.id = s.endpoint_id
         where e.status <> 'deleted' order by s.endpoint_id",
    ))
    .bind(&filter.groups)
    .bind(filter.endpoint_id)
    .bind(filter.error.as_ref().map(Fingerprint::as_str))
    .bind(filter.event_type.as_ref().map(Pattern::as_str))
    .fetch_all(pool)
    .await
}

/// Under the log lock: for each endpoint that is still there, by id, the position of its first dead letter.
async fn positions(change: &mut PgConnection, shares: &[Share]) -> sqlx::Result<Vec<(EndpointId, i64)>> {
    sqlx::query_as(
        "select e.id, v.position
         from unnest($1::uuid[], $2::uuid[]) as s (endpoint_id, first)
         join endpoint e on e.id = s.endpoint_id and e.status <> 'deleted'
         cross join lateral (select position from event where id >= s.first order by id limit 1) v
         order by e.id",
    )
    .bind(shares.iter().map(|share| share.endpoint_id).collect::<Vec<_>>())
    .bind(shares.iter().map(|share| share.first).collect::<Vec<_>>())
    .fetch_all(change)
    .await
}
