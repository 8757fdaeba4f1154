//! Configuration errors.

use std::{fmt, io, path::PathBuf};

use licet_schema::topology;

use crate::address::AddressError;

/// An error in the configuration. The message names the setting and states what is expected. It
/// never contains a URL, because a URL can contain a password.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file exists but cannot be read.
    #[error("the configuration file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
    /// The configuration file in the working folder belongs to another user.
    #[error(
        "{} belongs to another user, so it is not used: make it your own, or name it with --config or LICET_CONFIG",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A file that contains a secret cannot be read.
    #[error("{key}, set by {origin}, names the file {}, which cannot be read: {source}", path.display())]
    SecretFile {
        /// The key of the setting.
        key: &'static str,
        /// The layer that names the file.
        origin: Origin,
        /// The file.
        path: PathBuf,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
    /// A setting is given both as a value and as a file.
    #[error("{key} and {key}_file are both set by {origin}: set only one of them")]
    SetTwice {
        /// The key of the setting.
        key: &'static str,
        /// The layer that sets both.
        origin: String,
    },
    /// The configuration file is not TOML.
    #[error("{}, line {line}: {}", path.display(), source.message())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The parser's error. It does not contain the text of the file.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The configuration file contains a key that is not a setting.
    #[error("{} contains the unknown key {key:?}; the keys are {known}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The keys of all settings.
        known: String,
    },
    /// A setting has a value that is not allowed.
    #[error("{key}, set by {origin}, is {found}; it must be {expected}")]
    Invalid {
        /// The key of the setting.
        key: &'static str,
        /// The layer that sets the value.
        origin: Origin,
        /// The value, or a description of the problem.
        found: String,
        /// The allowed values.
        expected: String,
    },
    /// A required setting has no default and is not set.
    #[error("{key} is not set; set {variable} to {expected}")]
    Missing {
        /// The key of the setting.
        key: &'static str,
        /// Its environment variable.
        variable: String,
        /// The allowed values.
        expected: String,
    },
    /// The program cannot use this kind of URL.
    #[error("{key} ({variable}) must be {expected}")]
    WrongUrl {
        /// The key of the setting.
        key: &'static str,
        /// Its environment variable.
        variable: String,
        /// The allowed values.
        expected: String,
    },
    /// A URL cannot be used.
    #[error("{key} ({variable}) cannot be used: {source}")]
    Address {
        /// The key of the setting.
        key: &'static str,
        /// Its environment variable.
        variable: String,
        /// What is wrong with it.
        #[source]
        source: AddressError,
    },
    /// The broker's URL names the in-process transport.
    #[error(
        "amqp_url (LICET_AMQP_URL) is memory:, the in-process transport, which only `licet demo` uses; set the URL of \
         a broker, amqp://…"
    )]
    InProcessTransport,
    /// The database is SQLite, but the program shares its database with other programs.
    #[error(
        "database_url (LICET_DATABASE_URL) is an SQLite file, which only one process can use; run `licet serve`, or \
         set the URL of a PostgreSQL database, postgres://…"
    )]
    UnsharedDatabase,
    /// The table `[senders]` names message types that do not exist.
    #[error(
        "senders.{user} contains {pattern:?}, which matches no message type; use a message type, a prefix of one \
         followed by .*, a single *, or {}",
        topology::RETRY
    )]
    UnknownMessageType {
        /// The broker user.
        user: String,
        /// The entry.
        pattern: String,
    },
}

/// The layer that sets a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The default.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag, without the leading dashes.
    Flag(&'static str),
}

impl Origin {
    /// The layer, with a higher number for a layer that overrides others.
    pub(super) fn layer(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File(_) => 1,
            Self::Variable(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}
