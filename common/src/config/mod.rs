//! Configuration. Flags override environment variables, environment variables override
//! `licet.toml`, and `licet.toml` overrides the defaults. The configuration is checked once, when a
//! program starts, and an error names the setting.
//!
//! Inputs: flags, environment variables, a file (`licet.toml` in the working folder, or the one
//! that `--config` or `LICET_CONFIG` names) and files that contain secrets. Output: [`Config`].
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

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use licet_schema::{Seconds, money::Currency};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    address::{self, AddressError, BrokerAddress, DatabaseAddress},
    signing::folder::is_world_readable,
};
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
    amqp_url: Option<Secret>,
    database_url: Option<Secret>,
    management_url: Option<SecretString>,
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
    /// Every setting, in the order of `docs/configuration.md`.
    pub resolved: Vec<Resolved>,
}

/// A setting with the value that applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The key.
    pub key: &'static str,
    /// The value, without passwords.
    pub value: String,
    /// The layer that sets it.
    pub origin: Origin,
}

/// A setting that can contain a password.
#[derive(Clone, Debug)]
enum Secret {
    Value {
        value: SecretString,
        /// The configuration file that contains the value, if one does.
        file: Option<PathBuf>,
    },
    /// The value is in a file, which is read when the value is needed.
    File { key: &'static str, origin: Origin, path: PathBuf },
}

impl Secret {
    /// The value. Logs a warning if every user of the machine can read its file.
    fn reveal(&self) -> Result<SecretString, ConfigError> {
        let (key, origin, path) = match self {
            Self::Value { value, file } => {
                let is_open = file.as_ref().is_some_and(|file| is_world_readable(file).unwrap_or(false));
                if let (true, Some(file)) = (is_open && value.expose_secret().contains('@'), file) {
                    warn_of_readers(file);
                }
                return Ok(value.clone());
            }
            Self::File { key, origin, path } => (*key, origin, path),
        };
        let error = |source| ConfigError::SecretFile { key, origin: origin.clone(), path: path.clone(), source };
        if is_world_readable(path).map_err(error)? {
            warn_of_readers(path);
        }
        let text = std::fs::read_to_string(path).map_err(error)?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Ok(line.strip_suffix('\r').unwrap_or(line).into())
    }
}

fn warn_of_readers(file: &Path) {
    tracing::warn!(file = %file.display(), "every user can read this file with a password: restrict it with chmod 0600");
}

impl Config {
    /// The URL of the broker.
    ///
    /// # Errors
    /// The URL is not set, its file cannot be read, or it is not a valid AMQP URL.
    pub fn amqp_url(&self) -> Result<SecretString, ConfigError> {
        let url = self.amqp_url.as_ref().map(Secret::reveal).transpose()?;
        if url.as_ref().is_some_and(|url| begins_with(url, "memory:")) {
            return Err(ConfigError::InProcessTransport);
        }
        checked("amqp_url", url, |url| BrokerAddress::parse(url).map(|_| ()))
    }

    /// Whether the URL of the broker is set.
    pub fn has_amqp_url(&self) -> bool {
        self.amqp_url.is_some()
    }

    /// The URL of the database.
    ///
    /// # Errors
    /// The URL is not set, its file cannot be read, or it is neither a valid PostgreSQL URL nor a
    /// valid SQLite URL.
    pub fn database_url(&self) -> Result<SecretString, ConfigError> {
        let url = self.database_url.as_ref().map(Secret::reveal).transpose()?;
        checked("database_url", url, |url| DatabaseAddress::parse(url).map(|_| ()))
    }

    /// Whether the URL of the database is set.
    pub fn has_database_url(&self) -> bool {
        self.database_url.is_some()
    }

    /// The URL of a database that several processes share, which cannot be SQLite.
    ///
    /// # Errors
    /// The same as for [`Config::database_url`], or the URL is an SQLite URL.
    pub fn shared_database_url(&self) -> Result<SecretString, ConfigError> {
        let url = self.database_url()?;
        if begins_with(&url, "sqlite:") { Err(ConfigError::UnsharedDatabase) } else { Ok(url) }
    }

    /// The URL of the broker's management API, if it is set.
    ///
    /// # Errors
    /// The URL is not a valid HTTP URL.
    pub fn management_url(&self) -> Result<Option<SecretString>, ConfigError> {
        let Some(url) = &self.management_url else { return Ok(None) };
        let check = |url: &SecretString| address::without_secrets(url.expose_secret()).map(|_| ());
        checked("management_url", Some(url.clone()), check).map(Some)
    }
}

/// The URL, if it is set, has a prefix that its setting allows, and passes this check.
fn checked(
    key: &str,
    url: Option<SecretString>,
    check: impl Fn(&SecretString) -> Result<(), AddressError>,
) -> Result<SecretString, ConfigError> {
    let setting = Setting::named(key);
    let Some(url) = url else { return Err(settings::missing(setting)) };
    let (key, variable) = (setting.key, setting.variable());
    match &setting.kind {
        Kind::Url { prefixes, .. } if prefixes.iter().any(|prefix| begins_with(&url, prefix)) => {
            check(&url).map_err(|source| ConfigError::Address { key, variable, source })?;
            Ok(url)
        }
        kind => Err(ConfigError::WrongUrl { key, variable, expected: kind.expected() }),
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
    /// The time allowed to acknowledge receipt of a purchase, unless its content items specify
    /// another time.
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
