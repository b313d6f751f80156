//! What goes wrong: processes die, Redis forgets, PostgreSQL crashes.

use crate::relay::Relay;
use crate::step::Action;
use crate::work::Source;
use crate::world::World;

/// All that may go wrong now.
pub fn faults(world: &World, found: &mut Vec<Action>) {
    let left = &world.left;
    if left.crashes > 0 {
        let has_memory = |relay: &Relay| *relay != Relay::default();
        let relays = world.relays.iter().enumerate().filter(|(_, relay)| has_memory(relay));
        found.extend(relays.map(|(id, _)| Action::KillRelay(id as u8)));
        let busy = world.dispatchers.iter().enumerate();
        let busy = busy.filter(|(_, one)| !one.held.is_empty() || !one.works.is_empty());
        found.extend(busy.map(|(id, _)| Action::KillDispatcher(id as u8)));
    }
    let is_empty = world.redis.streams.is_empty() && world.redis.retries.is_empty();
    if left.flushes > 0 && !is_empty {
        found.push(Action::FlushRedis);
    }
    if left.rollbacks > 0 {
        match &world.snapshot {
            None => found.push(Action::SnapshotRedis),
            Some(snapshot) if **snapshot != world.redis => found.push(Action::RestoreRedis),
            Some(_) => {}
        }
    }
    if world.postgres.flushed.is_some() {
        found.push(Action::FlushRows);
    }
    if left.outages > 0 {
        found.push(Action::CrashPostgres);
    }
}

/// Does it.
pub fn go_wrong(world: &mut World, fault: Action) {
    let World { postgres, redis, relays, dispatchers, left, snapshot, .. } = world;
    match fault {
        Action::KillRelay(id) => {
            left.crashes -= 1;
            relays[usize::from(id)] = Relay::default();
        }
        Action::KillDispatcher(id) => {
            left.crashes -= 1;
            dispatchers[usize::from(id)] = Default::default();
            redis.bury(id);
            if let Some(snapshot) = snapshot {
                snapshot.bury(id);
            }
        }
        Action::FlushRedis => {
            left.flushes -= 1;
            *redis = Default::default();
        }
        Action::RestoreRedis => {
            left.rollbacks -= 1;
            if let Some(snapshot) = snapshot.take() {
                *redis = *snapshot;
            }
            // A lease that comes back is renewed only by whom still has it in hand.
            redis.end_leases(|id, event, endpoint| {
                let mut claimed =
                    dispatchers[usize::from(id)].works.iter().filter(|work| work.source == Source::Retry);
                claimed.any(|work| (work.event, work.endpoint) == (event, endpoint))
            });
        }
        Action::CrashPostgres => {
            left.outages -= 1;
            postgres.open.clear();
            if let Some((rows, attempts)) = postgres.flushed.take() {
                (postgres.rows, postgres.attempts) = (rows, attempts);
            }
            relays.fill(Relay::default());
        }
        _ => {}
    }
}
