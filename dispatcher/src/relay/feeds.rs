//! What the relay knows of each feed while it leads. All of it is a guess that Redis confirms or refuses.

use std::time::{Duration, Instant};

use eventrail_core::db::tail::{LoggedEvent, Place};
use eventrail_core::db::topology::Feed;
use eventrail_core::feed::FeedKind;
use eventrail_core::group::GroupName;
use eventrail_core::ids::EndpointId;
use eventrail_core::protocol::{self, Believed, Stands};
use eventrail_core::rail::entry::Entry;
use eventrail_core::rail::keys::Keys;
use eventrail_core::rail::ready::{FeedRef, Hint};
use eventrail_core::rail::stream::Standing;
use uuid::Uuid;

/// How long a feed whose stream is full is left alone: a live one, and one of a single endpoint, whose entries
/// last for longer, since they are delivered beside live traffic.
const FULL_PAUSE: Duration = Duration::from_millis(10);
const FULL_PAUSE_SINGLE: Duration = Duration::from_millis(50);
/// It doubles up to this while the stream stays full, as that of a paused group does.
pub(super) const FULL_PAUSE_MOST: Duration = Duration::from_millis(500);
/// Streams of feeds with a single endpoint hold this part of the window.
const SINGLE_SHARE: usize = 20;

pub(super) struct FeedState {
    pub(super) feed: Feed,
    pub(super) stream: String,
    /// Whether the stream was compared with the record since this relay took over or was last refused.
    pub(super) known: bool,
    /// Up to here the log was read for this feed; the entries found are appended or in `waiting`.
    pub(super) scanned: i64,
    pub(super) floor: Uuid,
    /// Position of the last entry appended; `None` where there is no stream yet.
    pub(super) tail: Option<i64>,
    /// Entries that the stream had no room for.
    pub(super) waiting: Vec<Entry>,
    /// The stream was full: not before this time again.
    pub(super) full_until: Option<Instant>,
    /// And so long after that, if it still is.
    pub(super) full_pause: Duration,
    /// More than half of the stream's room is taken.
    pub(super) crowded: bool,
    /// The stream may hold entries: the settle pass looks at it.
    pub(super) dirty: bool,
    /// The settled position in the record, as far as known.
    pub(super) settled: i64,
    /// The same of the scanned position, of which a replay's progress is told.
    pub(super) shown: i64,
}

/// What a settle pass saw.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The stream is not as this relay left it: it must be compared again before anything is concluded.
    NotOurs,
    /// All up to this position is settled.
    Settled { position: i64, entries: u64 },
}

impl FeedState {
    pub(super) fn new(feed: Feed, keys: &Keys) -> Self {
        Self {
            stream: stream_of(keys, &feed.group, (feed.kind, feed.id), feed.epoch),
            known: false,
            scanned: feed.settled_position,
            floor: Uuid::nil(),
            tail: None,
            waiting: Vec::new(),
            full_until: None,
            full_pause: shortest_full_pause(feed.kind),
            crowded: false,
            dirty: true,
            settled: feed.settled_position,
            shown: 0,
            feed,
        }
    }

    /// Takes up from where stream and record stand (DESIGN, start and rebuild).
    pub(super) fn resume(&mut self, settled: i64, standing: Option<&Standing>) {
        self.known = true;
        self.settled = settled;
        self.tail = standing.map(|standing| standing.tail);
        self.scanned = protocol::resume_at(self.tail, settled);
        self.floor = Uuid::nil();
        self.waiting.clear();
        self.full_until = None;
        self.dirty = true;
    }

    /// Where this feed ends, if that is before `position`.
    pub(super) fn until(&self, position: i64) -> i64 {
        self.feed.to_position.map_or(position, |end| end.min(position))
    }

    pub(super) fn place(&self) -> Place {
        Place { position: self.scanned, floor: self.floor }
    }

    /// Notes an event for this feed; events at or below what was scanned are passed over.
    pub(super) fn offer(&mut self, event: &LoggedEvent, targets: Vec<EndpointId>) {
        let past_end = self.feed.to_position.is_some_and(|end| event.position > end);
        if event.position <= self.scanned || past_end || targets.is_empty() {
            return;
        }
        self.waiting.push(Entry { position: event.position, event_id: event.id, targets });
    }

