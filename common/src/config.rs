//! Configuration: defaults < `licet.toml` < environment < flags, validated once at start. A
//! mistake is named with its key.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use licet_schema::{Name, Request, Seconds, money::Currency, topology};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// The name of the configuration file that is read from the working folder, if it is there.
pub const FILE: &str = "licet.toml";

/// What can be configured: by flag, by environment variable, or in [`FILE`] under the same name
/// in snake_case. Nothing here has a value until [`Settings::resolve`] has put the layers together.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The broker: amqp://user:password@host:port/vhost, or amqps://
    #[arg(long = "amqp", env = "LICET_AMQP_URL", global = true, value_name = "URL", hide_env_values = true)]
    pub amqp_url: Option<String>,
    /// The database: postgres://user:password@host/name, or sqlite:FILE for `licet serve`
    #[arg(long = "database", env = "LICET_DATABASE_URL", global = true, value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// The folder of signing keys [default: keys]
    #[arg(long, env = "LICET_KEYS", global = true, value_name = "FOLDER")]
    pub keys: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, or a tracing filter [default: info for what runs until it is stopped, else warn]
    #[arg(long, env = "LICET_LOG", global = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// `iss` of the tokens [default: licet]
    #[arg(long, env = "LICET_ISSUER", global = true, value_name = "NAME")]
    pub issuer: Option<String>,
    /// The one currency in which points pay [default: USD]
    #[arg(long, env = "LICET_POINTS_CURRENCY", global = true, value_name = "CODE")]
    pub points_currency: Option<String>,
    /// How long a reception notice may take where the content does not say, in seconds [default: 86400]
    #[arg(long, env = "LICET_RECEIPT_TTL_S", global = true, value_name = "SECONDS")]
    pub receipt_ttl_s: Option<i64>,
    /// How long a terminal may take to delete a returned license, in seconds [default: 86400]
    #[arg(long, env = "LICET_RETURN_TTL_S", global = true, value_name = "SECONDS")]
    pub return_ttl_s: Option<i64>,
    /// Most messages decided together [default: 256]
    #[arg(long, env = "LICET_BATCH_MAX", global = true, value_name = "N")]
    pub batch_max: Option<u16>,
    /// Most bytes of bodies decided together [default: 4194304]
    #[arg(long, env = "LICET_BATCH_MAX_BYTES", global = true, value_name = "BYTES")]
    pub batch_max_bytes: Option<usize>,
    /// How long a reply may wait for the broker's confirmation, in milliseconds [default: 10000]
    #[arg(long, env = "LICET_REPLY_TIMEOUT_MS", global = true, value_name = "MS")]
    pub reply_timeout_ms: Option<u64>,
    /// How long a batch may take in the database, which is away after that, in seconds [default: 30]
    #[arg(long, env = "LICET_DATABASE_TIMEOUT_S", global = true, value_name = "SECONDS")]
    pub database_timeout_s: Option<u64>,
    /// How long a worker that is told to stop may finish its batch, in seconds [default: 25]
    #[arg(long, env = "LICET_SHUTDOWN_TIMEOUT_S", global = true, value_name = "SECONDS")]
    pub shutdown_timeout_s: Option<u64>,
    /// How often the sweep worker looks for what is overdue, in seconds [default: 10]
    #[arg(long, env = "LICET_SWEEP_INTERVAL_S", global = true, value_name = "SECONDS")]
    pub sweep_interval_s: Option<u64>,
    /// Which broker users may send which types; only in the file, as the table `[senders]`.
    #[arg(skip)]
    pub senders: Option<BTreeMap<String, Vec<String>>>,
}

