//! What producers were told and what receivers got: written down as it happens, compared at the end.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use eventrail_core::ids::EventId;
use eventrail_core::secret::Secret;
use eventrail_core::signature;
use eventrail_core::testing::{Answer, Request};

pub(crate) const RECEIVERS: usize = 3;
/// Of a hundred attempts so many are answered with a 500, so that there are always retries.
const FAILING_PERCENT: u64 = 4;
/// Attempts of one delivery that may be failed on purpose.
const FAILED_AT_MOST: u32 = 3;
/// Of a thousand deliveries so many are answered late, so that something is always in hand when a fault comes.
const SLOW_PER_MILLE: u64 = 5;
const SLOW_BY: Duration = Duration::from_millis(1500);
/// Seconds from a delivery's signature to its arrival, which a frozen process or a stalled link may hold back.
const OLDEST: u64 = 60;
const PROBLEMS_KEPT: usize = 50;

/// An event as a producer makes it: all of it follows from its number and the seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draft {
    pub(crate) seed: u64,
    pub(crate) number: u64,
}

impl Draft {
    /// Every third event is of a user, the others are of invoices.
    pub(crate) fn event_type(self) -> &'static str {
        if self.number.is_multiple_of(3) { "user.created" } else { "invoice.paid" }
    }

    pub(crate) fn source(self) -> &'static str {
        if self.number.is_multiple_of(2) { "shop" } else { "say\\\"so\"" }
    }

    pub(crate) fn key(self) -> String {
        format!("{}-{}", self.seed, self.number)
    }

    /// JSON that nobody would write again in just this way: it arrives as it is or not at all.
    pub(crate) fn payload(self) -> String {
        let Self { seed, number } = self;
        let filler = "lorem\\u0020ipsum \u{fc}\u{1f980} ".repeat(5 + usize::try_from(number % 50).unwrap());
        format!("{{\"number\":{number} ,\t\"seed\": {seed}e0,\"sum\":1.50, \"text\":\"{filler}\" }}")
    }

    /// Whom the event is owed to.
    pub(crate) fn owed_to(self) -> &'static [usize] {
        if self.number.is_multiple_of(3) { &[0, 1, 2] } else { &[0, 1] }
    }

    /// The body of a delivery (DESIGN, section 6).
    fn body(self, id: &str, timestamp: &str) -> String {
        let (event_type, payload) = (self.event_type(), self.payload());
        let source = serde_json::Value::from(self.source());
        format!(
            "{{\"id\":\"{id}\",\"type\":\"{event_type}\",\"source\":{source},\"timestamp\":\"{timestamp}\",\"data\":{payload}}}"
        )
    }
}

/// A request that a receiver got. Times are since the beginning of the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) at: Duration,
    pub(crate) event: EventId,
    pub(crate) number: u64,
    /// Microseconds since 1970, from the body.
    pub(crate) timestamp: i64,
    pub(crate) accepted: bool,
    /// When the delivery had been accepted before, if it had.
    pub(crate) again_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Acknowledged {
    pub(crate) draft: Draft,
    pub(crate) posted_at: Duration,
    pub(crate) at: Duration,
    /// As the answer said, where it said so: a batch does not.
    pub(crate) created_at: Option<DateTime<Utc>>,
}

#[derive(Default)]
pub(crate) struct Record {
    pub(crate) acknowledged: HashMap<EventId, Acknowledged>,
    pub(crate) arrivals: Vec<Arrival>,
    /// When each receiver first accepted an event.
    pub(crate) accepted: HashMap<EventId, [Option<Duration>; RECEIVERS]>,
    attempts: HashMap<(EventId, usize), u32>,
    /// Acknowledged and still owed to somebody.
    open: HashMap<EventId, Duration>,
    problems: Vec<String>,
    log: Option<BufWriter<File>>,
}

pub(crate) struct Ledger {
    pub(crate) seed: u64,
    started: Instant,
    record: Mutex<Record>,
}

impl Ledger {
    /// What arrives is also appended to `arrivals.log` in this directory.
    pub(crate) fn begin(seed: u64, directory: &Path) -> Self {
        let log = Some(BufWriter::new(File::create(directory.join("arrivals.log")).unwrap()));
        Self { seed, started: Instant::now(), record: Mutex::new(Record { log, ..Record::default() }) }
    }

    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    /// Something that must never be; the run ends soon.
    pub(crate) fn problem(&self, what: impl Into<String>) {
        self.record().problem(what.into());
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        self.record().problems.clone()
    }

    /// A producer has it in writing.
    pub(crate) fn acknowledge(&self, id: EventId, event: Acknowledged) {
        let mut record = self.record();
        let known = record.accepted.get(&id).copied().unwrap_or_default();
        if event.draft.owed_to().iter().any(|receiver| known[*receiver].is_none()) {
            record.open.insert(id, event.at);
        }
        if let Some(before) = record.acknowledged.insert(id, event) {
            let (one, other) = (before.draft.number, event.draft.number);
            record.problem(format!("{id} was acknowledged for event {one} and for event {other}"));
        }
    }

    /// How many events are owed to somebody, and for how long the oldest has been.
    pub(crate) fn open(&self) -> (usize, Duration) {
        let record = self.record();
        let oldest = record.open.values().min().map_or(Duration::ZERO, |at| self.now().saturating_sub(*at));
        (record.open.len(), oldest)
    }

