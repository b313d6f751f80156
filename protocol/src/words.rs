//! Actions in words, for counterexamples.

use std::fmt;

use crate::dispatcher::DispatcherStep;
use crate::relay::RelayStep;
use crate::step::Action;

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(kind) => write!(f, "an event of kind {kind} is accepted"),
            Self::Begin(kind) => write!(f, "an event of kind {kind} draws its position"),
            Self::Commit(nth) => write!(f, "open event {nth} is committed"),
            Self::RollBack(nth) => write!(f, "open event {nth} is rolled back"),
            Self::ChangeFilter(endpoint) => write!(f, "endpoint {endpoint} changes its filter"),
            Self::Switch(endpoint) => write!(f, "endpoint {endpoint} is switched off or on"),
            Self::Replay(endpoint) => write!(f, "a replay for endpoint {endpoint} is asked for"),
            Self::MoveBack => write!(f, "the cursor is moved back to the start"),
            Self::MoveToEnd => write!(f, "the cursor is moved to the end"),
            Self::Relay(id, step) => write!(f, "relay {id} {step}"),
            Self::Dispatcher(id, step) => write!(f, "dispatcher {id} {step}"),
            Self::KillRelay(id) => write!(f, "relay {id} dies and starts again"),
            Self::KillDispatcher(id) => write!(f, "dispatcher {id} dies and starts again"),
            Self::FlushRedis => write!(f, "Redis loses everything"),
            Self::SnapshotRedis => write!(f, "Redis is in the state that it will go back to"),
            Self::RestoreRedis => write!(f, "Redis goes back to that state"),
            Self::FlushRows => write!(f, "PostgreSQL's rows reach the disk"),
            Self::CrashPostgres => write!(f, "PostgreSQL crashes and starts again"),
        }
    }
}

impl fmt::Display for RelayStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Look => write!(f, "reads the head of the log, and the topology if it has changed"),
            Self::Append(feed) => write!(f, "appends what waits for feed {feed}"),
            Self::Inspect(feed) => write!(f, "looks where the stream of feed {feed} stands"),
            Self::Catch(feed) => write!(f, "reads the log for feed {feed}, which lags"),
            Self::Settle(feed) => write!(f, "looks how far feed {feed} is settled"),
            Self::SettleIdle(feed) => write!(f, "takes feed {feed}, which is idle, as settled"),
            Self::Park(endpoint) => write!(f, "parks endpoint {endpoint}"),
            Self::Unpark(endpoint) => write!(f, "brings endpoint {endpoint} back"),
            Self::Load(event, endpoint) => {
                write!(f, "finds that event {event} waits for endpoint {endpoint}")
            }
            Self::Sweep(feed) => write!(f, "deletes the stream of feed {feed}, which was ended"),
            Self::Go => write!(f, "goes on with what it has begun"),
        }
    }
}

impl fmt::Display for DispatcherStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read((feed, epoch)) => write!(f, "reads an entry of feed {feed}, epoch {epoch}"),
            Self::TakeOver((feed, epoch)) => {
                write!(f, "takes over an entry of feed {feed}, epoch {epoch}, that a dead one held")
            }
            Self::ReadOwn((feed, epoch), position) => {
                write!(f, "reads its own entry {position} of feed {feed}, epoch {epoch}, again")
            }
            Self::Prepare(nth) => write!(f, "looks up the outcomes of its entry {nth}"),
            Self::Drop(nth) => write!(f, "settles its entry {nth}, which owes nothing"),
            Self::Claim { event, endpoint, is_due } => {
                let early = if *is_due { "" } else { ", too early" };
                write!(f, "claims the retry of event {event} for endpoint {endpoint}{early}")
            }
            Self::PrepareRetry { index, is_due: true } => write!(f, "reads the row of its work {index}"),
            Self::PrepareRetry { index, is_due: false } => {
                write!(f, "reads the row of its work {index}, which is not due yet")
            }
            Self::HandOver { index, is_soon } => {
                write!(f, "hands its work {index} over, {}", if *is_soon { "until soon" } else { "for long" })
            }
            Self::Try(nth, answer) => write!(f, "tries its work {nth}: {answer:?}"),
            Self::PutOff(nth) => write!(f, "puts its work {nth} off"),
            Self::Record(nth) => write!(f, "records its work {nth}"),
            Self::Settle(nth, reach) => write!(f, "settles its work {nth} in Redis: {reach:?}"),
            Self::Believe => write!(f, "reads who is parked"),
            Self::Park(endpoint) => write!(f, "parks endpoint {endpoint}"),
        }
    }
}
