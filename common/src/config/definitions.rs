//! The definition of every setting: [`SETTINGS`].
//!
//! Flags, environment variables, the keys of `licet.toml`, defaults, validation, `--help` and
//! `docs/configuration.md` are derived from this table. Only the conversion of values into their
//! Rust types is defined elsewhere, in `Settings::config`.

use std::{ffi::OsStr, ops::RangeInclusive};

use licet_schema::{Name, money::Currency, vocabulary::SECONDS_MAX};
use tracing_subscriber::EnvFilter;

/// A part of Licet that has its own settings. The variants are in the order of
/// `docs/configuration.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Broker,
    Management,
    Database,
    Keys,
    Terms,
    Engine,
    Sweep,
    Log,
}

impl Group {
    pub(super) const ALL: [Self; 8] =
        [Self::Broker, Self::Management, Self::Database, Self::Keys, Self::Terms, Self::Engine, Self::Sweep, Self::Log];

    const fn bit(self) -> Groups {
        1 << self as Groups
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Broker => "Broker",
            Self::Management => "Broker management",
            Self::Database => "Database",
            Self::Keys => "Signing keys",
            Self::Terms => "Licenses and points",
            Self::Engine => "Message processing",
            Self::Sweep => "Sweep",
            Self::Log => "Log",
        }
    }
}

/// A set of groups of settings: constants of [`groups`], combined with `|`. It is an integer
/// because it is a const parameter of [`CommandSettings`](super::CommandSettings).
pub type Groups = u8;

/// The groups of settings. A program declares the groups that it uses.
pub mod groups {
    use super::{Group, Groups};

    /// `amqp_url` and `amqp_url_file`.
    pub const BROKER: Groups = Group::Broker.bit();
    /// `management_url`.
    pub const MANAGEMENT: Groups = Group::Management.bit();
    /// `database_url` and `database_url_file`.
    pub const DATABASE: Groups = Group::Database.bit();
    /// `keys`.
    pub const KEYS: Groups = Group::Keys.bit();
    /// `issuer`, `points_currency`, `receipt_ttl_s`, `return_ttl_s` and `unique_reference`.
    pub const TERMS: Groups = Group::Terms.bit();
    /// `batch_max`, `batch_max_bytes`, `reply_timeout_ms`, `database_timeout_s` and
    /// `shutdown_timeout_s`.
    pub const ENGINE: Groups = Group::Engine.bit();
    /// `sweep_interval_s`.
    pub const SWEEP: Groups = Group::Sweep.bit();
    /// `log`.
    pub const LOG: Groups = Group::Log.bit();
    /// Every group that a worker can use.
    pub const WORKER: Groups = BROKER | DATABASE | KEYS | TERMS | ENGINE | SWEEP | LOG;
    /// Every group.
    pub const ALL: Groups = WORKER | MANAGEMENT;
}

/// A setting.
#[derive(Debug)]
pub(super) struct Setting {
    /// The key in `licet.toml`.
    pub(super) key: &'static str,
    /// The flag, without the leading dashes.
    pub(super) flag: &'static str,
    pub(super) group: Group,
    pub(super) kind: Kind,
    pub(super) default: DefaultValue,
    /// A description in one sentence.
    pub(super) description: &'static str,
}

