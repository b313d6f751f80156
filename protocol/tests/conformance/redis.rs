//! The scripts and commands of `core::rail`, held against `eventrail_protocol::redis`.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use eventrail_core::group::GroupName;
use eventrail_core::ids::{EndpointId, EventId};
use eventrail_core::rail::entry::{self, Read};
use eventrail_core::rail::intake::{self, From, IdleFor};
use eventrail_core::rail::keys::{CONSUMER_GROUP, Keys};
use eventrail_core::rail::schedule::{self, Change, Member};
use eventrail_core::rail::stream;
use eventrail_core::testing::Stack;
use eventrail_protocol::postgres::{Feed, Kind, State};
use eventrail_protocol::redis::{Entry, Key, Owner, Redis, Turn};
use eventrail_protocol::world::members;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::aio::ConnectionManager;
use redis::{Value, cmd};

use super::{Events, SEEDS, STEPS, number, set};

const LONG: Duration = Duration::from_secs(3600);
const STREAMS: [Key; 3] = [(0, 0), (0, 1), (1, 0)];
const DISPATCHERS: u8 = 2;

struct Pair {
    model: Redis,
    snapshot: Option<Redis>,
    redis: ConnectionManager,
    keys: Keys,
    group: GroupName,
    events: Events,
    endpoints: Vec<EndpointId>,
    consumers: Vec<String>,
    dead: HashSet<String>,
    next_position: u8,
}

#[tokio::test]
async fn streams_and_retries_are_as_the_model_has_them() {
    let stack = Stack::start().await;
    let redis = stack.redis_client.get_connection_manager().await.unwrap();
    for seed in 0..SEEDS {
        let mut pair = Pair {
            model: Redis::default(),
            snapshot: None,
            redis: redis.clone(),
            keys: stack.keys(),
            group: "orders".parse().unwrap(),
            events: Events::default(),
            endpoints: (0..3).map(|_| EndpointId::generate()).collect(),
            consumers: (0..DISPATCHERS).map(|id| format!("{seed}-{id}")).collect(),
            dead: HashSet::new(),
            next_position: 1,
        };
        let mut chance = StdRng::seed_from_u64(seed);
        let mut done = Vec::new();
        pair.flush().await;
        for _ in 0..STEPS {
            done.push(pair.step(&mut chance).await);
            pair.compare(seed, &done).await;
        }
    }
}

impl Pair {
    /// Does something to both; answers what.
    async fn step(&mut self, chance: &mut StdRng) -> String {
        let key = STREAMS[chance.random_range(0..STREAMS.len())];
        let me = chance.random_range(0..DISPATCHERS);
        match chance.random_range(0..100) {
            0..25 => self.append(chance, key).await,
            25..40 => self.read(key, me).await,
            40..50 => self.take_over(key, me).await,
            50..65 => self.settle(chance, key).await,
            65..85 => self.retry(chance, me).await,
            85..90 => self.kill(me).await,
            90..93 => self.flush().await,
            93..96 => {
                self.copy("", "copy:").await;
                self.snapshot = Some(self.model.clone());
                "snapshot".into()
            }
            96..98 => self.restore().await,
            _ => {
                let name = self.name(key);
                stream::delete(&mut self.redis, &[name]).await.unwrap();
                self.model.delete(key);
                format!("delete {key:?}")
            }
        }
    }

    fn name(&self, (feed, epoch): Key) -> String {
        match feed {
            0 => self.keys.live_stream(&self.group, epoch.into()),
            id => self.keys.feed_stream(&self.group, id.into(), epoch.into()),
        }
    }

