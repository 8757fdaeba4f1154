//! Publishing with confirms: what was refused, returned or never confirmed, and what a broker that is
//! short of memory, or a channel that is refused for ever, asks of whoever publishes.

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
    answered, goodbye, lost,
    properties::{short, written},
};
use crate::transport::{Lost, Outcome, Outgoing};

/// After a refusal a channel is not used for longer than this. RabbitMQ 3.10 rejects whatever comes
/// through a channel that met a queue without its leader, or above a limit that was lifted since.
const REFUSING_MAX: Duration = Duration::from_secs(3);
/// How often a blocked connection is looked at.
const BLOCKED_PAUSE: Duration = Duration::from_millis(50);

/// See [`crate::transport::Publisher`].
#[derive(Clone)]
pub(in crate::transport) struct Publisher {
    connection: Arc<Connection>,
    current: Arc<Mutex<Current>>,
    user: Option<String>,
    /// lapin hands a return out with whichever confirmation comes next, so that only what the
    /// message says of itself tells whose it is.
    returned: Arc<Mutex<BTreeSet<Returned>>>,
}

/// The channel of the moment.
struct Current {
    channel: Channel,
    /// Since when it is (see [`Publisher::change_channel`]).
    since: Instant,
    /// Whether confirms were left behind on it. lapin gives a return to whichever confirm is completed
    /// next: none of those may take another message's.
    spent: bool,
    /// The one before: closed only by the next change, since it may still have something to send.
    _before: Option<Channel>,
}

/// A returned message. Two that are alike in this were for the same place, so that either both
/// arrived or neither.
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
        let channel = confirming(&connection).await?;
        let current = Current { channel, since: Instant::now(), spent: false, _before: None };
        let current = Arc::new(Mutex::new(current));
        Ok(Self { connection: Arc::new(connection), current, user, returned: Arc::default() })
    }

    pub(in crate::transport) async fn publish<M: Borrow<Outgoing> + Sync>(
        &self,
        messages: &[M],
        patience: Duration,
    ) -> Result<Vec<Outcome>, Lost> {
        let deadline = tokio::time::Instant::now() + patience;
        if !self.unblocked(deadline).await {
            return Ok(vec![Outcome::Unconfirmed; messages.len()]);
        }
        if self.current().spent {
            self.replace(confirming(&self.connection).await?);
        }
        let channel = self.current().channel.clone();
        let sent = messages.iter().map(Borrow::borrow).map(|message| {
            channel.basic_publish(
                short(&message.exchange),
                short(&message.routing_key),
                BasicPublishOptions { mandatory: message.mandatory, ..BasicPublishOptions::default() },
                &message.body,
                self.signed(message),
            )
        });
        // The last one first: when it is there the others mostly are, and nobody is woken for each.
        let mut confirms = Vec::with_capacity(messages.len());
        for sent in begun(sent).await.iter_mut().rev() {
            match timeout_at(deadline, sent.as_mut()).await {
                Ok(()) => confirms.push(sent.as_mut().take_output().transpose().map_err(lost)?),
                Err(_) if self.connection.status().blocked() => confirms.push(None),
                Err(_) => return Err(Lost("it takes no messages".into())),
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
            self.current().spent = true;
        } else if outcomes.contains(&Outcome::Refused) {
            self.change_channel().await;
        }
        self.tell_returned(messages.iter().map(Borrow::borrow), &mut outcomes);
        Ok(outcomes)
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, channel: Channel) {
        let mut current = self.current();
        let before = std::mem::replace(&mut current.channel, channel);
        (current.since, current.spent, current._before) = (Instant::now(), false, Some(before));
    }

    /// A refusal may be the channel's own, and for ever: the next one is made now and then. Whoever is
    /// still waiting on the old one keeps it that long.
    async fn change_channel(&self) {
        let since = self.current().since;
        if since.elapsed() < REFUSING_MAX {
            return;
        }
        // If there is none to be had, the next publish says why.
        if let Ok(channel) = confirming(&self.connection).await {
            self.replace(channel);
        }
    }

    /// A broker that is short of memory reads nothing from those who publish, and would read nothing
    /// from another connection: this one is kept, and nothing more is put into it meanwhile.
    async fn unblocked(&self, deadline: tokio::time::Instant) -> bool {
        let status = self.connection.status();
        while status.blocked() && status.connected() {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(BLOCKED_PAUSE).await;
        }
        true
    }

    /// The properties, and on what Licet itself reads our user's name, which the broker checks:
    /// that is how workers know who sent it, and whose copies to believe.
    fn signed(&self, message: &Outgoing) -> BasicProperties {
        let properties = written(&message.properties);
        let read_by_licet = topology::is_read_by_licet(&message.exchange, &message.routing_key);
        let own = self.user.as_deref().filter(|_| read_by_licet);
        match message.properties.user_id.as_deref().or(own) {
            Some(user) => properties.with_user_id(short(user)),
            None => properties,
        }
    }

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

    /// Which of them came back, though they were confirmed.
    fn tell_returned<'a>(&self, messages: impl Iterator<Item = &'a Outgoing> + Clone, outcomes: &mut [Outcome]) {
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
        goodbye(&self.connection).await;
    }
}

/// Begins them all, in their order. lapin hands a message over when it is first polled, and answers when
/// the socket has taken it: one after the other, each would cost a system call and two threads' way to
/// each other.
async fn begun<F: Future>(futures: impl Iterator<Item = F>) -> Vec<Pin<Box<MaybeDone<F>>>> {
    let mut begun: Vec<_> = futures.map(|future| Box::pin(maybe_done(future))).collect();
    poll_fn(|context| {
        for future in &mut begun {
            let _ = future.as_mut().poll(context);
        }
        Poll::Ready(())
    })
    .await;
    begun
}

/// A channel that confirms what is published.
async fn confirming(connection: &Connection) -> Result<Channel, Lost> {
    let channel = answered(connection.create_channel()).await?;
    answered(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}
