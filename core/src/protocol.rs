//! The decisions by which nothing is lost, pure: what the relay concludes from a stream, what an entry still
//! owes, what follows from an outcome. The dispatcher acts on them; the model in `protocol/` explores them, with
//! crashes and faults between any two steps. Positions and asks are those of [`crate::db`].

use crate::db::delivery::Status;

/// Whether a position lies in the interval `(from, to]` of the log, which is open where `to` is `None`.
#[inline]
pub fn covers(from: i64, to: Option<i64>, position: i64) -> bool {
    from < position && to.is_none_or(|to| position <= to)
}

/// Whose subscriptions decide who is owed an event by a feed: those at the event's own position, unless it goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Addressed {
    /// Up to here those at this very position: somebody asked then to go back.
    pub as_of: Option<i64>,
    /// Above here those at the event's own position as well: it was still owed to them then.
    pub owed_from: Option<i64>,
}

impl Addressed {
    /// Whether an event is owed to whom was subscribed in the interval `(from, to]`.
    #[inline]
    pub fn covers(self, from: i64, to: Option<i64>, position: i64) -> bool {
        let is_owed_still = self.owed_from.is_some_and(|owed| owed < position);
        let at = self.as_of.map_or(position, |as_of| as_of.max(position));
        covers(from, to, at) || is_owed_still && covers(from, to, position)
    }
}

/// Whether what is new at the head is owed as its own position says, and by all feeds that stand there alike: not
/// before a feed has passed the position at which somebody asked to go back.
#[inline]
pub fn follows_head(head: i64, as_of: Option<i64>) -> bool {
    as_of.is_none_or(|as_of| as_of <= head)
}

/// From where a relay reads on that has compared a feed's stream with its record: what is in the stream, or was
/// settled, is not read again.
#[inline]
pub fn resume_at(tail: Option<i64>, settled: i64) -> i64 {
    tail.unwrap_or(0).max(settled)
}

/// Up to here all entries of a feed are in its stream, or were: where the log was read to, if nothing waits for
/// room in the stream.
#[inline]
pub fn published(scanned: i64, first_waiting: Option<i64>) -> i64 {
    first_waiting.map_or(scanned, |waiting| waiting - 1)
}

/// What a relay knows of a feed, as it left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Believed {
    /// Position of the last entry that it appended; `None` where there is no stream yet.
    pub tail: Option<i64>,
    /// As [`published`] has it.
    pub published: i64,
    /// The settled position in the record.
    pub settled: i64,
}

/// What the relay sees of a stream: the position of the last entry ever appended, and of the first that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stands {
    pub tail: i64,
    pub first: Option<i64>,
}

/// Up to where a feed is settled. `None` if the stream is not as the relay left it (another relay, a flush, a
/// rollback): then it is compared with the record before anything is concluded.
#[inline]
pub fn settled_to(believed: Believed, stands: Option<Stands>) -> Option<i64> {
    if stands.map(|stands| stands.tail) != believed.tail {
        return None;
    }
    let position = match stands.and_then(|stands| stands.first) {
        Some(first) => first - 1,
        None => believed.published,
    };
    Some(position.max(believed.settled))
}

/// Whether a stream's tail is of this log: not after a backup was restored, or a failover gave positions again.
/// `in_stream` is the event that the stream has at its tail, `in_log` the log's at that position, if any: those
/// that have had their time are gone from it.
#[inline]
pub fn tail_fits<Id: PartialEq>(
    tail: i64,
    in_stream: Option<&Id>,
    in_log: Option<&Id>,
    settled: i64,
) -> bool {
    tail == 0 || in_stream.is_some() && in_stream == in_log || tail <= settled && in_log.is_none()
}

/// Whether an entry of this ask still owes what a row is about: not if the row is of its ask or a later one, nor
/// if it was delivered and the feed brings only what is missing.
#[inline]
pub fn is_owed(row_ask: i64, status: Status, ask: i64, only_missing: bool) -> bool {
    row_ask < ask && !(only_missing && status == Status::Delivered)
}

/// Where an outcome came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Entry,
    Retry,
}

/// What a committed outcome means for its member of the retry ZSET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// It is due at the row's time.
    Schedule,
    /// It is not to be there: nothing waits, or only for later than the ZSET reaches.
    Unschedule,
    /// It stays as it is.
    Leave,
}

/// What follows from an outcome of `(ask, status)` that was recorded; `row` is what the row is after it. An
/// outcome that the row did not take, since a higher ask came or it was final, changes nothing of what waits.
#[inline]
pub fn follow(
    (ask, status): (i64, Status),
    row: Option<(i64, Status)>,
    is_soon: bool,
    cause: Cause,
) -> Follow {
    let is_taken = row == Some((ask, status));
    match status {
        _ if status.waits() && is_taken => match is_soon {
            true => Follow::Schedule,
            false => Follow::Unschedule,
        },
        Status::Dead if is_taken => from_retry(cause),
        _ if row.is_some_and(|(_, status)| status.waits()) => Follow::Leave,
        _ => from_retry(cause),
    }
}

#[inline]
fn from_retry(cause: Cause) -> Follow {
    match cause {
        Cause::Entry => Follow::Leave,
        Cause::Retry => Follow::Unschedule,
    }
}

/// What becomes of a retry that was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    Attempt,
    /// Its row waits longer.
    PutBack,
    /// There is nothing to be retried.
    Remove,
    /// It waits for an event that is not on the log any more.
    End,
}

/// The row decides: what Redis has of a retry may be older.
#[inline]
pub fn claimed(status: Option<Status>, has_event: bool, is_due: bool) -> Claim {
    match status {
        Some(status) if status.waits() => match (has_event, is_due) {
            (false, _) => Claim::End,
            (true, true) => Claim::Attempt,
            (true, false) => Claim::PutBack,
        },
        _ => Claim::Remove,
    }
}
