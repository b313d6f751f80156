//! Who is connected, and who keeps us waiting. There is room for so many connections and for so many bytes of bodies (of requests, and of large answers);
//! where there is no more, whoever has kept us waiting for longest has to go: a connection at rest, a head or a body
//! that does not arrive, an answer that is not read. A request that is worked on is never cut, so those who send
//! theirs and read the answer are served beside any number who don't.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Another one is sent away if nobody has gone by then.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// A body waits no longer than this for room.
const BODY_DEADLINE: Duration = Duration::from_secs(5);

pub(crate) struct House {
    connections: Arc<Semaphore>,
    /// KiB of bodies.
    bodies: Arc<Semaphore>,
    bodies_kib: usize,
    waiting: Mutex<Waiting>,
}

/// Those who keep us waiting, by since when.
#[derive(Default)]
struct Waiting {
    next: u64,
    all: BTreeMap<u64, CancellationToken>,
    /// Those of them whose bodies take room.
    with_bodies: BTreeMap<u64, CancellationToken>,
}

impl House {
    pub(crate) fn new(connections: usize, body_bytes: usize) -> Arc<Self> {
        let bodies_kib = body_bytes.div_ceil(1024).min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            connections: Arc::new(Semaphore::new(connections)),
            bodies: Arc::new(Semaphore::new(bodies_kib)),
            bodies_kib,
            waiting: Mutex::default(),
        })
    }

    /// Room for one more connection, which somebody else may have to leave.
    pub(crate) async fn admit(self: &Arc<Self>) -> Guest {
        let room = loop {
            if let Ok(room) = Arc::clone(&self.connections).try_acquire_owned() {
                break room;
            }
            self.send_away(None);
            let room = Arc::clone(&self.connections).acquire_owned();
            // Closed never: it ends with the house.
            if let Ok(Ok(room)) = tokio::time::timeout(AGAIN_AFTER, room).await {
                break room;
            }
        };
        let guest = Guest(Arc::new(Inner {
            house: Arc::clone(self),
            leave: CancellationToken::new(),
            state: Mutex::default(),
            _room: room,
        }));
        guest.0.begin_to_wait();
        guest
    }

    /// Cuts whoever has kept us waiting for longest; with a guest: another one, whose body takes room.
    fn send_away(&self, but: Option<&Guest>) {
        let mut waiting = self.waiting();
        let of = if but.is_some() { &waiting.with_bodies } else { &waiting.all };
        let is_other = |place: &&u64| but.is_none_or(|guest| guest.0.state().place != Some(**place));
        let Some(place) = of.keys().find(is_other).copied() else { return };
        waiting.with_bodies.remove(&place);
        if let Some(leave) = waiting.all.remove(&place) {
            leave.cancel();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection.
#[derive(Clone)]
pub(crate) struct Guest(Arc<Inner>);

struct Inner {
    house: Arc<House>,
    leave: CancellationToken,
    state: Mutex<State>,
    _room: OwnedSemaphorePermit,
}

#[derive(Default)]
struct State {
    /// Requests of it that are worked on.
    requests: usize,
    place: Option<u64>,
    /// Its bodies take room.
    has_bodies: bool,
}

impl Guest {
    /// Ends when it has to go.
    pub(crate) fn leaves(&self) -> CancellationToken {
        self.0.leave.clone()
    }

    /// One of its requests is worked on until this is dropped.
    pub(crate) fn work(&self) -> Work {
        self.0.begin_to_work();
        Work(self.clone())
    }

    /// The client is waited for until this is dropped, within a request that is worked on.
    pub(crate) fn wait_for_client(&self) -> Wait {
        self.0.end_work();
        Wait(self.clone())
    }
}

pub(crate) struct Work(Guest);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.0.end_work();
    }
}

pub(crate) struct Wait(Guest);

impl Drop for Wait {
    fn drop(&mut self) {
        self.0.0.begin_to_work();
    }
}

impl Inner {
    fn begin_to_work(&self) {
        let mut waiting = self.house.waiting();
        let mut state = self.state();
        state.requests += 1;
        if let Some(place) = state.place.take() {
            waiting.all.remove(&place);
            waiting.with_bodies.remove(&place);
        }
    }

    fn end_work(&self) {
        self.state().requests -= 1;
        self.begin_to_wait();
    }

    fn begin_to_wait(&self) {
        let mut waiting = self.house.waiting();
        let mut state = self.state();
        if state.requests == 0 && state.place.is_none() {
            let place = waiting.next;
            waiting.next += 1;
            state.place = Some(place);
            waiting.all.insert(place, self.leave.clone());
            if state.has_bodies {
                waiting.with_bodies.insert(place, self.leave.clone());
            }
        }
    }

    /// Its bodies take room from now on, or no more.
    fn has_bodies(&self, has_bodies: bool) {
        let mut waiting = self.house.waiting();
        let mut state = self.state();
        state.has_bodies = has_bodies;
        match state.place {
            Some(place) if has_bodies => {
                waiting.with_bodies.insert(place, self.leave.clone());
            }
            Some(place) => {
                waiting.with_bodies.remove(&place);
            }
            None => {}
        }
    }

