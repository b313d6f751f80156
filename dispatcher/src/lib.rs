//! The dispatcher: the relay that copies the log into the groups' streams, and the delivery of what stands
//! in them. [`run`] is the whole of it; replicas need nothing but PostgreSQL and Redis.
//!
//! Reading order: [`relay`] (log to streams), `intake` (what is read and started when), `lanes` and
//! `breaker` (who may take a permit), `prepare` (what is owed), `deliver` (the story of one attempt),
//! `record` (outcome to PostgreSQL, then Redis is settled), `supervisor` (what runs, and how it stops).

mod background;
mod breaker;
mod classify;
mod clock;
mod deliver;
mod event;
mod footing;
mod http_client;
mod intake;
mod lane;
mod lanes;
mod listening;
pub mod maintenance;
mod ping;
mod prepare;
mod probes;
mod recipients;
mod record;
pub mod relay;
mod slots;
mod supervisor;
mod told;
mod work;

#[doc(hidden)]
pub use event::request_body;
#[doc(hidden)]
pub use http_client::{ReadAnswer, read_answer};
pub use ping::Pings;
pub use supervisor::run;