    async fn append(&mut self, chance: &mut StdRng, key: Key) -> String {
        let tail = self.model.inspect(key).map(|standing| standing.tail);
        let expected = match chance.random_range(0..10) {
            0 => None,
            1 => Some(chance.random_range(0..=self.next_position)),
            _ => tail,
        };
        let mut entries = Vec::new();
        for _ in 0..chance.random_range(1..3) {
            let position = self.next_position;
            self.next_position += 1;
            self.events.0.push((position, EventId::generate()));
            let targets = chance.random_range(1..8);
            entries.push(Entry { position, event: position, targets, owner: Owner::Nobody });
        }
        let window = chance.random_range(1..6);
        let modelled = self.model.append(&feed(key), expected, window, &entries);
        let real: Vec<entry::Entry> = entries
            .iter()
            .map(|one| entry::Entry {
                position: one.position.into(),
                event_id: self.events.id(one.event),
                targets: members(one.targets).map(|id| self.endpoints[usize::from(id)]).collect(),
            })
            .collect();
        let expected = expected.map(i64::from);
        let name = self.name(key);
        let appended = stream::append(&mut self.redis, &name, expected, window.into(), &real).await.unwrap();
        assert_eq!(appended, modelled, "{key:?}, expecting {expected:?}, window {window}, {entries:?}");
        format!("append {entries:?} to {key:?}, expecting {expected:?}: {appended:?}")
    }

    async fn read(&mut self, key: Key, me: u8) -> String {
        let (name, consumer) = (self.name(key), self.consumers[usize::from(me)].clone());
        let new = intake::read(&mut self.redis, &name, &consumer, &From::New, 1).await.unwrap();
        let modelled = self.model.read_new(key, me);
        assert_eq!(self.entries(&new), modelled.into_iter().map(|one| plain(&one)).collect::<Vec<_>>());
        let own = intake::read(&mut self.redis, &name, &consumer, &From::Own("0".into()), 100).await.unwrap();
        let all = self.model.stream(key).map(|stream| stream.entries.clone()).unwrap_or_default();
        let mine = all.iter().filter(|one| one.owner == Owner::Dispatcher(me));
        // What was deleted while it was pending comes back without its body.
        let own: Vec<Read> = own.into_iter().filter(|read| matches!(read, Read::Entry(_))).collect();
        assert_eq!(self.entries(&own), mine.map(plain).collect::<Vec<_>>());
        format!("{me} reads {key:?}")
    }

    async fn take_over(&mut self, key: Key, me: u8) -> String {
        let (name, consumer) = (self.name(key), self.consumers[usize::from(me)].clone());
        let (redis, keys) = (&mut self.redis, &self.keys);
        let idle = IdleFor { of_dead: Duration::ZERO, of_living: LONG };
        let taken = intake::take_over(redis, keys, &name, &consumer, &self.dead, idle, 100).await.unwrap();
        let mut modelled = Vec::new();
        while let Some(one) = self.model.take_over(key, me) {
            modelled.push(plain(&one));
        }
        let mut taken = self.entries(&taken.reads);
        taken.sort_unstable();
        assert_eq!(taken, modelled, "{key:?}");
        format!("{me} takes over {key:?}")
    }

    async fn settle(&mut self, chance: &mut StdRng, key: Key) -> String {
        let entries = self.model.stream(key).map(|stream| stream.entries.clone()).unwrap_or_default();
        let Some(one) = entries.get(chance.random_range(0..4)) else { return "nothing to settle".into() };
        let (name, id) = (self.name(key), format!("{}-0", one.position));
        if chance.random_bool(0.1) {
            cmd("XACK").arg(&name).arg(CONSUMER_GROUP).arg(id).exec_async(&mut self.redis).await.unwrap();
            self.model.acknowledge(key, one.position);
            return format!("acknowledge {one:?} of {key:?}");
        }
        let mut pipeline = redis::pipe();
        intake::queue_settle(&mut pipeline, &name, &[id]);
        pipeline.exec_async(&mut self.redis).await.unwrap();
        self.model.settle(key, one.position);
        format!("settle {one:?} of {key:?}")
    }

