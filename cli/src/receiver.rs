//! `eventrail receiver`: a small receiver for trying things out. It verifies each delivery as a careful
//! receiver would, prints one line for it, and can play a bad one (`--fail`, `--delay-ms`, `--status`).
//!
//! It keeps nothing but the ids that it has accepted lately, so as to point out duplicates.

mod line;
mod seen;

use std::io::{IsTerminal as _, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use clap::Args;
use eventrail_core::secret::Secret;
use eventrail_core::signature::{self, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use line::{Judgement, Line};
use seen::Seen;

/// The largest event that EventRail can be set to take, and room for its envelope.
const MAX_BODY_BYTES: usize = 65 << 20;
const REMEMBERED: usize = 100_000;

#[derive(Debug, Clone, Args)]
pub(crate) struct ReceiverArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:9000")]
    pub(crate) listen: SocketAddr,
    /// Secret that deliveries must be signed with (whsec_…); may be given several times. Without one, nothing
    /// is verified
    #[arg(
        long = "secret",
        value_name = "SECRET",
        env = "RECEIVER_SECRET",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub(crate) secrets: Vec<Secret>,
    /// Answer 500 with this probability
    #[arg(long, default_value_t = 0.0, value_parser = probability)]
    pub(crate) fail: f64,
    /// Wait this long before each answer
    #[arg(long, default_value_t = 0)]
    pub(crate) delay_ms: u64,
    /// Answer every good delivery with this status
    #[arg(long, default_value_t = 204, value_parser = clap::value_parser!(u16).range(200..=599))]
    pub(crate) status: u16,
}

/// Receives until it is told to stop, then says what came.
///
/// # Errors
/// The address can't be listened on.
pub(crate) async fn run(args: ReceiverArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = match TcpListener::bind(args.listen).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            anyhow::bail!("{} is taken by another program: choose another with --listen", args.listen)
        }
        bound => bound.with_context(|| format!("can't listen on {}", args.listen))?,
    };
    let stdout = std::io::stdout();
    let colour = stdout.is_terminal() && eventrail_core::config::environment("NO_COLOR").is_none();
    let receiver = Arc::new(Receiver::new(args, colour, Box::new(stdout)));
    receiver.greet(listener.local_addr()?);
    tokio::select! {
        served = axum::serve(listener, router(Arc::clone(&receiver))) => served?,
        () = stop.cancelled() => {}
    }
    receiver.sum_up();
    Ok(())
}

struct Receiver {
    args: ReceiverArgs,
    colour: bool,
    state: Mutex<Received>,
}

/// What changes with each delivery; locked once for each.
struct Received {
    output: Box<dyn Write + Send>,
    accepted: Seen,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    received: u64,
    refused: u64,
    failed: u64,
    duplicates: u64,
}

impl Receiver {
    fn new(args: ReceiverArgs, colour: bool, output: Box<dyn Write + Send>) -> Self {
        let state = Received { output, accepted: Seen::new(REMEMBERED), tally: Tally::default() };
        Self { args, colour, state: Mutex::new(state) }
    }

    fn received(&self) -> std::sync::MutexGuard<'_, Received> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn greet(&self, address: SocketAddr) {
        let how = match self.args.secrets.len() {
            0 => "signatures are not checked (no --secret)".to_owned(),
            1 => "signatures are checked".to_owned(),
            secrets => format!("signatures are checked with {secrets} secrets"),
        };
        self.received().say(&format!("receiving on http://{address}, {how}; Ctrl-C stops"));
    }

    fn sum_up(&self) {
        let mut received = self.received();
        let Tally { received: all, refused, failed, duplicates } = received.tally;
        received.say(&format!(
            "\n{all} received: {refused} refused, {failed} answered with a failure, {duplicates} duplicates"
        ));
    }

    fn judge(&self, headers: &HeaderMap, body: &[u8]) -> Judgement {
        if self.args.secrets.is_empty() {
            return Judgement::Unverified;
        }
        let [id, timestamp, signatures] = [WEBHOOK_ID, WEBHOOK_TIMESTAMP, WEBHOOK_SIGNATURE]
            .map(|name| text(headers, name).ok_or_else(|| format!("{name} is missing")));
        let checked = (|| {
            let now = chrono::Utc::now().timestamp();
            signature::verify(&self.args.secrets, id?, timestamp?, signatures?, body, now)
                .map_err(|error| error.to_string())
        })();
        checked.map_or_else(Judgement::Refused, |()| Judgement::Verified)
    }

    /// What this one is answered. Chance is drawn here and nowhere else.
    fn answer(&self, judgement: &Judgement) -> StatusCode {
        match judgement {
            Judgement::Refused(_) => StatusCode::UNAUTHORIZED,
            _ if rand::random_bool(self.args.fail) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::from_u16(self.args.status).unwrap_or(StatusCode::NO_CONTENT),
        }
    }
}

impl Received {
    /// Nobody may be reading any more; that stops nothing.
    fn say(&mut self, line: &str) {
        let _ = writeln!(self.output, "{line}");
        let _ = self.output.flush();
    }
}

fn router(receiver: Arc<Receiver>) -> Router {
    Router::new().fallback(receive).with_state(receiver)
}

async fn receive(State(receiver): State<Arc<Receiver>>, request: Request) -> (StatusCode, &'static str) {
    if request.method() != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, "this is where webhooks are POSTed to\n");
    }
    let (head, body) = request.into_parts();
    let Ok(body) = whole(body).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "");
    };
    let judgement = receiver.judge(&head.headers, &body);
    let status = receiver.answer(&judgement);
    {
        let mut received = receiver.received();
        let duplicate = !matches!(judgement, Judgement::Refused(_))
            && received.is_duplicate(&head.headers, head.uri.path(), status);
        let line = Line::new(&judgement, &head.headers, head.uri.path(), &body, status, duplicate);
        received.count(&judgement, status, duplicate);
        received.say(&line.show(chrono::Local::now(), receiver.colour));
    }
    tokio::time::sleep(Duration::from_millis(receiver.args.delay_ms)).await;
    (status, "")
}

async fn whole(body: Body) -> Result<axum::body::Bytes, axum::Error> {
    to_bytes(body, MAX_BODY_BYTES).await
}

impl Received {
    /// Whether the like has been accepted before. Endpoints are told apart by group and path, deliberate
    /// replays by their marker; an earlier delivery that was answered with a failure is no duplicate.
    fn is_duplicate(&mut self, headers: &HeaderMap, path: &str, status: StatusCode) -> bool {
        let [id, replay, group] =
            [WEBHOOK_ID, line::REPLAY, line::GROUP].map(|name| text(headers, name).unwrap_or_default());
        if id.is_empty() {
            return false;
        }
        let key = format!("{id} {replay} {group} {path}");
        let known = self.accepted.contains(&key);
        if status.is_success() {
            self.accepted.insert(key);
        }
        known
    }

    fn count(&mut self, judgement: &Judgement, status: StatusCode, duplicate: bool) {
        let refused = matches!(judgement, Judgement::Refused(_));
        self.tally.received += 1;
        self.tally.refused += u64::from(refused);
        self.tally.failed += u64::from(!refused && !status.is_success());
        self.tally.duplicates += u64::from(duplicate);
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn probability(text: &str) -> Result<f64, String> {
    let given: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&given) { Ok(given) } else { Err("must be between 0 and 1".into()) }
}

#[cfg(test)]
mod tests;
