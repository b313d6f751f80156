//! Asks for the invariants again and again while things break; what is away is asked again later.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventrail_core::testing::Invariants;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::Cluster;
use crate::ledger::Ledger;

const EVERY: Duration = Duration::from_millis(500);
/// Nothing that is asked takes so long, unless its server is held.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A retry is due for no longer than this, whatever breaks meanwhile: a lease of 12 s of a dispatcher that died,
/// a breaker's first pauses, and what else is broken then.
const OVERDUE: Duration = Duration::from_secs(30);
/// Nor is it planned for later than this: the longest backoff is two seconds, a breaker's pauses are longer.
const FAR_AWAY: Duration = Duration::from_secs(330);
/// An event is delivered within this time after its acknowledgement, whatever breaks meanwhile.
const OWED_FOR: Duration = Duration::from_secs(60);

pub(crate) struct Watch {
    rounds: Arc<AtomicUsize>,
    _asking: AbortOnDropHandle<()>,
}

impl Watch {
    pub(crate) async fn start(cluster: &Arc<Cluster>) -> Self {
        let rounds: Arc<AtomicUsize> = Arc::default();
        let invariants = cluster.stack.lock().await.invariants();
        let (counted, cluster) = (Arc::clone(&rounds), Arc::clone(cluster));
        let asking = tokio::spawn(async move {
            let mut checked = 0;
            loop {
                tokio::time::sleep(EVERY).await;
                for ended in cluster.ended_processes() {
                    cluster.ledger.problem(ended);
                }
                let (open, oldest) = cluster.ledger.open();
                if oldest > OWED_FOR {
                    cluster.ledger.problem(format!("{open} events are owed, one for {} s", oldest.as_secs()));
                }
                let asked =
                    tokio::time::timeout(ANSWER_WITHIN, ask(&invariants, &cluster.ledger, checked)).await;
                if let Ok(Ok(settled)) = asked {
                    counted.fetch_add(1, Ordering::SeqCst);
                    checked = settled;
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

/// Asks about what is above `checked`; answers up to where all is settled and need not be asked again.
async fn ask(invariants: &Invariants, ledger: &Ledger, checked: i64) -> anyhow::Result<i64> {
    let settled = invariants.settled_by_all().await?;
    let mut wrong = invariants.settled_without_outcome_since(checked).await?;
    wrong.extend(invariants.holes_since(checked).await?);
    wrong.extend(invariants.overdue(OVERDUE).await?);
    wrong.extend(invariants.far_away(FAR_AWAY).await?);
    wrong.extend(invariants.dead().await?);
    for what in wrong {
        ledger.problem(what);
    }
    Ok(settled)
}
