//! `licet reissue`: replaces a lost certificate with its next generation.

use std::process::ExitCode;

use clap::Args;
use licet_common::{
    config::{
        CommandSettings,
        groups::{BROKER, LOG},
    },
    program::{Failure, block_on, configure},
};
use licet_schema::{
    Count, Output, Request, Text,
    message::{CertificateReissue, CertificateReissued},
};
use serde_json::json;
use uuid::Uuid;

use super::LOG_OF_TOOLS;
use crate::{
    ask::{ask, invalid, unexpected},
    report,
};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The id of the certificate
    certificate: Uuid,
    /// The reason for the reissue
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The number of licenses that count as granted; the newest others are revoked [default:
    /// unchanged]
    #[arg(long, value_name = "N")]
    granted: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | LOG }>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings, LOG_OF_TOOLS)?;
    let request = Request::CertificateReissue(CertificateReissue {
        certificate: arguments.certificate,
        reason: Text::try_from(arguments.reason).map_err(invalid)?,
        granted: arguments.granted.map(|count| Count::try_from(u64::from(count))).transpose().map_err(invalid)?,
    });
    let reply = block_on(ask(&config, &request))?;
    let Output::CertificateReissued(reissued) = &reply else { return Err(unexpected(&reply)) };
    if arguments.json {
        report::print(json!(reissued));
    } else {
        report::print(summary(reissued));
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(reissued: &CertificateReissued) -> String {
    let CertificateReissued { certificate, generation, granted, remaining, certificate_token, .. } = reissued;
    let counts = format!("{granted} of its licenses count as granted, and it permits {remaining} more");
    let sentence = format!("Certificate {certificate} was reissued in generation {generation}: {counts}.");
    match certificate_token {
        Some(token) => format!("{sentence} Its new token:\n{token}"),
        None => sentence,
    }
}
