//! [`Client`]: sends requests and receives their replies.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use licet_common::transport::{Consumer, Delivery, Lost, Outcome, Outgoing, Properties, Publisher, Transport};
use licet_schema::{
    DecodeError, EncodeError, Output, Request,
    encoding::{self, CONTENT_TYPE},
    topology,
};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// The timeout and the number of attempts of a request.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The timeout of one attempt.
    pub each: Duration,
    /// The number of attempts. Each attempt sends the same message with the same id.
    pub attempts: u32,
}

impl Default for Patience {
    /// Six attempts of 10 seconds.
    fn default() -> Self {
        Self { each: Duration::from_secs(10), attempts: 6 }
    }
}

/// An error that left a request without a reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No queue is bound to the message type.
    #[error("no queue is bound to {kind}: run `licet topology apply`")]
    NoRoute {
        /// The message type.
        kind: String,
    },
    /// No reply arrived in time.
    #[error(
        "no reply to {kind} {id} after {attempts} attempts: check that its worker runs, then repeat the request with \
         the same id"
    )]
    NoAnswer {
        /// The message type.
        kind: String,
        /// The message_id of the request.
        id: Uuid,
        /// The number of attempts.
        attempts: u32,
    },
    /// Another request with this id and other content waits for its reply.
    #[error("the message id {id} is in use by another request that waits for its reply: give each request its own id")]
    InUse {
        /// The message_id of both requests.
        id: Uuid,
    },
    /// The reply cannot be decoded, because it comes from a newer release.
    #[error("the reply to {kind} cannot be read: {source}")]
    Unreadable {
        /// The message type of the request.
        kind: String,
        /// The error of the decoder.
        #[source]
        source: DecodeError,
    },
    /// The request cannot be encoded.
    #[error("the request {kind} cannot be encoded: {source}")]
    Unwritable {
        /// The message type.
        kind: String,
        /// The error of the encoder.
        #[source]
        source: EncodeError,
    },
}

/// A connected client. Clones share its connection. The client reconnects automatically.
///
/// Replies are decoded strictly: a reply with a field that this release does not know causes
/// [`ClientError::Unreadable`]. Use the version of this crate that matches the release of the
/// workers.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    session: watch::Receiver<Option<Session>>,
    _stop: Arc<DropGuard>,
}

#[derive(Debug)]
struct Shared {
    transport: Transport,
    patience: Patience,
    /// The requests without a reply, by their message_id.
    waiting: Mutex<HashMap<Uuid, Waiting>>,
    /// Notified when the publisher loses its connection, which the consumer cannot notice.
    lost: Notify,
}

/// A request without a reply, and the callers who wait for it. Several callers can send the same
/// request at the same time.
#[derive(Debug)]
struct Waiting {
    kind: String,
    body: bytes::Bytes,
    callers: Vec<(Uuid, oneshot::Sender<Delivery>)>,
}

#[derive(Clone, Debug)]
struct Session {
    publisher: Publisher,
    reply_to: String,
}

