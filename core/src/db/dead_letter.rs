//! Dead letters: deliveries that were given up and not put away since. Listed, told apart by their errors, and
//! put away; [`super::redrive`] sends them again.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use super::Stretch;
use super::audit::{self, Author};
use crate::group::GroupName;
use crate::ids::{EndpointId, EventId};
use crate::matching::Pattern;
use crate::verdict::Fingerprint;

/// Dead letters that one page of a filtered list looks at.
const LOOKED_AT: i64 = 10_000;
/// Rows that are put away in one transaction.
const ROWS_AT_ONCE: i64 = 5_000;

/// Which dead letters are meant; `None` for all.
#[derive(Debug, Clone, Default)]
pub struct DeadFilter {
    pub groups: Vec<i64>,
    pub endpoint_id: Option<EndpointId>,
    pub event_type: Option<Pattern>,
    pub error: Option<Fingerprint>,
}

/// The groups to look in: the one that is named, or all that the caller may see. A deleted group is seen by
/// those alone who see all (`own` is `None`).
///
/// # Errors
/// PostgreSQL is away.
pub async fn groups(
    pool: &PgPool,
    named: Option<&GroupName>,
    own: Option<&[String]>,
) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar(
        "select id from consumer_group
         where ($1::text is null or name = $1 and deleted_at is null)
           and ($2::text[] is null or name = any($2) and deleted_at is null)
         order by id",
    )
    .bind(named.map(GroupName::as_str))
    .bind(own)
    .fetch_all(pool)
    .await
}

/// Dead rows of the groups $1: of the endpoint $2, or of all endpoints, by whichever index serves that. The
/// branch that is not meant costs nothing: its condition is looked at once.
macro_rules! dead_rows {
    ($bounds:literal) => {
        concat!(
            "(select d.event_id, d.endpoint_id, d.group_id, d.last_error, d.last_status_code, d.attempt_total,
                     d.updated_at
              from delivery d
              where $2::uuid is not null and d.endpoint_id = $2 and d.group_id = any($1)
                and d.status = 'dead' and d.purged_at is null ",
            $bounds,
            ") union all (select d.* from unnest($1::bigint[]) as g (id) cross join lateral (
                 select d.event_id, d.endpoint_id, d.group_id, d.last_error, d.last_status_code, d.attempt_total,
                        d.updated_at
                 from delivery d
                 where $2::uuid is null and d.group_id = g.id and d.status = 'dead' and d.purged_at is null ",
            $bounds,
            ") d)"
        )
    };
}
pub(super) use dead_rows;

