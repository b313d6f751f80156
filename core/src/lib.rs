//! What EventRail's parts share: the domain, all SQL, all Redis keys and scripts, signing, the egress
//! policy, configuration and telemetry.
//!
//! Reading order: [`ids`], [`event`], [`group`], [`endpoint`], [`matching`], [`retry`], [`verdict`],
//! [`secret`], [`signature`] and [`egress`] are pure: values in, values out. [`db`] is the record
//! (PostgreSQL), [`rail`] the transport (Redis). [`servers`] runs private ones for `eventrail up`.

pub mod config;
pub mod credentials;
pub mod db;
pub mod descriptors;
pub mod egress;
pub mod endpoint;
pub mod event;
pub mod feed;
pub mod group;
pub mod ids;
pub mod key;
pub mod matching;
pub mod metrics;
pub mod payload;
pub mod ping;
pub mod protocol;
pub mod rail;
pub mod retry;
pub mod secret;
pub mod servers;
pub mod signature;
pub mod start;
pub mod tally;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
pub mod vault;
pub mod verdict;
