//! What a replay would bring: the window of the log that it is about, the events in it by kind, and the
//! endpoints that listen. For [`super::replay_create`] and the preview.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::event_list::ListedEvent;
use crate::event::Source;
use crate::group::GroupName;
use crate::ids::EndpointId;
use crate::matching::{Filter, Pattern};
use crate::tally::{Count, Listener, Tally, tally};

/// A replay as it is asked for. `from` is inclusive, `to` exclusive.
#[derive(Debug, Clone)]
pub struct Draft {
    /// `None` for all groups.
    pub group: Option<GroupName>,
    pub endpoint_id: Option<EndpointId>,
    pub event_type: Option<Pattern>,
    pub source: Option<Source>,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// No more events than this, the earliest first.
    pub limit: Option<i64>,
    /// Leaves out what was delivered before.
    pub only_missing: bool,
    pub rate_per_second: Option<i32>,
}

/// A window as it was measured, without the log lock: it ends at the head that was seen, so that what is
/// counted is what the replay will bring.
#[derive(Debug)]
pub struct Measured {
    /// Positions `(from, to]`.
    pub from_position: i64,
    pub to_position: i64,
    pub(super) counts: Vec<Count>,
    pub(super) listeners: Vec<Listener>,
    pub tally: Tally,
}

impl Measured {
    /// The endpoints that there is an event for.
    pub(super) fn wanting(&self) -> impl Iterator<Item = &Listener> {
        self.listeners
            .iter()
            .zip(&self.tally.listeners)
            .filter(|(_, is_wanting)| **is_wanting)
            .map(|(one, _)| one)
    }

    /// How many of them there are.
    pub fn endpoints(&self) -> usize {
        self.wanting().count()
    }
}

/// # Errors
/// PostgreSQL is away, or the window takes too long to count.
pub async fn measure(pool: &PgPool, draft: &Draft) -> sqlx::Result<Measured> {
    let mut connection = pool.begin().await?;
    // A large window is counted for longer than other statements may take.
    sqlx::query("set local statement_timeout = '120s'").execute(&mut *connection).await?;
    let listeners = listeners(&mut connection, draft).await?;
    let (from_position, mut to_position) = bounds(&mut connection, draft).await?;
    let mut counts = count(&mut connection, draft, to_position).await?;
    let mut sum = tally(&counts, draft.event_type.as_ref(), &listeners);
    if let Some(limit) = draft.limit.filter(|limit| *limit < sum.matched) {
        to_position = place_of(&mut connection, draft, to_position, (&counts, &sum), limit).await?;
        counts = count(&mut connection, draft, to_position).await?;
        sum = tally(&counts, draft.event_type.as_ref(), &listeners);
    }
    Ok(Measured { from_position, to_position, counts, listeners, tally: sum })
}

type ListenerRow = (EndpointId, i64, Vec<String>, Vec<String>);

/// Who listens now, by endpoint id.
pub(super) async fn listeners(connection: &mut PgConnection, draft: &Draft) -> sqlx::Result<Vec<Listener>> {
    let rows: Vec<ListenerRow> = sqlx::query_as(
        "select e.id, e.group_id, s.event_types, s.sources
         from consumer_group g join endpoint e on e.group_id = g.id
         join subscription s on s.endpoint_id = e.id and s.to_position is null
         where g.deleted_at is null and e.status <> 'deleted'
           and ($1::text is null or g.name = $1) and ($2::uuid is null or e.id = $2)
         order by e.id",
    )
    .bind(draft.group.as_ref().map(GroupName::as_str))
    .bind(draft.endpoint_id)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(listener).collect())
}

/// Who listened when a replay was asked for, of the endpoints that it has feeds for.
pub(super) async fn listeners_of(
    connection: &mut PgConnection,
    replay: crate::ids::ReplayId,
) -> sqlx::Result<Vec<Listener>> {
    let rows: Vec<ListenerRow> = sqlx::query_as(
        "select f.endpoint_id, f.group_id, s.event_types, s.sources
         from feed f join subscription s on s.endpoint_id = f.endpoint_id
              and s.from_position < f.as_of_position
              and (s.to_position is null or s.to_position >= f.as_of_position)
         where f.replay_id = $1",
    )
    .bind(replay)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(listener).collect())
}

fn listener((endpoint_id, group_id, event_types, sources): ListenerRow) -> Listener {
    let filter = Filter {
        event_types: event_types.iter().filter_map(|text| text.parse().ok()).collect(),
        sources: sources.iter().filter_map(|text| text.parse().ok()).collect(),
    };
    Listener { endpoint_id, group_id, filter }
}

