//! Configuration. Flags override environment variables, environment variables override
//! `licet.toml`, and `licet.toml` overrides the defaults. The configuration is checked once, when a
//! program starts, and an error names the setting.
//!
//! Inputs: flags, environment variables and `licet.toml` in the working folder. Output: [`Config`].
//! Every setting is defined once, in the table in `definitions.rs`. Parsing, validation, `--help`
//! and `docs/configuration.md` are derived from this table. A program declares the [`groups`] of
//! settings that it uses with [`CommandSettings`].
//!
//! Deliberately absent: settings that change while a program runs, and a configuration framework,
//! which would report errors less precisely.

mod definitions;
mod documentation;
mod error;
mod senders;
mod settings;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

use licet_schema::{Seconds, money::Currency};
use secrecy::{ExposeSecret, SecretString};

use definitions::{Kind, Setting};

pub use definitions::{Groups, groups};
pub use documentation::documentation;
pub use error::{ConfigError, Origin};
pub use senders::Senders;
pub use settings::{CommandSettings, Settings};

/// The name of the configuration file, which is read from the working folder if it exists.
pub const FILE: &str = "licet.toml";

/// A complete, validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    amqp_url: Option<SecretString>,
    database_url: Option<SecretString>,
    /// The folder of the signing keys.
    pub keys: PathBuf,
    /// The log filter, if one is set.
    pub log: Option<String>,
    /// The settings that rules use.
    pub terms: Terms,
    /// The settings of the worker loop.
    pub limits: Limits,
    /// Which broker users may send which message types.
    pub senders: Senders,
}

impl Config {
    /// The URL of the broker.
    ///
    /// # Errors
    /// The URL is not set or is not an AMQP URL.
    pub fn amqp_url(&self) -> Result<&SecretString, ConfigError> {
        if self.amqp_url.as_ref().is_some_and(|url| begins_with(url, "memory:")) {
            return Err(ConfigError::InProcessTransport);
        }
        url("amqp_url", self.amqp_url.as_ref())
    }

    /// The URL of the database.
    ///
    /// # Errors
    /// The URL is not set, or is neither a PostgreSQL nor an SQLite URL.
    pub fn database_url(&self) -> Result<&SecretString, ConfigError> {
        url("database_url", self.database_url.as_ref())
    }

    /// The URL of a database that several processes share, which cannot be SQLite.
    ///
    /// # Errors
    /// The same as for [`Config::database_url`], or the URL is an SQLite URL.
    pub fn shared_database_url(&self) -> Result<&SecretString, ConfigError> {
        let url = self.database_url()?;
        if begins_with(url, "sqlite:") { Err(ConfigError::UnsharedDatabase) } else { Ok(url) }
    }
}

/// The URL, if it is set and has a prefix that its setting allows.
fn url<'a>(key: &str, url: Option<&'a SecretString>) -> Result<&'a SecretString, ConfigError> {
    let setting = Setting::named(key);
    let Some(url) = url else { return Err(settings::missing(setting)) };
    match &setting.kind {
        Kind::Url { prefixes, .. } if prefixes.iter().any(|prefix| begins_with(url, prefix)) => Ok(url),
        kind => {
            Err(ConfigError::WrongUrl { key: setting.key, variable: setting.variable(), expected: kind.expected() })
        }
    }
}

fn begins_with(url: &SecretString, prefix: &str) -> bool {
    url.expose_secret().starts_with(prefix)
}

/// The settings that rules use: the operator's terms for licenses and points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The claim `iss` of the tokens.
    pub issuer: String,
    /// The currency of the prices that can be paid with points. One point pays one minor unit.
    pub points_currency: Currency,
    /// The time allowed to acknowledge receipt of a purchase, unless its contents specify another
    /// time.
    pub receipt_ttl: Seconds,
    /// The time allowed for a terminal to report that it deleted a license that is being returned.
    pub return_ttl: Seconds,
    /// Whether a sender may use a reference for only one purchase, unless that one ended unpaid.
    pub unique_reference: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Settings::default().terms().unwrap_or_else(|error| panic!("a default is not allowed: {error}"))
    }
}

/// The settings of the worker loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of messages in a batch.
    pub batch_max: u16,
    /// The total size of message bodies at which a batch accepts no further messages.
    pub batch_max_bytes: usize,
    /// The maximum time for the broker to confirm a reply, in milliseconds.
    pub reply_timeout_ms: u64,
    /// The maximum time for the transaction of a batch, in seconds. After it, the database counts
    /// as unavailable.
    pub database_timeout_s: u64,
    /// The maximum time for a worker to finish its messages after it was asked to stop, in seconds.
    pub shutdown_timeout_s: u64,
    /// The interval of the sweep worker, in seconds.
    pub sweep_interval_s: u64,
}

impl Limits {
    /// The maximum time for the transaction of a batch.
    pub fn database_timeout(&self) -> Duration {
        Duration::from_secs(self.database_timeout_s)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Settings::default().limits().unwrap_or_else(|error| panic!("a default is not allowed: {error}"))
    }
}
