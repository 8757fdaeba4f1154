//! A payment provider for demonstrations, tests and trials. It serves the queue `licet.instructed`:
//! it charges at once, or declines every charge, and pays out what it is instructed to.

use std::time::Duration;

use licet_common::transport::{Consumer, Delivery, Lost, Transport};
use licet_schema::{
    Code, ExternalId, InvalidValue, Name, Output, Request, Text,
    message::{PayoutCompletion, PayoutInstructed, SettlementCompletion, SettlementInstructed, SettlementSetback},
    topology,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::{Client, ClientError, ask::decode};

/// The `provider` of its settlements and payouts.
const NAME: &str = "trial";

/// The outcome of its charges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charges {
    /// Every charge succeeds.
    Succeed,
    /// Every charge is declined.
    Fail,
}

/// Why an instruction is not carried out. It is delivered again.
#[derive(Debug, thiserror::Error)]
enum ProviderError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the report cannot be composed: {0}")]
    Invalid(#[from] InvalidValue),
    /// Nothing was decided about the report: the broker user lacks a permission in `[senders]`.
    #[error("{detail}")]
    Forbidden { detail: String },
}

/// Carries out instructions and reports each outcome to Licet, until `stop`. An instruction is
/// acknowledged after Licet replied to its report.
pub async fn provide(transport: &Transport, client: &Client, charges: Charges, stop: &CancellationToken) {
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
        warn!("the payment provider lost its queue: {lost}; connecting again");
        let _ = tokio::time::timeout(backoff, stop.cancelled()).await;
        backoff = (backoff * 2).min(Duration::from_secs(5));
    }
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
            // Instructions without an acknowledgement are delivered again.
            () = stop.cancelled() => return Ok(()),
        };
        for outcome in outcomes {
            // None of the batch is acknowledged: all are delivered again on the next connection.
            outcome.map_err(|error| Lost(error.to_string()))?;
        }
        consumer.ack_through(last).await?;
    }
}

/// Carries out an instruction and reports its outcome. Settlement and message ids derive from the
/// purchase or return, so an instruction that is delivered twice is settled once.
async fn carry_out(client: &Client, charges: Charges, delivery: &Delivery) -> Result<(), ProviderError> {
    let (subject, report) = match decode(delivery) {
        Ok(Output::SettlementInstructed(instructed)) => {
            let Some(subject) = instructed.container.or(instructed.certificate) else {
                warn!("ignored an instruction that names no purchase");
                return Ok(());
            };
            (subject, charge(subject, charges, instructed)?)
        }
        Ok(Output::PayoutInstructed(instructed)) => (instructed.license_return, pay_out(instructed)?),
        Ok(other) => {
            warn!("ignored a {}, which is not an instruction", other.kind());
            return Ok(());
        }
        Err(error) => {
            warn!("ignored an instruction that cannot be read: {error}");
            return Ok(());
        }
    };
    let id = Uuid::new_v5(&subject, format!("trial provider: {}", report.kind()).as_bytes());
    if let Output::RequestRefused(refused) = client.ask_as(id, &report).await? {
        if refused.code == Code::Forbidden {
            return Err(ProviderError::Forbidden { detail: refused.detail });
        }
        warn!(%subject, "a {} was refused: {}", report.kind(), refused.detail);
    }
    Ok(())
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
        Charges::Fail => Request::SettlementFailure(SettlementSetback {
            certificate: instructed.certificate,
            container: instructed.container,
            settlement,
            provider,
            reason: Text::try_from("the trial provider declines every charge")?,
            amount: None,
        }),
    })
}

fn pay_out(instructed: PayoutInstructed) -> Result<Request, InvalidValue> {
    Ok(Request::PayoutCompletion(PayoutCompletion {
        license_return: instructed.license_return,
        payout: ExternalId::try_from(format!("payout-{}", instructed.license_return))?,
        provider: Name::try_from(NAME)?,
        amount: instructed.amount,
    }))
}
