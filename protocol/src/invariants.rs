//! The invariants of `ARCHITECTURE.md` and of the design's section 8, asked of one state, of one step, and of a
//! state in which nothing is left to do.

use std::fmt;

use eventrail_core::db::delivery::Status;

use crate::ghost::Wish;
use crate::postgres::{Event, Feed, Kind, Postgres, State, Subscription, Topology};
use crate::world::{EndpointId, Position, Setup, World, members};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Invariant {
    /// I2: all at or below a feed's settled position has an outcome, or is parked.
    Settled,
    /// I3: what is below a stream's tail is in the stream, or has an outcome.
    Gapless,
    /// I5: what is delivered or dead stays so until a higher ask; rows belong to the highest ask.
    Final,
    /// I5: a row counts the attempts of its ask.
    Counted,
    /// What a row says was delivered was taken by its receiver, under the row's ask.
    Truthful,
    /// I6: a stream holds its window.
    Bounded,
    /// Nothing is delivered twice under one ask while nothing goes wrong.
    NoDuplicate,
    /// I4, and the promise: once nothing goes wrong any more, everything that is owed is delivered or dead.
    AllDelivered,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    pub invariant: Invariant,
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)
    }
}

type Checked = Result<(), Breach>;

fn breach(invariant: Invariant, what: impl Into<String>) -> Checked {
    Err(Breach { invariant, what: what.into() })
}

/// Everything that was ever written of the topology, unlike [`Postgres::topology`].
fn all(postgres: &Postgres) -> Topology {
    Topology {
        version: postgres.version,
        subscriptions: postgres.subscriptions.clone(),
        parked: postgres.parked.clone(),
    }
}

/// Whether a feed owes no more of an event to an endpoint. What is not missing was taken under any ask: the row may
/// belong to another since, that is not ended yet.
fn has_outcome(world: &World, feed: &Feed, event: Event, endpoint: EndpointId) -> bool {
    let had = || feed.leaves_out(event.position) && has_taken(world, event, endpoint);
    world.postgres.row(event.id, endpoint).is_some_and(|row| row.ask >= feed.ask || had())
}

fn has_taken(world: &World, event: Event, endpoint: EndpointId) -> bool {
    world.ghost.taken.iter().any(|taken| (taken.0, taken.1) == (event.id, endpoint))
}

/// What a feed owes of an event and nobody has an outcome for.
fn owed(world: &World, topology: &Topology, feed: &Feed, event: Event) -> Option<EndpointId> {
    members(topology.targets(feed, event)).find(|endpoint| !has_outcome(world, feed, event, *endpoint))
}

/// What must hold in every state.
///
/// # Errors
/// Something does not.
pub fn always(world: &World, setup: &Setup) -> Checked {
    let postgres = &world.postgres;
    let topology = all(postgres);
    for feed in postgres.feeds.iter().filter(|feed| feed.state != State::Closed) {
        if feed.until(feed.settled) != feed.settled {
            return breach(Invariant::Settled, format!("feed {} is settled beyond its end", feed.id));
        }
        for event in postgres.read(feed.from, feed.settled) {
            if let Some(endpoint) = owed(world, &topology, feed, event) {
                let Feed { id, settled, .. } = feed;
                let what = format!(
                    "feed {id} has settled {settled}, and event {} has no outcome for endpoint {endpoint}",
                    event.position
                );
                return breach(Invariant::Settled, what);
            }
        }
    }
    streams(world, setup, &topology)?;
    for row in &postgres.rows {
        let made = postgres.attempts_of((row.event, row.endpoint, row.ask));
        if row.attempts != made {
            let what = format!("{row:?} counts {} attempts, and {made} were made", row.attempts);
            return breach(Invariant::Counted, what);
        }
        let was_taken = world.ghost.taken.contains(&(row.event, row.endpoint, row.ask));
        if row.status == Status::Delivered && !was_taken {
            return breach(Invariant::Truthful, format!("{row:?}, and its receiver has not taken it"));
        }
    }
    let taken = &world.ghost.taken;
    if !world.ghost.is_faulty
        && let Some(twice) = taken.windows(2).find(|pair| pair[0] == pair[1])
    {
        let (event, endpoint, ask) = twice[0];
        let what = format!("endpoint {endpoint} took event {event} twice under ask {ask}");
        return breach(Invariant::NoDuplicate, what);
    }
    Ok(())
}

fn streams(world: &World, setup: &Setup, topology: &Topology) -> Checked {
    let postgres = &world.postgres;
    for stream in &world.redis.streams {
        // A relay appends all that waits at once: a batch more than the window.
        let most = usize::from(setup.window) + usize::from(setup.batch);
        if stream.entries.len() > most {
            return breach(Invariant::Bounded, format!("a stream holds {} entries", stream.entries.len()));
        }
        let feed = postgres.feed(stream.feed.id);
        if feed.epoch != stream.feed.epoch || feed.state != State::Active {
            continue;
        }
        for event in postgres.read(feed.settled.max(feed.from), feed.until(stream.tail)) {
            let is_there = stream.entries.iter().any(|entry| entry.position == event.position);
            if let Some(endpoint) = (!is_there).then(|| owed(world, topology, feed, event)).flatten() {
                let what = format!(
                    "the tail of feed {} is {}, and event {} is not in its stream and has no outcome for \
                     endpoint {endpoint}",
                    feed.id, stream.tail, event.position
                );
                return breach(Invariant::Gapless, what);
            }
        }
    }
    Ok(())
}

