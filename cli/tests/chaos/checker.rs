//! Compares what producers were told with what receivers got and with the record.

use std::collections::BTreeMap;
use std::time::Duration;

use eventrail_core::ids::EventId;

use crate::cluster::Cluster;
use crate::faults::Struck;
use crate::ledger::{Arrival, Record};
use crate::load;
use crate::plan::{Fault, Kind, Target};
use crate::report::{Figures, OfKind};

/// What a fault breaks may show so long after its healing: a lease that runs out, a consumer that is taken over.
const AFTERMATH: Duration = Duration::from_secs(30);

/// Waits until every receiver has what it is owed and nothing is left to do; notes what stays.
pub(crate) async fn wait_until_settled(cluster: &Cluster, patience: Duration) {
    let deadline = tokio::time::Instant::now() + patience;
    let (mut left, mut quiet) = (Vec::new(), 0);
    while tokio::time::Instant::now() < deadline && cluster.ledger.problems().is_empty() {
        left = if cluster.ledger.open().0 > 0 {
            cluster.ledger.owed()
        } else {
            match cluster.stack.lock().await.unsettled().await {
                Ok(left) => left,
                Err(error) => vec![error.to_string()],
            }
        };
        // Twice, since what is on its way from one place to the next may be in neither.
        quiet = if left.is_empty() { quiet + 1 } else { 0 };
        if quiet == 2 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for what in left {
        cluster.ledger.problem(format!("left at the end: {what}"));
    }
}

/// When nothing breaks any more and nothing is left to do, nothing comes twice.
pub(crate) async fn calm(cluster: &Cluster, patience: Duration) {
    if !cluster.ledger.problems().is_empty() {
        return;
    }
    if !load::post_in_calm(&cluster.ledger, &cluster.apis(), patience).await {
        return cluster.ledger.problem("producers are not answered in the calm at the end");
    }
    wait_until_settled(cluster, patience).await;
    let again: Vec<String> = {
        let record = cluster.ledger.record();
        let calm = record.arrivals.iter().filter(|arrival| arrival.number >= load::CALM_FROM);
        calm.filter(|arrival| arrival.again_after.is_some()).map(|arrival| format!("{arrival:?}")).collect()
    };
    for arrival in again {
        cluster.ledger.problem(format!("came again though nothing broke: {arrival}"));
    }
}

/// What a run shows that can't be the work of its faults, or that it has not looked at.
pub(crate) fn implausible(figures: &Figures) -> Vec<String> {
    let mut problems = Vec::new();
    // It is asked twice a second, where PostgreSQL and Redis are there.
    if (figures.watched as u64) * 10 < figures.seconds {
        problems.push(format!("the invariants were asked for {} times only", figures.watched));
    }
    // Several times what faults bring, and far less than a delivery that is made twice as a matter of course.
    if figures.duplicates * 20 > figures.deliveries {
        problems.push(format!("{} of {} deliveries came again", figures.duplicates, figures.deliveries));
    }
    problems
}

/// The record of the log against what was acknowledged and what arrived.
pub(crate) async fn compare_log(cluster: &Cluster) -> anyhow::Result<()> {
    let invariants = cluster.stack.lock().await.invariants();
    for problem in invariants.out_of_order().await? {
        cluster.ledger.problem(problem);
    }
    let log = invariants.log().await?;
    let mut problems = Vec::new();
    {
        let record = cluster.ledger.record();
        if log.len() != record.acknowledged.len() {
            let acknowledged = record.acknowledged.len();
            problems
                .push(format!("{acknowledged} events were acknowledged and {} are in the log", log.len()));
        }
        let log: BTreeMap<EventId, _> = log.into_iter().map(|(id, key, at)| (id, (key, at))).collect();
        for (id, event) in &record.acknowledged {
            match log.get(id) {
                None => problems.push(format!("{id} was acknowledged and is not in the log")),
                Some((key, at)) => {
                    if *key != event.draft.key() || event.created_at.is_some_and(|told| told != *at) {
                        problems
                            .push(format!("{id} is in the log under {key:?} since {at}, unlike {event:?}"));
                    }
                }
            }
        }
        for arrival in &record.arrivals {
            let same = record.acknowledged.get(&arrival.event).is_some_and(|event| {
                event.draft.number == arrival.number
                    && log
                        .get(&arrival.event)
                        .is_some_and(|(_, at)| at.timestamp_micros() == arrival.timestamp)
            });
            if !same {
                problems.push(format!("{arrival:?} is not what was acknowledged"));
            }
        }
    }
    for problem in problems {
        cluster.ledger.problem(problem);
    }
    Ok(())
}

/// Counts, and times after each fault.
pub(crate) fn figures(record: &Record, journal: &[Struck]) -> Figures {
    let mut figures = Figures {
        runs: 1,
        events: record.acknowledged.len(),
        deliveries: record.acknowledged.values().map(|event| event.draft.owed_to().len()).sum(),
        requests: record.arrivals.len(),
        failed_on_purpose: record.arrivals.iter().filter(|arrival| !arrival.accepted).count(),
        lost: record.acknowledged.keys().map(|id| record.missing(*id).len()).sum(),
        ..Figures::default()
    };
    let timeline = Timeline::of(record);
    let mut kinds: BTreeMap<Kind, OfKind> = BTreeMap::new();
    for struck in journal {
        let of_kind = kinds.entry(struck.fault.kind).or_default();
        of_kind.drawn += 1;
        of_kind.first_ms.extend(timeline.first_delivery(struck).map(milliseconds));
        of_kind.recovery_ms.extend(timeline.recovery(struck).map(milliseconds));
    }
    for arrival in record.arrivals.iter().filter(|arrival| arrival.again_after.is_some()) {
        figures.duplicates += 1;
        match cause(arrival, journal) {
            Some(struck) => kinds.entry(struck.fault.kind).or_default().duplicates += 1,
            None => figures.unexplained += 1,
        }
    }
    figures.kinds = kinds.into_iter().map(|(kind, of_kind)| (kind.name().to_owned(), of_kind)).collect();
    figures
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

/// When events were delivered, in two orders.
struct Timeline {
    /// When an event was posted, and the first delivery of it or of any posted later.
    first_after: Vec<(Duration, Duration)>,
    /// When an event was acknowledged, and the last delivery of it or of any acknowledged before.
    last_until: Vec<(Duration, Duration)>,
}

impl Timeline {
    fn of(record: &Record) -> Self {
        let (mut first_after, mut last_until) = (Vec::new(), Vec::new());
        for (id, event) in &record.acknowledged {
            let Some(accepted) = record.accepted.get(id) else { continue };
            first_after.extend(accepted.iter().flatten().min().map(|first| (event.posted_at, *first)));
            last_until.extend(accepted.iter().flatten().max().map(|last| (event.at, *last)));
        }
        first_after.sort_unstable();
        last_until.sort_unstable();
        let mut first = Duration::MAX;
        for (_, delivery) in first_after.iter_mut().rev() {
            first = first.min(*delivery);
            *delivery = first;
        }
        let mut last = Duration::ZERO;
        for (_, delivery) in &mut last_until {
            last = last.max(*delivery);
            *delivery = last;
        }
        Self { first_after, last_until }
    }

    /// From a fault to the first delivery of an event that was posted after it.
    fn first_delivery(&self, struck: &Struck) -> Option<Duration> {
        let later = self.first_after.partition_point(|(posted_at, _)| *posted_at < struck.began);
        self.first_after.get(later).map(|(_, first)| *first - struck.began)
    }

    /// From a fault's healing until all is delivered that was acknowledged until then.
    fn recovery(&self, struck: &Struck) -> Option<Duration> {
        let healed = struck.healed?;
        let until_then = self.last_until.partition_point(|(acknowledged_at, _)| *acknowledged_at <= healed);
        let (_, last) = self.last_until.get(until_then.checked_sub(1)?)?;
        Some(last.saturating_sub(healed))
    }
}

/// The fault that made a delivery come again: one that can, and was there or not long past when the delivery came
/// first; the nearest to that moment, and one that takes work from who had it rather than one that only slows.
fn cause<'a>(arrival: &Arrival, journal: &'a [Struck]) -> Option<&'a Struck> {
    let before = arrival.again_after?;
    let candidates = journal.iter().filter(|struck| {
        let lasted = struck.healed.is_none_or(|healed| healed + AFTERMATH >= before);
        can_repeat(&struck.fault) && struck.began <= arrival.at && lasted
    });
    candidates.min_by_key(|struck| {
        // Who dies or is taken for dead in between takes outcomes along that were not recorded.
        let died = matches!(struck.fault.target, Target::Process(_) | Target::Fleet { .. })
            && takes_work(struck.fault.kind)
            && struck.began >= before;
        if died {
            return Duration::ZERO;
        }
        let healed = struck.healed.unwrap_or(Duration::MAX);
        let distance =
            if before < struck.began { struck.began - before } else { before.saturating_sub(healed) };
        distance + Duration::from_millis(if takes_work(struck.fault.kind) { 1 } else { 2000 })
    })
}

/// APIs deliver nothing.
fn can_repeat(fault: &Fault) -> bool {
    match fault.target {
        Target::Process(process) | Target::Link { process, .. } => process >= 2,
        Target::Fleet { dispatchers } => dispatchers,
        Target::Postgres | Target::Redis | Target::Stream(_) | Target::Receiver(_) => true,
    }
}

/// Whether somebody else may do again what is being done.
fn takes_work(kind: Kind) -> bool {
    use Kind as K;
    let of_dispatchers = matches!(kind, K::KillDispatcher | K::FreezeDispatcher | K::RollDispatchers);
    let of_redis = matches!(
        kind,
        K::FlushAll | K::DeleteStream | K::KillRedis | K::RestartRedis | K::PromoteReplica | K::FreezeRedis
    );
    of_dispatchers || of_redis || matches!(kind, K::ReceiverCut | K::ReceiverHalfOpen | K::LinkHalfOpen)
}