/// Whether an event is of the type that is asked for, if any is: `Pattern::matches`, cheaper than the function for
/// whole filters, since this is asked of each row.
macro_rules! is_of_type {
    ($pattern:literal, $event:literal) => {
        concat!(
            "(",
            $pattern,
            "::text is null or exists (
                 select from event v where v.id = ",
            $event,
            " and case
                     when right(",
            $pattern,
            ", 1) <> '*' then v.event_type = ",
            $pattern,
            "
                     when ",
            $pattern,
            " = '*' then split_part(v.event_type, '.', 1) <> 'eventrail'
                     else starts_with(v.event_type, left(",
            $pattern,
            ", -1)) end))"
        )
    };
}
pub(super) use is_of_type;

/// The newest of them below the key ($3, $4), $5 at most, as `candidate`, numbered by `nth`.
macro_rules! candidates {
    () => {
        concat!(
            "candidate as materialized (
                 select c.*, row_number() over (order by c.event_id desc, c.endpoint_id desc) as nth from (",
            dead_rows!(
                "and (d.event_id, d.endpoint_id) < ($3, $4) and d.event_id <= $3
                 order by d.event_id desc, d.endpoint_id desc limit $5"
            ),
            ") c order by c.event_id desc, c.endpoint_id desc limit $5
             )"
        )
    };
}

/// A dead letter, with its event.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DeadLetter {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    pub group: String,
    pub event_type: String,
    pub source: String,
    pub created_at: DateTime<Utc>,
    /// The fingerprint.
    pub error: String,
    pub error_detail: Option<String>,
    pub last_status_code: Option<i32>,
    pub attempt_total: i32,
    /// When it was given up.
    pub updated_at: DateTime<Utc>,
    /// Only where it was asked for.
    pub payload: Option<Vec<u8>>,
    is_meant: bool,
    nth: i64,
}

/// A place in the order of the list.
pub type Key = (EventId, EndpointId);

/// Dead letters in pages, below `before`, the newest events first.
///
/// # Errors
/// PostgreSQL is away, or slow.
pub async fn list(
    pool: &PgPool,
    filter: &DeadFilter,
    before: Option<Key>,
    limit: i64,
    with_payload: bool,
) -> sqlx::Result<Stretch<DeadLetter, Key>> {
    let looked_at = looked_at(filter, limit);
    let (event, endpoint) = below(before);
    let mut rows: Vec<DeadLetter> = sqlx::query_as(concat!(
        "with ",
        candidates!(),
        ", judged as materialized (
             select c.*, coalesce(fingerprint(c.last_error, c.last_status_code), 'unknown') as error,
                    ($6::text is null or fingerprint(c.last_error, c.last_status_code) = $6)
                    and ",
        is_of_type!("$7", "c.event_id"),
        " as is_meant
             from candidate c
         ), hit as materialized (
             select * from judged where is_meant or nth = $5 order by nth limit $8
         )
         select h.event_id, h.endpoint_id, g.name as \"group\", v.event_type, v.source, v.created_at, h.error,
                a.error_detail, h.last_status_code, h.attempt_total, h.updated_at,
                case when $9 then v.payload end as payload, h.is_meant, h.nth
         from hit h
         join consumer_group g on g.id = h.group_id
         cross join lateral (
             select event_type, source, created_at, payload from event where id = h.event_id limit 1) v
         left join lateral (
             select error_detail from attempt where event_id = h.event_id and endpoint_id = h.endpoint_id
             order by number desc limit 1) a on true
         order by h.nth",
    ))
    .bind(&filter.groups)
    .bind(filter.endpoint_id)
    .bind(event)
    .bind(endpoint)
    .bind(looked_at)
    .bind(filter.error.as_ref().map(Fingerprint::as_str))
    .bind(filter.event_type.as_ref().map(Pattern::as_str))
    .bind(limit)
    .bind(with_payload)
    .fetch_all(pool)
    .await?;
    // The last that was looked at tells where to go on, whether it is meant or not.
    let left_at = rows.last().filter(|row| row.nth == looked_at).map(|row| (row.event_id, row.endpoint_id));
    rows.retain(|row| row.is_meant);
    Ok(Stretch { rows, left_at })
}

fn looked_at(filter: &DeadFilter, limit: i64) -> i64 {
    let takes_all = filter.error.is_none() && filter.event_type.is_none();
    let groups = (filter.groups.len() as i64).max(1);
    if takes_all { limit } else { (LOOKED_AT / groups).max(limit) }
}

fn below(before: Option<Key>) -> (Uuid, Uuid) {
    before.map_or((Uuid::max(), Uuid::max()), |(event, endpoint)| (event.0, endpoint.0))
}

/// Dead letters with the same fingerprint.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ErrorCount {
    pub error: String,
    pub count: i64,
    pub first_at: DateTime<Utc>,
    pub last_at: DateTime<Utc>,
    /// Of the newest event among them.
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    pub error_detail: Option<String>,
}