/// What a step must leave as it is. A crash of PostgreSQL may lose rows only in a variant, which is not what
/// this looks for.
///
/// # Errors
/// It has not.
pub fn between(before: &World, after: &World) -> Checked {
    for old in &before.postgres.rows {
        let Some(new) = after.postgres.row(old.event, old.endpoint) else { continue };
        let is_final = !old.status.waits();
        if new.ask < old.ask || is_final && new.ask == old.ask && new.status != old.status {
            return breach(Invariant::Final, format!("{old:?} became {new:?}"));
        }
    }
    for (old, new) in before.postgres.feeds.iter().zip(&after.postgres.feeds) {
        if old.epoch == new.epoch && new.settled < old.settled {
            let what = format!("the settled position of feed {} went back", old.id);
            return breach(Invariant::Settled, what);
        }
    }
    Ok(())
}

/// What must hold once nothing is left to do.
///
/// # Errors
/// It does not.
pub fn at_rest(world: &World) -> Checked {
    let postgres = &world.postgres;
    let failed = |what: String| breach(Invariant::AllDelivered, what);
    for event in &postgres.events {
        for endpoint in subscribed(postgres, event.position, event.kind) {
            let row = postgres.row(event.id, endpoint);
            if is_given_up(world, endpoint, *event) || row.is_some_and(|row| !row.status.waits()) {
                continue;
            }
            return failed(format!("event {} for endpoint {endpoint} ends as {row:?}", event.position));
        }
    }
    if let Some(feed) = postgres.feeds.iter().find(|feed| {
        feed.state == State::Closed
            || feed.state == State::Active && (feed.kind != Kind::Live || feed.settled < postgres.head())
    }) {
        return failed(format!("feed {} ends at {}, in the state {:?}", feed.id, feed.settled, feed.state));
    }
    if let Some(row) = postgres.rows.iter().find(|row| row.status.waits()) {
        return failed(format!("{row:?} waits for ever"));
    }
    if let Some(open) = postgres.parked.iter().find(|one| one.to.is_none()) {
        return failed(format!("endpoint {} stays parked", open.endpoint));
    }
    if let Some(stream) =
        world.redis.streams.iter().find(|stream| {
            postgres.feed(stream.feed.id).epoch == stream.feed.epoch && !stream.entries.is_empty()
        })
    {
        return failed(format!("the stream of feed {} keeps {:?}", stream.feed.id, stream.entries));
    }
    wishes(world)
}

/// Who wants events of this kind at a position.
fn subscribed(postgres: &Postgres, at: Position, kind: u8) -> impl Iterator<Item = EndpointId> + '_ {
    let covers = move |one: &&Subscription| {
        one.kinds & (1 << kind) != 0 && one.from < at && one.to.is_none_or(|to| at <= to)
    };
    postgres.subscriptions.iter().filter(covers).map(|one| one.endpoint)
}

/// Whether somebody has skipped it, be it that the cursor went back again.
fn is_given_up(world: &World, endpoint: EndpointId, event: Event) -> bool {
    world.ghost.given_up.iter().any(|(of, position)| (*of, *position) == (endpoint, event.position))
}

fn is_skipped(postgres: &Postgres, endpoint: EndpointId, event: Event) -> bool {
    postgres.parked.iter().any(|one| one.skips(endpoint, event.position))
}

/// What somebody has asked for again was delivered again.
fn wishes(world: &World) -> Checked {
    let postgres = &world.postgres;
    let last = world.ghost.wishes.iter().rfind(|wish| wish.endpoint.is_none());
    // Of cursors, the last that was moved back counts.
    let counts = |wish: &&Wish| wish.endpoint.is_some() || last == Some(wish);
    for wish in world.ghost.wishes.iter().filter(counts) {
        for event in postgres.read(wish.from, wish.to) {
            let wanted = subscribed(postgres, wish.ask, event.kind);
            for endpoint in wanted.filter(|one| wish.endpoint.is_none_or(|only| *one == only)) {
                let row = postgres.row(event.id, endpoint);
                let had = || wish.only_missing && has_taken(world, event, endpoint);
                let is_fulfilled = row.is_some_and(|row| row.ask >= wish.ask || had());
                let is_given_up = wish.endpoint.is_none() && is_skipped(postgres, endpoint, event);
                if !is_fulfilled && !is_given_up {
                    let what = format!("{wish:?} left event {} as {row:?}", event.position);
                    return breach(Invariant::AllDelivered, what);
                }
            }
        }
    }
    Ok(())
}