/// A mistake in the configuration. The text names the key and says what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl Settings {
    /// Puts the layers together (`self` holds flags and environment) and validates them.
    ///
    /// # Errors
    /// A value is not what it should be; the text names its key.
    pub fn resolve(self, folder: &Path) -> Result<Config, ConfigError> {
        let file = Self::read(&folder.join(FILE))?;
        let base = Terms::default();
        let seconds = |name: &str, value: Option<i64>, default: Seconds| match value {
            None => Ok(default),
            Some(value) => Seconds::try_from(value).map_err(|unfit| wrong(name, unfit)),
        };
        let terms = Terms {
            issuer: self.issuer.or(file.issuer).unwrap_or(base.issuer),
            points_currency: match self.points_currency.or(file.points_currency) {
                None => base.points_currency,
                Some(code) => Currency::try_from(code).map_err(|unfit| wrong("points_currency", unfit))?,
            },
            receipt_ttl: seconds("receipt_ttl_s", self.receipt_ttl_s.or(file.receipt_ttl_s), base.receipt_ttl)?,
            return_ttl: seconds("return_ttl_s", self.return_ttl_s.or(file.return_ttl_s), base.return_ttl)?,
        };
        // It is in every token, and a token is bounded.
        Name::try_from(terms.issuer.as_str()).map_err(|unfit| wrong("issuer", unfit))?;
        let limits = Limits {
            batch_max: self.batch_max.or(file.batch_max).unwrap_or(256),
            batch_max_bytes: self.batch_max_bytes.or(file.batch_max_bytes).unwrap_or(4 << 20),
            reply_timeout_ms: self.reply_timeout_ms.or(file.reply_timeout_ms).unwrap_or(10_000),
            database_timeout_s: self.database_timeout_s.or(file.database_timeout_s).unwrap_or(30),
            shutdown_timeout_s: self.shutdown_timeout_s.or(file.shutdown_timeout_s).unwrap_or(25),
            sweep_interval_s: self.sweep_interval_s.or(file.sweep_interval_s).unwrap_or(10),
        };
        within("batch_max", limits.batch_max, 1..=1024)?;
        within("batch_max_bytes", limits.batch_max_bytes, 1..=64 << 20)?;
        within("reply_timeout_ms", limits.reply_timeout_ms, 1..=600_000)?;
        within("shutdown_timeout_s", limits.shutdown_timeout_s, 0..=86_400)?;
        within("sweep_interval_s", limits.sweep_interval_s, 1..=86_400)?;
        within("database_timeout_s", limits.database_timeout_s, 1..=86_400)?;
        Ok(Config {
            amqp_url: self.amqp_url.or(file.amqp_url).map(SecretString::from),
            database_url: self.database_url.or(file.database_url).map(SecretString::from),
            keys: self.keys.or(file.keys).unwrap_or_else(|| PathBuf::from("keys")),
            log: self.log.or(file.log),
            terms,
            limits,
            senders: Senders::new(self.senders.or(file.senders))?,
        })
    }

    fn read(file: &Path) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(file) {
            Ok(text) => toml::from_str(&text).map_err(|error| ConfigError(format!("{}: {error}", file.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(ConfigError(format!("{} cannot be read: {error}", file.display()))),
        }
    }
}

fn within<N: PartialOrd + std::fmt::Display>(key: &str, value: N, range: RangeInclusive<N>) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(wrong(key, format_args!("it is a number from {} to {}", range.start(), range.end())))
}

fn wrong(key: &str, what: impl std::fmt::Display) -> ConfigError {
    ConfigError(format!("{key} (LICET_{}) is not usable: {what}", key.to_uppercase()))
}

/// A validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    amqp_url: Option<SecretString>,
    database_url: Option<SecretString>,
    /// The folder of signing keys.
    pub keys: PathBuf,
    /// What is logged, if anybody says.
    pub log: Option<String>,
    /// What the rules are told.
    pub terms: Terms,
    /// What the loop is told.
    pub limits: Limits,
    /// Who may send what.
    pub senders: Senders,
}

impl Config {
    /// The broker's URL.
    ///
    /// # Errors
    /// None was given, or it is none for AMQP.
    pub fn amqp_url(&self) -> Result<&SecretString, ConfigError> {
        let url = self.amqp_url.as_ref().ok_or_else(|| {
            ConfigError("no broker is named: set LICET_AMQP_URL, such as amqp://guest:guest@localhost:5672/%2f".into())
        })?;
        match scheme(url) {
            "amqp" | "amqps" => Ok(url),
            "memory" => Err(ConfigError(
                "LICET_AMQP_URL is memory: which `licet demo` alone uses: name a broker, amqp://…".into(),
            )),
            _ => Err(ConfigError("LICET_AMQP_URL does not begin with amqp:// or amqps://".into())),
        }
    }

