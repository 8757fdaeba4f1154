//! Publishes with confirms, and reports which messages were refused, returned or not confirmed.
//!
//! During a resource alarm the publisher waits, and after refusals it changes to another channel.

use std::{
    borrow::Borrow,
    collections::BTreeSet,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::future::{MaybeDone, maybe_done};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use licet_schema::topology;
use tokio::time::timeout_at;

use super::{
    call, close_connection, lost,
    properties::{short, to_lapin},
};
use crate::transport::{Lost, Outcome, Outgoing};

/// A channel is replaced after a refusal if it is at least this old. RabbitMQ 3.10 may refuse
/// everything on a channel that has encountered a queue without a leader, or a queue limit that no
/// longer applies. Another channel works.
const REFUSING_CHANNEL_AGE_MAX: Duration = Duration::from_secs(3);
/// The interval at which a blocked connection is checked.
const BLOCKED_INTERVAL: Duration = Duration::from_millis(50);

/// See [`crate::transport::Publisher`].
#[derive(Clone)]
pub(in crate::transport) struct Publisher {
    connection: Arc<Connection>,
    current: Arc<Mutex<Current>>,
    user: Option<String>,
    /// The messages that were returned and are not reported yet. lapin attaches a return to
    /// whichever confirm completes next. A return is therefore matched with its message by the
    /// properties of the message.
    returned: Arc<Mutex<BTreeSet<Returned>>>,
}

/// The current channel.
struct Current {
    channel: Channel,
    /// When the channel was opened (see [`Publisher::change_channel`]).
    since: Instant,
    /// Whether a confirm was abandoned on this channel. lapin attaches a return to whichever
    /// confirm completes next, so an abandoned confirm could receive the return of another message.
    has_abandoned_confirm: bool,
    /// The previous channel. It may still have messages to send, so it is closed only by the next
    /// change.
    _previous: Option<Channel>,
}

/// Identifies a returned message. Two messages with the same exchange, routing key and `message_id`
/// have the same destination, so either both arrived or neither did.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Returned {
    exchange: String,
    routing_key: String,
    message_id: Option<String>,
}

impl Returned {
    fn of(message: &Outgoing) -> Self {
        Self {
            exchange: message.exchange.clone(),
            routing_key: message.routing_key.clone(),
            message_id: message.properties.message_id.clone(),
        }
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Publisher")
    }
}

impl Publisher {
    pub(super) async fn start(connection: Connection, user: Option<String>) -> Result<Self, Lost> {
        let channel = confirm_channel(&connection).await?;
        let current = Current { channel, since: Instant::now(), has_abandoned_confirm: false, _previous: None };
        let current = Arc::new(Mutex::new(current));
        Ok(Self { connection: Arc::new(connection), current, user, returned: Arc::default() })
    }

    pub(in crate::transport) async fn publish<M: Borrow<Outgoing> + Sync>(
        &self,
        messages: &[M],
        time_limit: Duration,
    ) -> Result<Vec<Outcome>, Lost> {
        let deadline = tokio::time::Instant::now() + time_limit;
        if !self.unblocked(deadline).await {
            return Ok(vec![Outcome::Unconfirmed; messages.len()]);
        }
        if self.current().has_abandoned_confirm {
            self.replace(confirm_channel(&self.connection).await?);
        }
        let channel = self.current().channel.clone();
        let sent = messages.iter().map(Borrow::borrow).map(|message| {
            channel.basic_publish(
                short(&message.exchange),
                short(&message.routing_key),
                BasicPublishOptions { mandatory: message.mandatory, ..BasicPublishOptions::default() },
                &message.body,
                self.properties(message),
            )
        });
        // Wait for the last message first. When it has completed, most of the others have too,
        // which saves wake-ups.
        let mut confirms = Vec::with_capacity(messages.len());
        for sent in start_all(sent).await.iter_mut().rev() {
            match timeout_at(deadline, sent.as_mut()).await {
                Ok(()) => confirms.push(sent.as_mut().take_output().transpose().map_err(lost)?),
                Err(_) if self.connection.status().blocked() => confirms.push(None),
                Err(_) => return Err(Lost::Unavailable("the broker does not accept messages".into())),
            }
        }
        let mut outcomes = Vec::with_capacity(messages.len());
        for confirm in confirms {
            let confirmation = match confirm {
                Some(confirm) => timeout_at(deadline, confirm).await.ok(),
                None => None,
            };
            let outcome = confirmation.transpose().map_err(lost)?.map(|confirmation| self.outcome(confirmation));
            outcomes.push(outcome.unwrap_or(Outcome::Unconfirmed));
        }
        outcomes.reverse();
        if outcomes.contains(&Outcome::Unconfirmed) {
            self.current().has_abandoned_confirm = true;
        } else if outcomes.contains(&Outcome::Refused) {
            self.change_channel().await;
        }
        self.mark_returned(messages.iter().map(Borrow::borrow), &mut outcomes);
        Ok(outcomes)
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, channel: Channel) {
        let mut current = self.current();
        let previous = std::mem::replace(&mut current.channel, channel);
        (current.since, current.has_abandoned_confirm, current._previous) = (Instant::now(), false, Some(previous));
    }