/// The positions `(from, to]` of the window as far as the log goes; `(0, 0)` if there is nothing in it.
async fn bounds(connection: &mut PgConnection, draft: &Draft) -> sqlx::Result<(i64, i64)> {
    sqlx::query_as(
        "select coalesce((select position - 1 from event where id >= id_floor($1) and id < id_floor($2)
                          order by id limit 1), 0),
                coalesce((select position from event where id >= id_floor($1) and id < id_floor($2)
                          order by id desc limit 1), 0)",
    )
    .bind(draft.from)
    .bind(draft.to)
    .fetch_one(connection)
    .await
}

async fn count(connection: &mut PgConnection, draft: &Draft, to: i64) -> sqlx::Result<Vec<Count>> {
    let window = Window { from: draft.from, to: draft.to, source: draft.source.as_ref().map(Source::as_str) };
    count_between(connection, &window, 0, to).await
}

/// Events created in `[from, to)`, of one source or all.
pub(super) struct Window<'a> {
    pub(super) from: DateTime<Utc>,
    pub(super) to: DateTime<Utc>,
    pub(super) source: Option<&'a str>,
}

/// Counts the window's events at the positions `(after, upto]` by kind.
pub(super) async fn count_between(
    connection: &mut PgConnection,
    window: &Window<'_>,
    after: i64,
    upto: i64,
) -> sqlx::Result<Vec<Count>> {
    let rows: Vec<(String, String, Option<i64>, i64)> = sqlx::query_as(
        "select event_type, source, group_id, count(*) from event
         where id >= id_floor($1) and id < id_floor($2) and position > $3 and position <= $4
           and ($5::text is null or source = $5)
         group by event_type, source, group_id",
    )
    .bind(window.from)
    .bind(window.to)
    .bind(after)
    .bind(upto)
    .bind(window.source)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(event_type, source, group_id, events)| Count { event_type, source, group_id, events })
        .collect())
}

/// The kinds of the events that somebody wants, as columns.
#[derive(Default)]
struct Kinds<'a> {
    event_types: Vec<&'a str>,
    sources: Vec<&'a str>,
    groups: Vec<i64>,
}

impl<'a> Kinds<'a> {
    fn wanted(counts: &'a [Count], sum: &Tally) -> Self {
        let mut kinds = Self::default();
        for (count, _) in counts.iter().zip(&sum.kinds).filter(|(_, is_wanted)| **is_wanted) {
            kinds.event_types.push(&count.event_type);
            kinds.sources.push(&count.source);
            kinds.groups.push(count.group_id.unwrap_or(0));
        }
        kinds
    }
}

/// The position of the nth event that somebody wants.
async fn place_of(
    connection: &mut PgConnection,
    draft: &Draft,
    to: i64,
    (counts, sum): (&[Count], &Tally),
    nth: i64,
) -> sqlx::Result<i64> {
    let kinds = Kinds::wanted(counts, sum);
    sqlx::query_scalar(
        "select v.position from event v
         where v.id >= id_floor($1) and v.id < id_floor($2) and v.position <= $3
           and (v.event_type, v.source, coalesce(v.group_id, 0)) in (
                select * from unnest($4::text[], $5::text[], $6::bigint[]))
         order by v.id offset $7 limit 1",
    )
    .bind(draft.from)
    .bind(draft.to)
    .bind(to)
    .bind(kinds.event_types)
    .bind(kinds.sources)
    .bind(kinds.groups)
    .bind(nth - 1)
    .fetch_one(connection)
    .await
}

/// The first events that a replay would bring.
///
/// # Errors
/// PostgreSQL is away.
pub async fn sample(
    pool: &PgPool,
    draft: &Draft,
    measured: &Measured,
    limit: i64,
) -> sqlx::Result<Vec<ListedEvent>> {
    let kinds = Kinds::wanted(&measured.counts, &measured.tally);
    sqlx::query_as(
        "select v.id, v.position, v.event_type, v.source, v.created_at from event v
         where v.id >= id_floor($1) and v.id < id_floor($2) and v.position <= $3
           and (v.event_type, v.source, coalesce(v.group_id, 0)) in (
                select * from unnest($4::text[], $5::text[], $6::bigint[]))
         order by v.id limit $7",
    )
    .bind(draft.from)
    .bind(draft.to)
    .bind(measured.to_position)
    .bind(kinds.event_types)
    .bind(kinds.sources)
    .bind(kinds.groups)
    .bind(limit)
    .fetch_all(pool)
    .await
}
