//! Requests and their replies.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use licet_common::transport::{Consumer, Delivery, Lost, Outcome, Outgoing, Properties, Publisher, Transport};
use licet_schema::{Format, Output, Request, topology};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// How long a client waits for an answer, and how often it asks.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one answer.
    pub each: Duration,
    /// How often it asks, with the same id.
    pub attempts: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { each: Duration::from_secs(10), attempts: 6 }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// No queue takes this type.
    #[error("no queue takes {kind}: is the topology there (`licet topology apply`)?")]
    NoRoute {
        /// The message type.
        kind: String,
    },
    /// Nobody answered.
    #[error("no answer to {kind} {id} after {attempts} attempts: does its worker run? Ask again with the same id")]
    NoAnswer {
        /// The message type.
        kind: String,
        /// The message_id, to ask again with.
        id: Uuid,
        /// How often it was asked.
        attempts: u32,
    },
    /// The answer cannot be read: it is from a newer release.
    #[error("the answer to {kind} cannot be read: {cause}")]
    Unreadable {
        /// The message type.
        kind: String,
        /// Why.
        cause: String,
    },
    /// The request cannot be written.
    #[error("the request cannot be written: {0}")]
    Unwritable(String),
}

/// A connected client; clones share the connection. It reconnects by itself.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    session: watch::Receiver<Option<Session>>,
    _stop: Arc<DropGuard>,
}

#[derive(Debug)]
struct Shared {
    transport: Transport,
    format: Format,
    patience: Patience,
    waiting: Mutex<HashMap<Uuid, oneshot::Sender<Delivery>>>,
    /// Told when the publisher is lost, of which the consumer hears nothing.
    lost: Notify,
}

#[derive(Clone, Debug)]
struct Session {
    publisher: Publisher,
    reply_to: String,
}

impl Client {
    /// Connects, and stays connected until the last clone is dropped.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn connect(transport: &Transport, format: Format, patience: Patience) -> Result<Self, Lost> {
        let shared = Arc::new(Shared {
            transport: transport.clone(),
            format,
            patience,
            waiting: Mutex::default(),
            lost: Notify::new(),
        });
        let first = open(transport).await?;
        let (sender, session) = watch::channel(Some(first.0));
        let stop = CancellationToken::new();
        tokio::spawn(keep_connected(shared.clone(), first.1, sender, stop.clone()));
        Ok(Self { shared, session, _stop: Arc::new(stop.drop_guard()) })
    }

    /// Sends a request under a new id and awaits its answer, which may be a refusal.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub async fn ask(&self, request: &Request) -> Result<Output, ClientError> {
        self.ask_as(Uuid::now_v7(), request).await
    }

    /// Sends a request under this id: the same id again asks for the same answer.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub async fn ask_as(&self, id: Uuid, request: &Request) -> Result<Output, ClientError> {
        let kind = request.kind();
        let body = request.encode(self.shared.format).map_err(|error| ClientError::Unwritable(error.to_string()))?;
        read(kind, &self.ask_raw(id, kind, body.into()).await?)
    }

    /// Sends a JSON body as it stands, whatever this client's own format is: for whoever keeps what
    /// was asked, to ask again with the same id and the same bytes.
    pub(crate) async fn ask_json(&self, id: Uuid, kind: &str, body: bytes::Bytes) -> Result<Output, ClientError> {
        read(kind, &self.deliver(id, kind, Format::Json, body).await?)
    }

    /// Sends any body as `kind` under this id and awaits the delivery that answers it.
    ///
    /// # Errors
    /// There is none.
    pub async fn ask_raw(&self, id: Uuid, kind: &str, body: bytes::Bytes) -> Result<Delivery, ClientError> {
        self.deliver(id, kind, self.shared.format, body).await
    }

    async fn deliver(&self, id: Uuid, kind: &str, format: Format, body: bytes::Bytes) -> Result<Delivery, ClientError> {
        let message = message(id, kind, format, body);
        let (sender, mut answer) = oneshot::channel();
        self.shared.waiting().insert(id, sender);
        let _forget = Forget { shared: &self.shared, id };
        let mut session = self.session.clone();
        for _ in 0..self.shared.patience.attempts {
            let attempt = async {
                let Ok(Some(current)) = session.wait_for(Option::is_some).await.map(|current| current.clone()) else {
                    return std::future::pending().await;
                };
                if !self.send(&current, message.clone()).await? {
                    // Lost or refused: the wait for the answer is the pause before the next attempt.
                    tokio::time::sleep(self.shared.patience.each / 10).await;
                    return Ok(None);
                }
                match (&mut answer).await {
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
    }

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
    fn waiting(&self) -> MutexGuard<'_, HashMap<Uuid, oneshot::Sender<Delivery>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_out(&self, delivery: Delivery) {
        let id = delivery.properties.correlation_id.as_deref().and_then(|id| Uuid::parse_str(id).ok());
        // Whoever asked twice is answered twice; the second finds nobody waiting.
        if let Some(waiting) = id.and_then(|id| self.waiting().remove(&id)) {
            let _ = waiting.send(delivery);
        }
    }
}

/// Whoever stops waiting leaves nothing behind.
struct Forget<'a> {
    shared: &'a Shared,
    id: Uuid,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.waiting().remove(&self.id);
    }
}

fn message(id: Uuid, kind: &str, format: Format, body: bytes::Bytes) -> Outgoing {
    Outgoing {
        exchange: topology::IN.to_owned(),
        routing_key: kind.to_owned(),
        mandatory: true,
        properties: Properties {
            message_id: Some(id.to_string()),
            correlation_id: Some(id.to_string()),
            kind: Some(kind.to_owned()),
            content_type: Some(format.content_type().to_owned()),
            ..Properties::default()
        },
        body,
    }
}

fn read(kind: &str, delivery: &Delivery) -> Result<Output, ClientError> {
    let unreadable = |cause: String| ClientError::Unreadable { kind: kind.to_owned(), cause };
    let format =
        Format::of(delivery.properties.content_type.as_deref()).map_err(|error| unreadable(error.to_string()))?;
    let answer = delivery.properties.kind.as_deref().unwrap_or_default();
    Output::decode(answer, format, &delivery.body).map_err(|error| unreadable(error.to_string()))
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
    let mut pause = Duration::from_millis(50);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = shared.lost.notified() => {}
            received = consumer.receive(256, usize::MAX) => if let Ok(deliveries) = received {
                deliveries.into_iter().for_each(|delivery| shared.hand_out(delivery));
                continue;
            },
        }
        session.send_replace(None);
        consumer = loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(Duration::from_secs(2));
            if let Ok((made, consumer)) = open(&shared.transport).await {
                session.send_replace(Some(made));
                pause = Duration::from_millis(50);
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
