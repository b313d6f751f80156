//! What SQL and Lua decide is written in the model a second time. Here both are taken through the same operations, in
//! an order drawn from a seed, on a real PostgreSQL and a real Redis, and compared after each.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod postgres;
mod redis;

use eventrail_core::ids::{EndpointId, EventId};

/// Operations of one run.
const STEPS: usize = 150;
const SEEDS: u64 = 20;

/// The model counts events and endpoints by small numbers.
fn number<Id: PartialEq>(all: &[Id], id: &Id) -> u8 {
    u8::try_from(all.iter().position(|one| one == id).unwrap()).unwrap()
}

fn set(endpoints: &[EndpointId], named: &[EndpointId]) -> u8 {
    named.iter().fold(0, |set, id| set | 1 << number(endpoints, id))
}

/// Events by the number that the model has for them.
#[derive(Default)]
struct Events(Vec<(u8, EventId)>);

impl Events {
    fn id(&self, number: u8) -> EventId {
        self.0.iter().find(|(known, _)| *known == number).unwrap().1
    }

    fn number(&self, id: EventId) -> u8 {
        self.0.iter().find(|(_, known)| *known == id).unwrap().0
    }
}
