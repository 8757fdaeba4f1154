//! `licet verify`: verifies a token offline.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use licet_client::{Verified, verify};
use licet_common::{clock::Clock, program::Failure};
use serde_json::json;

use crate::{jwks, report};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The token
    token: String,
    /// The file of the published keys
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let keyring = jwks::read(&arguments.jwks)?;
    let verified = verify(&arguments.token, &keyring).map_err(Failure::work)?;
    let (kind, claims, ends, unknown) = match &verified {
        Verified::Certificate(claims) => ("certificate", json!(claims), Some(claims.exp), "reissued or has ended"),
        Verified::Container(claims) => ("container", json!(claims), Some(claims.exp), "reissued or has ended"),
        Verified::License(claims) => ("license", json!(claims), None, "returned or revoked"),
    };
    let expired = ends.is_some_and(|ends| ends < Clock::System.now().as_seconds());
    if arguments.json {
        report::print(json!({"kind": kind, "claims": claims, "expired": expired}));
    } else {
        report::print(format!("The {kind} is genuine. Its claims:\n{claims:#}"));
        // The token is verified offline.
        report::print(format!("A valid signature does not tell whether the {kind} was {unknown}: ask `status.query`."));
    }
    if expired {
        return Err(Failure::Work(format!("the {kind} is genuine but has expired")));
    }
    Ok(ExitCode::SUCCESS)
}
