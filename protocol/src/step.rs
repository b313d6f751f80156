//! What can happen next, and what it does: the steps of relays and dispatchers, of those who use the system, and,
//! by [`crate::faults`], what goes wrong.

use crate::dispatcher::{DispatcherStep, Reach};
use crate::faults::{faults, go_wrong};
use crate::ghost::{self, Wish};
use crate::postgres::State;
use crate::redis::{Owner, Turn};
use crate::relay::{Pending, Relay, RelayStep};
use crate::work::{Answer, Source, Stage};
use crate::world::{EndpointId, Setup, Variant, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// An event is accepted, of this kind.
    Publish(u8),
    /// The same in two steps, of which the second may not come.
    Begin(u8),
    Commit(usize),
    RollBack(usize),
    ChangeFilter(EndpointId),
    /// Switches an endpoint off or on.
    Switch(EndpointId),
    Replay(EndpointId),
    MoveBack,
    MoveToEnd,
    Relay(u8, RelayStep),
    Dispatcher(u8, DispatcherStep),
    KillRelay(u8),
    KillDispatcher(u8),
    FlushRedis,
    SnapshotRedis,
    RestoreRedis,
    /// Only in a variant: rows reach the disk.
    FlushRows,
    CrashPostgres,
}

impl Action {
    /// Whether it is bound to happen, if nothing else does: not for what users do and what goes wrong.
    pub fn is_fair(&self, world: &World) -> bool {
        match self {
            Self::Relay(..) | Self::Commit(_) | Self::FlushRows => true,
            Self::Dispatcher(_, DispatcherStep::Try(_, answer)) => *answer == Answer::Taken,
            Self::Dispatcher(_, DispatcherStep::Settle(_, reach)) => *reach == Reach::All,
            Self::Dispatcher(..) => true,
            // At the end all endpoints are switched on.
            Self::Switch(endpoint) => world.postgres.disabled & (1 << endpoint) != 0,
            _ => false,
        }
    }
}

/// All that may happen now.
pub fn actions(world: &World, setup: &Setup) -> Vec<Action> {
    let mut found = Vec::with_capacity(32);
    users(world, setup, &mut found);
    for (id, relay) in world.relays.iter().enumerate() {
        for step in relay_steps(world, setup, relay) {
            found.push(Action::Relay(id as u8, step));
        }
    }
    for id in 0..world.dispatchers.len() {
        dispatcher_steps(world, setup, id as u8, &mut found);
    }
    faults(world, &mut found);
    found
}

fn users(world: &World, setup: &Setup, found: &mut Vec<Action>) {
    let (left, postgres) = (&world.left, &world.postgres);
    let is_unlocked = postgres.is_unlocked();
    found.extend((0..postgres.open.len()).map(Action::Commit));
    if setup.slow_commits {
        found.extend((0..postgres.open.len()).map(Action::RollBack));
    }
    if left.events > 0 && (is_unlocked || setup.variant == Variant::NaiveTail) {
        let kinds = if setup.left.filters > 0 { 0..2 } else { 0..1 };
        found.extend(kinds.map(if setup.slow_commits { Action::Begin } else { Action::Publish }));
    }
    if !is_unlocked {
        return;
    }
    for endpoint in 0..setup.endpoints {
        let is_off = postgres.disabled & (1 << endpoint) != 0;
        if left.filters > 0 {
            found.push(Action::ChangeFilter(endpoint));
        }
        if left.disables > 0 || is_off {
            found.push(Action::Switch(endpoint));
        }
        if left.replays > 0 && !postgres.events.is_empty() {
            found.push(Action::Replay(endpoint));
        }
    }
    // Otherwise it would not go back.
    if left.resets > 0 && postgres.live().settled > START {
        found.push(Action::MoveBack);
    }
    if left.skips > 0 {
        found.push(Action::MoveToEnd);
    }
}

/// The beginning of the log.
const START: u8 = 1;

