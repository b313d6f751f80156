//! The transport. Each function is one script or command of `core::rail`.

use eventrail_core::protocol::Stands;
use eventrail_core::rail::stream::Appended;

use crate::postgres::Feed;
use crate::world::{EndpointId, EventId, Position, Set};

/// Who has an entry: what `XREADGROUP`, `XCLAIM` and `XACK` make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Not read yet.
    Nobody,
    /// Pending on this dispatcher.
    Dispatcher(u8),
    /// Pending on a consumer that is dead.
    Dead,
    /// Acknowledged without being deleted: nobody ever reads it again.
    Acknowledged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    pub position: Position,
    pub event: EventId,
    pub targets: Set,
    pub owner: Owner,
}

/// The stream of one epoch of a feed. Dispatchers hear of a feed what its relay knew, with the hint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stream {
    pub feed: Feed,
    pub tail: Position,
    pub tail_event: EventId,
    pub entries: Vec<Entry>,
}

/// Names a stream: feed and epoch.
pub type Key = (u8, u8);

/// Where a retry stands in the ZSET.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Turn {
    /// It may be claimed, once it falls due.
    Waits,
    /// Until its lease ends, which a living dispatcher renews.
    Leased(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    pub event: EventId,
    pub endpoint: EndpointId,
    pub turn: Turn,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Redis {
    pub streams: Vec<Stream>,
    pub retries: Vec<Member>,
}

/// What `inspect.lua` answers, with the event of the tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing {
    pub tail: Position,
    pub tail_event: EventId,
    pub first: Option<Position>,
    pub length: u8,
}

impl Standing {
    pub fn stands(self) -> Stands {
        Stands { tail: self.tail.into(), first: self.first.map(Into::into) }
    }
}

impl Redis {
    pub fn stream(&self, key: Key) -> Option<&Stream> {
        self.streams.iter().find(|stream| (stream.feed.id, stream.feed.epoch) == key)
    }

