//! A payment provider for demonstrations, tests and small use: the account settling means behind
//! the queue `licet.instructed`. It is always paid at once, or never, and pays out what is owed.

use std::time::Duration;

use licet_common::transport::{Consumer, Delivery, Lost, Transport};
use licet_schema::{
    Code, ExternalId, Format, Name, Output, Request, Text,
    message::{PayoutCompletion, PayoutInstructed, SettlementCompletion, SettlementInstructed, SettlementSetback},
    topology,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::{Client, ClientError};

/// Its name, as settlements have it.
const NAME: &str = "trial";

/// What becomes of its charges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charges {
    /// All of them are paid.
    Succeed,
    /// None of them is.
    Fail,
}

/// Charges, and pays out, what it is instructed to, and tells Licet, until `stop`. An instruction
/// is acknowledged when Licet has answered; one that comes twice is told under the same ids.
pub async fn provide(transport: &Transport, client: &Client, charges: Charges, stop: &CancellationToken) {
    let mut pause = Duration::from_millis(50);
    while !stop.is_cancelled() {
        let served = match transport.consume(topology::INSTRUCTED, 512).await {
            Ok(consumer) => {
                pause = Duration::from_millis(50);
                serve(consumer, client, charges, stop).await
            }
            Err(lost) => Err(lost),
        };
        let Err(lost) = served else { return };
        warn!("the provider lost its queue: {lost}; trying again");
        let _ = tokio::time::timeout(pause, stop.cancelled()).await;
        pause = (pause * 2).min(Duration::from_secs(5));
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
        let mut telling = JoinSet::new();
        for delivery in instructions {
            let client = client.clone();
            telling.spawn(async move { tell(&client, charges, &delivery).await });
        }
        let told = tokio::select! {
            told = telling.join_all() => told,
            // What is not told yet is delivered again.
            () = stop.cancelled() => return Ok(()),
        };
        for told in told {
            if let Err(error) = told {
                // Not acknowledged: it is delivered again with the next connection.
                return Err(Lost(error.to_string()));
            }
        }
        consumer.ack_through(last).await?;
    }
}

async fn tell(client: &Client, charges: Charges, delivery: &Delivery) -> Result<(), ClientError> {
    let kind = delivery.properties.kind.as_deref().unwrap_or_default();
    let (subject, told) = match Output::decode(kind, Format::Json, &delivery.body) {
        Ok(Output::SettlementInstructed(instructed)) => charge(charges, instructed)?,
        Ok(Output::PayoutInstructed(instructed)) => pay_out(instructed)?,
        _ => return Ok(()),
    };
    let id = Uuid::new_v5(&subject, format!("trial provider: {}", told.kind()).as_bytes());
    if let Output::RequestRefused(refused) = client.ask_as(id, &told).await? {
        // Nothing was decided about it: the instruction must wait for whoever mends the table.
        if refused.code == Code::Forbidden {
            return Err(ClientError::Unwritable(refused.detail));
        }
        warn!(%subject, "a {} was refused: {}", told.kind(), refused.detail);
    }
    Ok(())
}

fn charge(charges: Charges, instructed: SettlementInstructed) -> Result<(Uuid, Request), ClientError> {
    let subject = instructed.container.or(instructed.certificate).unwrap_or_default();
    let settlement = ExternalId::try_from(format!("charge-{subject}")).map_err(unfit)?;
    let provider = Name::try_from(NAME).map_err(unfit)?;
    let told = match charges {
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
            reason: Text::try_from("the trial provider declines every charge").map_err(unfit)?,
            amount: None,
        }),
    };
    Ok((subject, told))
}

fn pay_out(instructed: PayoutInstructed) -> Result<(Uuid, Request), ClientError> {
    let told = Request::PayoutCompletion(PayoutCompletion {
        license_return: instructed.license_return,
        payout: ExternalId::try_from(format!("payout-{}", instructed.license_return)).map_err(unfit)?,
        provider: Name::try_from(NAME).map_err(unfit)?,
        amount: instructed.amount,
    });
    Ok((instructed.license_return, told))
}

fn unfit(error: impl std::fmt::Display) -> ClientError {
    ClientError::Unwritable(error.to_string())
}
