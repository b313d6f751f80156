//! Posts at a steady rate, whatever becomes of what was posted before. Every time is counted from the moment when
//! an event was due, not from when it was sent: a system that stalls can't keep its stall out of the figures by
//! holding up who measures it (coordinated omission).

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eventrail_core::ids::EventId;
use hdrhistogram::Histogram;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::closed_loop::{histogram, micros, post_one};
use super::wire::Connection;

#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Events a second.
    pub(super) rate: u32,
    pub(super) events: u32,
    /// Requests under way at once; what is due meanwhile waits, and its time runs.
    pub(super) connections: u32,
}

/// An event that was accepted, and when it was due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) id: EventId,
    pub(super) due: Instant,
}

pub(super) struct Paced {
    pub(super) sent: Vec<Sent>,
    pub(super) started: Instant,
    /// Microseconds from due to answered.
    pub(super) answers: Histogram<u64>,
    /// Microseconds from due to sent: how late the generator itself was.
    pub(super) late: Histogram<u64>,
}

/// When the event of this number is due.
fn due(start: Instant, number: u32, rate: u32) -> Instant {
    start + Duration::from_nanos(u64::from(number) * 1_000_000_000 / u64::from(rate.max(1)))
}

type Queue = Arc<Mutex<mpsc::UnboundedReceiver<(u32, Instant)>>>;

/// # Errors
/// The API refuses an event.
pub(super) async fn post(apis: &[String], pace: Pace) -> anyhow::Result<Paced> {
    let (sender, queue) = mpsc::unbounded_channel();
    let queue: Queue = Arc::new(Mutex::new(queue));
    let mut posting = JoinSet::new();
    for index in 0..pace.connections as usize {
        let api = apis.get(index % apis.len().max(1)).context("no API runs")?;
        posting.spawn(post_on(Connection::open(api).await?, Arc::clone(&queue)));
    }
    let started = Instant::now() + Duration::from_millis(1);
    std::thread::Builder::new().name("pacer".into()).spawn(move || tick(started, pace, &sender))?;
    let (mut sent, mut answers, mut late) =
        (Vec::with_capacity(pace.events as usize), histogram()?, histogram()?);
    while let Some(posted) = posting.join_next().await {
        let (some, times, delays) = posted.context("a connection panicked")??;
        sent.extend(some);
        answers.add(times).context("a histogram")?;
        late.add(delays).context("a histogram")?;
    }
    Ok(Paced { sent, started, answers, late })
}

/// Says when each event is due. A thread of its own: a runtime's timers are precise to a millisecond only.
#[expect(clippy::disallowed_methods, reason = "a thread that does nothing but wait")]
fn tick(started: Instant, pace: Pace, queue: &mpsc::UnboundedSender<(u32, Instant)>) {
    // Linux adds 50 µs to each sleep unless it is told otherwise.
    if let Some(thread) = fs::read_link("/proc/thread-self").ok().as_ref().and_then(|path| path.file_name()) {
        let _ = fs::write(std::path::Path::new("/proc").join(thread).join("timerslack_ns"), "1000");
    }
    for number in 0..pace.events {
        let at = due(started, number, pace.rate);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        if queue.send((number, at)).is_err() {
            return;
        }
    }
}

async fn post_on(
    mut connection: Connection,
    queue: Queue,
) -> anyhow::Result<(Vec<Sent>, Histogram<u64>, Histogram<u64>)> {
    let (mut sent, mut answers, mut late) = (Vec::new(), histogram()?, histogram()?);
    let mut ids = Vec::with_capacity(1);
    loop {
        let next = queue.lock().await.recv().await;
        let Some((number, due)) = next else { return Ok((sent, answers, late)) };
        late.saturating_record(micros(due.elapsed()));
        post_one(&mut connection, number, None, &mut ids).await?;
        answers.saturating_record(micros(due.elapsed()));
        sent.extend(ids.drain(..).map(|id| Sent { id, due }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_due_at_the_rate_from_the_start_whatever_happens() {
        let start = Instant::now();
        assert_eq!(due(start, 0, 300), start);
        assert_eq!(due(start, 300, 300), start + Duration::from_secs(1));
        assert_eq!(due(start, 1, 5000), start + Duration::from_micros(200));
        // No error adds up over a long run.
        assert_eq!(due(start, 3_000_000, 3), start + Duration::from_secs(1_000_000));
        assert!((0..1000).all(|number| due(start, number, 7) < due(start, number + 1, 7)));
    }

    #[test]
    fn what_the_pacer_says_is_due_never_before_its_time() {
        let (sender, mut queue) = mpsc::unbounded_channel();
        let started = Instant::now();
        tick(started, Pace { rate: 1000, events: 20, connections: 1 }, &sender);
        drop(sender);
        assert!(started.elapsed() >= Duration::from_millis(19));
        let mut said = Vec::new();
        while let Some((number, at)) = queue.blocking_recv() {
            assert_eq!(at, due(started, number, 1000));
            said.push(number);
        }
        assert_eq!(said, (0..20).collect::<Vec<_>>());
    }
}
