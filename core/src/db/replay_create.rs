//! A replay is made: measured without the log lock, since producers wait while that is held, and written
//! under it.

use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::audit::{self, Author};
use super::change;
use super::replay::{self, NewFeed, NewReplay};
use super::replay_window::{self, Draft, Measured};
use crate::event::Source;
use crate::group::GroupName;
use crate::ids::ReplayId;
use crate::matching::Pattern;
use crate::tally::{Listener, tally};

/// A replay has a feed for each endpoint, and no more than this.
pub const MOST_ENDPOINTS: usize = 5_000;

#[derive(Debug)]
pub enum Created {
    Created(ReplayId),
    /// There is no such group, or no such endpoint in it.
    NotFound,
    /// It would concern so many.
    TooManyEndpoints(usize),
    /// As many are running as may be.
    TooManyReplays,
}

/// Creates a replay of the window as it is now: events that come while this runs are not part of it. The
/// endpoints are those that are subscribed when it is written.
///
/// # Errors
/// PostgreSQL is away, or the window takes too long to count.
pub async fn create(pool: &PgPool, author: &Author, draft: &Draft) -> sqlx::Result<Created> {
    let measured = replay_window::measure(pool, draft).await?;
    let endpoints = measured.endpoints();
    if endpoints > MOST_ENDPOINTS {
        return Ok(Created::TooManyEndpoints(endpoints));
    }
    let mut transaction = change::begin(pool).await?;
    if !is_there(&mut transaction, draft).await? {
        return Ok(Created::NotFound);
    }
    let measured = as_of_now(&mut transaction, draft, measured).await?;
    let feeds: Vec<NewFeed> = measured
        .wanting()
        .map(|listener| NewFeed {
            group_id: listener.group_id,
            endpoint_id: listener.endpoint_id,
            from_position: measured.from_position,
        })
        .collect();
    let new = NewReplay {
        id: ReplayId::generate(),
        kind: "replay",
        group_name: draft.group.as_ref().map_or("*", GroupName::as_str),
        endpoint_id: draft.endpoint_id,
        event_type: draft.event_type.as_ref().map(Pattern::as_str),
        source: draft.source.as_ref().map(Source::as_str),
        error: None,
        from_at: Some(draft.from),
        to_at: Some(draft.to),
        event_limit: draft.limit,
        only_missing: draft.only_missing,
        rate_per_second: draft.rate_per_second,
        matched: measured.tally.matched,
        owed: measured.tally.owed,
        measured_at: None,
    };
    if !replay::has_room(&mut transaction, new.group_name, feeds.len()).await? {
        return Ok(Created::TooManyReplays);
    }
    replay::insert(&mut transaction, &new, &feeds, Some(measured.to_position)).await?;
    note(&mut transaction, author, &new).await?;
    transaction.commit().await?;
    Ok(Created::Created(new.id))
}

/// Whether group and endpoint are, the endpoint in the group.
async fn is_there(change: &mut PgConnection, draft: &Draft) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select ($1::text is null or exists (
                    select from consumer_group where name = $1 and deleted_at is null))
            and ($2::uuid is null or exists (
                    select from endpoint e join consumer_group g on g.id = e.group_id
                    where e.id = $2 and e.status <> 'deleted' and ($1::text is null or g.name = $1)
                      and g.deleted_at is null))",
    )
    .bind(draft.group.as_ref().map(GroupName::as_str))
    .bind(draft.endpoint_id)
    .fetch_one(change)
    .await
}

/// Under the log lock: the same counts for whoever is subscribed now. Mostly they are who they were.
async fn as_of_now(change: &mut PgConnection, draft: &Draft, measured: Measured) -> sqlx::Result<Measured> {
    let listeners: Vec<Listener> = replay_window::listeners(change, draft).await?;
    if listeners == measured.listeners {
        return Ok(measured);
    }
    let tally = tally(&measured.counts, draft.event_type.as_ref(), &listeners);
    Ok(Measured { listeners, tally, ..measured })
}

async fn note(change: &mut PgConnection, author: &Author, new: &NewReplay<'_>) -> sqlx::Result<()> {
    let detail = json!({
        "group": new.group_name,
        "endpoint_id": new.endpoint_id,
        "event_type": new.event_type,
        "source": new.source,
        "from": new.from_at,
        "to": new.to_at,
        "limit": new.event_limit,
        "only_missing": new.only_missing,
        "rate_per_second": new.rate_per_second,
        "matched": new.matched,
    });
    audit::write(change, author, &new.id.to_string(), detail).await
}
