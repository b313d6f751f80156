//! A scripted HTTP receiver: records every request, and answers, delays, hangs or hangs up as it is told.
//!
//! It speaks HTTP/1.1 by hand, so that a test controls each byte and each close.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::eventually::PATIENCE;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub path: String,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
    pub body: Bytes,
    pub at: Instant,
    pub received_at: DateTime<Utc>,
    /// Counts the connections of this receiver, from 1: requests of one connection share it.
    pub connection: usize,
}

impl Request {
    /// The header's value, or `""`.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn webhook_id(&self) -> &str {
        self.header("webhook-id")
    }
}

/// What the receiver does with one request.
#[derive(Debug, Clone)]
pub struct Answer {
    delay: Duration,
    act: Act,
}

#[derive(Debug, Clone)]
enum Act {
    Respond { status: u16, headers: Vec<(String, String)>, body: Bytes },
    Raw(Bytes),
    RawThenHang(Bytes),
    HoldThenRespond(u16),
    Close,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self::act(Act::Respond { status, headers: Vec::new(), body: Bytes::new() })
    }

    /// Answers nothing and keeps the connection.
    pub fn hang() -> Self {
        Self::act(Act::RawThenHang(Bytes::new()))
    }

    /// Keeps the request until [`Receiver::release`], then answers.
    pub fn hold(status: u16) -> Self {
        Self::act(Act::HoldThenRespond(status))
    }

    /// Closes the connection without an answer.
    pub fn close() -> Self {
        Self::act(Act::Close)
    }

    /// Sends these bytes and closes.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::act(Act::Raw(bytes.into()))
    }

    /// Sends these bytes, such as a head without its body, and keeps the connection.
    pub fn raw_then_hang(bytes: impl Into<Bytes>) -> Self {
        Self::act(Act::RawThenHang(bytes.into()))
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Act::Respond { headers, .. } = &mut self.act {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    #[must_use]
    pub fn body(mut self, text: impl Into<Bytes>) -> Self {
        if let Act::Respond { body, .. } = &mut self.act {
            *body = text.into();
        }
        self
    }

    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    fn act(act: Act) -> Self {
        Self { delay: Duration::ZERO, act }
    }
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    counts: HashMap<String, usize>,
    next: HashMap<String, VecDeque<Answer>>,
    always: HashMap<String, Answer>,
    connections: usize,
}

/// Sees each request and says how it is answered.
type Judge = Box<dyn Fn(Request) -> Answer + Send + Sync>;

struct Shared {
    state: Mutex<State>,
    judge: Option<Judge>,
    arrived: Notify,
    released: watch::Sender<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Keeps the request; answers what the scripts say, and what tells of a release from now on.
    fn by_script(&self, request: Request) -> (Answer, watch::Receiver<u64>) {
        let mut state = self.state();
        let scripted = state.next.get_mut(&request.path).and_then(VecDeque::pop_front);
        let answer = scripted.or_else(|| state.always.get(&request.path).cloned());
        *state.counts.entry(request.path.clone()).or_default() += 1;
        state.requests.push(request);
        let mut released = self.released.subscribe();
        released.mark_unchanged();
        (answer.unwrap_or_else(|| Answer::status(200)), released)
    }
}

/// Listens on a loopback port until it is dropped. Answers 200 where no script says otherwise.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
}

impl Receiver {
    pub async fn start() -> Self {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// On a given address, such as that of a receiver that was dropped.
    pub async fn start_on(address: SocketAddr) -> Self {
        Self::listen(address, None).await
    }

    /// A receiver that keeps nothing: `judge` is given each request and says how it is answered.
    pub async fn start_judged(judge: impl Fn(Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), Some(Box::new(judge))).await
    }

