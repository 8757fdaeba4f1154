//! `licet unmatched`: lists, assigns or refunds payments that match no purchase.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use licet_common::{
    config::{
        CommandSettings, Config,
        groups::{BROKER, DATABASE, LOG},
    },
    program::{Failure, block_on, configure},
    store::Store,
};
use licet_operator::unmatched::{self, Purchase, Unmatched};
use licet_schema::{
    Money, Output, Request, Text,
    message::{SettlementOutcome, SettlementRegistered},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::LOG_OF_TOOLS;
use crate::{
    ask::{ask, invalid, unexpected},
    report,
};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List payments that match no purchase, and refunds that do not match their payment
    List(List),
    /// Assign an unmatched payment to an unpaid purchase, even one that has ended; the amount due
    /// must equal the payment
    Assign(Assign),
    /// Record that an unmatched payment was refunded through its provider
    Refund(Refund),
}

#[derive(Args)]
pub(crate) struct List {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: CommandSettings<{ DATABASE | LOG }>,
}

#[derive(Args)]
pub(crate) struct Assign {
    /// The id of the payment in the list
    id: Uuid,
    /// The certificate to pay for, if it was bought alone
    #[arg(long, value_name = "ID", required_unless_present = "container", conflicts_with = "container")]
    certificate: Option<Uuid>,
    /// The container to pay for
    #[arg(long, value_name = "ID")]
    container: Option<Uuid>,
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | DATABASE | LOG }>,
}

#[derive(Args)]
pub(crate) struct Refund {
    /// The id of the payment in the list
    id: Uuid,
    /// The reason for the refund
    #[arg(long, value_name = "TEXT", default_value = "refunded by the operator")]
    reason: String,
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | DATABASE | LOG }>,
}

pub(crate) fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::List(arguments) => list(arguments),
        Command::Assign(arguments) => assign(arguments),
        Command::Refund(arguments) => refund(arguments),
    }
}

fn list(arguments: List) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let payments = block_on(async {
        let store = open(&config).await?;
        let mut payments = Vec::new();
        for payment in unmatched::list(&store).await.map_err(Failure::work)? {
            let refunded = unmatched::refunded(&store, &payment).await.map_err(Failure::work)?;
            payments.push((payment, refunded));
        }
        Ok::<_, Failure>(payments)
    })?;
    if arguments.json {
        let payments: Vec<_> = payments.iter().map(|(payment, refunded)| as_json(payment, *refunded)).collect();
        report::print(json!({"unmatched": payments}));
    } else if payments.is_empty() {
        report::print("Every payment and refund is matched.");
    } else {
        payments.iter().for_each(|(payment, refunded)| report::print(line(payment, *refunded)));
    }
    Ok(ExitCode::SUCCESS)
}

