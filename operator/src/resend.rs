//! Publishes outputs from the journal again: the same bytes, under the same `message_id`, to the
//! same exchange and queue as at first. A consumer that received an output before can recognize the
//! duplicate.
//!
//! [`outputs`] selects the outputs, and [`resend`] publishes them.
//!
//! Deliberately absent: replies. The journal does not store the queues that they were sent to. A
//! sender gets a reply again by sending its request again.

use std::time::Duration;

use futures_util::future::BoxFuture;
use licet_common::{
    runtime::{JournalError, StoredOutput, outputs_of, published_again},
    store::{Lock, Store, StoreError, keys, select},
    transport::{Lost, Outcome, Outgoing, Transport},
};
use licet_schema::{entity::journal, topology};
use sea_orm::ConnectionTrait;
use uuid::Uuid;

use crate::history::{Journal, names_any, purchases_with, records};

/// The timeout for the confirmation of a group of messages.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// The number of messages that are published together.
const TOGETHER: usize = 256;

/// Selects outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The outputs of the message with this id.
    Message(Uuid),
    /// The outputs about the purchase to which the certificate or container with this id belongs.
    Certificate(Uuid),
    /// The outputs that name the return with this id.
    Return(Uuid),
}

/// An output in the journal, which is not a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The `message_id` of the message that caused it.
    pub cause: Uuid,
    /// The output.
    pub output: StoredOutput,
}

/// The reason outputs cannot be published again.
#[derive(Debug, thiserror::Error)]
pub enum ResendError {
    /// The database did not respond, or it rejected a query.
    #[error("the journal cannot be read: {source}")]
    Store {
        /// The error of the store.
        #[from]
        source: StoreError,
    },
    /// The outputs in a journal row cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The connection to the broker was lost, or could not be opened.
    #[error(transparent)]
    Broker(#[from] Lost),
    /// The journal has no message with this id.
    #[error("the journal has no message {id}: `licet show --json` lists the messages of a purchase with their ids")]
    NoMessage {
        /// The id.
        id: Uuid,
    },
    /// No certificate and no container has this id.
    #[error("there is no certificate and no container {id}: `licet show` finds a purchase by other ids")]
    NoCertificate {
        /// The id.
        id: Uuid,
    },
    /// No return has this id.
    #[error("there is no return {id}: `licet show` finds a purchase by other ids")]
    NoReturn {
        /// The id.
        id: Uuid,
    },
    /// A queue that must store an output does not exist.
    #[error("the queue {queue} does not exist: run `licet topology apply`, and then this command again")]
    NoQueue {
        /// The queue.
        queue: String,
    },
    /// A queue did not accept an output.
    #[error("a queue refused {kind} {message_id}, because it is full or unavailable: run this command again later")]
    Refused {
        /// The type of the output.
        kind: String,
        /// The `message_id` of the output.
        message_id: String,
    },
    /// The broker did not confirm an output in time.
    #[error("the broker did not confirm an output in time: run this command again; each output keeps its message_id")]
    NotConfirmed,
}

/// The selected outputs, in the order of their decisions. `kind` selects one message type.
///
/// # Errors
/// The database is unavailable, its journal cannot be read, or the id is unknown.
pub fn outputs<'a>(
    store: &'a Store,
    selection: Selection,
    kind: Option<&'a str>,
) -> BoxFuture<'a, Result<Vec<Stored>, ResendError>> {
    Box::pin(async move {
        let connection = &store.pool();
        let mut outputs = match selection {
            Selection::Message(id) => of_message(connection, id).await?,
            Selection::Certificate(id) => {
                of_purchases(connection, id).await?.ok_or(ResendError::NoCertificate { id })?
            }
            Selection::Return(id) => {
                let mut outputs = of_purchases(connection, id).await?.ok_or(ResendError::NoReturn { id })?;
                let id = [id.to_string()];
                outputs.retain(|one| names_any(&one.output.body, &id));
                outputs
            }
        };
        outputs.retain(|one| !one.output.reply && kind.is_none_or(|kind| one.output.kind == kind));
        Ok(outputs)
    })
}

async fn of_message(connection: &impl ConnectionTrait, id: Uuid) -> Result<Vec<Stored>, ResendError> {
    let rows = select::<journal::Entity>(connection, &[journal::Column::Id], keys([id]), Lock::None).await?;
    let row = rows.first().ok_or(ResendError::NoMessage { id })?;
    Ok(outputs_of(row)?.into_iter().map(|output| Stored { cause: id, output }).collect())
}

/// The outputs about the purchases to which an id belongs. `None` if there are no such purchases.
async fn of_purchases(connection: &impl ConnectionTrait, id: Uuid) -> Result<Option<Vec<Stored>>, ResendError> {
    let purchases = purchases_with(connection, id).await?;
    let mut outputs = Vec::new();
    for purchase in &purchases {
        let journal = Journal::of(connection, *purchase, &records(connection, *purchase).await?).await?;
        for row in &journal.rows {
            let about = outputs_of(row)?.into_iter().filter(|output| journal.is_about(row, output));
            outputs.extend(about.map(|output| Stored { cause: row.id, output }));
        }
    }
    Ok((!purchases.is_empty()).then_some(outputs))
}

