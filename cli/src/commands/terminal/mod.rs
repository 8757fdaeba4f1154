//! `licet terminal`: operates a client terminal (`licet_client::terminal`) by hand.
//!
//! After its own work, each command continues the operations that earlier commands started. To
//! continue an operation, you can also repeat the command: an interrupted purchase that is repeated
//! is made only once.

mod report;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand, ValueEnum};
use licet_client::{
    Client, Keyring, Patience, Transport,
    schema::{
        Count, ExternalId, InvalidValue, Name, Text, Version,
        message::{self, Item, Media, PurchaseRequest},
    },
    terminal::{Store, Terminal},
};
use licet_common::{
    config::{
        CommandSettings, Config,
        groups::{BROKER, KEYS, LOG},
    },
    program::{Failure, block_on, configure},
    signing::folder::FolderError,
};
use uuid::Uuid;

use super::LOG_OF_TOOLS;
use crate::jwks;
use report::Report;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The terminal's folder
    #[arg(long, global = true, default_value = "terminal")]
    folder: PathBuf,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Buy certificates, store them and acknowledge them
    Buy {
        /// The buyer
        #[arg(value_parser = name)]
        user: Name,
        /// The content items, each as CONTENT@VERSION, or as CONTENT for the highest version
        #[arg(required = true, value_name = "CONTENT", value_parser = item)]
        contents: Vec<Item>,
        /// The number of points to spend
        #[arg(long, value_name = "N", value_parser = count)]
        points: Option<Count>,
        /// Your own order number
        #[arg(long, value_name = "ID", value_parser = reference)]
        reference: Option<ExternalId>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Fetch the license of one certificate or of all; exit code 1 if one is not available yet
    Fetch {
        /// The id of the certificate [default: every certificate without a license]
        certificate: Option<Uuid>,
        #[command(flatten)]
        media: MediaArguments,
        #[command(flatten)]
        connection: Connection,
    },
    /// Return a license, and delete it and its content
    Return {
        /// The id of the license
        license: Uuid,
        /// The privilege to receive for the license
        privilege: Privilege,
        #[command(flatten)]
        connection: Connection,
    },
    /// List the stored certificates, licenses, content and returns
    List,
}

/// The options of commands that send messages.
#[derive(Args, Clone)]
struct Connection {
    /// The file with the published keys [default: the keys in the keys folder]
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// The name of the device
    #[arg(long, value_parser = name)]
    name: Option<Name>,
    #[command(flatten)]
    settings: CommandSettings<{ BROKER | KEYS | LOG }>,
}