/// The kind of value that a setting has.
#[derive(Debug)]
pub(super) enum Kind {
    /// A URL. It can contain a password, so it is never displayed. `Config` checks the prefix when
    /// a program requests the URL.
    Url { prefixes: &'static [&'static str], example: &'static str },
    /// The path of a file that contains the value of another setting.
    SecretFile,
    /// The path of a folder.
    Folder,
    /// A filter for log lines.
    LogFilter,
    /// A [`Name`].
    Name,
    /// A [`Currency`].
    Currency,
    /// `true` or `false`.
    Boolean,
    /// A whole number. The unit is a plural noun.
    Number { unit: &'static str, range: RangeInclusive<u64> },
}

/// The value that applies if no layer sets a setting.
#[derive(Debug)]
pub(super) enum DefaultValue {
    /// There is no default. A program that needs the setting refuses to start.
    None,
    /// This value, in the format of an environment variable.
    Value(&'static str),
    /// The value depends on the program, as described.
    Varies(&'static str),
}

/// Every setting, by group.
pub(super) static SETTINGS: &[Setting] = &[
    Setting {
        key: "amqp_url",
        flag: "amqp",
        group: Group::Broker,
        kind: Kind::Url { prefixes: &["amqp://", "amqps://"], example: "amqp://guest:guest@localhost:5672/%2f" },
        default: DefaultValue::None,
        description: "URL of the RabbitMQ virtual host, with user and password.",
    },
    Setting {
        key: "amqp_url_file",
        flag: "amqp-file",
        group: Group::Broker,
        kind: Kind::SecretFile,
        default: DefaultValue::None,
        description: "File that contains `amqp_url`, as an alternative to it.",
    },
    Setting {
        key: "management_url",
        flag: "management",
        group: Group::Management,
        kind: Kind::Url { prefixes: &["http://", "https://"], example: "http://localhost:15672" },
        default: DefaultValue::Varies("port 15672 of the host in `amqp_url`, with its user and password"),
        description: "URL of RabbitMQ's management API, for `licet check` and `licet topology check`.",
    },
    Setting {
        key: "database_url",
        flag: "database",
        group: Group::Database,
        kind: Kind::Url {
            prefixes: &["postgres://", "postgresql://", "sqlite:"],
            example: "postgres://licet@localhost/licet",
        },
        default: DefaultValue::None,
        description: "URL of the PostgreSQL database, or of an SQLite file, which only one process at a time can use.",
    },
    Setting {
        key: "database_url_file",
        flag: "database-file",
        group: Group::Database,
        kind: Kind::SecretFile,
        default: DefaultValue::None,
        description: "File that contains `database_url`, as an alternative to it.",
    },
    Setting {
        key: "keys",
        flag: "keys",
        group: Group::Keys,
        kind: Kind::Folder,
        default: DefaultValue::Value("keys"),
        description: "Folder of the signing keys.",
    },
    Setting {
        key: "issuer",
        flag: "issuer",
        group: Group::Terms,
        kind: Kind::Name,
        default: DefaultValue::Value("licet"),
        description: "Issuer of the signed tokens (their claim `iss`).",
    },
    Setting {
        key: "points_currency",
        flag: "points-currency",
        group: Group::Terms,
        kind: Kind::Currency,
        default: DefaultValue::Value("USD"),
        description: "Currency of the prices that can be paid with points: one point pays one minor unit.",
    },
    Setting {
        key: "receipt_ttl_s",
        flag: "receipt-ttl-s",
        group: Group::Terms,
        kind: Kind::Number { unit: "seconds", range: 1..=SECONDS_MAX.unsigned_abs() },
        default: DefaultValue::Value("86400"),
        description: "Time allowed to acknowledge receipt of a purchase, unless its contents specify another time.",
    },
    Setting {
        key: "return_ttl_s",
        flag: "return-ttl-s",
        group: Group::Terms,
        kind: Kind::Number { unit: "seconds", range: 1..=SECONDS_MAX.unsigned_abs() },
        default: DefaultValue::Value("86400"),
        description: "Time allowed for a terminal to report that it deleted a license that is being returned.",
    },
    Setting {
        key: "unique_reference",
        flag: "unique-reference",
        group: Group::Terms,
        kind: Kind::Boolean,
        default: DefaultValue::Value("false"),
        description: "Whether a second purchase of the same sender with the same reference is refused.",
    },
    Setting {
        key: "batch_max",
        flag: "batch-max",
        group: Group::Engine,
        kind: Kind::Number { unit: "messages", range: 1..=1024 },
        default: DefaultValue::Value("256"),
        description: "Maximum number of messages in a batch.",
    },
    Setting {
        key: "batch_max_bytes",
        flag: "batch-max-bytes",
        group: Group::Engine,
        kind: Kind::Number { unit: "bytes", range: 1..=64 << 20 },
        default: DefaultValue::Value("4194304"),
        description: "Total size of message bodies at which a batch accepts no further messages.",
    },
    Setting {
        key: "reply_timeout_ms",
        flag: "reply-timeout-ms",
        group: Group::Engine,
        kind: Kind::Number { unit: "milliseconds", range: 1..=600_000 },
        default: DefaultValue::Value("10000"),
        description: "Maximum time for the broker to confirm a reply.",
    },
    Setting {
        key: "database_timeout_s",
        flag: "database-timeout-s",
        group: Group::Engine,
        kind: Kind::Number { unit: "seconds", range: 1..=DAY },
        default: DefaultValue::Value("30"),
        description: "Maximum time for the transaction of a batch, after which the database counts as unavailable.",
    },
    Setting {
        key: "shutdown_timeout_s",
        flag: "shutdown-timeout-s",
        group: Group::Engine,
        kind: Kind::Number { unit: "seconds", range: 0..=DAY },
        default: DefaultValue::Value("25"),
        description: "Maximum time for a worker to finish its messages after SIGTERM or SIGINT.",
    },
    Setting {
        key: "sweep_interval_s",
        flag: "sweep-interval-s",
        group: Group::Sweep,
        kind: Kind::Number { unit: "seconds", range: 1..=DAY },
        default: DefaultValue::Value("10"),
        description: "Interval at which the sweep worker looks for missed deadlines.",
    },
    Setting {
        key: "log",
        flag: "log",
        group: Group::Log,
        kind: Kind::LogFilter,
        default: DefaultValue::Varies("info for programs that run until they are stopped, warn for others"),
        description: "Filter for the log lines on standard error.",
    },
];

const DAY: u64 = 86_400;

impl Setting {
    /// The setting with this key, which must exist.
    pub(super) fn named(key: &str) -> &'static Self {
        let setting = SETTINGS.iter().find(|setting| setting.key == key);
        setting.unwrap_or_else(|| panic!("the table of settings lacks {key}"))
    }

    /// The settings of these groups.
    pub(super) fn of(groups: Groups) -> impl Iterator<Item = &'static Self> {
        SETTINGS.iter().filter(move |setting| groups & setting.group.bit() != 0)
    }

