//! Accepts connections and serves the router on them: limits what strangers can hold open ([`guests`], [`patient`]),
//! and stops in two phases, first taking no new work, then cutting what has not finished.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};
use eventrail_core::config::ApiConfig;
use eventrail_core::descriptors;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use self::guests::House;
use self::patient::Patient;

mod guests;
mod patient;

pub(crate) use self::guests::{BodyRoom, Guest};

/// Descriptors for all but clients: PostgreSQL, Redis, pings to endpoints.
const OTHER_DESCRIPTORS: u64 = 256;
/// What bodies may take in memory at once, or four batches of the largest size.
const BODY_BYTES: usize = 128 << 20;
/// Larger answers take room beside the bodies of requests, until they are sent.
const LARGE_ANSWER: u64 = 64 << 10;
/// A request's head must be there by then.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// A connection that rests longer is closed, what it has sent of HTTP/2's preface included.
const REST_DEADLINE: Duration = Duration::from_secs(60);
/// Who reads nothing of an answer for so long is given up.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// Beyond what [`crate::observe`] refuses with a problem of its own; this is refused without a word.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 400;
const H2_STREAMS: u32 = 100;
const H2_STREAM_WINDOW: u32 = 256 << 10;
const H2_CONNECTION_WINDOW: u32 = 1 << 20;
const H2_SEND_BYTES: usize = 64 << 10;
/// Requests under way get this long to finish. Longer than a commit may take.
const DRAIN_DEADLINE: Duration = Duration::from_secs(15);

/// The other end of a request's connection.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// # Errors
/// One line that names the setting to change.
pub async fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!("{listen} is taken: set LISTEN"),
        _ => anyhow::anyhow!("{listen} can't be listened on ({error}): set LISTEN"),
    })
}

/// Serves until `shutdown`, then until all requests are answered or the deadline has passed.
pub(crate) async fn run(
    listener: TcpListener,
    config: &ApiConfig,
    router: Router,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("the listener has no address")?;
    let batches = usize::try_from(config.max_batch_bytes)?.saturating_mul(4);
    let house = House::new(most_connections(config), BODY_BYTES.max(batches));
    tracing::info!("listening on http://{address}");
    let connections = Connections::default();
    let builder = builder();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &house) => accepted,
        };
        match accepted {
            Ok((stream, peer, guest)) => connections.serve(&builder, stream, peer, router.clone(), guest),
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                // Out of file descriptors, mostly: without a pause this loop would spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.drain().await;
    Ok(())
}

/// As many as are configured, if the system gives so many.
fn most_connections(config: &ApiConfig) -> usize {
    let wanted = u64::from(config.max_connections);
    let given = descriptors::raise().map_or(wanted, |most| most.saturating_sub(OTHER_DESCRIPTORS).max(16));
    if given < wanted {
        tracing::warn!("only {given} connections of MAX_CONNECTIONS={wanted}: raise the limit of open files");
    }
    usize::try_from(given.min(wanted)).unwrap_or(usize::MAX)
}

/// A connection, and its room.
async fn accept(listener: &TcpListener, house: &Arc<House>) -> std::io::Result<(TcpStream, Peer, Guest)> {
    let (stream, peer) = listener.accept().await?;
    Ok((stream, Peer(peer.ip()), house.admit().await))
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_send_buf_size(H2_SEND_BYTES)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

struct Connections {
    tasks: TaskTracker,
    graceful: GracefulShutdown,
    cut: CancellationToken,
}

impl Default for Connections {
    fn default() -> Self {
        Self { tasks: TaskTracker::new(), graceful: GracefulShutdown::new(), cut: CancellationToken::new() }
    }
}

impl Connections {
    fn serve(
        &self,
        builder: &Builder<TokioExecutor>,
        stream: TcpStream,
        peer: Peer,
        router: Router,
        guest: Guest,
    ) {
        let _ = stream.set_nodelay(true);
        let leaves = guest.leaves();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(guest.clone());
            answer(router.clone(), guest.clone(), request.map(Body::new))
        });
        let stream = TokioIo::new(Patient::new(stream, WRITE_DEADLINE, REST_DEADLINE));
        let connection = builder.serve_connection(stream, service);
        let watched = self.graceful.watch(connection.into_owned());
        let cut = self.cut.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                ended = watched => {
                    if let Err(error) = ended {
                        tracing::debug!(error, "a connection ended early");
                    }
                }
                () = leaves.cancelled() => tracing::debug!("a connection has made room for another"),
                () = cut.cancelled() => {}
            }
        });
    }

    async fn drain(self) {
        if tokio::time::timeout(DRAIN_DEADLINE, self.graceful.shutdown()).await.is_err() {
            tracing::warn!("requests were cut: they had not finished after {DRAIN_DEADLINE:?}");
        }
        self.cut.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn answer(
    router: Router,
    guest: Guest,
    request: Request,
) -> Result<axum::response::Response, std::convert::Infallible> {
    let working = guest.work();
    // RFC 9112, section 6.1: a length beside it was dropped, and others may have read the next request elsewhere.
    let is_last =
        request.version() == Version::HTTP_11 && request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut response = router.oneshot(request).await?;
    if is_last {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let size = response.body().size_hint().exact().unwrap_or_default();
    if size <= LARGE_ANSWER {
        return Ok(response);
    }
    let mut room = BodyRoom::of(Some(guest));
    // Found, unless all of it is worked on; what was asked for has been done, so it is answered all the same.
    let _ = room.holds(usize::try_from(size).unwrap_or(usize::MAX)).await;
    drop(working);
    let mut room = Some(room);
    Ok(response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            frame.map_data(|data| match room.take() {
                Some(room) => room.with(data),
                None => data,
            })
        }))
    }))
}