/// The `media` of the content, as it was registered. Either all three options are given or none.
#[derive(Args)]
struct MediaArguments {
    /// The source of the content: a path, or a file:// or http(s):// URL
    #[arg(long, value_name = "URI", value_parser = text, requires_all = ["certificate", "sha256", "bytes"])]
    media: Option<Text>,
    /// The SHA-256 digest of the content, in hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = text, requires = "media")]
    sha256: Option<Text>,
    /// The length of the content, in bytes
    #[arg(long, value_name = "N", value_parser = count, requires = "media")]
    bytes: Option<Count>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Privilege {
    /// Points for later purchases
    Points,
    /// A certificate for the successor of the content
    Upgrade,
    /// Money
    Buyback,
    /// Only a collection record
    Collection,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let open = || Store::open(&arguments.folder).map_err(Failure::work);
    let report = match &arguments.command {
        Command::List => Report::of_store(&open()?).map_err(Failure::work)?,
        Command::Buy { connection, .. } | Command::Fetch { connection, .. } | Command::Return { connection, .. } => {
            let config = configure(connection.settings.clone(), LOG_OF_TOOLS)?;
            let keyring = keyring(&config, connection)?;
            let transport = Transport::rabbit(&config.amqp_url()?)?;
            let store = open()?;
            block_on(async {
                let client = Client::connect(&transport, Patience::default()).await?;
                let mut terminal = Terminal::new(client, keyring, store, connection.name.clone());
                operate(&mut terminal, &arguments.command).await
            })?
        }
    };
    Ok(report.print(arguments.json))
}

fn keyring(config: &Config, connection: &Connection) -> Result<Keyring, Failure> {
    if connection.jwks.is_none()
        && let Err(FolderError::Empty { .. }) = licet_common::signing::folder::load(&config.keys)
    {
        return Err(Failure::Usage(
            "the terminal has no keys to verify tokens: name a file of published keys with --jwks (`licet keys export` \
             prints them)"
                .into(),
        ));
    }
    jwks::read_or_load(connection.jwks.as_deref(), &config.keys)
}

async fn operate(terminal: &mut Terminal, command: &Command) -> Result<Report, Failure> {
    let mut report = Report::default();
    match command {
        Command::Buy { user, contents, points, reference, .. } => {
            let (user, items, reference) = (user.clone(), contents.clone(), reference.clone());
            let purchase = PurchaseRequest { user, items, points: *points, reference };
            report.bought(terminal.buy(purchase).await);
        }
        Command::Fetch { certificate: Some(certificate), media, .. } => {
            report.fetched(*certificate, terminal.fetch(*certificate, media.media()).await);
        }
        Command::Fetch { certificate: None, .. } => {
            // Interrupted operations come first, because they can store further certificates.
            report.resumed(terminal.resume().await.map_err(Failure::work)?);
            for certificate in terminal.wanted().map_err(Failure::work)? {
                report.fetched(certificate, terminal.fetch(certificate, None).await);
            }
            return Ok(report);
        }
        Command::Return { license, privilege, .. } => {
            report.returned(terminal.give_back(*license, (*privilege).into()).await);
        }
        Command::List => {}
    }
    if !report.has_failures() {
        report.resumed(terminal.resume().await.map_err(Failure::work)?);
    }
    Ok(report)
}

impl MediaArguments {
    fn media(&self) -> Option<Media> {
        let (uri, sha256) = (self.media.clone()?, self.sha256.clone()?);
        Some(Media { uri, sha256, bytes: self.bytes? })
    }
}

impl From<Privilege> for message::Privilege {
    fn from(privilege: Privilege) -> Self {
        match privilege {
            Privilege::Points => Self::Points,
            Privilege::Upgrade => Self::Upgrade,
            Privilege::Buyback => Self::Buyback,
            Privilege::Collection => Self::Collection,
        }
    }
}

fn name(text: &str) -> Result<Name, InvalidValue> {
    Name::try_from(text)
}

fn text(text: &str) -> Result<Text, InvalidValue> {
    Text::try_from(text)
}

fn reference(text: &str) -> Result<ExternalId, InvalidValue> {
    ExternalId::try_from(text)
}

fn count(text: &str) -> Result<Count, InvalidValue> {
    // Text that is not a number gets the same error as a negative number.
    Count::try_from(text.parse::<i64>().unwrap_or(-1))
}

/// Reads `CONTENT` or `CONTENT@VERSION`. If the name of a content item itself ends with `@` and
/// a number, its version must be given.
fn item(text: &str) -> Result<Item, InvalidValue> {
    let versioned = text.rsplit_once('@').and_then(|(content, number)| Some((content, number.parse::<i64>().ok()?)));
    match versioned {
        Some((content, number)) => Ok(Item { content: name(content)?, version: Some(Version::try_from(number)?) }),
        None => Ok(Item { content: name(text)?, version: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_a_content_with_or_without_a_version() {
        let parts = |text| item(text).map(|item| (item.content.to_string(), item.version.map(Version::get)));
        assert_eq!(parts("song"), Ok(("song".into(), None)));
        assert_eq!(parts("song@2"), Ok(("song".into(), Some(2))));
        assert_eq!(parts("a@b@3"), Ok(("a@b".into(), Some(3))));
        assert_eq!(parts("mail@example"), Ok(("mail@example".into(), None)));
        assert!(parts("song@0").is_err() && parts("@1").is_err() && parts("").is_err());
    }

    #[test]
    fn a_count_is_a_non_negative_whole_number() {
        assert_eq!(count("7").map(Count::get), Ok(7));
        for text in ["-1", "1.5", "many", ""] {
            assert!(count(text).is_err(), "{text:?}");
        }
    }
}