    /// The database's URL.
    ///
    /// # Errors
    /// None was given, or it is of another kind.
    pub fn database_url(&self) -> Result<&SecretString, ConfigError> {
        let url = self.database_url.as_ref().ok_or_else(|| {
            ConfigError("no database is named: set LICET_DATABASE_URL, such as postgres://licet@localhost/licet".into())
        })?;
        match scheme(url) {
            "postgres" | "postgresql" | "sqlite" => Ok(url),
            _ => Err(ConfigError("LICET_DATABASE_URL does not begin with postgres:// or sqlite:".into())),
        }
    }

    /// The database's URL for one of several processes, which SQLite cannot serve.
    ///
    /// # Errors
    /// As [`Config::database_url`], or it is SQLite.
    pub fn shared_database_url(&self) -> Result<&SecretString, ConfigError> {
        let url = self.database_url()?;
        if scheme(url) == "sqlite" {
            return Err(ConfigError(
                "LICET_DATABASE_URL is sqlite: which only one process can use: run `licet serve`, or name a postgres:// database".into(),
            ));
        }
        Ok(url)
    }
}

fn scheme(url: &SecretString) -> &str {
    url.expose_secret().split(':').next().unwrap_or_default()
}

/// What the operator decides about licenses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// `iss` of the tokens.
    pub issuer: String,
    /// The one currency in which points pay, one minor unit each.
    pub points_currency: Currency,
    /// How long a reception notice may take where the content does not say.
    pub receipt_ttl: Seconds,
    /// How long a terminal may take to delete a returned license.
    pub return_ttl: Seconds,
}

impl Default for Terms {
    fn default() -> Self {
        let day = Seconds::try_from(86_400i64).unwrap_or_else(|_| unreachable!("a day is within a century"));
        let usd = Currency::try_from("USD").unwrap_or_else(|_| unreachable!("three capital letters"));
        Self { issuer: "licet".into(), points_currency: usd, receipt_ttl: day, return_ttl: day }
    }
}

/// How the loop of a worker is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most messages decided together.
    pub batch_max: u16,
    /// Most bytes of bodies decided together.
    pub batch_max_bytes: usize,
    /// How long a reply may wait for its confirmation, in milliseconds.
    pub reply_timeout_ms: u64,
    /// How long a batch may take in the database, which is away after that, in seconds.
    pub database_timeout_s: u64,
    /// How long a worker may finish its batch after it was told to stop, in seconds.
    pub shutdown_timeout_s: u64,
    /// How often the sweep worker looks for what is overdue, in seconds.
    pub sweep_interval_s: u64,
}

impl Limits {
    /// How long a batch may take in the database.
    pub fn database_timeout(&self) -> Duration {
        Duration::from_secs(self.database_timeout_s)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_max: 256,
            batch_max_bytes: 4 << 20,
            reply_timeout_ms: 10_000,
            database_timeout_s: 30,
            shutdown_timeout_s: 25,
            sweep_interval_s: 10,
        }
    }
}

/// Which broker users may send which types: the table `[senders]`. Without it everybody may send
/// everything; with it, nobody else anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Senders(Option<BTreeMap<String, Vec<String>>>);

impl Senders {
    /// From each user's types: a type, all that begin alike (`settlement.*`), or all (`*`); and
    /// [`topology::RETRY`] for who may send again, in their name, what others have sent.
    ///
    /// # Errors
    /// A pattern that no type matches; the text names it.
    pub fn new(table: Option<BTreeMap<String, Vec<String>>>) -> Result<Self, ConfigError> {
        for (user, patterns) in table.iter().flatten() {
            for pattern in patterns {
                if pattern != topology::RETRY && !Request::KINDS.iter().any(|kind| matches(pattern, kind)) {
                    return Err(ConfigError(format!(
                        "senders.{user} names {pattern:?}, which is no message type: write one of them, settlement.*, * or {}",
                        topology::RETRY
                    )));
                }
            }
        }
        Ok(Self(table))
    }

