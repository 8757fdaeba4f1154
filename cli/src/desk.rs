//! `licet reissue` and `licet unmatched`: what a person decides at a desk. Each is a message like
//! anybody's; only the list of unmatched money is read from the database.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use licet_client::{
    Client, Patience, Transport,
    schema::{
        Count, ExternalId, Format, Money, Name, Output, Request, Text, Timestamp,
        message::{CertificateReissue, SettlementCompletion, SettlementOutcome, SettlementSetback},
        money::Currency,
        vocabulary::Unfit,
    },
};
use licet_common::{config::Config, store::Store};
use licet_schema::entity::unmatched_settlement;
use licet_workers::program::{Failure, block_on};
use sea_orm::{EntityTrait, QueryOrder};
use serde_json::json;
use uuid::Uuid;

use crate::report;

/// `licet reissue CERTIFICATE`
#[derive(Args)]
pub(crate) struct Reissue {
    /// The certificate's id
    certificate: Uuid,
    /// Why, for whoever reads its story later
    #[arg(long)]
    reason: String,
    /// Count only so many of its licenses as granted; the newest others are revoked
    #[arg(long, value_name = "N")]
    granted: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// `licet unmatched …`
#[derive(Subcommand)]
pub(crate) enum Unmatched {
    /// List money that matches no purchase
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Pay for a purchase with it: one that waits for exactly this amount
    Assign {
        /// Its id in the list
        id: Uuid,
        /// The certificate it pays for, if that was bought alone
        #[arg(long, required_unless_present = "container", conflicts_with = "container")]
        certificate: Option<Uuid>,
        /// The container it pays for
        #[arg(long)]
        container: Option<Uuid>,
    },
    /// Take it off the list: it was given back through its provider
    Refund {
        /// Its id in the list
        id: Uuid,
        /// Why, for whoever reads about it later
        #[arg(long, default_value = "given back by the operator")]
        reason: String,
    },
}

/// Asks for a certificate's next generation.
pub(crate) fn reissue(config: &Config, arguments: &Reissue) -> Result<ExitCode, Failure> {
    let request = Request::CertificateReissue(CertificateReissue {
        certificate: arguments.certificate,
        reason: Text::try_from(arguments.reason.as_str()).map_err(usage)?,
        granted: arguments.granted.map(|count| Count::try_from(u64::from(count))).transpose().map_err(usage)?,
    });
    let answer = block_on(ask(config, &request))?;
    let Output::CertificateReissued(reissued) = &answer else { return Err(unexpected(&answer)) };
    if arguments.json {
        report::tell(json!(reissued));
    } else {
        report::tell(format!(
            "Certificate {} is reissued in generation {}: {} of its licenses are granted, {} remain.\n{}",
            reissued.certificate,
            reissued.generation,
            reissued.granted,
            reissued.remaining,
            reissued.certificate_token.as_deref().unwrap_or_default()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists money without a match, or deals with some of it.
pub(crate) fn unmatched(config: &Config, command: &Unmatched) -> Result<ExitCode, Failure> {
    block_on(async {
        match command {
            Unmatched::List { json } => list(config, *json).await,
            Unmatched::Assign { id, certificate, container } => {
                let kept = find(config, *id).await?;
                let request = Request::SettlementCompletion(SettlementCompletion {
                    certificate: *certificate,
                    container: *container,
                    settlement: ExternalId::try_from(kept.settlement.as_str()).map_err(damaged)?,
                    provider: Name::try_from(kept.provider.as_str()).map_err(damaged)?,
                    amount: amount(&kept)?,
                    grants: None,
                });
                let sentence = "It pays for that purchase now.";
                registered(&ask(config, &request).await?, SettlementOutcome::Completed, sentence)
            }
            Unmatched::Refund { id, reason } => {
                let kept = find(config, *id).await?;
                let request = Request::SettlementReversal(SettlementSetback {
                    certificate: kept.certificate,
                    container: kept.container,
                    settlement: ExternalId::try_from(kept.settlement.as_str()).map_err(damaged)?,
                    provider: Name::try_from(kept.provider.as_str()).map_err(damaged)?,
                    reason: Text::try_from(reason.as_str()).map_err(usage)?,
                    amount: Some(amount(&kept)?),
                });
                let sentence = "It is off the list, and known as given back.";
                registered(&ask(config, &request).await?, SettlementOutcome::Reversed, sentence)
            }
        }
    })
}

async fn list(config: &Config, as_json: bool) -> Result<ExitCode, Failure> {
    let rows = unmatched_settlement::Entity::find().order_by_asc(unmatched_settlement::Column::ToldAt);
    let rows = rows.all(&open(config).await?.reader()).await.map_err(|error| Failure::Work(error.to_string()))?;
    if as_json {
        let kept = rows.iter().map(|row| {
            json!({"id": row.id, "provider": row.provider, "settlement": row.settlement,
                   "certificate": row.certificate, "container": row.container, "amount_minor": row.amount_minor,
                   "currency": row.currency, "reason": row.reason,
                   "told_at": Timestamp::from_millis(row.told_at)})
        });
        report::tell(json!({"unmatched": kept.collect::<Vec<_>>()}));
    } else if rows.is_empty() {
        report::tell("There is no money without a match.");
    }
    for row in rows.iter().filter(|_| !as_json) {
        let named = row.container.or(row.certificate).unwrap_or_default();
        report::tell(format!(
            "{}  {} {} (minor units)  {} {}  for {named}: {}, told {}",
            row.id,
            row.amount_minor,
            row.currency,
            row.provider,
            row.settlement,
            row.reason,
            Timestamp::from_millis(row.told_at)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn find(config: &Config, id: Uuid) -> Result<unmatched_settlement::Model, Failure> {
    let found = unmatched_settlement::Entity::find_by_id(id).one(&open(config).await?.reader()).await;
    let found = found.map_err(|error| Failure::Work(error.to_string()))?;
    found.ok_or_else(|| Failure::Work(format!("there is no unmatched money {id}: see `licet unmatched list`")))
}

async fn open(config: &Config) -> Result<Store, Failure> {
    let store = Store::open(config.database_url()?, 1).await?;
    store.check().await?;
    Ok(store)
}

async fn ask(config: &Config, request: &Request) -> Result<Output, Failure> {
    let transport = Transport::rabbit(config.amqp_url()?)?;
    let client = Client::connect(&transport, Format::Json, Patience::default()).await?;
    client.ask(request).await.map_err(|error| Failure::Work(error.to_string()))
}

fn amount(kept: &unmatched_settlement::Model) -> Result<Money, Failure> {
    let currency = Currency::try_from(kept.currency.as_str()).map_err(damaged)?;
    Money::new(kept.amount_minor, currency).map_err(damaged)
}

fn registered(answer: &Output, wanted: SettlementOutcome, sentence: &str) -> Result<ExitCode, Failure> {
    let Output::SettlementRegistered(registered) = answer else { return Err(unexpected(answer)) };
    if registered.outcome != wanted {
        let what = "something else is known of this settlement by now: see `licet unmatched list` and its story";
        return Err(Failure::Work(what.into()));
    }
    report::tell(sentence);
    Ok(ExitCode::SUCCESS)
}

fn unexpected(answer: &Output) -> Failure {
    Failure::Work(match answer {
        Output::RequestRefused(refused) => format!("refused, {}: {}", refused.code, refused.detail),
        other => format!("an unexpected answer, {}: is this program as new as the workers?", other.kind()),
    })
}

fn usage(unfit: Unfit) -> Failure {
    Failure::Usage(unfit.to_string())
}

fn damaged(unfit: Unfit) -> Failure {
    Failure::Work(format!("the database holds what cannot be: {unfit}. Run `licet audit`"))
}