    async fn retry(&mut self, chance: &mut StdRng, me: u8) -> String {
        let Some((event, id)) = self.events.0.get(chance.random_range(0..20)).copied() else {
            return "no event to retry".into();
        };
        let endpoint = chance.random_range(0..3);
        let member = Member { event_id: id, endpoint_id: self.endpoints[usize::from(endpoint)] };
        let past = Utc::now() - TimeDelta::seconds(1);
        match chance.random_range(0..5) {
            0 => {
                self.change(Change::Set(member, past)).await;
                self.model.schedule(event, endpoint);
            }
            1 => {
                self.change(Change::Add(member, past)).await;
                self.model.load(event, endpoint);
            }
            2 => {
                self.change(Change::Remove(member)).await;
                self.model.unschedule(event, endpoint);
            }
            3 => {
                let (redis, keys, group) = (&mut self.redis, &self.keys, &self.group);
                let due = schedule::claim_due(redis, keys, group, 100, LONG, Utc::now()).await.unwrap();
                let waits = self.model.retries.clone().into_iter().filter(|one| one.turn == Turn::Waits);
                let waits: Vec<(u8, u8)> = waits.map(|one| (one.event, one.endpoint)).collect();
                let mut claimed: Vec<(u8, u8)> =
                    due.members.iter().map(|one| self.plain_member(*one)).collect();
                claimed.sort_unstable();
                assert_eq!(claimed, waits);
                for (event, endpoint) in waits {
                    self.model.claim(event, endpoint, me);
                }
            }
            _ => {
                let leased = |one: &&eventrail_protocol::redis::Member| one.turn == Turn::Leased(me);
                if let Some(one) = self.model.retries.iter().find(leased).copied() {
                    let (event_id, endpoint_id) =
                        (self.events.id(one.event), self.endpoints[usize::from(one.endpoint)]);
                    // The end of a lease, without the wait for it.
                    self.change(Change::Renew(Member { event_id, endpoint_id }, past)).await;
                    self.model.end_lease(one.event, one.endpoint, me);
                }
            }
        }
        format!("a retry of {event} for {endpoint}")
    }

    fn plain_member(&self, member: Member) -> (u8, u8) {
        (self.events.number(member.event_id), number(&self.endpoints, &member.endpoint_id))
    }

    async fn change(&mut self, change: Change) {
        let mut pipeline = redis::pipe();
        schedule::queue(&mut pipeline, &self.keys, &self.group, &[change]);
        pipeline.exec_async(&mut self.redis).await.unwrap();
    }

    /// One dies, and starts again under another name; its leases run out.
    async fn kill(&mut self, me: u8) -> String {
        let consumer = &mut self.consumers[usize::from(me)];
        intake::sign_off(&mut self.redis, &self.keys, consumer).await.unwrap();
        self.dead.insert(consumer.clone());
        consumer.push('+');
        let past = Utc::now() - TimeDelta::seconds(1);
        for one in self.model.retries.clone().into_iter().filter(|one| one.turn == Turn::Leased(me)) {
            let (event_id, endpoint_id) =
                (self.events.id(one.event), self.endpoints[usize::from(one.endpoint)]);
            self.change(Change::Renew(Member { event_id, endpoint_id }, past)).await;
        }
        self.model.bury(me);
        // A snapshot's leases end at their own time.
        self.snapshot = None;
        self.announce().await;
        format!("{me} dies")
    }

    async fn announce(&mut self) {
        for consumer in &self.consumers {
            intake::announce(&mut self.redis, &self.keys, consumer, LONG).await.unwrap();
        }
    }

    async fn flush(&mut self) -> String {
        cmd("FLUSHALL").exec_async(&mut self.redis).await.unwrap();
        (self.model, self.snapshot) = (Redis::default(), None);
        self.announce().await;
        "flush".into()
    }

    async fn restore(&mut self) -> String {
        let Some(snapshot) = self.snapshot.clone() else { return "nothing to restore".into() };
        self.copy("copy:", "").await;
        self.model = snapshot;
        self.announce().await;
        "restore".into()
    }

    /// Makes all keys under one prefix those under the other.
    async fn copy(&mut self, from: &str, to: &str) {
        let redis = &mut self.redis;
        let all: Vec<String> = cmd("KEYS").arg("*").query_async(redis).await.unwrap();
        let is_of = |key: &String, prefix: &str| key.starts_with("copy:") != prefix.is_empty();
        for key in all.iter().filter(|key| is_of(key, to)) {
            cmd("DEL").arg(key).exec_async(redis).await.unwrap();
        }
        for key in all.iter().filter(|key| is_of(key, from)) {
            let other = format!("{to}{}", key.trim_start_matches(from));
            cmd("COPY").arg(key).arg(other).exec_async(redis).await.unwrap();
        }
    }