fn relay_steps(world: &World, setup: &Setup, relay: &Relay) -> Vec<RelayStep> {
    let postgres = &world.postgres;
    let is_unlocked = postgres.is_unlocked();
    let mut found = Vec::new();
    match relay.pending {
        Pending::Nothing => {}
        Pending::Finish { .. } | Pending::CatchUp(_) if !is_unlocked => return found,
        _ => {
            found.push(RelayStep::Go);
            return found;
        }
    }
    let is_behind = relay.head < postgres.head() || relay.topology.version != postgres.version;
    if !relay.leads || is_behind || relay.feeds.iter().any(|one| one.awaits_its_end(relay.head)) {
        found.push(RelayStep::Look);
    }
    if !relay.leads {
        return found;
    }
    for tracked in &relay.feeds {
        let id = tracked.feed.id;
        if !tracked.is_known {
            found.push(RelayStep::Inspect(id));
            continue;
        }
        if !tracked.waiting.is_empty() {
            found.push(RelayStep::Append(id));
        }
        // One with an end may just have been ended by this very relay.
        if !relay.is_fresh && tracked.feed.to.is_some() {
            continue;
        }
        if relay.is_fresh && tracked.lags(relay.head) {
            found.push(RelayStep::Catch(id));
        }
        if tracked.is_dirty {
            found.push(RelayStep::Settle(id));
        } else if tracked.published() > tracked.settled {
            found.push(RelayStep::SettleIdle(id));
        }
    }
    if is_unlocked && relay.is_fresh && setup.variant != Variant::ParkingByDispatchers {
        found.extend((0..setup.endpoints).filter(|id| postgres.wants_parking(*id)).map(RelayStep::Park));
    }
    if is_unlocked {
        found.extend((0..setup.endpoints).filter(|id| postgres.may_unpark(*id)).map(RelayStep::Unpark));
    }
    if setup.variant != Variant::LostLoader {
        found.extend(loads(world, setup));
    }
    let closed = postgres.feeds.iter().filter(|feed| feed.state == State::Closed);
    found.extend(closed.map(|feed| RelayStep::Sweep(feed.id)));
    found
}

/// Deliveries that wait and that Redis has lost. Without a fault, none is put back that was recorded a moment ago
/// and is about to be scheduled: the loader leaves it three seconds.
fn loads<'a>(world: &'a World, setup: &'a Setup) -> impl Iterator<Item = RelayStep> + 'a {
    let is_there = |event, endpoint| {
        world.redis.retries.iter().any(|one| (one.event, one.endpoint) == (event, endpoint))
    };
    let waits = world.postgres.rows.iter().filter(|row| world.postgres.falls_due(row.event, row.endpoint));
    waits
        .filter(move |row| !is_there(row.event, row.endpoint))
        .filter(move |row| world.may_be_due(setup, row.event, row.endpoint))
        .map(|row| RelayStep::Load(row.event, row.endpoint))
}

fn dispatcher_steps(world: &World, setup: &Setup, id: u8, found: &mut Vec<Action>) {
    let dispatcher = &world.dispatchers[usize::from(id)];
    let mut add = |step| found.push(Action::Dispatcher(id, step));
    for stream in &world.redis.streams {
        let key = (stream.feed.id, stream.feed.epoch);
        if stream.entries.iter().any(|entry| entry.owner == Owner::Nobody) {
            add(DispatcherStep::Read(key));
        }
        if stream.entries.iter().any(|entry| entry.owner == Owner::Dead) {
            add(DispatcherStep::TakeOver(key));
        }
        for entry in stream.entries.iter().filter(|entry| entry.owner == Owner::Dispatcher(id)) {
            if !dispatcher.holds(key, entry.position) {
                add(DispatcherStep::ReadOwn(key, entry.position));
            }
        }
    }
    for (index, held) in dispatcher.held.iter().enumerate() {
        if !held.is_prepared {
            add(DispatcherStep::Prepare(index));
        } else if dispatcher.owes_nothing(held) {
            add(DispatcherStep::Drop(index));
        }
    }
    for one in world.redis.retries.iter().filter(|one| one.turn == Turn::Waits) {
        if !dispatcher.works.iter().any(|work| (work.event, work.endpoint) == (one.event, one.endpoint)) {
            let is_due = world.may_be_due(setup, one.event, one.endpoint);
            add(DispatcherStep::Claim { event: one.event, endpoint: one.endpoint, is_due });
        }
    }
    for index in 0..dispatcher.works.len() {
        work_steps(world, setup, id, index, &mut add);
    }
    if setup.variant == Variant::ParkingByDispatchers {
        add(DispatcherStep::Believe);
        let wanted = (0..setup.endpoints).filter(|id| world.postgres.wants_parking(*id));
        wanted.for_each(|endpoint| add(DispatcherStep::Park(endpoint)));
    }
}