/// Publishes these outputs and waits until each is confirmed.
///
/// # Errors
/// The broker did not accept an output. Some of the others may have arrived.
pub fn resend<'a>(transport: &'a Transport, outputs: &'a [Stored]) -> BoxFuture<'a, Result<(), ResendError>> {
    Box::pin(async move {
        let messages: Vec<_> = outputs.iter().flat_map(|one| published_again(Some(one.cause), &one.output)).collect();
        let publisher = transport.publisher().await?;
        for messages in messages.chunks(TOGETHER) {
            let outcomes = publisher.publish(messages, CONFIRM_TIMEOUT).await?;
            for (message, outcome) in messages.iter().zip(outcomes) {
                confirmed(message, outcome)?;
            }
        }
        publisher.close().await;
        Ok(())
    })
}

fn confirmed(message: &Outgoing, outcome: Outcome) -> Result<(), ResendError> {
    let text = |property: &Option<String>| property.clone().unwrap_or_default();
    match outcome {
        Outcome::Confirmed => Ok(()),
        Outcome::Returned if message.exchange == topology::DEFAULT => {
            Err(ResendError::NoQueue { queue: message.routing_key.clone() })
        }
        Outcome::Returned | Outcome::Refused => Err(ResendError::Refused {
            kind: text(&message.properties.kind),
            message_id: text(&message.properties.message_id),
        }),
        Outcome::Unconfirmed => Err(ResendError::NotConfirmed),
    }
}

#[cfg(test)]
mod tests {
    use licet_schema::{
        Money, Name, Output,
        message::{CertificateRetired, Ending, PayoutInstructed, SettlementInstructed},
        money::Currency,
    };

    use super::*;
    use crate::fixture::{Database, journal_row};

    fn instructed(certificate: Uuid) -> Output {
        Output::SettlementInstructed(SettlementInstructed {
            certificate: Some(certificate),
            container: None,
            user: Name::try_from("ada").expect("a name"),
            amount: Money::new(1287, Currency::try_from("USD").expect("a code")).expect("an amount"),
            reference: None,
        })
    }

    fn paid_out(license_return: Uuid) -> Output {
        Output::PayoutInstructed(PayoutInstructed {
            license_return,
            user: Name::try_from("ada").expect("a name"),
            amount: Money::new(300, Currency::try_from("USD").expect("a code")).expect("an amount"),
        })
    }

    #[tokio::test]
    async fn a_message_selects_its_outputs_of_a_type_and_never_its_reply() {
        let (database, message, certificate) = (Database::new().await, Uuid::from_u128(7), Uuid::from_u128(1));
        let retired = Output::CertificateRetired(CertificateRetired { certificate, reason: Ending::Expired });
        let outputs_of_row = [(true, retired.clone()), (false, retired), (false, instructed(certificate))];
        database.put(journal_row(message, Some(certificate), 1, &outputs_of_row)).await;
        let kinds = async |kind: Option<&'static str>| {
            let outputs = outputs(&database.store, Selection::Message(message), kind).await.expect("outputs");
            outputs.into_iter().map(|one| (one.cause, one.output.kind)).collect::<Vec<_>>()
        };
        let expected = ["certificate.retired", "settlement.instructed"].map(|kind| (message, kind.to_owned()));
        assert_eq!(kinds(None).await, expected);
        assert_eq!(kinds(Some("settlement.instructed")).await, expected[1..]);
        assert!(kinds(Some("payout.instructed")).await.is_empty());
        let unknown = outputs(&database.store, Selection::Message(certificate), None).await;
        assert!(matches!(unknown, Err(ResendError::NoMessage { .. })), "{unknown:?}");
    }

    #[tokio::test]
    async fn an_unknown_certificate_or_return_is_an_error() {
        let (database, id) = (Database::new().await, Uuid::from_u128(1));
        let unknown = outputs(&database.store, Selection::Certificate(id), None).await;
        assert!(matches!(unknown, Err(ResendError::NoCertificate { .. })), "{unknown:?}");
        let unknown = outputs(&database.store, Selection::Return(id), None).await;
        assert!(matches!(unknown, Err(ResendError::NoReturn { .. })), "{unknown:?}");
    }

    #[tokio::test]
    async fn an_instruction_whose_queue_does_not_exist_is_not_reported_as_published() {
        let transport = Transport::memory();
        let mut topology = topology::topology(&[]);
        topology.queues.retain(|queue| queue.name != topology::INSTRUCTED);
        transport.apply(&topology).await.expect("the in-process broker accepts any topology");
        let (database, message) = (Database::new().await, Uuid::from_u128(7));
        database.put(journal_row(message, None, 1, &[(false, paid_out(Uuid::from_u128(2)))])).await;
        let outputs = outputs(&database.store, Selection::Message(message), None).await.expect("outputs");
        let error = resend(&transport, &outputs).await.expect_err("there is no queue");
        assert!(error.to_string().starts_with("the queue licet.instructed does not exist"), "{error}");
        transport.apply(&topology::topology(&[])).await.expect("the in-process broker accepts any topology");
        resend(&transport, &outputs).await.expect("now the queue exists");
        assert_eq!(transport.depth(topology::INSTRUCTED).await.expect("the queue"), 1);
    }
}
