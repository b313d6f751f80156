//! What the invariants want to know and nobody in the system does.

use crate::dispatcher::{Dispatcher, DispatcherStep, Reach};
use crate::postgres::Postgres;
use crate::work::Answer;
use crate::world::{EndpointId, EventId, Left, Position, Set};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Ghost {
    /// Something has gone wrong that may bring duplicates.
    pub is_faulty: bool,
    /// What receivers have taken: event, endpoint, ask.
    pub taken: Vec<(EventId, EndpointId, Position)>,
    /// What somebody has asked for, to be delivered again.
    pub wishes: Vec<Wish>,
    /// What somebody has skipped: the endpoint, and the event's position.
    pub given_up: Vec<(EndpointId, Position)>,
}

impl Ghost {
    /// The cursor was moved to the end.
    pub fn give_up(&mut self, postgres: &Postgres) {
        for event in &postgres.events {
            let skipped = postgres.parked.iter().filter(|one| one.skips(one.endpoint, event.position));
            self.given_up.extend(skipped.map(|one| (one.endpoint, event.position)));
        }
        self.given_up.sort_unstable();
        self.given_up.dedup();
    }
}

/// Events in `(from, to]` are to be delivered again, to the endpoint or to all that were subscribed at the ask,
/// under it or a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wish {
    pub endpoint: Option<EndpointId>,
    pub from: Position,
    pub to: Position,
    pub ask: Position,
    pub only_missing: bool,
}

/// Counts what may happen only so often, and what receivers take.
pub fn count(
    left: &mut Left,
    ghost: &mut Ghost,
    dispatcher: &Dispatcher,
    step: DispatcherStep,
    disabled: Set,
) {
    match step {
        DispatcherStep::Try(index, answer) => {
            let work = &dispatcher.works[index];
            match answer {
                Answer::Taken => ghost.taken.push((work.event, work.endpoint, work.ask)),
                Answer::Failed => left.failures -= 1,
                Answer::Deferred if disabled & (1 << work.endpoint) != 0 => {}
                Answer::Deferred => left.deferrals -= 1,
            }
            ghost.taken.sort_unstable();
            if ghost.is_faulty {
                ghost.taken.dedup();
            }
        }
        DispatcherStep::HandOver { .. } => left.handovers -= 1,
        DispatcherStep::Settle(_, Reach::Half | Reach::None) => {
            left.lost_settles -= 1;
            ghost.is_faulty = true;
        }
        _ => {}
    }
}