    /// Events acknowledged and still owed, for a report.
    pub(crate) fn owed(&self) -> Vec<String> {
        let record = self.record();
        let mut open: Vec<_> = record.open.iter().map(|(id, at)| (*at, *id)).collect();
        open.sort_unstable();
        open.into_iter()
            .take(10)
            .map(|(at, id)| {
                let missing = record.missing(id);
                format!("{id}, acknowledged at {:.1} s, is owed to receivers {missing:?}", at.as_secs_f64())
            })
            .collect()
    }

    /// What a receiver says to a request.
    pub(crate) fn judge(&self, receiver: usize, secret: &Secret, request: &Request) -> Answer {
        let at = self.now();
        let seen = match examine(self.seed, secret, request) {
            Ok(seen) => seen,
            Err(problem) => {
                self.problem(format!("receiver {receiver} at {:.1} s: {problem}", at.as_secs_f64()));
                return Answer::status(200);
            }
        };
        if !(Draft { seed: self.seed, number: seen.number }).owed_to().contains(&receiver) {
            self.problem(format!("receiver {receiver} got event {}, which is not for it", seen.number));
        }
        let accepted = self.record().arrive(self.seed, receiver, at, &seen);
        let slow = hash(&(self.seed, seen.number, receiver, "slow")) % 1000 < SLOW_PER_MILLE;
        Answer::status(if accepted { 200 } else { 500 }).after(if slow { SLOW_BY } else { Duration::ZERO })
    }
}

struct Seen {
    event: EventId,
    number: u64,
    timestamp: i64,
}

/// Whether a delivery is what its sender was told to send, byte for byte, and signed.
fn examine(seed: u64, secret: &Secret, request: &Request) -> Result<Seen, String> {
    let body = std::str::from_utf8(&request.body).map_err(|error| error.to_string())?;
    let wrong = |what: &str| format!("{what}: {:?} {body}", request.headers);
    let timestamp = request.header(signature::WEBHOOK_TIMESTAMP);
    let sent = timestamp.parse().map_err(|_| wrong("no timestamp"))?;
    let (id, signatures) = (request.webhook_id(), request.header(signature::WEBHOOK_SIGNATURE));
    let age = Utc::now().timestamp().abs_diff(sent);
    if age > OLDEST {
        return Err(format!("signed {age} seconds away from now"));
    }
    // In time, as it is: the rest is the signature's.
    signature::verify(std::slice::from_ref(secret), id, timestamp, signatures, &request.body, sent)
        .map_err(|error| wrong(&error.to_string()))?;
    let between = |start: &str, end: char| {
        let (_, rest) = body.split_once(start)?;
        rest.split_once(end).map(|(value, _)| value.to_owned())
    };
    let number = between("\"data\":{\"number\":", ' ').and_then(|number| number.parse().ok());
    let (Some(number), Some(created_at)) = (number, between("\"timestamp\":\"", '"')) else {
        return Err(wrong("not the body of an event"));
    };
    if (Draft { seed, number }).body(id, &created_at) != body {
        return Err(wrong("not the body that was posted"));
    }
    let created_at = DateTime::parse_from_rfc3339(&created_at).map_err(|error| wrong(&error.to_string()))?;
    let event = id.parse().map_err(|_| wrong("not an event id"))?;
    Ok(Seen { event, number, timestamp: created_at.timestamp_micros() })
}

impl Record {
    fn problem(&mut self, what: String) {
        if self.problems.len() < PROBLEMS_KEPT && !self.problems.contains(&what) {
            self.problems.push(what);
        }
    }

    /// Receivers that have not accepted an event that they are owed.
    pub(crate) fn missing(&self, id: EventId) -> Vec<usize> {
        let known = self.accepted.get(&id).copied().unwrap_or_default();
        let Some(event) = self.acknowledged.get(&id) else { return Vec::new() };
        event.draft.owed_to().iter().copied().filter(|receiver| known[*receiver].is_none()).collect()
    }

    /// Notes a request; answers whether it is accepted.
    fn arrive(&mut self, seed: u64, receiver: usize, at: Duration, seen: &Seen) -> bool {
        let again_after = self.accepted.get(&seen.event).and_then(|known| known[receiver]);
        let attempts = self.attempts.entry((seen.event, receiver)).or_default();
        *attempts += 1;
        let fails = again_after.is_none() && is_failed_on_purpose(seed, seen.number, receiver, *attempts);
        if !fails && again_after.is_none() {
            self.accepted.entry(seen.event).or_default()[receiver] = Some(at);
            if self.acknowledged.contains_key(&seen.event) && self.missing(seen.event).is_empty() {
                self.open.remove(&seen.event);
            }
        }
        let Seen { event, number, timestamp } = *seen;
        self.arrivals.push(Arrival { at, event, number, timestamp, accepted: !fails, again_after });
        if let Some(log) = &mut self.log {
            let (seconds, status) = (at.as_secs_f64(), if fails { 500 } else { 200 });
            let again = if again_after.is_some() { " again" } else { "" };
            writeln!(
                log,
                "{seconds:.3} receiver {receiver} {event} number {number} answered {status}{again}"
            )
            .unwrap();
        }
        !fails
    }

    pub(crate) fn flush(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush().unwrap();
        }
    }
}

fn is_failed_on_purpose(seed: u64, number: u64, receiver: usize, attempt: u32) -> bool {
    attempt <= FAILED_AT_MOST && hash(&(seed, number, receiver, attempt)) % 100 < FAILING_PERCENT
}

fn hash(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