    fn entries(&self, reads: &[Read]) -> Vec<(u8, u8, u8)> {
        let entry = |read: &Read| match read {
            Read::Entry(entry) => (
                u8::try_from(entry.position).unwrap(),
                self.events.number(entry.event_id),
                set(&self.endpoints, &entry.targets),
            ),
            other => panic!("{other:?}"),
        };
        reads.iter().map(entry).collect()
    }

    /// Both must be the same now.
    async fn compare(&mut self, seed: u64, done: &[String]) {
        for key in STREAMS {
            let name = self.name(key);
            let standing = stream::inspect(&mut self.redis, &name).await.unwrap();
            let modelled = self.model.inspect(key).map(|one| {
                let (tail, first) = (i64::from(one.tail), one.first.map(i64::from));
                let tail_event = Some(self.events.id(one.tail_event));
                stream::Standing { tail, tail_event, length: one.length.into(), first }
            });
            assert_eq!(standing, modelled, "seed {seed}: {key:?} after {done:#?}");
            let owners = self.owners(&name).await;
            let modelled = self.model.stream(key).map(|stream| stream.entries.clone()).unwrap_or_default();
            let modelled: Vec<(u8, Owner)> = modelled.iter().map(|one| (one.position, one.owner)).collect();
            assert_eq!(owners, modelled, "seed {seed}: {key:?} after {done:#?}");
        }
        let key = self.keys.retry(&self.group);
        let real: Vec<(String, f64)> = cmd("ZRANGE")
            .arg(key)
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES")
            .query_async(&mut self.redis)
            .await
            .unwrap();
        let now = Utc::now().timestamp_millis() as f64;
        let mut real: Vec<(u8, u8, bool)> = real
            .iter()
            .map(|(text, score)| {
                let (event, endpoint) = self.plain_member(Member::parse(text).unwrap());
                (event, endpoint, *score > now)
            })
            .collect();
        real.sort_unstable();
        let modelled =
            self.model.retries.iter().map(|one| (one.event, one.endpoint, one.turn != Turn::Waits));
        assert_eq!(real, modelled.collect::<Vec<_>>(), "seed {seed}: retries after {done:#?}");
    }

    /// Who has each entry of a stream.
    async fn owners(&mut self, name: &str) -> Vec<(u8, Owner)> {
        let redis = &mut self.redis;
        let there: Vec<(String, Value)> =
            cmd("XRANGE").arg(name).arg("-").arg("+").query_async(redis).await.unwrap();
        if there.is_empty() {
            return Vec::new();
        }
        let pending: Vec<(String, String, i64, i64)> = cmd("XPENDING")
            .arg(name)
            .arg(CONSUMER_GROUP)
            .arg("-")
            .arg("+")
            .arg(1000)
            .query_async(redis)
            .await
            .unwrap();
        let groups: redis::streams::StreamInfoGroupsReply =
            cmd("XINFO").arg("GROUPS").arg(name).query_async(redis).await.unwrap();
        let read_to = position(&groups.groups[0].last_delivered_id);
        let owner = |id: &str| match pending.iter().find(|(pending, ..)| pending == id) {
            Some((_, consumer, ..)) => match self.consumers.iter().position(|alive| alive == consumer) {
                Some(me) => Owner::Dispatcher(u8::try_from(me).unwrap()),
                None => Owner::Dead,
            },
            None if position(id) > read_to => Owner::Nobody,
            None => Owner::Acknowledged,
        };
        there.iter().map(|(id, _)| (position(id), owner(id))).collect()
    }
}

fn position(id: &str) -> u8 {
    id.split('-').next().unwrap().parse().unwrap()
}

fn plain(entry: &Entry) -> (u8, u8, u8) {
    (entry.position, entry.event, entry.targets)
}

fn feed((id, epoch): Key) -> Feed {
    Feed {
        id,
        kind: if id == 0 { Kind::Live } else { Kind::Replay },
        epoch,
        ask: 1,
        endpoint: None,
        as_of: None,
        owed_from: None,
        only_missing: false,
        from: 0,
        to: None,
        settled: 0,
        state: State::Active,
    }
}