fn assign(arguments: Assign) -> Result<ExitCode, Failure> {
    let purchase = match (arguments.certificate, arguments.container) {
        (Some(id), _) => Purchase::Certificate(id),
        (None, Some(id)) => Purchase::Container(id),
        (None, None) => return Err(Failure::Usage("name the purchase with --certificate or --container".into())),
    };
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    block_on(async {
        let store = open(&config).await?;
        let payment = unmatched::find(&store, arguments.id).await.map_err(Failure::work)?;
        warn_of_refunds(&store, &payment).await?;
        let is_one_of_several = unmatched::is_one_of_several(&store, &payment).await.map_err(Failure::work)?;
        let request = unmatched::assign(&payment, is_one_of_several, purchase);
        let registered = register(&config, &request).await?;
        report::print(match registered.outcome {
            SettlementOutcome::Reversed => {
                "The payment was assigned, but it had been refunded before: the purchase is reversed."
            }
            _ => "The payment was assigned. The purchase is paid for.",
        });
        if let Some(sum) = registered.refunded.filter(|sum| sum.amount_minor.get() > 0) {
            report::print(format!("{sum} of it is refunded."));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn refund(arguments: Refund) -> Result<ExitCode, Failure> {
    let reason = Text::try_from(arguments.reason).map_err(invalid)?;
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    block_on(async {
        let store = open(&config).await?;
        let payment = unmatched::find(&store, arguments.id).await.map_err(Failure::work)?;
        warn_of_refunds(&store, &payment).await?;
        let registered = register(&config, &unmatched::refund(&payment, reason)).await?;
        if registered.outcome != SettlementOutcome::Refunded {
            return Err(Failure::Work(format!(
                "the payment is already registered as {}: check it with `licet unmatched list` and `licet show`",
                registered.outcome
            )));
        }
        report::print("The payment was recorded as refunded.");
        Ok(ExitCode::SUCCESS)
    })
}

/// Warns the operator of refunds that the provider has already reported under the payment's id.
async fn warn_of_refunds(store: &Store, payment: &Unmatched) -> Result<(), Failure> {
    if let Some(sum) = unmatched::refunded(store, payment).await.map_err(Failure::work)? {
        report::print(format!("The provider already reported refunds of {sum} under the id of this payment."));
    }
    Ok(())
}

/// Sends a settlement message that must be registered.
async fn register(config: &Config, request: &Request) -> Result<SettlementRegistered, Failure> {
    match ask(config, request).await? {
        Output::SettlementRegistered(registered) => Ok(registered),
        reply => Err(unexpected(&reply)),
    }
}

async fn open(config: &Config) -> Result<Store, Failure> {
    let store = Store::open(&config.database_url()?, 1).await?;
    store.check(false).await?;
    Ok(store)
}

fn as_json(payment: &Unmatched, refunded: Option<Money>) -> Value {
    json!({"id": payment.id, "kind": payment.kind, "refund": payment.refund, "provider": payment.provider, "settlement": payment.settlement,
           "certificate": payment.certificate, "container": payment.container,
           "amount_minor": payment.amount_minor, "currency": payment.currency, "grants": payment.grants, "reason": payment.reason,
           "recorded_at": payment.recorded_at, "refunded": refunded.map(|sum| sum.amount_minor)})
}

fn line(payment: &Unmatched, refunded: Option<Money>) -> String {
    let named = match (payment.container, payment.certificate) {
        (Some(id), _) => format!("container {id}"),
        (None, Some(id)) => format!("certificate {id}"),
        (None, None) => "no purchase".to_owned(),
    };
    let Unmatched { id, settlement, provider, reason, recorded_at, .. } = payment;
    let amount = unmatched::amount(payment);
    let refund = payment.refund.as_ref().map(|refund| format!("refund {refund} of ")).unwrap_or_default();
    let refunded = refunded.map(|sum| format!(", {sum} refunded")).unwrap_or_default();
    format!(
        "{id}  {amount}  {refund}{settlement} from {provider} for {named}: {reason}, recorded {recorded_at}{refunded}"
    )
}

#[cfg(test)]
mod tests {
    use licet_schema::{Code, Count, ExternalId, Name, Timestamp, message::UnmatchedKind, money::Currency};

    use super::*;

    #[test]
    fn a_payment_is_listed_with_its_amount_in_major_units_and_the_purchase_that_it_names() {
        let payment = Unmatched {
            id: Uuid::from_u128(1),
            kind: UnmatchedKind::Payment,
            refund: None,
            provider: Name::try_from("bank").expect("a name"),
            settlement: ExternalId::try_from("pay-1").expect("an id"),
            certificate: None,
            container: Some(Uuid::from_u128(2)),
            amount_minor: Count::try_from(1287i64).expect("an amount"),
            currency: Currency::try_from("USD").expect("a code"),
            grants: None,
            reason: Code::AlreadySettled,
            recorded_at: Timestamp::from_millis(0),
            refunded_by: None,
        };
        let line = line(&payment, None);
        assert!(line.contains("  12.87 USD  pay-1 from bank for container 00000000-"), "{line}");
        assert!(line.ends_with(": already_settled, recorded 1970-01-01T00:00:00Z"), "{line}");
        let refund =
            Unmatched { kind: UnmatchedKind::Refund, refund: ExternalId::try_from("re-1").ok(), ..payment.clone() };
        assert!(super::line(&refund, None).contains("  12.87 USD  refund re-1 of pay-1 from bank for container "));
        let part = Money { amount_minor: Count::try_from(300i64).expect("an amount"), currency: payment.currency };
        assert!(super::line(&payment, Some(part)).ends_with("Z, 3.00 USD refunded"), "a part was refunded before");
        assert_eq!(as_json(&payment, Some(part))["refunded"], json!(300));
        let json = as_json(&payment, None);
        assert_eq!(json["refunded"], Value::Null);
        assert_eq!((&json["amount_minor"], &json["currency"]), (&json!(1287), &json!("USD")));
        assert_eq!((&json["reason"], &json["certificate"]), (&json!("already_settled"), &Value::Null));
    }
}
