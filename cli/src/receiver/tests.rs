//! The receiver through its own door: deliveries over TCP, the lines that it prints.

use std::io;

use eventrail_core::signature::{SigningKey, sign};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const ID: &str = "evt_01h455vb4pex5vsknk084sn02q";
const BODY: &str = r#"{"id":"evt_01h455vb4pex5vsknk084sn02q","type":"user.created","source":"crm","timestamp":"2026-01-01T00:00:00Z","data":{"name":"Zoë"}}"#;

/// A terminal that a test can read.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Running {
    address: SocketAddr,
    receiver: Arc<Receiver>,
    paper: Paper,
}

impl Running {
    async fn start(flags: &[&str]) -> Self {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: ReceiverArgs,
        }
        let cli = <Cli as clap::Parser>::parse_from(["receiver"].iter().chain(flags));
        let paper = Paper::default();
        let receiver = Arc::new(Receiver::new(cli.args, false, Box::new(paper.clone())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, router(Arc::clone(&receiver))).into_future());
        Self { address, receiver, paper }
    }

    /// Sends one request and returns its status.
    async fn post(&self, headers: &[(&str, &str)], body: &str) -> u16 {
        let mut request = format!(
            "POST /hook HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{request}\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    async fn deliver(&self, secret: &Secret, more: &[(&str, &str)]) -> u16 {
        let now = chrono::Utc::now().timestamp();
        let signature = sign(ID, now, BODY.as_bytes(), &[SigningKey::new(secret)]);
        let now = now.to_string();
        let mut headers = vec![(WEBHOOK_ID, ID), (WEBHOOK_TIMESTAMP, &now), (WEBHOOK_SIGNATURE, &signature)];
        headers.extend([(line::ATTEMPT, "2"), (line::GROUP, "default")]);
        headers.extend(more);
        self.post(&headers, BODY).await
    }

    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.paper.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_good_delivery_is_verified_and_shown_on_one_line() {
    let secret = Secret::generate();
    let receiver = Running::start(&["--secret", &secret.to_text()]).await;
    assert_eq!(receiver.deliver(&secret, &[]).await, 204);
    let lines = receiver.lines();
    assert_eq!(lines.len(), 1);
    let (_time, rest) = lines[0].split_once("  ").unwrap();
    let bytes = BODY.len();
    assert_eq!(
        rest,
        format!(
            r#"verified  attempt 2  {ID}  user.created  from crm  at /hook  {bytes} bytes  -> 204  {{"name":"Zoë"}}"#
        )
    );
}

#[tokio::test]
async fn either_of_two_secrets_will_do() {
    let (old, new) = (Secret::generate(), Secret::generate());
    let receiver = Running::start(&["--secret", &old.to_text(), "--secret", &new.to_text()]).await;
    assert_eq!(receiver.deliver(&old, &[]).await, 204);
    assert_eq!(receiver.deliver(&new, &[]).await, 204);
}

#[tokio::test]
async fn a_delivery_signed_by_another_or_not_at_all_is_refused_with_the_reason() {
    let receiver = Running::start(&["--secret", &Secret::generate().to_text()]).await;
    assert_eq!(receiver.deliver(&Secret::generate(), &[]).await, 401);
    assert_eq!(receiver.post(&[], "{}").await, 401);
    let lines = receiver.lines();
    assert!(lines[0].contains("REFUSED (no signature is of a known secret"), "{}", lines[0]);
    assert!(lines[1].contains("REFUSED (webhook-id is missing)"), "{}", lines[1]);
}

#[tokio::test]
async fn without_a_secret_it_says_unverified() {
    let receiver = Running::start(&[]).await;
    assert_eq!(receiver.deliver(&Secret::generate(), &[]).await, 204);
    assert!(receiver.lines()[0].contains("  unverified  "));
}

#[tokio::test]
async fn the_same_again_is_a_duplicate_but_a_replay_is_not() {
    let secret = Secret::generate();
    let receiver = Running::start(&["--secret", &secret.to_text()]).await;
    for more in [&[][..], &[], &[(line::REPLAY, "rpl_1")], &[(line::REPLAY, "rpl_1")]] {
        receiver.deliver(&secret, more).await;
    }
    let duplicates: Vec<bool> = receiver.lines().iter().map(|line| line.contains("  duplicate  ")).collect();
    assert_eq!(duplicates, [false, true, false, true]);
    assert!(receiver.lines()[2].contains("  replay rpl_1  "));
    receiver.receiver.sum_up();
    assert_eq!(
        receiver.lines().last().unwrap(),
        "4 received: 0 refused, 0 answered with a failure, 2 duplicates"
    );
}

#[tokio::test]
async fn it_plays_a_bad_receiver_and_a_retry_of_what_it_failed_is_no_duplicate() {
    let secret = Secret::generate();
    for (flags, status) in [(["--status", "503"], 503), (["--fail", "1"], 500)] {
        let receiver = Running::start(&[&flags[..], &["--secret", &secret.to_text()]].concat()).await;
        assert_eq!(receiver.deliver(&secret, &[]).await, status);
        assert_eq!(receiver.deliver(&secret, &[]).await, status);
        assert!(receiver.lines().iter().all(|line| !line.contains("duplicate")));
    }
}

#[tokio::test]
async fn what_would_steer_the_terminal_is_escaped() {
    let receiver = Running::start(&[]).await;
    receiver.post(&[], "{\"type\":\"\\u001b[2Ja\",\"data\":\"\u{202e}\u{9b}x\"}").await;
    receiver.post(&[], "\x1b[2J").await;
    let lines = receiver.lines();
    assert!(lines[0].contains(r"\u{1b}[2Ja") && lines[0].contains(r"\u{202e}\u{9b}x"), "{}", lines[0]);
    assert!(lines[1].ends_with("(not an event's JSON)"), "{}", lines[1]);
}

#[tokio::test]
async fn a_port_that_is_taken_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap();
    let args = ReceiverArgs { listen, secrets: Vec::new(), fail: 0.0, delay_ms: 0, status: 204 };
    let error = run(args, CancellationToken::new()).await.unwrap_err().to_string();
    assert_eq!(error, format!("{listen} is taken by another program: choose another with --listen"));
}