    async fn listen(address: SocketAddr, judge: Option<Judge>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            judge,
            arrived: Notify::new(),
            released: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, _accepting: AbortOnDropHandle::new(accepting) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The next requests to this path get these answers, one each.
    pub fn script(&self, path: &str, answers: impl IntoIterator<Item = Answer>) {
        self.shared.state().next.entry(path.to_owned()).or_default().extend(answers);
    }

    /// Requests to this path for which no scripted answer is left get this one.
    pub fn always(&self, path: &str, answer: Answer) {
        self.shared.state().always.insert(path.to_owned(), answer);
    }

    /// Lets all requests that are held by [`Answer::hold`] be answered.
    pub fn release(&self) {
        self.shared.released.send_modify(|times| *times += 1);
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// Forgets all requests so far.
    pub fn forget(&self) {
        let mut state = self.shared.state();
        state.requests.clear();
        state.counts.clear();
    }

    pub fn count(&self) -> usize {
        self.shared.state().requests.len()
    }

    /// The requests so far to one path.
    pub fn requests_to(&self, path: &str) -> Vec<Request> {
        self.shared.state().requests.iter().filter(|request| request.path == path).cloned().collect()
    }

    /// How many requests one path has got.
    pub fn count_to(&self, path: &str) -> usize {
        self.shared.state().counts.get(path).copied().unwrap_or(0)
    }

    /// Waits until `count` requests have arrived, and answers all so far.
    pub async fn wait_for(&self, count: usize) -> Vec<Request> {
        self.wait_until(|requests| requests.len() >= count).await
    }

    /// Waits until the requests so far satisfy `enough`, and answers them.
    pub async fn wait_until(&self, enough: impl Fn(&[Request]) -> bool) -> Vec<Request> {
        self.wait_until_within(PATIENCE, enough).await
    }

    /// The same, with a patience of one's own.
    pub async fn wait_until_within(
        &self,
        patience: Duration,
        enough: impl Fn(&[Request]) -> bool,
    ) -> Vec<Request> {
        let waiting = async {
            loop {
                let arrived = self.shared.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if enough(&self.shared.state().requests) {
                    return;
                }
                arrived.await;
            }
        };
        if tokio::time::timeout(patience, waiting).await.is_err() {
            let mut paths: BTreeMap<String, usize> = BTreeMap::new();
            for request in self.requests() {
                *paths.entry(request.path).or_default() += 1;
            }
            panic!("only {} requests after {} s: {paths:?}", self.count(), patience.as_secs());
        }
        self.requests()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let connection = {
            let mut state = shared.state();
            state.connections += 1;
            state.connections
        };
        connections.spawn(serve(stream, connection, Arc::clone(&shared)));
    }
}

/// One connection, request after request, until somebody closes it.
async fn serve(stream: TcpStream, connection: usize, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream, connection).await {
        let (answer, mut released) = match &shared.judge {
            Some(judge) => (judge(request), shared.released.subscribe()),
            None => shared.by_script(request),
        };
        shared.arrived.notify_waiters();
        if !answer.delay.is_zero() {
            tokio::time::sleep(answer.delay).await;
        }
        let (bytes, keep) = match answer.act {
            Act::Respond { status, headers, body } => (response(status, &headers, &body), true),
            Act::HoldThenRespond(status) => {
                let _ = released.changed().await;
                (response(status, &[], &[]), true)
            }
            Act::Raw(bytes) => (bytes, false),
            Act::RawThenHang(bytes) => {
                let _ = stream.write_all(&bytes).await;
                // Until the other side closes, or sends what it should not.
                let _ = stream.read_u8().await;
                return;
            }
            Act::Close => return,
        };
        if stream.write_all(&bytes).await.is_err() || !keep {
            return;
        }
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>, connection: usize) -> Option<Request> {
    let first = read_line(stream).await?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let line = read_line(stream).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    assert!(!headers.contains_key("transfer-encoding"), "deliveries have a known length");
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request {
        method,
        path,
        headers,
        body: body.into(),
        at: Instant::now(),
        received_at: Utc::now(),
        connection,
    })
}

/// A line without its end; `None` at the end of the connection.
async fn read_line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let length = stream.read_line(&mut line).await.ok()?;
    (length > 0).then(|| line.trim_end().to_owned())
}

fn response(status: u16, headers: &[(String, String)], body: &[u8]) -> Bytes {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    [head.as_bytes(), body].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::api::http_client;

    #[tokio::test]
    async fn requests_are_recorded_and_answered_by_their_script() {
        let receiver = Receiver::start().await;
        receiver.script("/a", [Answer::status(500), Answer::status(302).header("location", "/b")]);
        receiver.always("/gone", Answer::status(410).body("bye"));
        let client = http_client();
        let mut statuses = Vec::new();
        for _ in 0..3 {
            let sent = client.post(receiver.url("/a")).header("webhook-id", "x").body("hello").send().await;
            statuses.push(sent.unwrap().status().as_u16());
        }
        assert_eq!(statuses, [500, 302, 200]);
        let gone = client.get(receiver.url("/gone")).send().await.unwrap();
        assert_eq!((gone.status().as_u16(), gone.text().await.unwrap().as_str()), (410, "bye"));
        let requests = receiver.wait_for(4).await;
        assert_eq!(requests[0].webhook_id(), "x");
        assert_eq!(&requests[0].body[..], b"hello");
        assert_eq!(requests[0].method, "POST");
        assert_eq!(receiver.requests_to("/a").len(), 3);
        assert_eq!(requests[0].connection, requests[1].connection, "connections are kept");
    }

    #[tokio::test]
    async fn it_holds_hangs_and_hangs_up_as_told() {
        let receiver = Receiver::start().await;
        receiver.script("/held", [Answer::hold(202)]);
        receiver.script("/hangs", [Answer::hang()]);
        receiver.script("/closes", [Answer::close()]);
        receiver.script("/odd", [Answer::raw("this is not HTTP\r\n\r\n")]);
        let client = http_client();
        assert!(client.get(receiver.url("/closes")).send().await.is_err());
        assert!(client.get(receiver.url("/odd")).send().await.is_err());
        let hanging = client.get(receiver.url("/hangs")).timeout(Duration::from_millis(100)).send();
        assert!(hanging.await.unwrap_err().is_timeout());
        let held = tokio::spawn(client.get(receiver.url("/held")).send());
        receiver.wait_until(|requests| requests.iter().any(|request| request.path == "/held")).await;
        assert!(!held.is_finished());
        receiver.release();
        assert_eq!(held.await.unwrap().unwrap().status().as_u16(), 202);
    }
}
