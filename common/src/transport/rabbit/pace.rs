//! A socket that is read no faster than what it brings is taken.
//!
//! lapin reads on a thread of its own, and keeps what comes until somebody asks for it. Where whoever
//! asks is late (others have the processor), that would grow as fast as the broker sends. So the socket
//! stops: after so many bytes nothing is read until everything that came has been taken, and the broker
//! waits, as for any slow reader.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_rs::{
    Runtime, Tokio,
    traits::Reactor,
    util::{DummyIO, RuntimeParts},
};
use futures_util::{
    FutureExt, Stream, StreamExt,
    io::{AsyncRead, AsyncWrite},
    task::AtomicWaker,
};

/// How far the reader of a socket is ahead of whoever takes what it read.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_max: usize,
    /// Bytes read since all that had come was taken.
    ahead: AtomicUsize,
    /// Nobody takes anything any more: what comes is read, so that a goodbye can be.
    is_over: AtomicBool,
    reader: AtomicWaker,
    taker: AtomicWaker,
}

impl Pace {
    /// Nothing more is read once it is so many bytes ahead; a single read may go beyond, by as much as it
    /// has room for.
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            ahead: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            taker: AtomicWaker::new(),
        })
    }

    /// What lapin connects with, so that this is the pace of its socket.
    pub(super) fn runtime(self: &Arc<Self>) -> Runtime<RuntimeParts<Tokio, PacedReactor>> {
        let reactor = PacedReactor { inner: Tokio::current(), pace: self.clone() };
        Runtime::new(RuntimeParts::new(Tokio::current(), reactor))
    }

    /// The next of what was read. Before it waits, it lets lapin's thread go on: that one has often read
    /// more than it has handed over yet, and would wake this thread again for each.
    pub(super) async fn next<S: Stream + Unpin>(&self, stream: &mut S) -> Option<S::Item> {
        if let Some(next) = stream.next().now_or_never() {
            return next;
        }
        std::thread::yield_now();
        poll_fn(|context| {
            self.taker.register(context.waker());
            let next = stream.poll_next_unpin(context);
            if next.is_pending() {
                self.ahead.store(0, Ordering::SeqCst);
                self.reader.wake();
            }
            next
        })
        .await
    }

    /// Lets the reader go on alone.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.reader.wake();
    }

    fn has_room(&self) -> bool {
        self.ahead.load(Ordering::SeqCst) < self.bytes_max || self.is_over.load(Ordering::SeqCst)
    }

    /// Ready when there is room. It is looked for once more after registering, so that no waking is missed;
    /// the taker is woken, for it may have taken everything and only wait for the rest of a body.
    fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        if !self.has_room() {
            self.reader.register(context.waker());
            if !self.has_room() {
                self.taker.wake();
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    fn read(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = outcome {
            self.ahead.fetch_add(bytes, Ordering::SeqCst);
        }
        outcome
    }
}

/// A socket at a pace.
pub(super) struct Paced<S> {
    socket: S,
    pace: Arc<Pace>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.pace.poll_room(context));
        let outcome = Pin::new(&mut self.socket).poll_read(context, into);
        self.pace.read(outcome)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.pace.poll_room(context));
        let outcome = Pin::new(&mut self.socket).poll_read_vectored(context, into);
        self.pace.read(outcome)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(context)
    }
}

/// Tokio's sockets and timers, the sockets at a pace.
#[derive(Clone, Debug)]
pub(super) struct PacedReactor {
    inner: Tokio,
    pace: Arc<Pace>,
}

impl Reactor for PacedReactor {
    type TcpStream = Paced<<Tokio as Reactor>::TcpStream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// lapin connects by itself, and brings no socket.
    fn register<H>(&self, _socket: H) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<DummyIO, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.inner.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.inner.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let (connecting, pace) = (self.inner.tcp_connect_addr(address), self.pace.clone());
        async move { Ok(Paced { socket: connecting.await?, pace }) }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures_util::{AsyncReadExt, io::repeat, stream};
    use tokio::sync::mpsc;

    use super::*;

    const BYTES_MAX: usize = 1000;

    fn endless(pace: &Arc<Pace>) -> Paced<futures_util::io::Repeat> {
        Paced { socket: repeat(7), pace: pace.clone() }
    }

    #[test]
    fn nothing_is_read_beyond_the_bound_until_what_came_is_taken() {
        let pace = Pace::new(BYTES_MAX);
        let mut socket = endless(&pace);
        let mut read = || {
            let mut bytes = 0;
            let mut context = Context::from_waker(Waker::noop());
            while bytes < 100 * BYTES_MAX
                && let Poll::Ready(Ok(more)) = Pin::new(&mut socket).poll_read(&mut context, &mut [0; 300])
            {
                bytes += more;
            }
            bytes
        };
        assert_eq!(read(), 1200, "one portion beyond the bound");
        assert_eq!(read(), 0);
        assert!(pace.next(&mut stream::pending::<()>()).now_or_never().is_none(), "all is taken");
        assert_eq!(read(), 1200);
        let mut left = stream::iter([1, 2]);
        assert_eq!(pace.next(&mut left).now_or_never(), Some(Some(1)));
        assert_eq!(read(), 0, "not all is taken yet");
        pace.end();
        assert!(read() >= 100 * BYTES_MAX, "nobody takes anything any more");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn bodies_larger_than_the_bound_come_through() {
        const PORTION: usize = 100;
        const BODY_PORTIONS: usize = 37;
        const BODIES: usize = 2000;
        let pace = Pace::new(BYTES_MAX);
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let mut bodies = stream::poll_fn(|context| receiver.poll_recv(context));
        let mut socket = endless(&pace);
        let reading = tokio::spawn(async move {
            for number in 0..BODIES {
                for _ in 0..BODY_PORTIONS {
                    socket.read_exact(&mut [0; PORTION]).await.expect("endless");
                }
                sender.send(number).expect("somebody takes them");
            }
        });
        let taking = async {
            for number in 0..BODIES {
                assert_eq!(pace.next(&mut bodies).await, Some(number));
            }
        };
        tokio::time::timeout(Duration::from_secs(60), taking).await.expect("neither waits for the other for good");
        reading.await.expect("all is read");
    }
}
