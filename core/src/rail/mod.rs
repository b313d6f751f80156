//! The transport: Redis keys, scripts and connections. Everything in it can be rebuilt from PostgreSQL.

pub mod doorbell;
