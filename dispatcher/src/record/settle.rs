//! After the commit: what a batch of outcomes means for Redis. What does not come to be is healed by whoever reads the
//! entries again, and by the loader.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use eventrail_core::db::delivery::{Record, Recorded, Status};
use eventrail_core::group::GroupName;
use eventrail_core::protocol::{self, Cause, Follow};
use eventrail_core::rail::schedule::{self, Change, HORIZON, Member};
use eventrail_core::rail::{dead_letters, intake};
use tokio::sync::mpsc;

use super::{Committed, Item, Settled};
use crate::clock;
use crate::prepare::Context;
use crate::work::{Origin, TargetDone};

pub(super) async fn run_settler(
    context: &Context,
    mut batches: mpsc::Receiver<Vec<Committed>>,
    settled: mpsc::UnboundedSender<Settled>,
) {
    while let Some(batch) = batches.recv().await {
        let plan = Plan::of(&batch);
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for (stream, ids) in &plan.entries {
            intake::queue_settle(&mut pipeline, stream, ids);
        }
        for (group, changes) in &plan.changes {
            schedule::queue(&mut pipeline, &context.keys, group, changes);
        }
        for (group, letter) in &plan.letters {
            dead_letters::queue(&mut pipeline, &context.keys, group, letter);
        }
        if !pipeline.is_empty()
            && let Err(error) = pipeline.exec_async(&mut context.redis.connection()).await
        {
            // Entries stay pending and are found settled when they are read again; the loader adds retries.
            tracing::warn!(%error, "outcomes recorded, but Redis not settled; it will be");
        }
        for (group, (group_id, due)) in plan.due {
            let _ = settled.send(Settled::Scheduled { group_id, group, due });
        }
        let _ = settled.send(Settled::Released { members: plan.members, entries: plan.released });
    }
}

/// What a batch of committed outcomes means for Redis.
#[derive(Default)]
struct Plan {
    entries: HashMap<Arc<str>, Vec<String>>,
    changes: HashMap<GroupName, Vec<Change>>,
    letters: Vec<(GroupName, dead_letters::DeadLetter)>,
    due: HashMap<GroupName, (i64, DateTime<Utc>)>,
    members: Vec<Member>,
    released: Vec<(Arc<str>, i64)>,
}

impl Plan {
    fn of(batch: &[Committed]) -> Self {
        let mut plan = Self::default();
        let horizon = clock::now() + HORIZON;
        for Committed { item, row } in batch {
            match item {
                Item::Record { record, group, origin, .. } => {
                    let member = Member { event_id: record.event_id, endpoint_id: record.endpoint_id };
                    plan.members.push(member);
                    plan.target_done(origin, true);
                    let outcome = (record.ask, record.status);
                    if record.status == Status::Dead
                        && let Some(row) = row.as_ref().filter(|row| (row.ask, row.status) == outcome)
                    {
                        plan.letters.push((group.clone(), letter(record, row)));
                    }
                    let soon = record.next_attempt_at.filter(|at| *at <= horizon);
                    let cause = if matches!(origin, Origin::Retry) { Cause::Retry } else { Cause::Entry };
                    let row = row.map(|row| (row.ask, row.status));
                    match (protocol::follow(outcome, row, soon.is_some(), cause), soon) {
                        (Follow::Schedule, Some(at)) => plan.schedule(record.group_id, group, member, at),
                        (Follow::Schedule | Follow::Unschedule, _) => plan.unschedule(group, member),
                        (Follow::Leave, _) => {}
                    }
                }
                Item::Later { member, group_id, group, at } => {
                    plan.members.push(*member);
                    plan.schedule(*group_id, group, *member, *at);
                }
                Item::Unschedule { member, group } => {
                    plan.members.push(*member);
                    plan.unschedule(group, *member);
                }
                Item::GiveBack { member, origin } => {
                    plan.members.extend(member);
                    plan.target_done(origin, false);
                }
            }
        }
        plan
    }

    fn target_done(&mut self, origin: &Origin, has_outcome: bool) {
        let (Origin::Live(entry) | Origin::Single(_, entry)) = origin else { return };
        match entry.target_done(has_outcome) {
            TargetDone::OthersRemain => return,
            TargetDone::Release => {}
            TargetDone::Settle => {
                let ids = self.entries.entry(Arc::clone(&entry.stream)).or_default();
                ids.push(format!("{}-0", entry.position));
            }
        }
        self.released.push((Arc::clone(&entry.stream), entry.position));
    }

    fn schedule(&mut self, group_id: i64, group: &GroupName, member: Member, at: DateTime<Utc>) {
        self.changes.entry(group.clone()).or_default().push(Change::Set(member, at));
        let due = self.due.entry(group.clone()).or_insert((group_id, at));
        due.1 = due.1.min(at);
    }

    fn unschedule(&mut self, group: &GroupName, member: Member) {
        self.changes.entry(group.clone()).or_default().push(Change::Remove(member));
    }
}

fn letter(record: &Record, row: &Recorded) -> dead_letters::DeadLetter {
    let attempt = record.attempt.as_ref();
    let status = attempt.and_then(|attempt| attempt.status_code).map(|code| code.to_string());
    let parts = [
        record.last_error.map(ToOwned::to_owned),
        status,
        attempt.and_then(|attempt| attempt.error_detail.clone()),
    ];
    dead_letters::DeadLetter {
        event_id: record.event_id,
        endpoint_id: record.endpoint_id,
        attempts: row.attempt_count,
        last_error: parts.into_iter().flatten().collect::<Vec<_>>().join(" "),
        at: clock::now(),
    }
}
