//! The transactions of `core::db`, held against `eventrail_protocol::{postgres, changes}`.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use eventrail_core::db::audit::Author;
use eventrail_core::db::cursor::{self, CursorTarget};
use eventrail_core::db::delivery::{self, Attempt, Record, Status};
use eventrail_core::db::endpoint;
use eventrail_core::db::endpoint_change::{self, Backlog, Changed, Replacement};
use eventrail_core::db::lease::{self, Incarnation};
use eventrail_core::db::log::{self, Appended, NewEvent};
use eventrail_core::db::parking::{self, Overwhelmed, Parking};
use eventrail_core::db::replay_create::{self, Created};
use eventrail_core::db::replay_window::Draft;
use eventrail_core::db::{feed, topology};
use eventrail_core::endpoint::CustomHeaders;
use eventrail_core::group::GroupName;
use eventrail_core::ids::EndpointId;
use eventrail_core::matching::Filter;
use eventrail_core::testing::{Stack, make_endpoint};
use eventrail_protocol::postgres::{ALL_KINDS, Kind, LIVE, Outcome, Postgres, State};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::PgPool;

use super::{Events, SEEDS, STEPS};

mod compare;

const KINDS: [&str; 2] = ["order.paid", "order.sent"];
/// Of EventRail's own events, which none of these endpoints names.
const OPERATIONAL: u8 = 7;
const ENDPOINTS: u8 = 2;

struct Pair {
    model: Postgres,
    pool: PgPool,
    incarnation: Incarnation,
    author: Author,
    group: GroupName,
    group_id: i64,
    /// By the model's number.
    feeds: Vec<i64>,
    events: Events,
    endpoints: Vec<EndpointId>,
}

#[tokio::test]
async fn transactions_are_as_the_model_has_them() {
    for seed in 0..SEEDS / 4 {
        let stack = Stack::start().await;
        let mut pair = Pair::new(&stack).await;
        let mut chance = StdRng::seed_from_u64(seed);
        let mut done = Vec::new();
        for _ in 0..STEPS {
            let before = (pair.model.version, pair.version().await);
            let what = pair.step(&mut chance).await;
            done.push(what);
            pair.compare(seed, &done).await;
            let after = (pair.model.version, pair.version().await);
            let has_risen = (after.0 != before.0, after.1 != before.1);
            assert_eq!(has_risen.0, has_risen.1, "seed {seed}: the topology's version after {done:#?}");
        }
    }
}

impl Pair {
    /// One group with its endpoints; the model's positions are the real ones.
    async fn new(stack: &Stack) -> Self {
        let mut pair = Self {
            model: Postgres::new(ENDPOINTS),
            pool: stack.pool.clone(),
            incarnation: lease::take(&stack.pool, "test", std::time::Duration::from_secs(3600))
                .await
                .unwrap()
                .unwrap(),
            author: Author { actor: "admin".into(), action: "test", address: String::new() },
            group: GroupName::default_group(),
            group_id: 1,
            feeds: Vec::new(),
            events: Events::default(),
            endpoints: Vec::new(),
        };
        for id in 0..ENDPOINTS {
            pair.endpoints.push(make_endpoint(&pair.pool, url(id)).await);
            let here = pair.model.draw();
            pair.model.subscriptions[usize::from(id)].from = here;
        }
        pair.find_feeds().await;
        pair.compare(0, &[]).await;
        pair
    }

    async fn find_feeds(&mut self) {
        self.feeds =
            sqlx::query_scalar("select id from feed order by id").fetch_all(&self.pool).await.unwrap();
    }

    async fn version(&self) -> i64 {
        topology::version(&self.pool).await.unwrap()
    }

    /// Does something to both; answers what.
    async fn step(&mut self, chance: &mut StdRng) -> String {
        let endpoint = chance.random_range(0..ENDPOINTS);
        match chance.random_range(0..100) {
            0..20 => self.publish(chance).await,
            20..50 => self.record(chance, endpoint).await,
            50..62 => self.settle(chance).await,
            62..66 => self.finish(chance).await,
            66..69 => self.begin_epoch(chance).await,
            69..76 => self.park(chance, endpoint).await,
            76..83 => self.unpark().await,
            83..87 => self.switch(endpoint).await,
            87..90 => self.change_filter(endpoint).await,
            90..93 => self.replay(chance, endpoint).await,
            93..98 => self.move_back(chance).await,
            _ => self.move_to_end().await,
        }
    }

    async fn publish(&mut self, chance: &mut StdRng) -> String {
        let kind = chance.random_range(0..2);
        let event_type = KINDS[usize::from(kind)].parse().unwrap();
        let new = NewEvent::new(event_type, "shop".parse().unwrap(), Bytes::from_static(b"{}"), None);
        let mut connection = self.pool.acquire().await.unwrap();
        let appended = log::append_events(&mut connection, &[&new]).await.unwrap();
        let [Appended::Created(stored)] = appended[..] else { panic!("{appended:?}") };
        self.model.begin_event(kind);
        self.model.commit_event(0);
        self.events.0.push((self.model.events.last().unwrap().id, stored.id));
        format!("event {} of kind {kind}", self.model.head())
    }

