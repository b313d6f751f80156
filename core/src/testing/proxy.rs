//! A TCP proxy that can be cut, stalled, delayed, slowed down, turned to another server, or made to swallow
//! answers, in the middle of traffic.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// Connections are closed, new ones as soon as they come.
    Cut,
    /// Connections stay and are accepted, but nothing passes.
    Stalled,
    /// Each piece waits this long.
    Delayed(Duration),
    /// So many bytes a second pass, each way of each connection.
    Slow(u32),
    /// Requests pass, answers vanish.
    Deaf,
}

/// Stands between a client and `upstream`, on a loopback port of its own.
pub struct CuttingProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    connections: Arc<AtomicUsize>,
    abandoned: watch::Sender<usize>,
    upstream: watch::Sender<SocketAddr>,
    _accepting: AbortOnDropHandle<()>,
}

impl CuttingProxy {
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, watched) = watch::channel(Mode::Open);
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let (abandoned, generation) = watch::channel(0);
        let (upstream, towards) = watch::channel(upstream);
        let accepting = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while running.try_join_next().is_some() {}
                if *watched.borrow() != Mode::Cut {
                    let link = Link {
                        mode: watched.clone(),
                        born: *generation.borrow(),
                        generation: generation.clone(),
                        upstream: towards.clone(),
                    };
                    running.spawn(connect(client, link, Arc::clone(&counted)));
                }
            }
        });
        let accepting = AbortOnDropHandle::new(accepting);
        Self { address, mode, connections, abandoned, upstream, _accepting: accepting }
    }

    /// A proxy for the server of this URL, and the URL that leads through the proxy.
    pub async fn for_url(url: &str) -> (Self, String) {
        let mut through = url::Url::parse(url).unwrap();
        let upstream = *through.socket_addrs(|| None).unwrap().first().unwrap();
        let proxy = Self::start(upstream).await;
        through.set_port(Some(proxy.address.port())).unwrap();
        (proxy, through.to_string())
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections pass through it.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Closes all connections and those that come.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Lets nothing pass, like a network that drops packets.
    pub fn stall(&self) {
        self.mode.send_replace(Mode::Stalled);
    }

    /// Lets each piece wait.
    pub fn delay(&self, delay: Duration) {
        self.mode.send_replace(Mode::Delayed(delay));
    }

    /// Lets so many bytes a second pass, each way of each connection.
    pub fn slow_down(&self, bytes_a_second: u32) {
        self.mode.send_replace(Mode::Slow(bytes_a_second));
    }

    /// New connections go to another server; those that there are are closed.
    pub fn turn_to(&self, upstream: SocketAddr) {
        self.upstream.send_replace(upstream);
    }

    /// Requests reach the server, answers never come back: whoever asked can't know what happened.
    pub fn swallow_answers(&self) {
        self.mode.send_replace(Mode::Deaf);
    }

    /// Nothing passes any more on the connections that there are, and nobody closes them; new ones work. A
    /// server that lost its power and was replaced looks like this.
    pub fn abandon(&self) {
        self.abandoned.send_modify(|generation| *generation += 1);
    }

    /// Everything passes again; connections that were cut stay cut.
    pub fn mend(&self) {
        self.mode.send_replace(Mode::Open);
    }
}

/// What the two directions of a connection share.
#[derive(Clone)]
struct Link {
    mode: watch::Receiver<Mode>,
    born: usize,
    generation: watch::Receiver<usize>,
    upstream: watch::Receiver<SocketAddr>,
}

async fn connect(client: TcpStream, link: Link, connections: Arc<AtomicUsize>) {
    let mut towards = link.upstream.clone();
    let upstream = *towards.borrow_and_update();
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    connections.fetch_add(1, Ordering::SeqCst);
    let mut cut = link.mode.clone();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = async { tokio::join!(
            pump(from_client, to_server, link.clone(), false),
            pump(from_server, to_client, link, true),
        ) } => {}
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
        _ = towards.changed() => {}
    }
    connections.fetch_sub(1, Ordering::SeqCst);
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut link: Link,
    is_answer: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if *link.generation.borrow() > link.born {
            std::future::pending::<()>().await;
        }
        let Ok(now) = link.mode.wait_for(|mode| *mode != Mode::Stalled).await.map(|mode| *mode) else {
            return;
        };
        match now {
            Mode::Deaf if is_answer => continue,
            Mode::Delayed(delay) => tokio::time::sleep(delay).await,
            Mode::Slow(bytes_a_second) => {
                let seconds = length as f64 / f64::from(bytes_a_second);
                // Not the whole piece's time at once: the link may be mended meanwhile.
                let mended = link.mode.wait_for(|mode| !matches!(mode, Mode::Slow(_)));
                let _ = tokio::time::timeout(Duration::from_secs_f64(seconds), mended).await;
            }
            _ => {}
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo_server() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn ask(stream: &mut TcpStream) -> std::io::Result<usize> {
        stream.write_all(b"x").await?;
        stream.read(&mut [0]).await
    }

    #[tokio::test]
    async fn a_cut_closes_connections_and_mending_lets_new_ones_pass() {
        let proxy = CuttingProxy::start(echo_server().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream).await.unwrap(), 1);
        assert_eq!(proxy.connections(), 1);
        proxy.cut();
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)), "closed");
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(matches!(ask(&mut refused).await, Ok(0) | Err(_)), "closed at once");
        proxy.mend();
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut again).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_link_turned_to_another_server_closes_what_it_had_and_leads_there() {
        let proxy = CuttingProxy::start(echo_server().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream).await.unwrap(), 1);
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        proxy.turn_to(silent.local_addr().unwrap());
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)), "closed");
        let _client = TcpStream::connect(proxy.address()).await.unwrap();
        silent.accept().await.unwrap();
    }

    #[tokio::test]
    async fn a_slow_link_passes_bytes_at_its_pace_until_it_is_mended() {
        let proxy = CuttingProxy::start(echo_server().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.slow_down(1);
        stream.write_all(&[0; 100]).await.unwrap();
        let held = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut [0])).await;
        assert!(held.is_err(), "a hundred bytes take a hundred seconds");
        proxy.mend();
        stream.read_exact(&mut [0; 100]).await.unwrap();
    }

    #[tokio::test]
    async fn a_stall_holds_bytes_and_swallowed_answers_are_lost() {
        let proxy = CuttingProxy::start(echo_server().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.stall();
        let held = tokio::time::timeout(Duration::from_millis(100), ask(&mut stream)).await;
        assert!(held.is_err(), "nothing passes");
        proxy.mend();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 1, "what was held arrives");
        proxy.swallow_answers();
        assert!(tokio::time::timeout(Duration::from_millis(100), ask(&mut stream)).await.is_err());
        proxy.mend();
        assert_eq!(ask(&mut stream).await.unwrap(), 1);
        let lost = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut [0])).await;
        assert!(lost.is_err(), "the swallowed answer does not come later");
    }
}
