//! Accepts connections and serves the router on them: limits what strangers can hold open, and stops in two
//! phases, first taking no new work, then cutting what has not finished.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

const MAX_CONNECTIONS: usize = 10_000;
/// A request's head must be there by then; a connection that rests longer is closed.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// Beyond what [`crate::observe`] refuses with a problem of its own; this is refused without a word.
const MAX_HEAD_BYTES: usize = 128 << 10;
const MAX_HEADERS: usize = 400;
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
    router: Router,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("the listener has no address")?;
    tracing::info!("listening on http://{address}");
    let connections = Connections::default();
    let builder = builder();
    loop {
        let room = Arc::clone(&connections.room).acquire_owned();
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = async { (room.await, listener.accept().await) } => accepted,
        };
        match accepted {
            (Ok(room), Ok((stream, peer))) => {
                connections.serve(&builder, stream, Peer(peer.ip()), router.clone(), room);
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "a connection was not accepted");
                // Out of file descriptors, mostly: without a pause this loop would spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            (Err(_), _) => break,
        }
    }
    drop(listener);
    connections.drain().await;
    Ok(())
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .pipeline_flush(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

struct Connections {
    tasks: TaskTracker,
    room: Arc<Semaphore>,
    graceful: GracefulShutdown,
    cut: CancellationToken,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            tasks: TaskTracker::new(),
            room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            graceful: GracefulShutdown::new(),
            cut: CancellationToken::new(),
        }
    }
}

impl Connections {
    fn serve(
        &self,
        builder: &Builder<TokioExecutor>,
        stream: TcpStream,
        peer: Peer,
        router: Router,
        room: tokio::sync::OwnedSemaphorePermit,
    ) {
        let _ = stream.set_nodelay(true);
        let service = router.map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request.map(Body::new)
        });
        let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let watched = self.graceful.watch(connection.into_owned());
        let cut = self.cut.clone();
        self.tasks.spawn(async move {
            let _room = room;
            tokio::select! {
                ended = watched => {
                    if let Err(error) = ended {
                        tracing::debug!(error, "a connection ended early");
                    }
                }
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