    /// Taken after the house's, wherever both are.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let place = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).place;
        if let Some(place) = place {
            let mut waiting = self.house.waiting();
            waiting.all.remove(&place);
            waiting.with_bodies.remove(&place);
        }
    }
}

/// The room that a body takes.
pub(crate) struct BodyRoom {
    guest: Option<Guest>,
    taken: Option<OwnedSemaphorePermit>,
    kib: usize,
}

impl BodyRoom {
    pub(crate) fn of(guest: Option<Guest>) -> Self {
        Self { guest, taken: None, kib: 0 }
    }

    /// Makes it large enough for so many bytes; false if there is no room, even when others had to go.
    pub(crate) async fn holds(&mut self, bytes: usize) -> bool {
        let Some(guest) = &self.guest else { return true };
        let house = &guest.0.house;
        let more = bytes.div_ceil(1024).min(house.bodies_kib).saturating_sub(self.kib);
        if more == 0 {
            return true;
        }
        let wanted = u32::try_from(more).unwrap_or(u32::MAX);
        let taken = match Arc::clone(&house.bodies).try_acquire_many_owned(wanted) {
            Ok(taken) => taken,
            Err(_) => match tokio::time::timeout(BODY_DEADLINE, make_room(guest, wanted)).await {
                Ok(Some(taken)) => taken,
                Ok(None) | Err(_) => return false,
            },
        };
        match &mut self.taken {
            Some(before) => before.merge(taken),
            None => {
                guest.0.has_bodies(true);
                self.taken = Some(taken);
            }
        }
        self.kib += more;
        true
    }

    /// The body, which keeps the room until nobody needs it any more.
    pub(crate) fn with(self, body: Bytes) -> Bytes {
        if self.taken.is_none() { body } else { Bytes::from_owner(Held { body, _room: self }) }
    }
}

async fn make_room(guest: &Guest, kib: u32) -> Option<OwnedSemaphorePermit> {
    let house = &guest.0.house;
    let mut room = std::pin::pin!(Arc::clone(&house.bodies).acquire_many_owned(kib));
    loop {
        house.send_away(Some(guest));
        if let Ok(room) = tokio::time::timeout(AGAIN_AFTER, room.as_mut()).await {
            return room.ok();
        }
    }
}

impl Drop for BodyRoom {
    fn drop(&mut self) {
        if let (Some(guest), Some(_)) = (&self.guest, &self.taken) {
            guest.0.has_bodies(false);
        }
    }
}

struct Held {
    body: Bytes,
    _room: BodyRoom,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn whoever_keeps_us_waiting_for_longest_leaves_for_the_next() {
        let house = House::new(3, 1024);
        let (first, second, third) = (house.admit().await, house.admit().await, house.admit().await);
        // The first has sent a request and got its answer: now it has waited for less long than the second.
        drop(first.work());
        let working = third.work();
        let (leaving, gone) = (second.leaves(), async move {
            second.leaves().cancelled().await;
            drop(second);
        });
        let (fourth, ()) = tokio::join!(house.admit(), gone);
        assert!(leaving.is_cancelled());
        assert!(!first.leaves().is_cancelled() && !third.leaves().is_cancelled());
        let _fourth_works = fourth.work();
        let _first_works = first.work();
        assert!(house.admit().now_or_never().is_none(), "nobody who is worked for has to go");
        assert!(![&first, &third, &fourth].iter().any(|guest| guest.leaves().is_cancelled()));
        let waits = third.wait_for_client();
        assert!(house.admit().now_or_never().is_none());
        assert!(third.leaves().is_cancelled(), "while its body is waited for it is at rest");
        drop((waits, working));
    }

    #[tokio::test]
    async fn bodies_find_room_where_slow_ones_took_it() {
        let house = House::new(10, 8 << 10);
        let (slow, quick, idle) = (house.admit().await, house.admit().await, house.admit().await);
        let (_at_slow, _at_quick) = (slow.work(), quick.work());
        let mut of_slow = BodyRoom::of(Some(slow.clone()));
        assert!(of_slow.holds(1).await && of_slow.holds(7 << 10).await);
        let _waits = slow.wait_for_client();
        let mut of_quick = BodyRoom::of(Some(quick.clone()));
        assert!(of_quick.holds(1024).await);
        let gone = async {
            slow.leaves().cancelled().await;
            drop(of_slow);
        };
        let (holds, ()) = tokio::join!(of_quick.holds(4 << 10), gone);
        assert!(holds);
        assert!(!quick.leaves().is_cancelled() && !idle.leaves().is_cancelled());
        let body = of_quick.with(Bytes::from_static(b"body"));
        assert_eq!((&body[..], house.bodies.available_permits()), (&b"body"[..], 4));
        drop(body);
        assert_eq!(house.bodies.available_permits(), 8);
    }
}