fn work_steps(world: &World, setup: &Setup, id: u8, index: usize, add: &mut impl FnMut(DispatcherStep)) {
    let dispatcher = &world.dispatchers[usize::from(id)];
    let (left, work) = (&world.left, &dispatcher.works[index]);
    let is_off = world.postgres.disabled & (1 << work.endpoint) != 0;
    if left.handovers > 0
        && matches!(work.stage, Stage::Ready | Stage::Tried { .. })
        && dispatcher.is_live(work)
    {
        add(DispatcherStep::HandOver { index, is_soon: true });
        add(DispatcherStep::HandOver { index, is_soon: false });
    }
    match work.stage {
        Stage::Claimed { is_due } => {
            let is_due = is_due && world.may_be_due(setup, work.event, work.endpoint);
            add(DispatcherStep::PrepareRetry { index, is_due });
        }
        Stage::Ready => {
            add(DispatcherStep::Try(index, Answer::Taken));
            if left.failures > 0 {
                add(DispatcherStep::Try(index, Answer::Failed));
            }
            let is_live = dispatcher.is_live(work);
            if is_live && (left.deferrals > 0 || is_off) {
                add(DispatcherStep::Try(index, Answer::Deferred));
            }
            if is_off && !is_live && work.source != Source::HandedOver {
                add(DispatcherStep::PutOff(index));
            }
        }
        Stage::Tried { .. } if setup.variant == Variant::AcknowledgeBeforeRecord => {
            add(DispatcherStep::Settle(index, Reach::All));
        }
        Stage::Tried { .. } | Stage::Settled { .. } => add(DispatcherStep::Record(index)),
        // Redis hears of outcomes in the order in which they were committed.
        Stage::Recorded { .. }
            if dispatcher.is_handing_over(work) && setup.variant != Variant::SettledInAnyOrder => {}
        Stage::Recorded { .. } => {
            add(DispatcherStep::Settle(index, Reach::All));
            if left.lost_settles > 0 {
                add(DispatcherStep::Settle(index, Reach::Half));
                add(DispatcherStep::Settle(index, Reach::None));
            }
        }
    }
}

/// Does it. The action must be one of [`actions`].
pub fn apply(world: &mut World, setup: &Setup, action: Action) {
    let World { postgres, redis, relays, dispatchers, left, ghost, snapshot } = world;
    match action {
        Action::Publish(kind) => {
            left.events -= 1;
            postgres.begin_event(kind);
            postgres.commit_event(0);
        }
        Action::Begin(kind) => {
            left.events -= 1;
            postgres.begin_event(kind);
        }
        Action::Commit(index) => postgres.commit_event(index),
        Action::RollBack(index) => drop(postgres.open.remove(index)),
        Action::ChangeFilter(endpoint) => {
            left.filters -= 1;
            postgres.change_filter(endpoint);
        }
        Action::Switch(endpoint) => {
            if postgres.disabled & (1 << endpoint) == 0 {
                left.disables -= 1;
            }
            postgres.switch(endpoint);
        }
        Action::Replay(endpoint) => {
            left.replays -= 1;
            let feed = postgres.create_replay(endpoint, setup.only_missing);
            ghost.wishes.extend(feed.map(|feed| Wish {
                endpoint: Some(endpoint),
                from: feed.from,
                to: feed.to.unwrap_or(feed.ask),
                ask: feed.ask,
                only_missing: setup.only_missing,
            }));
        }
        Action::MoveBack => {
            left.resets -= 1;
            let only_missing = setup.only_missing;
            let ask = postgres.move_back(START, only_missing);
            if setup.variant == Variant::OwedForgotten {
                postgres.forget_owed();
            }
            ghost.wishes.push(Wish { endpoint: None, from: START, to: ask, ask, only_missing });
        }
        Action::MoveToEnd => {
            left.skips -= 1;
            ghost.is_faulty = true;
            postgres.move_to_end();
            ghost.give_up(postgres);
        }
        Action::Relay(id, step) => relays[usize::from(id)].step(step, setup, postgres, redis),
        Action::Dispatcher(id, step) => {
            let dispatcher = &mut dispatchers[usize::from(id)];
            ghost::count(left, ghost, dispatcher, step, postgres.disabled);
            dispatcher.step(id, step, setup, postgres, redis);
        }
        Action::SnapshotRedis => *snapshot = Some(Box::new(redis.clone())),
        Action::FlushRows => postgres.flushed = None,
        fault => {
            ghost.is_faulty = true;
            go_wrong(world, fault);
        }
    }
}
