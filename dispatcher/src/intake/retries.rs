//! Due retries: claimed from their group's ZSET under a lease, which is renewed while they are in hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use eventrail_core::db::answered;
use eventrail_core::rail::schedule::Member;

use super::{BACKOFF, Done, Intake, READ_COUNT};
use crate::clock;
use crate::prepare::{self, Claimed};
use crate::record::Item;

impl Intake {
    pub(super) fn on_claimed(&mut self, group_id: i64, answer: anyhow::Result<Claimed>) {
        let now = Instant::now();
        let Some(slot) = self.retries.get_mut(&group_id) else { return };
        slot.claiming = false;
        match answer {
            Ok(claimed) => {
                match claimed.next {
                    _ if claimed.full => slot.due_by(now),
                    Some(wait) => slot.due_by(now + wait.max(Duration::from_millis(5))),
                    None => {}
                }
                for work in claimed.works {
                    self.place(work, now);
                }
            }
            Err(error) => {
                tracing::warn!(group.id = group_id, error = format!("{error:#}"), "due retries not claimed");
                slot.due_by(now + BACKOFF);
            }
        }
    }

    pub(super) fn claim_all(&mut self, now: Instant) {
        let due: Vec<i64> =
            self.retries.iter().filter(|(_, slot)| slot.is_due(now)).map(|(group_id, _)| *group_id).collect();
        for group_id in due {
            self.claim(group_id, now);
        }
        self.retries.retain(|_, slot| !slot.is_idle());
    }

    pub(super) fn claim(&mut self, group_id: i64, now: Instant) {
        let most = self.most_held.saturating_sub(self.held.prompt()).min(READ_COUNT);
        let Some(slot) = self.retries.get_mut(&group_id).filter(|slot| slot.is_due(now)) else { return };
        if most == 0 {
            return;
        }
        slot.begin_claim();
        let (context, group) = (Arc::clone(&self.context), slot.group.clone());
        self.tasks.spawn(async move {
            let answer = answered(prepare::retries(&context, group_id, &group, most)).await;
            Done::Claimed { group_id, answer }
        });
    }

    pub(super) fn renew_leases(&mut self) {
        if self.leased.is_empty() {
            return;
        }
        let in_hand = self.leased.iter().map(|(member, leased)| (leased.group.clone(), *member)).collect();
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move { Done::Renewed(prepare::renew(&context, in_hand).await) });
    }

    /// A retry that this process will not try any more is due for others at once.
    pub(super) fn give_back(&mut self, member: Member) {
        let Some(leased) = self.leased.get(&member).filter(|leased| !leased.handed_on) else { return };
        let (group_id, group) = (leased.group_id, leased.group.clone());
        self.send(Item::Later { member, group_id, group, at: clock::now() });
    }
}
