//! A payment provider for demonstrations, tests and trials. It takes instructions from the queue
//! `licet.instructed`. It completes or declines every charge immediately, and completes every
//! payout.

use std::time::Duration;

use futures_util::future::BoxFuture;
use licet_common::transport::{Consumer, Delivery, Lost, Transport};
use licet_schema::{
    Code, ExternalId, InvalidValue, Name, Output, Request, Text,
    message::{PayoutCompletion, PayoutInstructed, SettlementCompletion, SettlementFailure, SettlementInstructed},
    topology,
};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::{Client, ClientError, ask::decode};

/// The name of the provider in settlements and payouts.
const NAME: &str = "trial";

/// The outcome of the charges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charges {
    /// Every charge succeeds.
    Succeed,
    /// Every charge is declined.
    Fail,
}

/// An error that prevents an instruction from being carried out. The instruction is delivered
/// again.
#[derive(Debug, thiserror::Error)]
enum ProviderError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the report cannot be created: {0}")]
    Invalid(#[from] InvalidValue),
    /// The report was not decided, because the broker user lacks a permission in `[senders]`.
    #[error("{detail}")]
    Forbidden { detail: String },
}

/// Carries out instructions and reports each outcome to Licet, until `stop`. An instruction is
/// acknowledged after Licet has replied to its report.
pub fn provide<'a>(
    transport: &'a Transport,
    client: &'a Client,
    charges: Charges,
    stop: &'a CancellationToken,
) -> BoxFuture<'a, ()> {
    Box::pin(async move {
        let mut backoff = Duration::from_millis(50);
        while !stop.is_cancelled() {
            let served = match transport.consume(topology::INSTRUCTED, 512).await {
                Ok(consumer) => {
                    backoff = Duration::from_millis(50);
                    serve(consumer, client, charges, stop).await
                }
                Err(lost) => Err(lost),
            };
            let Err(lost) = served else { return };
            warn!("the payment provider lost its connection: {lost}; reconnecting");
            let _ = tokio::time::timeout(backoff, stop.cancelled()).await;
            backoff = (backoff * 2).min(Duration::from_secs(5));
        }
    })
}

async fn serve(
    mut consumer: Consumer,
    client: &Client,
    charges: Charges,
    stop: &CancellationToken,
) -> Result<(), Lost> {
    loop {
        let instructions = tokio::select! {
            () = stop.cancelled() => {
                consumer.close().await;
                return Ok(());
            }
            received = consumer.receive(256, usize::MAX) => received?,
        };
        let Some(last) = instructions.last().map(|delivery| delivery.tag) else { continue };
        let mut reports = JoinSet::new();
        for delivery in instructions {
            let client = client.clone();
            reports.spawn(async move { carry_out(&client, charges, &delivery).await });
        }
        let outcomes = tokio::select! {
            outcomes = reports.join_all() => outcomes,
            // The broker delivers unacknowledged instructions again.
            () = stop.cancelled() => return Ok(()),
        };
        for outcome in outcomes {
            // No instruction of the batch is acknowledged. The broker delivers all of them again on
            // the next connection.
            outcome.map_err(|error| Lost::Unavailable(error.to_string()))?;
        }
        consumer.ack_through(last).await?;
    }
}

/// Carries out an instruction and reports its outcome. The settlement id and the message id are
/// derived from the purchase, so an instruction that is delivered twice is settled only once. Those
/// of a payout are derived from the instruction, because the payout of a return is instructed again
/// after it failed.
async fn carry_out(client: &Client, charges: Charges, delivery: &Delivery) -> Result<(), ProviderError> {
    let (subject, report) = match decode(delivery) {
        Ok(Output::SettlementInstructed(instructed)) => {
            let Some(subject) = instructed.container.or(instructed.certificate) else {
                warn!("ignored an instruction that names no purchase");
                return Ok(());
            };
            (subject, charge(subject, charges, instructed)?)
        }
        Ok(Output::PayoutInstructed(instructed)) => {
            let id = delivery.properties.message_id.as_deref().and_then(|id| Uuid::parse_str(id).ok());
            let id = id.unwrap_or(instructed.license_return);
            (id, pay_out(id, instructed)?)
        }
        Ok(other) => {
            warn!("ignored a message of type {}, which is not an instruction", other.kind());
            return Ok(());
        }
        Err(error) => {
            warn!("ignored an instruction that cannot be read: {error}");
            return Ok(());
        }
    };
    if let Output::RequestRefused(refused) = client.ask_as(report_id(subject, report.kind()), &report).await? {
        if refused.code == Code::Forbidden {
            return Err(ProviderError::Forbidden { detail: refused.detail });
        }
        warn!(%subject, "a {} was refused: {}", report.kind(), refused.detail);
    }
    Ok(())
}

/// The message id of a report: a UUIDv7 with the time in the id of the purchase or return.
fn report_id(subject: Uuid, kind: &str) -> Uuid {
    let mut random = [0; 10];
    random.copy_from_slice(&Sha256::digest(format!("trial provider: {subject} {kind}"))[..10]);
    // The time is the first 48 of the 128 bits.
    uuid::Builder::from_unix_timestamp_millis(subject.as_u64_pair().0 >> 16, &random).into_uuid()
}

fn charge(subject: Uuid, charges: Charges, instructed: SettlementInstructed) -> Result<Request, InvalidValue> {
    let settlement = ExternalId::try_from(format!("charge-{subject}"))?;
    let provider = Name::try_from(NAME)?;
    Ok(match charges {
        Charges::Succeed => Request::SettlementCompletion(SettlementCompletion {
            certificate: instructed.certificate,
            container: instructed.container,
            settlement,
            provider,
            amount: instructed.amount,
            grants: None,
        }),
        Charges::Fail => Request::SettlementFailure(SettlementFailure {
            certificate: instructed.certificate,
            container: instructed.container,
            settlement,
            provider,
            reason: Text::try_from("the trial provider declines every charge")?,
        }),
    })
}

fn pay_out(instruction: Uuid, instructed: PayoutInstructed) -> Result<Request, InvalidValue> {
    Ok(Request::PayoutCompletion(PayoutCompletion {
        license_return: instructed.license_return,
        payout: ExternalId::try_from(format!("payout-{instruction}"))?,
        provider: Name::try_from(NAME)?,
        amount: instructed.amount,
    }))
}
