//! The protocol, checked: a model of what PostgreSQL, Redis, relays and dispatchers do to one another, and an
//! explorer that tries every order of their steps, with faults between any two of them.
//!
//! The model is one group's: a log, feeds, streams, a retry ZSET, rows. Each action of it is what is atomic in
//! production: one transaction ([`postgres`]), one script or command ([`redis`]), one request to a receiver. What
//! production decides between two of these it decides by the functions of [`eventrail_core::protocol`], which the
//! model calls too. What SQL and Lua decide is written here a second time, and `tests/conformance` holds both
//! against each other.
//!
//! Reading order: [`world`] (all of the state, and what a setup allows), [`postgres`], [`redis`], [`relay`],
//! [`changes`], [`work`], [`dispatcher`], [`step`] and [`faults`] (all that may happen), [`ghost`], [`invariants`],
//! [`explore`], [`walk`].
//!
//! What is left out: time (whatever waits may fall due at any moment, but see [`world::World::may_be_due`]), payloads,
//! rates, permits and breakers (an attempt may fail, be deferred or be handed over at any moment), groups (they share
//! nothing but the log), redrives (a replay of other events), retention.

pub mod changes;
pub mod dispatcher;
pub mod explore;
pub mod faults;
pub mod ghost;
pub mod invariants;
pub mod postgres;
pub mod redis;
pub mod relay;
pub mod step;
pub mod walk;
mod words;
pub mod work;
pub mod world;