    /// Replaces the channel after a refusal, at most once in [`REFUSING_CHANNEL_AGE_MAX`].
    async fn change_channel(&self) {
        let since = self.current().since;
        if since.elapsed() < REFUSING_CHANNEL_AGE_MAX {
            return;
        }
        // If no channel can be opened, the next publish reports the error.
        if let Ok(channel) = confirm_channel(&self.connection).await {
            self.replace(channel);
        }
    }

    /// Waits until the connection is not blocked. Returns false at the deadline.
    ///
    /// During an alarm, RabbitMQ reads nothing from publishers and keeps each abandoned connection
    /// until the alarm ends. A new connection would be blocked as soon as it published its first
    /// message.
    async fn unblocked(&self, deadline: tokio::time::Instant) -> bool {
        let status = self.connection.status();
        while status.blocked() && status.connected() {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(BLOCKED_INTERVAL).await;
        }
        true
    }

    /// The properties of a message. Messages that Licet itself reads get this publisher's
    /// `user_id`.
    ///
    /// The broker rejects a `user_id` that is not the connection's user. Workers rely on this to
    /// know the sender and to trust retry headers.
    fn properties(&self, message: &Outgoing) -> BasicProperties {
        let properties = to_lapin(&message.properties);
        let read_by_licet = topology::is_read_by_licet(&message.exchange, &message.routing_key);
        let own = self.user.as_deref().filter(|_| read_by_licet);
        match message.properties.user_id.as_deref().or(own) {
            Some(user) => properties.with_user_id(short(user)),
            None => properties,
        }
    }

    /// The outcome of one confirm. If a returned message is attached to the confirm, records it.
    fn outcome(&self, confirmation: Confirmation) -> Outcome {
        let outcome = if confirmation.is_ack() { Outcome::Confirmed } else { Outcome::Refused };
        if let Some(message) = confirmation.take_message() {
            let delivery = &message.delivery;
            self.returned.lock().unwrap_or_else(PoisonError::into_inner).insert(Returned {
                exchange: delivery.exchange.as_str().to_owned(),
                routing_key: delivery.routing_key.as_str().to_owned(),
                message_id: delivery.properties.message_id().as_ref().map(|id| id.as_str().to_owned()),
            });
        }
        outcome
    }

    /// Marks the messages that were returned. The broker confirms a returned message too.
    fn mark_returned<'a>(&self, messages: impl Iterator<Item = &'a Outgoing> + Clone, outcomes: &mut [Outcome]) {
        let mut returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        if returned.is_empty() {
            return;
        }
        for (outcome, message) in outcomes.iter_mut().zip(messages.clone()).filter(|(_, message)| message.mandatory) {
            if returned.contains(&Returned::of(message)) {
                *outcome = Outcome::Returned;
            }
        }
        messages.for_each(|message| {
            returned.remove(&Returned::of(message));
        });
    }

    pub(in crate::transport) async fn close(self) {
        close_connection(&self.connection).await;
    }
}

/// Polls every future once, in their order, so that lapin takes all messages before the first wait.
///
/// Passing on messages one at a time costs two thread switches for each message. In measurements,
/// this halved the speed (docs/performance.md).
async fn start_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<Pin<Box<MaybeDone<F>>>> {
    let mut started: Vec<_> = futures.map(|future| Box::pin(maybe_done(future))).collect();
    poll_fn(|context| {
        for future in &mut started {
            let _ = future.as_mut().poll(context);
        }
        Poll::Ready(())
    })
    .await;
    started
}

/// Opens a channel with publisher confirms.
async fn confirm_channel(connection: &Connection) -> Result<Channel, Lost> {
    let channel = call(connection.create_channel()).await?;
    call(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}
