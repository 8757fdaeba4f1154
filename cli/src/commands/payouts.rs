//! `licet payouts`: lists the payouts for buy-backs, and instructs the payment provider again.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use licet_common::{
    clock::Clock,
    config::{
        CommandSettings, Config,
        groups::{BROKER, DATABASE, LOG},
    },
    program::{Failure, block_on, configure},
    store::Store,
    transport::Transport,
};
use licet_operator::payouts::{self, Buyback, Filter};
use licet_schema::{
    Timestamp,
    entity::{PayoutState, payout},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{LOG_OF_TOOLS, dead::duration};
use crate::report;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List the buy-backs with their payouts, oldest first
    List(List),
    /// Instruct the payment provider again to pay out a buy-back
    Instruct(Instruct),
}

#[derive(Args)]
pub(crate) struct List {
    /// Only buy-backs that are still owed
    #[arg(long)]
    open: bool,
    /// Only buy-backs that are still owed because a payout failed
    #[arg(long)]
    failed: bool,
    /// Only buy-backs whose return was completed at least this long ago: 90s, 15m, 2h, 7d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: CommandSettings<{ DATABASE | LOG }>,
}

#[derive(Args)]
pub(crate) struct Instruct {
    /// The id of the return
    #[arg(value_name = "RETURN")]
    license_return: Uuid,
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | DATABASE | LOG }>,
}

pub(crate) fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::List(arguments) => list(arguments),
        Command::Instruct(arguments) => instruct(arguments),
    }
}

fn list(arguments: List) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let before = arguments.older_than.map(|age| {
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(Clock::System.now().as_millis().saturating_sub(age_ms))
    });
    let filter = Filter { open: arguments.open, failed: arguments.failed, before };
    let found = block_on(async { payouts::list(&open(&config).await?, filter).await.map_err(Failure::work) })?;
    if arguments.json {
        report::print(json!({"buybacks": found.iter().map(as_json).collect::<Vec<_>>()}));
    } else if found.is_empty() {
        report::print("No buy-back is selected.");
    } else {
        found.iter().for_each(|one| report::print(line(one)));
    }
    Ok(ExitCode::SUCCESS)
}

fn instruct(arguments: Instruct) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let transport = Transport::rabbit(&config.amqp_url()?)?;
    block_on(async {
        let buyback = payouts::find(&open(&config).await?, arguments.license_return).await.map_err(Failure::work)?;
        let instruction = payouts::instruct(&buyback).map_err(Failure::work)?;
        payouts::publish(&transport, &instruction, Clock::System.now()).await.map_err(Failure::work)?;
        let Buyback { amount, user, .. } = &buyback;
        report::print(format!(
            "The payment provider was instructed to pay {amount} to {user}, under the id {}.",
            instruction.message_id
        ));
        if buyback.failures() == 0 {
            report::print(
                "No payout of this return has failed: check that the provider does not carry out the first \
                 instruction too.",
            );
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn open(config: &Config) -> Result<Store, Failure> {
    let store = Store::open(&config.database_url()?, 1).await?;
    store.check(false).await?;
    Ok(store)
}

fn as_json(buyback: &Buyback) -> Value {
    let payout = |row: &payout::Model| {
        json!({"provider": row.provider, "payout": row.payout, "state": word(row.state),
               "amount_minor": row.amount_minor, "currency": row.currency, "reason": row.reason,
               "registered_at": row.registered_at})
    };
    json!({"license_return": buyback.license_return, "license": buyback.license,
           "certificate": buyback.certificate, "container": buyback.container, "user": buyback.user,
           "amount_minor": buyback.amount.amount_minor, "currency": buyback.amount.currency,
           "returned_at": buyback.returned_at, "state": buyback.state().as_str(), "reversed": buyback.reversed,
           "payouts": buyback.payouts.iter().map(payout).collect::<Vec<_>>()})
}

fn line(buyback: &Buyback) -> String {
    let Buyback { license_return, amount, user, returned_at, reversed, payouts, .. } = buyback;
    let mut line = format!("{license_return}  {amount}  {}  to {user}, returned {returned_at}", buyback.state());
    if *reversed {
        line += ", purchase reversed";
    }
    for row in payouts {
        let (payout, provider) = (&row.payout, &row.provider);
        line += &match (row.state, &row.reason, payouts::amount(row)) {
            (PayoutState::Failed | PayoutState::Pending, Some(reason), _) => {
                format!("; {payout} from {provider} failed: {reason}")
            }
            (PayoutState::Mismatched, _, Some(paid)) => {
                format!("; {payout} from {provider} paid {paid}, which is not the amount owed")
            }
            (state, ..) => format!("; {payout} from {provider} {}", word(state)),
        };
    }
    line
}

fn word(state: PayoutState) -> &'static str {
    match state {
        PayoutState::Completed => "completed",
        PayoutState::Mismatched => "mismatched",
        PayoutState::Failed => "failed",
        PayoutState::Pending => "pending",
    }
}

#[cfg(test)]
mod tests {
    use licet_schema::{Count, ExternalId, Money, Name, Text, money::Currency};

    use super::*;

    fn usd(minor: i64) -> Money {
        Money::new(minor, Currency::try_from("USD").expect("a currency")).expect("an amount")
    }

    fn payout(id: &str, state: PayoutState, minor: i64, reason: Option<&str>) -> payout::Model {
        payout::Model {
            provider: Name::try_from("bank").expect("a name"),
            payout: ExternalId::try_from(id).expect("an id"),
            license_return: Uuid::from_u128(1),
            state,
            amount_minor: Some(usd(minor).amount_minor),
            currency: Some(usd(minor).currency),
            sequence: Count::ONE,
            reason: reason.map(|reason| Text::try_from(reason).expect("a text")),
            registered_at: Timestamp::from_millis(0),
            cause: Uuid::from_u128(2),
        }
    }

    #[test]
    fn a_buyback_is_listed_with_its_state_its_payouts_and_whether_the_purchase_was_reversed() {
        let buyback = Buyback {
            license_return: Uuid::from_u128(1),
            license: Uuid::from_u128(3),
            certificate: Uuid::from_u128(4),
            container: None,
            user: Name::try_from("alice").expect("a name"),
            amount: usd(300),
            returned_at: Timestamp::from_millis(0),
            reversed: true,
            payouts: vec![
                payout("out-1", PayoutState::Failed, 300, Some("the account is closed")),
                payout("out-2", PayoutState::Mismatched, 299, None),
            ],
        };
        let line = line(&buyback);
        assert!(
            line.contains("  3.00 USD  failed  to alice, returned 1970-01-01T00:00:00Z, purchase reversed"),
            "{line}"
        );
        assert!(
            line.contains("; out-1 from bank failed: the account is closed; out-2 from bank paid 2.99 USD"),
            "{line}"
        );
        let json = as_json(&buyback);
        assert_eq!((&json["state"], &json["reversed"]), (&json!("failed"), &json!(true)));
        assert_eq!(
            (&json["payouts"][1]["state"], &json["payouts"][1]["amount_minor"]),
            (&json!("mismatched"), &json!(299))
        );
    }
}
