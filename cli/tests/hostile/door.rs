//! The API as strangers find it: its address, its memory, and an honest client that goes on all the while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use eventrail_core::testing::{Api, EventrailProcess, Stack, eventually};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

const BINARY: &str = env!("CARGO_BIN_EXE_eventrail");
pub(crate) const ADMIN: &str = "the-first-key-of-this-test";
/// What the API may take in memory, whatever is done to it; a debug build takes 40 to 60 of it at rest.
const MOST_MIB: u64 = 256;

pub(crate) struct Door {
    pub(crate) api: Api,
    pub(crate) address: SocketAddr,
    process: EventrailProcess,
    _stack: Stack,
}

impl Door {
    pub(crate) async fn open(environment: &[(&str, &str)]) -> Self {
        let stack = Stack::start().await;
        let mut all = vec![("ADMIN_TOKEN", ADMIN)];
        all.extend(environment);
        let process = EventrailProcess::api(BINARY, &stack, &all).await;
        let api = process.client().with_key(ADMIN);
        let address = api.base().trim_start_matches("http://").parse().unwrap();
        Self { api, address, process, _stack: stack }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes on a new connection and reads until the other side closes, or an answer is whole.
    pub(crate) async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The answer may come, and the connection go, before all is sent.
        let _ = stream.write_all(bytes).await;
        read_answer(&mut stream).await
    }

    /// MiB that the process takes, and the most that it ever took.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
        };
        (field("VmRSS") >> 10, field("VmHWM") >> 10)
    }

    /// Posts events for as long as the attack lasts, each of which must be taken; panics as well if the API has
    /// taken too much memory.
    pub(crate) async fn holds<T>(&self, attack: &str, during: impl Future<Output = T>) -> T {
        let before = self.memory();
        let honest = Honest::start(self.api.clone());
        honest.posts(10).await;
        let result = during.await;
        honest.posts(50).await;
        let (posts, worst) = (honest.posted.load(Ordering::SeqCst), honest.worst.load(Ordering::SeqCst));
        drop(honest);
        let (now, most) = self.memory();
        eprintln!(
            "{attack}: {} MiB before, {now} after, {most} at most; {posts} honest posts, the slowest took {worst} ms",
            before.0
        );
        assert!(most < MOST_MIB, "{attack}: the API took {most} MiB");
        let log = self.process.log();
        for word in ["panicked", "ERROR"] {
            assert!(!log.contains(word), "{attack}: the API's log has {word}");
        }
        result
    }
}

/// One that sends a request, reads its answer, and sends the next.
struct Honest {
    posted: Arc<AtomicUsize>,
    /// Milliseconds of the slowest post.
    worst: Arc<AtomicUsize>,
    posting: AbortOnDropHandle<()>,
}

impl Honest {
    fn start(api: Api) -> Self {
        let (posted, worst) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, slowest) = (Arc::clone(&posted), Arc::clone(&worst));
        let posting = tokio::spawn(async move {
            loop {
                let started = Instant::now();
                let body = json!({ "event_type": "a.b", "source": "honest", "payload": 1 });
                let reply = Api::send(api.request("POST", "/events").json(&body)).await.unwrap();
                assert_eq!(reply.status, 201, "{}", reply.text);
                slowest.fetch_max(started.elapsed().as_millis() as usize, Ordering::SeqCst);
                count.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { posted, worst, posting: AbortOnDropHandle::new(posting) }
    }

    /// Waits until so many more are taken.
    async fn posts(&self, more: usize) {
        let wanted = self.posted.load(Ordering::SeqCst) + more;
        eventually(async || {
            assert!(!self.posting.is_finished(), "an honest post was refused");
            let posted = self.posted.load(Ordering::SeqCst);
            if posted >= wanted { Ok(()) } else { Err(format!("{posted} of {wanted} honest posts")) }
        })
        .await;
    }
}

/// Head and body of one answer, or what there is of it when the other side closes.
pub(crate) async fn read_answer(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut some = [0; 4096];
    loop {
        if let Some(length) = whole(&all) {
            all.truncate(length);
            break;
        }
        let read = tokio::time::timeout(eventrail_core::testing::PATIENCE, stream.read(&mut some));
        match read.await.expect("an answer or an end") {
            Ok(0) | Err(_) => break,
            Ok(bytes) => all.extend_from_slice(&some[..bytes]),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Where the first answer ends, once it is all there.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length: usize =
        text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    (bytes.len() >= head + length).then_some(head + length)
}