    fn stream_mut(&mut self, key: Key) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| (stream.feed.id, stream.feed.epoch) == key)
    }

    /// `append.lua`: only if the tail is the expected one. `entries` must not be empty.
    pub fn append(
        &mut self,
        feed: &Feed,
        expected: Option<Position>,
        window: u8,
        entries: &[Entry],
    ) -> Appended {
        let key = (feed.id, feed.epoch);
        match (self.stream(key), expected) {
            (Some(stream), expected) if Some(stream.tail) != expected => {
                return Appended::Refused { tail: stream.tail.into() };
            }
            (None, Some(_)) => return Appended::Missing,
            (Some(stream), _) if stream.entries.len() >= window.into() => {
                return Appended::Full { length: stream.entries.len() as u64 };
            }
            (None, None) => {
                let stream = Stream { feed: *feed, tail: 0, tail_event: 0, entries: Vec::new() };
                let at = self.streams.partition_point(|other| (other.feed.id, other.feed.epoch) < key);
                self.streams.insert(at, stream);
            }
            _ => {}
        }
        let (Some(stream), Some(last)) = (self.stream_mut(key), entries.last()) else {
            return Appended::Missing;
        };
        (stream.tail, stream.tail_event) = (last.position, last.event);
        stream.entries.extend_from_slice(entries);
        Appended::Done { length: stream.entries.len() as u64 }
    }

    /// `inspect.lua`.
    pub fn inspect(&self, key: Key) -> Option<Standing> {
        self.stream(key).map(|stream| Standing {
            tail: stream.tail,
            tail_event: stream.tail_event,
            first: stream.entries.first().map(|entry| entry.position),
            length: stream.entries.len() as u8,
        })
    }

    pub fn delete(&mut self, key: Key) {
        self.streams.retain(|stream| (stream.feed.id, stream.feed.epoch) != key);
    }

    /// `XREADGROUP … >`, of one entry.
    pub fn read_new(&mut self, key: Key, dispatcher: u8) -> Option<Entry> {
        self.take(key, dispatcher, |entry| entry.owner == Owner::Nobody)
    }

    /// `XCLAIM` of one entry of a consumer that is dead.
    pub fn take_over(&mut self, key: Key, dispatcher: u8) -> Option<Entry> {
        self.take(key, dispatcher, |entry| entry.owner == Owner::Dead)
    }

    fn take(&mut self, key: Key, dispatcher: u8, mut which: impl FnMut(&Entry) -> bool) -> Option<Entry> {
        let entry = self.stream_mut(key)?.entries.iter_mut().find(|entry| which(entry))?;
        entry.owner = Owner::Dispatcher(dispatcher);
        Some(*entry)
    }

    /// `XDEL` and `XACK`.
    pub fn settle(&mut self, key: Key, position: Position) {
        if let Some(stream) = self.stream_mut(key) {
            stream.entries.retain(|entry| entry.position != position);
        }
    }

    /// `XACK` alone. (`XDEL` alone leaves nothing that the settled position is held back by.)
    pub fn acknowledge(&mut self, key: Key, position: Position) {
        let Some(stream) = self.stream_mut(key) else { return };
        for entry in stream.entries.iter_mut().filter(|entry| entry.position == position) {
            if entry.owner != Owner::Nobody {
                entry.owner = Owner::Acknowledged;
            }
        }
    }

    fn member(&mut self, event: EventId, endpoint: EndpointId) -> Result<&mut Member, usize> {
        let at = self.retries.partition_point(|one| (one.event, one.endpoint) < (event, endpoint));
        match self.retries.get_mut(at) {
            Some(one) if (one.event, one.endpoint) == (event, endpoint) => Ok(&mut self.retries[at]),
            _ => Err(at),
        }
    }

    /// `claim_due.lua`, of one member.
    pub fn claim(&mut self, event: EventId, endpoint: EndpointId, dispatcher: u8) {
        if let Ok(one) = self.member(event, endpoint) {
            one.turn = Turn::Leased(dispatcher);
        }
    }

    /// `ZADD`: due at its time, which replaces a lease.
    pub fn schedule(&mut self, event: EventId, endpoint: EndpointId) {
        match self.member(event, endpoint) {
            Ok(one) => one.turn = Turn::Waits,
            Err(at) => self.retries.insert(at, Member { event, endpoint, turn: Turn::Waits }),
        }
    }

    /// `ZADD NX`: unless it is there.
    pub fn load(&mut self, event: EventId, endpoint: EndpointId) {
        if self.member(event, endpoint).is_err() {
            self.schedule(event, endpoint);
        }
    }

    /// A lease that its dispatcher does not renew any more has ended.
    pub fn end_lease(&mut self, event: EventId, endpoint: EndpointId, dispatcher: u8) {
        if let Ok(one) = self.member(event, endpoint)
            && one.turn == Turn::Leased(dispatcher)
        {
            one.turn = Turn::Waits;
        }
    }

    /// The leases of all that is not in hand any more end.
    pub fn end_leases(&mut self, is_in_hand: impl Fn(u8, EventId, EndpointId) -> bool) {
        for one in &mut self.retries {
            if let Turn::Leased(dispatcher) = one.turn
                && !is_in_hand(dispatcher, one.event, one.endpoint)
            {
                one.turn = Turn::Waits;
            }
        }
    }

    /// `ZREM`.
    pub fn unschedule(&mut self, event: EventId, endpoint: EndpointId) {
        self.retries.retain(|one| (one.event, one.endpoint) != (event, endpoint));
    }

    /// A dispatcher has died: its announcement and its leases run out.
    pub fn bury(&mut self, dispatcher: u8) {
        for entry in self.streams.iter_mut().flat_map(|stream| &mut stream.entries) {
            if entry.owner == Owner::Dispatcher(dispatcher) {
                entry.owner = Owner::Dead;
            }
        }
        for one in self.retries.iter_mut().filter(|one| one.turn == Turn::Leased(dispatcher)) {
            one.turn = Turn::Waits;
        }
    }
}