    /// The log was read for this feed up to here.
    pub(super) fn scanned_to(&mut self, place: Place) {
        if place.position > self.scanned {
            self.scanned = place.position;
            self.floor = self.floor.max(place.floor);
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.feed.kind == FeedKind::Live
    }

    /// Whether it takes what is new at the head, read once for all feeds.
    pub(super) fn follows(&self, head: i64) -> bool {
        self.is_live() && protocol::follows_head(head, self.feed.goes_back.map(|back| back.as_of))
    }

    /// Whether the log is to be read for this feed alone, or with others that lag: not for a replay, which picks
    /// out what it wants.
    pub(super) fn lags(&self, head: i64) -> bool {
        self.feed.selection.is_none() && self.wants_more(self.until(head))
    }

    /// Whether the next step has work with it, whatever comes to the log.
    pub(super) fn needs(&self, head: i64) -> bool {
        !self.known || self.lags(head)
    }

    /// Whether there is more to read for it, up to `end`, and room for what is found.
    pub(super) fn wants_more(&self, end: i64) -> bool {
        self.known && self.waiting.is_empty() && self.scanned < end
    }

    /// Whether all up to its end was read.
    pub(super) fn is_scanned(&self) -> bool {
        self.feed.to_position.is_some_and(|end| self.scanned >= end)
    }

    /// Entries that its stream may hold: a feed of one endpoint needs fewer ahead, and there may be many of them.
    pub(super) fn room(&self, window: usize, widest_entry: usize) -> u64 {
        let most = if self.is_live() { window / widest_entry } else { window / SINGLE_SHARE };
        most.max(10) as u64
    }

    /// What the stream's standing tells, compared with how this relay left it.
    pub(super) fn judge(&self, standing: Option<&Standing>) -> Seen {
        let believed = Believed { tail: self.tail, published: self.published(), settled: self.settled };
        let stands = standing.map(|standing| Stands { tail: standing.tail, first: standing.first });
        match protocol::settled_to(believed, stands) {
            None => Seen::NotOurs,
            Some(position) => {
                Seen::Settled { position, entries: standing.map_or(0, |standing| standing.length) }
            }
        }
    }

    /// Up to here all entries are in the stream, or were.
    pub(super) fn published(&self) -> i64 {
        protocol::published(self.scanned, self.waiting.first().map(|entry| entry.position))
    }

    /// Whether a feed with an end has delivered all of it.
    pub(super) fn is_complete(&self, settled: i64) -> bool {
        self.feed.to_position.is_some_and(|end| settled >= end)
    }

    pub(super) fn hint(&self) -> Hint {
        Hint::Entries(FeedRef {
            feed_id: self.feed.id,
            kind: self.feed.kind,
            group_id: self.feed.group_id,
            group: self.feed.group.clone(),
            ask: self.feed.ask,
            endpoint_id: self.feed.endpoint_id,
            replay_id: self.feed.selection.as_ref().map(|selection| selection.replay_id),
            goes_back: self.feed.goes_back,
            stream: self.stream.clone(),
            crowded: self.crowded,
        })
    }
}

/// How long a feed is left alone whose stream has just been found full.
pub(super) fn shortest_full_pause(kind: FeedKind) -> Duration {
    if kind == FeedKind::Live { FULL_PAUSE } else { FULL_PAUSE_SINGLE }
}

/// The stream of a feed's epoch.
pub(super) fn stream_of(keys: &Keys, group: &GroupName, feed: (FeedKind, i64), epoch: i64) -> String {
    match feed {
        (FeedKind::Live, _) => keys.live_stream(group, epoch),
        (_, id) => keys.feed_stream(group, id, epoch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventrail_core::feed::GoesBack;

    fn state() -> FeedState {
        let feed = Feed {
            id: 1,
            group_id: 1,
            group: "orders".parse().unwrap(),
            kind: FeedKind::Live,
            epoch: 0,
            ask: 1,
            endpoint_id: None,
            goes_back: None,
            owed_from: None,
            selection: None,
            to_position: None,
            settled_position: 100,
        };
        FeedState::new(feed, &Keys::new("t"))
    }

    fn standing(tail: i64, first: Option<i64>) -> Standing {
        Standing { tail, tail_event: None, length: u64::from(first.is_some()), first }
    }

    #[test]
    fn a_rebuild_begins_at_the_settled_position_or_at_the_tail_if_that_is_further() {
        let mut feed = state();
        feed.resume(100, None);
        assert_eq!((feed.scanned, feed.tail), (100, None));
        feed.resume(100, Some(&standing(150, Some(120))));
        assert_eq!((feed.scanned, feed.tail), (150, Some(150)));
        feed.resume(100, Some(&standing(80, None)));
        assert_eq!((feed.scanned, feed.tail), (100, Some(80)));
    }

    #[test]
    fn a_feed_on_its_way_through_history_reads_for_itself() {
        let mut feed = state();
        assert!(feed.follows(100));
        feed.feed.goes_back = Some(GoesBack { as_of: 120, only_missing: false, resend: None });
        assert!(!feed.follows(119));
        assert!(feed.follows(120));
        feed.feed.to_position = Some(110);
        feed.feed.kind = FeedKind::Replay;
        assert!(!feed.follows(120));
    }

    #[test]
    fn nothing_is_settled_from_a_stream_that_another_has_moved() {
        let mut feed = state();
        feed.resume(100, Some(&standing(150, None)));
        assert_eq!(feed.judge(Some(&standing(160, None))), Seen::NotOurs);
        assert_eq!(feed.judge(Some(&standing(140, None))), Seen::NotOurs);
        assert_eq!(feed.judge(None), Seen::NotOurs);
    }

    #[test]
    fn the_settled_position_is_before_the_first_entry_or_where_the_scan_stands() {
        let mut feed = state();
        feed.resume(100, Some(&standing(150, None)));
        feed.scanned = 170;
        assert_eq!(feed.judge(Some(&standing(150, Some(140)))), Seen::Settled { position: 139, entries: 1 });
        assert_eq!(feed.judge(Some(&standing(150, None))), Seen::Settled { position: 170, entries: 0 });
        feed.waiting.push(Entry {
            position: 160,
            event_id: eventrail_core::ids::EventId::generate(),
            targets: vec![],
        });
        assert_eq!(feed.judge(Some(&standing(150, None))), Seen::Settled { position: 159, entries: 0 });
    }
}
