//! A TCP proxy between programs and a service, for tests with an unreliable network.
//!
//! It forwards bytes until [`Proxy::set`] injects a fault, and counts the effects of each fault. A
//! connection that was affected by a fault stays broken. For example, it never works again after a
//! black hole, like a connection whose state a firewall has lost. Connections that are opened after
//! [`Proxy::heal`] work.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// The behavior of the connections through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// Bytes are forwarded.
    Normal,
    /// Each chunk of bytes is forwarded after this delay.
    Slow(Duration),
    /// Existing and new connections are reset.
    Cut,
    /// Bytes from the service are not forwarded; bytes from the program are.
    HalfClosed,
    /// Both ends stay open, and no bytes are forwarded.
    BlackHole,
}

/// Counts of the effects of faults.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    pub(crate) delayed: AtomicU64,
    pub(crate) cut: AtomicU64,
    pub(crate) half_closed: AtomicU64,
    pub(crate) swallowed: AtomicU64,
}

/// The proxy. It stops when this value is dropped. See the module documentation.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    pub(crate) counters: Arc<Counters>,
    network: watch::Sender<Network>,
    stop: CancellationToken,
}

impl Proxy {
    /// Starts a proxy for these ports of this machine. Each connection goes to the first port that
    /// answers.
    pub(crate) async fn start(ports: Vec<u16>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port");
        let (network, receiver) = watch::channel(Network::Normal);
        let (counters, stop) = (Arc::new(Counters::default()), CancellationToken::new());
        let port = listener.local_addr().expect("the listener is bound").port();
        let serving = serve(listener, Arc::from(ports), receiver, counters.clone());
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(serving).await });
        Self { port, counters, network, stop }
    }

    /// Changes the behavior of all connections from now on.
    pub(crate) fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// Ends the fault for connections that are opened from now on.
    pub(crate) fn heal(&self) {
        self.set(Network::Normal);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(listener: TcpListener, ports: Arc<[u16]>, network: watch::Receiver<Network>, counters: Arc<Counters>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(connect(client, ports.clone(), network.clone(), counters.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: TcpStream, ports: Arc<[u16]>, network: watch::Receiver<Network>, counters: Arc<Counters>) {
    counters.connections.fetch_add(1, Ordering::Relaxed);
    let mut server = None;
    for &port in &*ports {
        if server.is_none() {
            server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok();
        }
    }
    let Some(server) = server else { return reset_on_close(&client) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((client_reads, client_writes), (server_reads, server_writes)) = (client.into_split(), server.into_split());
    let to_server = forward(client_reads, server_writes, network.clone(), counters.clone(), Direction::ToServer);
    let to_client = forward(server_reads, client_writes, network, counters, Direction::ToClient);
    // Each direction ends independently, because a program may have finished sending and still be
    // receiving.
    tokio::select! {
        Ended::Reset = to_server => {}
        Ended::Reset = to_client => {}
        else => {}
    }
}

/// Makes this socket send a reset when it is closed.
fn reset_on_close(socket: &TcpStream) {
    let _ = socket.set_zero_linger();
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

enum Ended {
    Closed,
    Reset,
}

/// Forwards the bytes in one direction.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut network: watch::Receiver<Network>,
    counters: Arc<Counters>,
    direction: Direction,
) -> Ended {
    let is_reply = direction == Direction::ToClient;
    let mut chunk = vec![0; 16 << 10];
    loop {
        let now = *network.borrow_and_update();
        match now {
            Network::Cut => {
                counters.cut.fetch_add(u64::from(is_reply), Ordering::Relaxed);
                return reset_both(&from, &to);
            }
            Network::BlackHole => return swallow(from, to, &counters).await,
            Network::HalfClosed if is_reply => {
                counters.half_closed.fetch_add(1, Ordering::Relaxed);
                let _ = to.shutdown().await;
                return swallow(from, to, &counters).await;
            }
            Network::Normal | Network::Slow(_) | Network::HalfClosed => {}
        }
        let read = tokio::select! {
            // Check for a change first, because bytes that are sent after a change must not be
            // forwarded as before.
            biased;
            Ok(()) = network.changed() => continue,
            read = from.read(&mut chunk) => read,
        };
        let bytes = match read {
            Ok(0) => {
                let _ = to.shutdown().await;
                return Ended::Closed;
            }
            Ok(bytes) => bytes,
            Err(_) => return reset_both(&from, &to),
        };
        if let Network::Slow(delay) = now {
            counters.delayed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&chunk[..bytes]).await.is_err() {
            return reset_both(&from, &to);
        }
    }
}

/// Reads and discards all bytes, and keeps both sockets open.
async fn swallow(mut from: OwnedReadHalf, _to: OwnedWriteHalf, counters: &Counters) -> Ended {
    let mut chunk = vec![0; 16 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut chunk).await {
        counters.swallowed.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    std::future::pending().await
}

fn reset_both(from: &OwnedReadHalf, to: &OwnedWriteHalf) -> Ended {
    reset_on_close(from.as_ref());
    reset_on_close(to.as_ref());
    Ended::Reset
}
