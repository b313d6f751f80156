//! Asks for the invariants again and again while things break; what is away is asked again later.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventrail_core::testing::Invariants;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::Cluster;
use crate::ledger::Ledger;

const EVERY: Duration = Duration::from_millis(500);
/// So often in a row without a pause once a stream has lost something: a relay that goes on as if nothing had
/// happened leaves a hole where work is in hand, for as long as it is.
const CLOSELY: usize = 30;
const STEP: Duration = Duration::from_millis(10);
/// Nothing that is asked takes so long, unless its server is held.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// No retry is planned for later than this: the longest backoff is two seconds, a breaker's pauses are longer.
const FAR_AWAY: Duration = Duration::from_secs(330);

pub(crate) struct Watch {
    rounds: Arc<AtomicUsize>,
    _asking: AbortOnDropHandle<()>,
}

impl Watch {
    /// An event is owed, and a retry due, for no longer than `patience`, whatever breaks meanwhile.
    pub(crate) async fn start(cluster: &Arc<Cluster>, patience: Duration) -> Self {
        let rounds: Arc<AtomicUsize> = Arc::default();
        let invariants = cluster.stack.lock().await.invariants();
        let (counted, cluster) = (Arc::clone(&rounds), Arc::clone(cluster));
        let asking = tokio::spawn(async move {
            let (mut checked, mut losses, mut closely) = (0, 0, 0);
            loop {
                for _ in 0..EVERY.as_millis() / STEP.as_millis() {
                    let now = cluster.losses.load(Ordering::SeqCst);
                    closely = if now > losses { CLOSELY } else { closely };
                    losses = now;
                    if closely > 0 {
                        closely -= 1;
                        break;
                    }
                    // Now and then is enough, and leaves the servers to those who need them.
                    tokio::time::sleep(STEP).await;
                }
                for ended in cluster.ended_processes() {
                    cluster.ledger.problem(ended);
                }
                let (open, oldest) = cluster.ledger.open();
                if oldest > patience {
                    cluster.ledger.problem(format!("{open} events are owed, one for {} s", oldest.as_secs()));
                }
                let asked =
                    tokio::time::timeout(ANSWER_WITHIN, ask(&invariants, &cluster.ledger, checked, patience))
                        .await;
                match asked {
                    Ok(Ok(settled)) => {
                        counted.fetch_add(1, Ordering::SeqCst);
                        checked = settled;
                    }
                    Ok(Err(error)) if is_our_mistake(&error) => {
                        cluster
                            .ledger
                            .problem(format!("PostgreSQL does not understand the watch: {error:#}"));
                    }
                    Ok(Err(_)) | Err(_) => {}
                }
            }
        });
        Self { rounds, _asking: AbortOnDropHandle::new(asking) }
    }

    /// How often all was asked and answered.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.load(Ordering::SeqCst)
    }
}

/// Whether PostgreSQL, being there, refuses the question itself (class 42).
fn is_our_mistake(error: &anyhow::Error) -> bool {
    let database = error.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
    database.and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code.starts_with("42"))
}

/// Asks about what is above `checked`; answers up to where all is settled and need not be asked again.
async fn ask(
    invariants: &Invariants,
    ledger: &Ledger,
    checked: i64,
    patience: Duration,
) -> anyhow::Result<i64> {
    let settled = invariants.settled_by_all().await?;
    let mut wrong = invariants.settled_without_outcome_since(checked).await?;
    wrong.extend(invariants.holes_since(checked).await?);
    wrong.extend(invariants.overdue(patience).await?);
    wrong.extend(invariants.far_away(FAR_AWAY).await?);
    wrong.extend(invariants.dead().await?);
    for what in wrong {
        ledger.problem(what);
    }
    Ok(settled)
}
