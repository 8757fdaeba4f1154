//! Deliveries between lapin and whoever receives them.
//!
//! The broker sends as many messages as were prefetched, whatever their size. So somebody counts: when
//! more bytes wait here than memory is for, deliveries are asked for no more, and what still comes is
//! dropped as it comes. It is not acknowledged: the broker delivers it again over the next connection.
//! The same is done with what comes when nobody is here any more to receive it. One body always fits.
//! What lapin has read and nobody took from it yet is bounded by [`Pace`].

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use lapin::{Channel, options::BasicCancelOptions};
use tokio::sync::mpsc;

use super::{CONSUMER_TAG, answered, lost, pace::Pace, properties::read, short};
use crate::transport::{Delivery, Lost};

/// What waits to be received.
pub(super) struct Inbox {
    waiting: mpsc::UnboundedReceiver<Result<Delivery, Lost>>,
    fill: Arc<Fill>,
}

#[derive(Default)]
struct Fill {
    /// Bytes of the bodies that wait.
    bytes: AtomicUsize,
    /// The largest body's, once there were too many.
    flooded: OnceLock<usize>,
}

impl Inbox {
    /// Takes deliveries from lapin until they end, or this is dropped, or more than `bytes_max` wait.
    pub(super) fn start(deliveries: lapin::Consumer, channel: Channel, pace: Arc<Pace>, bytes_max: usize) -> Self {
        let (sender, waiting) = mpsc::unbounded_channel();
        let fill = Arc::new(Fill::default());
        tokio::spawn(fill_up(Taking { deliveries, pace }, channel, sender, fill.clone(), bytes_max));
        Self { waiting, fill }
    }

    /// The next delivery; none when the broker ended them. Cancelling the wait loses nothing.
    pub(super) async fn next(&mut self) -> Option<Result<Delivery, Lost>> {
        let next = self.waiting.recv().await;
        if let Some(Ok(delivery)) = &next {
            self.fill.bytes.fetch_sub(delivery.body.len(), Ordering::Relaxed);
        }
        next
    }

    /// The bytes of the largest body, if there were more than could be held.
    pub(super) fn flooded(&self) -> Option<usize> {
        self.fill.flooded.get().copied()
    }
}

async fn fill_up(
    mut taking: Taking,
    channel: Channel,
    sender: mpsc::UnboundedSender<Result<Delivery, Lost>>,
    fill: Arc<Fill>,
    bytes_max: usize,
) {
    let ended = hand_on(&mut taking, &sender, &fill, bytes_max).await;
    drop(sender);
    if !ended {
        let cancel = channel.basic_cancel(short(CONSUMER_TAG), BasicCancelOptions { nowait: true });
        let dropping = async { while taking.next().await.is_some() {} };
        let _ = tokio::join!(answered(cancel), dropping);
    }
}

/// Hands deliveries on. Whether they ended by themselves, rather than for want of room or of a receiver.
async fn hand_on(
    taking: &mut Taking,
    sender: &mpsc::UnboundedSender<Result<Delivery, Lost>>,
    fill: &Fill,
    bytes_max: usize,
) -> bool {
    let mut unwanted = std::pin::pin!(sender.closed());
    let mut largest = 0;
    loop {
        let next = tokio::select! {
            biased;
            next = taking.next() => next,
            () = &mut unwanted => return false,
        };
        let Some(next) = next else { return true };
        let next = next.map(read).map_err(lost);
        let bytes = next.as_ref().map_or(0, |delivery| delivery.body.len());
        largest = largest.max(bytes);
        let waiting = fill.bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting > 0 && waiting + bytes > bytes_max {
            let _ = fill.flooded.set(largest);
            return false;
        }
        if sender.send(next).is_err() {
            return false;
        }
        // lapin's stream does not by itself leave room for other tasks.
        tokio::task::coop::consume_budget().await;
    }
}

/// Deliveries as they are taken from lapin. Whoever takes no more must not stop the reader too: a goodbye
/// has an answer.
struct Taking {
    deliveries: lapin::Consumer,
    pace: Arc<Pace>,
}

impl Taking {
    async fn next(&mut self) -> Option<lapin::Result<lapin::message::Delivery>> {
        self.pace.next(&mut self.deliveries).await
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.pace.end();
    }
}
