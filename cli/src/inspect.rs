//! `licet show`, `licet verify`, `licet audit`: looking without touching.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use licet_client::{Jwks, Keyring, Verified};
use licet_common::{clock::Clock, config::Config, store::Store};
use licet_workers::{
    audit,
    program::{Failure, block_on},
    story::stories,
};
use serde_json::json;

use crate::report;

/// `licet show ID`
#[derive(Args)]
pub(crate) struct Show {
    /// A purchase, certificate, container, license, return, or a user's name
    id: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// `licet verify TOKEN --jwks FILE`
#[derive(Args)]
pub(crate) struct Verify {
    /// The token
    token: String,
    /// The published keys
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn show(config: &Config, arguments: &Show) -> Result<ExitCode, Failure> {
    let url = config.database_url()?;
    block_on(async {
        let store = Store::open(url, 1).await?;
        store.check().await?;
        let stories = stories(&store, &arguments.id).await?;
        if arguments.json {
            report::tell(json!({"stories": stories}));
        } else {
            stories.iter().for_each(|story| report::tell(report::timeline(story)));
        }
        if stories.is_empty() {
            return Err(Failure::Work(format!("nothing is known of {:?}", arguments.id)));
        }
        Ok(ExitCode::SUCCESS)
    })
}

pub(crate) fn verify(arguments: &Verify) -> Result<ExitCode, Failure> {
    let keyring = read_jwks(&arguments.jwks)?;
    let verified =
        licet_client::verify(&arguments.token, &keyring).map_err(|error| Failure::Work(error.to_string()))?;
    let (kind, claims, ends) = match &verified {
        Verified::Certificate(claims) => ("certificate", json!(claims), Some(claims.exp)),
        Verified::Container(claims) => ("container", json!(claims), Some(claims.exp)),
        Verified::License(claims) => ("license", json!(claims), None),
    };
    let expired = ends.is_some_and(|ends| ends < Clock::System.now().as_seconds());
    if arguments.json {
        report::tell(json!({"kind": kind, "claims": claims, "expired": expired}));
    } else {
        report::tell(format!("A {kind} that is what was signed:\n{claims:#}"));
    }
    if expired {
        return Err(Failure::Work(format!("the {kind} is genuine, but its time is over")));
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads a JWKS file.
pub(crate) fn read_jwks(file: &PathBuf) -> Result<Keyring, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", file.display())))?;
    let jwks: Jwks = serde_json::from_str(&text)
        .map_err(|error| Failure::Usage(format!("{} is not a JWKS: {error}", file.display())))?;
    Keyring::from_jwks(&jwks).map_err(Failure::Usage)
}

pub(crate) fn audit(config: &Config, as_json: bool) -> Result<ExitCode, Failure> {
    let url = config.database_url()?;
    block_on(async {
        let store = Store::open(url, 1).await?;
        store.check().await?;
        let audited = audit::audit(&store).await?;
        if as_json {
            report::tell(json!(audited));
        } else {
            report::tell(report::verdict(&audited));
        }
        Ok(if audited.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