/// Dead letters by fingerprint, the most frequent first.
///
/// # Errors
/// PostgreSQL is away.
pub async fn by_error(pool: &PgPool, filter: &DeadFilter) -> sqlx::Result<Vec<ErrorCount>> {
    sqlx::query_as(concat!(
        "with mine as (",
        dead_rows!(""),
        "), meant as (
             select coalesce(fingerprint(m.last_error, m.last_status_code), 'unknown') as error, m.updated_at,
                    array[m.event_id, m.endpoint_id] as key
             from mine m
             where ($3::text is null or fingerprint(m.last_error, m.last_status_code) = $3)
               and ",
        is_of_type!("$4", "m.event_id"),
        "
         ), kind as materialized (
             select error, count(*) as count, min(updated_at) as first_at, max(updated_at) as last_at,
                    max(key) as key
             from meant group by error order by count(*) desc, error limit 500
         )
         select k.error, k.count, k.first_at, k.last_at, k.key[1] as event_id, k.key[2] as endpoint_id,
                a.error_detail
         from kind k left join lateral (
             select error_detail from attempt where event_id = k.key[1] and endpoint_id = k.key[2]
             order by number desc limit 1) a on true
         order by k.count desc, k.error",
    ))
    .bind(&filter.groups)
    .bind(filter.endpoint_id)
    .bind(filter.error.as_ref().map(Fingerprint::as_str))
    .bind(filter.event_type.as_ref().map(Pattern::as_str))
    .fetch_all(pool)
    .await
}

/// Puts dead letters away, in rounds that are each a transaction of its own with its line in the audit log.
/// Those that die meanwhile stay. Answers how many.
///
/// # Errors
/// PostgreSQL is away; what was put away until then stays so.
pub async fn purge(
    pool: &PgPool,
    author: &Author,
    group: &GroupName,
    filter: &DeadFilter,
) -> sqlx::Result<i64> {
    let started_at: DateTime<Utc> = sqlx::query_scalar("select now()").fetch_one(pool).await?;
    let (mut before, mut purged) = (None, 0);
    loop {
        let mut transaction = pool.begin().await?;
        let round = purge_round(&mut transaction, filter, before, started_at).await?;
        if round.purged > 0 || (before.is_none() && round.next.is_none()) {
            let detail = json!({
                "endpoint_id": filter.endpoint_id,
                "event_type": filter.event_type,
                "error": filter.error,
                "purged": round.purged,
            });
            audit::write(&mut *transaction, author, group.as_ref(), detail).await?;
        }
        transaction.commit().await?;
        purged += round.purged;
        before = round.next;
        if before.is_none() {
            return Ok(purged);
        }
    }
}

struct Round {
    purged: i64,
    /// Where to go on, if there may be more.
    next: Option<Key>,
}

async fn purge_round(
    connection: &mut sqlx::PgConnection,
    filter: &DeadFilter,
    before: Option<Key>,
    started_at: DateTime<Utc>,
) -> sqlx::Result<Round> {
    let (event, endpoint) = below(before);
    let (purged, event, endpoint): (i64, Option<EventId>, Option<EndpointId>) = sqlx::query_as(concat!(
        "with ",
        candidates!(),
        ", locked as materialized (
             select d.event_id, d.endpoint_id
             from candidate c join delivery d on d.event_id = c.event_id and d.endpoint_id = c.endpoint_id
             where d.status = 'dead' and d.purged_at is null and d.updated_at <= $8
               and ($6::text is null or fingerprint(d.last_error, d.last_status_code) = $6)
               and ",
        is_of_type!("$7", "c.event_id"),
        "
             order by d.event_id, d.endpoint_id for update of d
         ), purged as (
             update delivery d set purged_at = now()
             from locked l where d.event_id = l.event_id and d.endpoint_id = l.endpoint_id returning 1
         )
         select (select count(*) from purged), e.event_id, e.endpoint_id
         from (values (1)) as one left join candidate e on e.nth = $5",
    ))
    .bind(&filter.groups)
    .bind(filter.endpoint_id)
    .bind(event)
    .bind(endpoint)
    .bind(ROWS_AT_ONCE)
    .bind(filter.error.as_ref().map(Fingerprint::as_str))
    .bind(filter.event_type.as_ref().map(Pattern::as_str))
    .bind(started_at)
    .fetch_one(connection)
    .await?;
    Ok(Round { purged, next: event.zip(endpoint) })
}
