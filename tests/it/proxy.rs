//! A TCP proxy between programs and a service, for a network that fails.
//!
//! It passes bytes until it is told otherwise, and counts what it does. What a fault met stays as
//! the fault left it: a connection that fell into a black hole never comes out of it, as with a
//! firewall that forgot it; those made after [`Proxy::heal`] are sound.

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

/// What happens to the connections through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// Bytes pass.
    Sound,
    /// Each chunk of bytes passes so much later.
    Slow(Duration),
    /// Connections are reset, and new ones too.
    Cut,
    /// What the service says does not arrive; what the program says does.
    HalfClosed,
    /// Both ends stay open, nothing passes.
    BlackHole,
}

/// What the proxy did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) connections: AtomicU64,
    pub(crate) delayed: AtomicU64,
    pub(crate) cut: AtomicU64,
    pub(crate) half_closed: AtomicU64,
    pub(crate) swallowed: AtomicU64,
}

/// See the module. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    pub(crate) done: Arc<Done>,
    network: watch::Sender<Network>,
    stop: CancellationToken,
}

impl Proxy {
    /// A proxy before these ports of this machine: each connection goes to the first that answers.
    pub(crate) async fn before(ports: Vec<u16>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port");
        let (network, seen) = watch::channel(Network::Sound);
        let (done, stop) = (Arc::new(Done::default()), CancellationToken::new());
        let own = listener.local_addr().expect("it is bound").port();
        let serving = serve(listener, Arc::from(ports), seen, done.clone());
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(serving).await });
        Self { port: own, done, network, stop }
    }

    /// From now on.
    pub(crate) fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    pub(crate) fn heal(&self) {
        self.set(Network::Sound);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(listener: TcpListener, ports: Arc<[u16]>, network: watch::Receiver<Network>, done: Arc<Done>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(connect(client, ports.clone(), network.clone(), done.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: TcpStream, ports: Arc<[u16]>, network: watch::Receiver<Network>, done: Arc<Done>) {
    done.connections.fetch_add(1, Ordering::Relaxed);
    let mut server = None;
    for &port in &*ports {
        if server.is_none() {
            server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok();
        }
    }
    let Some(server) = server else { return reset(&client) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((client_reads, client_writes), (server_reads, server_writes)) = (client.into_split(), server.into_split());
    let there = pass(client_reads, server_writes, network.clone(), done.clone(), false);
    let back = pass(server_reads, client_writes, network, done, true);
    // Each way ends by itself: a program may have no more to say and still be listening.
    tokio::select! {
        Ended::Reset = there => {}
        Ended::Reset = back => {}
        else => {}
    }
}

/// Makes the coming close of this socket a reset.
fn reset(socket: &TcpStream) {
    let _ = socket.set_zero_linger();
}

enum Ended {
    Quietly,
    Reset,
}

/// Passes one direction on.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut network: watch::Receiver<Network>,
    done: Arc<Done>,
    back: bool,
) -> Ended {
    let mut chunk = vec![0; 16 << 10];
    loop {
        let now = *network.borrow_and_update();
        match now {
            Network::Cut => {
                done.cut.fetch_add(u64::from(back), Ordering::Relaxed);
                return reset_both(&from, &to);
            }
            Network::BlackHole => return swallow(from, to, &done).await,
            Network::HalfClosed if back => {
                done.half_closed.fetch_add(1, Ordering::Relaxed);
                let _ = to.shutdown().await;
                return swallow(from, to, &done).await;
            }
            Network::Sound | Network::Slow(_) | Network::HalfClosed => {}
        }
        let read = tokio::select! {
            // First: what was sent after a change must not pass as before it.
            biased;
            Ok(()) = network.changed() => continue,
            read = from.read(&mut chunk) => read,
        };
        let bytes = match read {
            Ok(0) => {
                let _ = to.shutdown().await;
                return Ended::Quietly;
            }
            Ok(bytes) => bytes,
            Err(_) => return reset_both(&from, &to),
        };
        if let Network::Slow(delay) = now {
            done.delayed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&chunk[..bytes]).await.is_err() {
            return reset_both(&from, &to);
        }
    }
}

/// Takes what comes and keeps it; both ends hear nothing of each other again.
async fn swallow(mut from: OwnedReadHalf, _to: OwnedWriteHalf, done: &Done) -> Ended {
    let mut chunk = vec![0; 16 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut chunk).await {
        done.swallowed.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    std::future::pending().await
}

fn reset_both(from: &OwnedReadHalf, to: &OwnedWriteHalf) -> Ended {
    reset(from.as_ref());
    reset(to.as_ref());
    Ended::Reset
}