impl Client {
    /// Connects to the broker. The connection is kept until the last clone is dropped.
    ///
    /// # Errors
    /// The broker is unavailable.
    pub fn connect(transport: &Transport, patience: Patience) -> BoxFuture<'_, Result<Self, Lost>> {
        Box::pin(async move {
            let shared = Arc::new(Shared {
                transport: transport.clone(),
                patience,
                waiting: Mutex::default(),
                lost: Notify::new(),
            });
            let (first, consumer) = open(transport).await?;
            let (sender, session) = watch::channel(Some(first));
            let stop = CancellationToken::new();
            tokio::spawn(keep_connected(shared.clone(), consumer, sender, stop.clone()));
            Ok(Self { shared, session, _stop: Arc::new(stop.drop_guard()) })
        })
    }

    /// Sends a request with a new id and waits for its reply, which can be a refusal.
    ///
    /// # Errors
    /// There is no reply, or it cannot be decoded.
    pub async fn ask(&self, request: &Request) -> Result<Output, ClientError> {
        self.ask_as(Uuid::now_v7(), request).await
    }

    /// Sends a request with this id. Repeating the request with the same id returns the stored
    /// reply.
    ///
    /// # Errors
    /// There is no reply, or it cannot be decoded.
    pub async fn ask_as(&self, id: Uuid, request: &Request) -> Result<Output, ClientError> {
        let kind = request.kind();
        let body = request.encode().map_err(|source| ClientError::Unwritable { kind: kind.to_owned(), source })?;
        self.ask_encoded(id, kind, body.into()).await
    }

    /// Sends an encoded request and decodes its reply. If the id was used before, the bytes must be
    /// the same.
    pub(crate) async fn ask_encoded(&self, id: Uuid, kind: &str, body: bytes::Bytes) -> Result<Output, ClientError> {
        let reply = self.ask_raw(id, kind, body).await?;
        decode(&reply).map_err(|source| ClientError::Unreadable { kind: kind.to_owned(), source })
    }

    /// Sends any body as a message of type `kind` with this id, and waits for the delivery that
    /// contains the reply. Several callers may send the same message at the same time: each
    /// receives the reply.
    ///
    /// # Errors
    /// There is no reply, or another message with this id waits for its reply.
    pub fn ask_raw<'a>(
        &'a self,
        id: Uuid,
        kind: &'a str,
        body: bytes::Bytes,
    ) -> BoxFuture<'a, Result<Delivery, ClientError>> {
        Box::pin(async move {
            let (caller, mut reply) = self.shared.wait_for(id, kind, &body)?;
            let _remove = RemoveOnDrop { shared: &self.shared, id, caller };
            let message = message(id, kind, body);
            let mut session = self.session.clone();
            for _ in 0..self.shared.patience.attempts {
                let attempt = async {
                    let Ok(Some(current)) = session.wait_for(Option::is_some).await.map(|current| current.clone())
                    else {
                        return std::future::pending().await;
                    };
                    if !self.send(&current, message.clone()).await? {
                        // Not confirmed: wait briefly before the next attempt.
                        tokio::time::sleep(self.shared.patience.each / 10).await;
                        return Ok(None);
                    }
                    match (&mut reply).await {
                        Ok(delivery) => Ok(Some(delivery)),
                        Err(_) => std::future::pending().await,
                    }
                };
                match tokio::time::timeout(self.shared.patience.each, attempt).await {
                    Ok(Ok(Some(delivery))) => return Ok(delivery),
                    Ok(Err(error)) => return Err(error),
                    Ok(Ok(None)) | Err(_) => {}
                }
            }
            Err(ClientError::NoAnswer { kind: kind.to_owned(), id, attempts: self.shared.patience.attempts })
        })
    }

    /// Publishes a message. Returns whether the broker confirmed it.
    async fn send(&self, session: &Session, mut message: Outgoing) -> Result<bool, ClientError> {
        let kind = message.routing_key.clone();
        message.properties.reply_to = Some(session.reply_to.clone());
        match session.publisher.publish(&[message], self.shared.patience.each).await.as_deref() {
            Ok([Outcome::Confirmed]) => Ok(true),
            Ok([Outcome::Returned]) => Err(ClientError::NoRoute { kind }),
            Ok(_) => Ok(false),
            Err(_) => {
                self.shared.lost.notify_one();
                Ok(false)
            }
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Uuid, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a caller who waits for the reply to a request.
    fn wait_for(
        &self,
        id: Uuid,
        kind: &str,
        body: &bytes::Bytes,
    ) -> Result<(Uuid, oneshot::Receiver<Delivery>), ClientError> {
        let mut waiting = self.waiting();
        let request = waiting.entry(id).or_insert_with(|| Waiting {
            kind: kind.to_owned(),
            body: body.clone(),
            callers: Vec::new(),
        });
        if request.kind != kind || request.body != *body {
            return Err(ClientError::InUse { id });
        }
        let (sender, receiver) = oneshot::channel();
        let caller = Uuid::new_v4();
        request.callers.push((caller, sender));
        Ok((caller, receiver))
    }

    /// Passes a reply to the callers that wait for it. A request that was sent twice can get two
    /// replies. The second reply is dropped.
    fn dispatch(&self, delivery: Delivery) {
        let id = delivery.properties.correlation_id.as_deref().and_then(|id| Uuid::parse_str(id).ok());
        let Some(request) = id.and_then(|id| self.waiting().remove(&id)) else { return };
        for (_, caller) in request.callers {
            let _ = caller.send(delivery.clone());
        }
    }
}

/// Removes a caller when its future completes or is dropped.
struct RemoveOnDrop<'a> {
    shared: &'a Shared,
    id: Uuid,
    caller: Uuid,
}

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting();
        let Some(request) = waiting.get_mut(&self.id) else { return };
        request.callers.retain(|(caller, _)| *caller != self.caller);
        if request.callers.is_empty() {
            waiting.remove(&self.id);
        }
    }
}

fn message(id: Uuid, kind: &str, body: bytes::Bytes) -> Outgoing {
    Outgoing {
        exchange: topology::IN.to_owned(),
        routing_key: kind.to_owned(),
        mandatory: true,
        properties: Properties {
            message_id: Some(id.to_string()),
            correlation_id: Some(id.to_string()),
            kind: Some(kind.to_owned()),
            content_type: Some(CONTENT_TYPE.to_owned()),
            ..Properties::default()
        },
        body,
    }
}

/// Decodes a message from Licet. A message without the property `type` cannot be decoded.
pub(crate) fn decode(delivery: &Delivery) -> Result<Output, DecodeError> {
    encoding::check_content_type(delivery.properties.content_type.as_deref())?;
    Output::decode(delivery.properties.kind.as_deref().unwrap_or(""), &delivery.body)
}

async fn open(transport: &Transport) -> Result<(Session, Consumer), Lost> {
    let (reply_to, consumer) = transport.subscribe(&[]).await?;
    Ok((Session { publisher: transport.publisher().await?, reply_to }, consumer))
}

async fn keep_connected(
    shared: Arc<Shared>,
    mut consumer: Consumer,
    session: watch::Sender<Option<Session>>,
    stop: CancellationToken,
) {
    let mut backoff = Duration::from_millis(50);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = shared.lost.notified() => {}
            received = consumer.receive(256, usize::MAX) => if let Ok(deliveries) = received {
                deliveries.into_iter().for_each(|delivery| shared.dispatch(delivery));
                continue;
            },
        }
        session.send_replace(None);
        consumer = loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(Duration::from_secs(2));
            if let Ok((new, consumer)) = open(&shared.transport).await {
                session.send_replace(Some(new));
                backoff = Duration::from_millis(50);
                break consumer;
            }
        };
    }
    let last = session.send_replace(None);
    if let Some(last) = last {
        last.publisher.close().await;
    }
    consumer.close().await;
}
