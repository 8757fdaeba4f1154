//! A socket that is read at most a fixed number of bytes ahead of the task that takes the
//! deliveries. Beyond this limit, TCP flow control makes the broker wait.
//!
//! lapin continues to read while this task is not running, and drops its consumer delegates when a
//! consumer is cancelled. The limit is therefore applied to the socket itself.

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

/// Limits how far the reader of a socket is ahead of the task that takes the deliveries.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_max: usize,
    /// The number of bytes that were read since the task last took all deliveries.
    ahead: AtomicUsize,
    /// Whether no task takes deliveries any more. The socket is then read without a limit, so that
    /// the response to a close can arrive.
    is_ended: AtomicBool,
    reader: AtomicWaker,
    taker: AtomicWaker,
}

impl Pace {
    /// Creates a pace that stops reading when the reader is `bytes_max` bytes ahead. The last read
    /// may exceed the limit by the size of its buffer.
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            ahead: AtomicUsize::new(0),
            is_ended: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            taker: AtomicWaker::new(),
        })
    }

    /// The runtime for lapin, whose sockets are limited by this pace.
    pub(super) fn runtime(self: &Arc<Self>) -> Runtime<RuntimeParts<Tokio, PacedReactor>> {
        let reactor = PacedReactor { inner: Tokio::current(), pace: self.clone() };
        Runtime::new(RuntimeParts::new(Tokio::current(), reactor))
    }

    /// The next item that was read.
    ///
    /// Before it waits, this function yields to lapin's thread, which is often about to pass on
    /// more items. Passing on messages one at a time costs two thread switches for each message. In
    /// measurements, this halved the speed (docs/performance.md).
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

    /// Lets the reader read without a limit from now on.
    pub(super) fn end(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
        self.reader.wake();
    }

    fn may_read(&self) -> bool {
        self.ahead.load(Ordering::SeqCst) < self.bytes_max || self.is_ended.load(Ordering::SeqCst)
    }

    /// Ready when the socket may be read. Checks again after registering the waker, so that no
    /// wake-up is missed. If the socket may not be read, wakes the task that takes the deliveries,
    /// which may have taken all of them and be waiting for the rest of a body.
    fn poll_may_read(&self, context: &Context<'_>) -> Poll<()> {
        if !self.may_read() {
            self.reader.register(context.waker());
            if !self.may_read() {
                self.taker.wake();
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Counts the bytes of a read.
    fn count(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = outcome {
            self.ahead.fetch_add(bytes, Ordering::SeqCst);
        }
        outcome
    }
}

/// A socket whose reads are limited by a [`Pace`].
pub(super) struct Paced<S> {
    socket: S,
    pace: Arc<Pace>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.pace.poll_may_read(context));
        let outcome = Pin::new(&mut self.socket).poll_read(context, into);
        self.pace.count(outcome)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.pace.poll_may_read(context));
        let outcome = Pin::new(&mut self.socket).poll_read_vectored(context, into);
        self.pace.count(outcome)
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

/// Tokio's sockets and timers. The reads of the sockets are limited by a [`Pace`].
#[derive(Clone, Debug)]
pub(super) struct PacedReactor {
    inner: Tokio,
    pace: Arc<Pace>,
}

impl Reactor for PacedReactor {
    type TcpStream = Paced<<Tokio as Reactor>::TcpStream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// Not used: lapin connects through [`Reactor::tcp_connect_addr`].
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
    fn nothing_is_read_beyond_the_limit_until_every_item_is_taken() {
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
        assert_eq!(read(), 1200, "the last read may exceed the limit");
        assert_eq!(read(), 0);
        assert!(pace.next(&mut stream::pending::<()>()).now_or_never().is_none(), "everything is taken");
        assert_eq!(read(), 1200);
        let mut left = stream::iter([1, 2]);
        assert_eq!(pace.next(&mut left).now_or_never(), Some(Some(1)));
        assert_eq!(read(), 0, "one item is not taken yet");
        pace.end();
        assert!(read() >= 100 * BYTES_MAX, "there is no limit after the end");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn bodies_larger_than_the_limit_are_read() {
        const CHUNK: usize = 100;
        const CHUNKS_PER_BODY: usize = 37;
        const BODIES: usize = 2000;
        let pace = Pace::new(BYTES_MAX);
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let mut bodies = stream::poll_fn(|context| receiver.poll_recv(context));
        let mut socket = endless(&pace);
        let reading = tokio::spawn(async move {
            for number in 0..BODIES {
                for _ in 0..CHUNKS_PER_BODY {
                    socket.read_exact(&mut [0; CHUNK]).await.expect("endless");
                }
                sender.send(number).expect("the receiver is open");
            }
        });
        let taking = async {
            for number in 0..BODIES {
                assert_eq!(pace.next(&mut bodies).await, Some(number));
            }
        };
        tokio::time::timeout(Duration::from_secs(60), taking).await.expect("there is no deadlock");
        reading.await.expect("the reader does not panic");
    }
}