    /// The environment variable.
    pub(super) fn variable(&self) -> String {
        format!("LICET_{}", self.key.to_uppercase())
    }

    /// The description with the default, the allowed values and the environment variable.
    pub(super) fn help(&self) -> String {
        let mut help = self.description.trim_end_matches('.').to_owned();
        if let DefaultValue::Value(default) | DefaultValue::Varies(default) = self.default {
            help += &format!(" [default: {default}]");
        }
        match &self.kind {
            Kind::Folder | Kind::SecretFile => {}
            Kind::Number { range, .. } => help += &format!(" [range: {} to {}]", range.start(), range.end()),
            kind => help += &format!(" [format: {}]", kind.summary()),
        }
        help + &format!(" [env: {}]", self.variable())
    }
}

impl Kind {
    /// The placeholder for the value in `--help`.
    pub(super) fn placeholder(&self) -> String {
        match self {
            Self::Url { .. } => "URL".into(),
            Self::SecretFile => "FILE".into(),
            Self::Folder => "FOLDER".into(),
            Self::LogFilter => "FILTER".into(),
            Self::Name => "NAME".into(),
            Self::Currency => "CODE".into(),
            Self::Boolean => "BOOLEAN".into(),
            Self::Number { unit, .. } => unit.to_uppercase(),
        }
    }

    /// The allowed values in a few words.
    pub(super) fn summary(&self) -> String {
        match self {
            Self::Url { prefixes, .. } => alternatives(prefixes, "…"),
            Self::Folder | Self::SecretFile => "path".into(),
            Self::LogFilter => "error, warn, info, debug, trace, or a filter such as warn,licet_common=debug".into(),
            Self::Name => "1 to 128 characters".into(),
            Self::Currency => "three capital letters (ISO 4217)".into(),
            Self::Boolean => "true or false".into(),
            Self::Number { unit, range } => format!("{} to {} {unit}", range.start(), range.end()),
        }
    }

    /// The allowed values, phrased to follow "it must be".
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Url { prefixes, example } => {
                format!("a URL that begins with {}, such as {example}", alternatives(prefixes, ""))
            }
            Self::SecretFile => "the path of a file".into(),
            Self::Folder => "the path of a folder".into(),
            Self::Name => "1 to 128 characters in the Unicode normalization form NFC, without control and format \
                           characters and without blanks at either end"
                .into(),
            Self::LogFilter | Self::Currency | Self::Boolean => self.summary(),
            Self::Number { unit, range } => {
                format!("a whole number of {unit} from {} to {}", range.start(), range.end())
            }
        }
    }

    /// Whether the value is allowed.
    pub(super) fn allows(&self, value: &OsStr) -> bool {
        let Some(text) = value.to_str() else { return matches!(self, Self::Folder | Self::SecretFile) };
        match self {
            Self::Url { .. } | Self::Folder | Self::SecretFile => true,
            Self::LogFilter => EnvFilter::try_new(text).is_ok(),
            Self::Name => Name::try_from(text).is_ok(),
            Self::Currency => Currency::try_from(text).is_ok(),
            Self::Boolean => text.parse::<bool>().is_ok(),
            Self::Number { range, .. } => text.parse().is_ok_and(|number| range.contains(&number)),
        }
    }
}

/// `a`, `b` or `c`, each followed by `suffix`.
fn alternatives(words: &[&str], suffix: &str) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("{word}{suffix}")).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}
