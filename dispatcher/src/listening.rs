//! Which groups hear of their dead letters, for the recorder: known as long as the topology stays as it is, so
//! that a flood of dead letters asks once for each group.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use eventrail_core::db::{operational, topology};
use sqlx::PgPool;

#[derive(Default)]
pub(crate) struct Listening {
    /// The topology's version, on the server that was started then.
    read: Option<(i64, DateTime<Utc>)>,
    /// Whether a group hears of them, as far as it was asked.
    groups: HashMap<i64, bool>,
}

impl Listening {
    /// Makes sure that these groups are known as they are now.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub(crate) async fn look_up(&mut self, pool: &PgPool, groups: HashSet<i64>) -> sqlx::Result<()> {
        if groups.is_empty() {
            return Ok(());
        }
        // Read before the groups: what changes in between is asked again.
        let version = topology::version_of_server(pool).await?;
        if self.read != Some(version) {
            self.groups.clear();
            self.read = Some(version);
        }
        let unknown: Vec<i64> = groups.into_iter().filter(|id| !self.groups.contains_key(id)).collect();
        if !unknown.is_empty() {
            let told = operational::listening_for_dead(pool, &unknown).await?;
            self.groups.extend(unknown.into_iter().map(|id| (id, told.contains(&id))));
        }
        Ok(())
    }

    pub(crate) fn is_told(&self, group_id: i64) -> bool {
        self.groups.get(&group_id).is_some_and(|is_told| *is_told)
    }
}