    /// A change has told of itself by an event.
    async fn told(&mut self) {
        self.model.begin_event(OPERATIONAL);
        self.model.commit_event(0);
        let position = self.model.head();
        let id = sqlx::query_scalar("select id from event where position = $1")
            .bind(i64::from(position))
            .fetch_one(&self.pool)
            .await
            .unwrap();
        self.events.0.push((position, id));
    }

    async fn record(&mut self, chance: &mut StdRng, endpoint: u8) -> String {
        let Some(event) = self.model.events.get(chance.random_range(0..30)).map(|event| event.id) else {
            return "no event to record".into();
        };
        let status =
            [Status::Pending, Status::Retrying, Status::Delivered, Status::Dead][chance.random_range(0..4)];
        let asks: Vec<u8> = self.model.feeds.iter().map(|feed| feed.ask).collect();
        let ask = asks[chance.random_range(0..asks.len())];
        let outcome = Outcome { event, endpoint, ask, status, is_attempt: status != Status::Pending };
        let row = self.model.record(outcome);
        let mut records = [self.record_of(outcome)];
        let recorded = delivery::record(&self.pool, &mut records).await.unwrap();
        let real = (recorded[0].ask, recorded[0].status, recorded[0].attempt_count);
        assert_eq!(real, (i64::from(row.ask), row.status, i32::from(row.attempts)), "{outcome:?}");
        format!("{outcome:?}: {row:?}")
    }

    fn record_of(&self, outcome: Outcome) -> Record {
        let attempt = Attempt {
            started_at: Utc::now(),
            duration_ms: 1,
            status_code: Some(200),
            error: None,
            error_detail: None,
            response_body: None,
            trigger: "feed",
        };
        Record {
            event_id: self.events.id(outcome.event),
            endpoint_id: self.endpoints[usize::from(outcome.endpoint)],
            group_id: self.group_id,
            feed_id: self.feeds[0],
            replay_id: None,
            ask: outcome.ask.into(),
            status: outcome.status,
            next_attempt_at: outcome.status.waits().then(Utc::now),
            last_error: None,
            attempt: outcome.is_attempt.then_some(attempt),
        }
    }

    /// A feed, and an epoch that is mostly its own.
    fn any_feed(&self, chance: &mut StdRng) -> (u8, u8) {
        let feed = chance.random_range(0..self.model.feeds.len()) as u8;
        let epoch = self.model.feed(feed).epoch;
        (feed, epoch.saturating_sub(u8::from(chance.random_bool(0.2))))
    }

    async fn settle(&mut self, chance: &mut StdRng) -> String {
        let (feed, epoch) = self.any_feed(chance);
        let position = chance.random_range(self.model.feed(feed).from..=self.model.next_position);
        let position = self.model.feed(feed).until(position);
        let cursor = feed::Cursor {
            id: self.feeds[usize::from(feed)],
            epoch: epoch.into(),
            settled_position: position.into(),
        };
        let seen = [feed::Progress { cursor, scanned_position: 0 }];
        feed::settle(&self.pool, self.incarnation, &seen).await.unwrap();
        self.model.settle(feed, epoch, position);
        format!("settle feed {feed}, epoch {epoch}, up to {position}")
    }

    async fn finish(&mut self, chance: &mut StdRng) -> String {
        let (feed, epoch) = self.any_feed(chance);
        let complete = [(self.feeds[usize::from(feed)], epoch.into())];
        feed::finish(&self.pool, self.incarnation, &complete).await.unwrap();
        self.model.finish(feed, epoch);
        format!("finish feed {feed}, epoch {epoch}")
    }

    async fn begin_epoch(&mut self, chance: &mut StdRng) -> String {
        let (feed, epoch) = self.any_feed(chance);
        feed::begin_epoch(&self.pool, self.feeds[usize::from(feed)], epoch.into()).await.unwrap();
        self.model.begin_epoch(feed, epoch);
        format!("begin an epoch of feed {feed}, epoch {epoch}")
    }

    async fn park(&mut self, chance: &mut StdRng, endpoint: u8) -> String {
        let (_, epoch) = self.any_feed(chance);
        let live = *self.model.live();
        let epoch = if chance.random_bool(0.8) { live.epoch } else { epoch };
        let from = chance.random_range(live.settled..=self.model.next_position);
        let endpoint_id = self.endpoints[usize::from(endpoint)];
        let parking = Parking {
            feed_id: self.feeds[usize::from(LIVE)],
            epoch: epoch.into(),
            from: from.into(),
            endpoint: Overwhelmed { endpoint_id, group_id: self.group_id, disabled: true },
        };
        parking::park(&self.pool, self.incarnation, &[parking]).await.unwrap();
        self.model.park(LIVE, epoch, from, endpoint);
        format!("park {endpoint} from {from} in epoch {epoch}")
    }