    /// Whether everybody may send everything.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this broker user may send this type.
    pub fn permit(&self, user: Option<&str>, kind: &str) -> bool {
        let Some(table) = &self.0 else { return true };
        let patterns = user.and_then(|user| table.get(user));
        patterns.is_some_and(|patterns| patterns.iter().any(|pattern| matches(pattern, kind)))
    }

    /// Whether this broker user is believed when it names another as the sender. Never without
    /// being named: `*` means every type, and not every name.
    pub fn may_speak_for_others(&self, user: &str) -> bool {
        let patterns = self.0.as_ref().and_then(|table| table.get(user));
        patterns.is_some_and(|patterns| patterns.iter().any(|pattern| pattern == topology::RETRY))
    }
}

fn matches(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(start) => start.ends_with('.') && kind.starts_with(start),
        None => pattern == kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(file: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join(FILE), file).expect("a file in it");
        folder
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_defaults() {
        let folder = folder("batch_max = 7\nissuer = \"file\"\n");
        let flags = Settings { issuer: Some("flag".into()), ..Settings::default() };
        let config = flags.resolve(folder.path()).expect("sound");
        assert_eq!((config.limits.batch_max, config.terms.issuer.as_str()), (7, "flag"));
        assert_eq!(config.terms.points_currency.as_str(), "USD");
    }

    #[test]
    fn a_mistake_is_named_with_its_key() {
        for (file, key) in [
            ("receipt_ttl_s = 0", "receipt_ttl_s"),
            ("batch_max = 0", "batch_max"),
            ("database_timeout_s = 0", "database_timeout_s"),
            ("points_currency = \"usd\"", "points_currency"),
            ("batchmax = 3", "batchmax"),
            ("issuer = \"\"", "issuer"),
            ("batch_max_bytes = 0", "batch_max_bytes"),
            ("reply_timeout_ms = 9223372036854775807", "reply_timeout_ms"),
            ("shutdown_timeout_s = 9223372036854775807", "shutdown_timeout_s"),
        ] {
            let error = Settings::default().resolve(folder(file).path()).expect_err("a mistake").to_string();
            assert!(error.contains(key), "{file}: {error}");
        }
    }

    #[test]
    fn senders_may_send_what_the_table_says_and_nobody_else_anything() {
        let folder = folder(
            "[senders]\nbank = [\"settlement.*\"]\nshop = [\"purchase.request\"]\nroot = [\"*\"]\ndesk = [\"licet.retry\"]\n",
        );
        let senders = Settings::default().resolve(folder.path()).expect("sound").senders;
        for (user, kind, may) in [
            (Some("bank"), "settlement.reversal", true),
            (Some("bank"), "payout.completion", false),
            (Some("shop"), "purchase.request", true),
            (Some("shop"), "settlement.completion", false),
            (Some("root"), "content.put", true),
            (Some("mallory"), "content.put", false),
            (None, "content.put", false),
            (Some("desk"), "content.put", false),
        ] {
            assert_eq!(senders.permit(user, kind), may, "{user:?} sends {kind}");
        }
        let speakers = ["bank", "root", "desk", "mallory"].map(|user| senders.may_speak_for_others(user));
        assert_eq!(speakers, [false, false, true, false]);
        assert!(!Senders::default().may_speak_for_others("root"));
        assert!(Senders::default().permit(None, "content.put"));
        let typo = BTreeMap::from([("shop".to_owned(), vec!["purchase.reqest".to_owned()])]);
        assert!(Senders::new(Some(typo)).is_err_and(|error| error.to_string().contains("purchase.reqest")));
    }

    #[test]
    fn a_worker_does_not_take_sqlite_or_the_embedded_transport() {
        let folder = folder("amqp_url = \"memory:\"\ndatabase_url = \"sqlite:x.db\"\n");
        let config = Settings::default().resolve(folder.path()).expect("sound as such");
        assert!(config.amqp_url().is_err());
        assert!(config.shared_database_url().is_err());
        assert!(config.database_url().is_ok());
    }
}