    /// Here more deferred deliveries than any are allowed, in production than a hundred; the limit has its own tests.
    async fn unpark(&mut self) -> String {
        let parked: Vec<u8> =
            self.model.parked.iter().filter(|one| one.to.is_none()).map(|one| one.endpoint).collect();
        let ready: Vec<u8> = parked.into_iter().filter(|id| self.model.disabled & (1 << id) == 0).collect();
        let &[endpoint] = &ready[..] else { return "not one to be brought back".into() };
        assert_eq!(parking::unpark(&self.pool).await.unwrap(), 1);
        let closed = self.model.close_interval(endpoint).unwrap();
        self.model.make_catch_up(closed);
        self.told().await;
        self.find_feeds().await;
        format!("bring {endpoint} back: {closed:?}")
    }

    async fn switch(&mut self, endpoint: u8) -> String {
        let id = self.endpoints[usize::from(endpoint)];
        let is_on = self.model.disabled & (1 << endpoint) == 0;
        let changed = if is_on {
            endpoint_change::disable(&self.pool, &self.author, &self.group, id).await
        } else {
            endpoint_change::enable(&self.pool, &self.author, &self.group, id, Backlog::Deliver).await
        };
        assert_eq!(changed.unwrap(), Changed::Changed);
        self.model.switch(endpoint);
        if is_on {
            self.told().await;
        }
        format!("switch {endpoint}")
    }

    async fn change_filter(&mut self, endpoint: u8) -> String {
        self.model.change_filter(endpoint);
        let open = self.model.subscriptions.iter().rfind(|one| one.endpoint == endpoint).unwrap();
        let event_types = if open.kinds == ALL_KINDS { vec![] } else { vec![KINDS[0].parse().unwrap()] };
        let id = self.endpoints[usize::from(endpoint)];
        let read = endpoint::get(&self.pool, &self.group, id).await.unwrap().unwrap();
        let new = Replacement {
            url: url(endpoint),
            description: String::new(),
            filter: Filter { event_types, sources: vec![] },
            headers: CustomHeaders::default(),
            timeout_ms: None,
            max_in_flight: None,
            rate_per_second: None,
            retry: None,
            auth: None,
        };
        let (of, changed) = ((&self.group, id), ["event_types"]);
        let changed =
            endpoint_change::replace(&self.pool, &self.author, of, read.version, &new, &changed).await;
        assert_eq!(changed.unwrap(), Changed::Changed);
        format!("change the filter of {endpoint}")
    }

    async fn replay(&mut self, chance: &mut StdRng, endpoint: u8) -> String {
        let only_missing = chance.random_bool(0.5);
        // As many are running as may be.
        if self
            .model
            .feeds
            .iter()
            .filter(|feed| feed.kind == Kind::Replay && feed.state == State::Active)
            .count()
            > 3
        {
            return "enough replays".into();
        }
        let draft = Draft {
            group: Some(self.group.clone()),
            endpoint_id: Some(self.endpoints[usize::from(endpoint)]),
            event_type: None,
            source: None,
            from: DateTime::UNIX_EPOCH,
            to: Utc::now() + TimeDelta::days(1),
            limit: None,
            only_missing,
            rate_per_second: None,
        };
        let created = replay_create::create(&self.pool, &self.author, &draft).await.unwrap();
        assert!(matches!(created, Created::Created(_)), "{created:?}");
        let modelled = self.model.create_replay(endpoint, only_missing);
        self.find_feeds().await;
        format!("a replay for {endpoint}: {modelled:?}")
    }

    async fn move_back(&mut self, chance: &mut StdRng) -> String {
        let settled = self.model.live().settled;
        if settled < 2 {
            return "nothing to go back to".into();
        }
        let (position, only_missing) = (chance.random_range(1..settled), chance.random_bool(0.3));
        let target = CursorTarget::After(position.into());
        cursor::set(&self.pool, &self.author, &self.group, target, only_missing).await.unwrap();
        self.model.move_back(position, only_missing);
        format!("move the cursor back to {position}, only missing: {only_missing}")
    }

    async fn move_to_end(&mut self) -> String {
        cursor::set(&self.pool, &self.author, &self.group, CursorTarget::End, false).await.unwrap();
        self.model.move_to_end();
        "move the cursor to the end".into()
    }
}

fn url(endpoint: u8) -> eventrail_core::endpoint::EndpointUrl {
    format!("http://127.0.0.1:9/{endpoint}").parse().unwrap()
}
