//! The layers of the configuration (flags, environment and file), which are merged into [`Config`].

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt, fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use licet_schema::{Seconds, money::Currency};
use secrecy::SecretString;
use toml::{Table, Value};

use super::{
    Config, ConfigError, FILE, Limits, Origin, Resolved, Secret, Terms,
    definitions::{DefaultValue, Groups, Kind, SETTINGS, Setting},
    senders::{self, SENDERS, Senders},
};
use crate::address::{self, BrokerAddress, DatabaseAddress};

/// The heading of the settings in `--help`.
const HEADING: &str = "Settings";
/// The flag that names a configuration file, without the leading dashes.
const CONFIG: &str = "config";
/// The environment variable that names a configuration file.
const CONFIG_VARIABLE: &str = "LICET_CONFIG";

/// Values of settings as they were given, before validation. The `Debug` output omits the values,
/// because a URL can contain a password.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The given values, by key.
    given: BTreeMap<&'static str, Given>,
    senders: Option<BTreeMap<String, Vec<String>>>,
    /// The configuration file that a flag or the environment names.
    file: Option<PathBuf>,
}

#[derive(Clone)]
struct Given {
    origin: Origin,
    value: OsString,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set by {}", self.origin)
    }
}

impl Settings {
    /// The flags of these groups, under the help heading `Settings`. They may also follow a
    /// subcommand of the command that declares them.
    pub fn args(groups: Groups) -> impl Iterator<Item = Arg> {
        let settings = Setting::of(groups).map(|setting| {
            Arg::new(setting.key)
                .long(setting.flag)
                .value_name(setting.kind.placeholder())
                .value_parser(value_parser!(OsString))
                .global(true)
                .help_heading(HEADING)
                .help(setting.help())
        });
        let file = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .global(true)
            .help_heading(HEADING)
            .help(format!("Configuration file [default: {FILE} in the working folder] [env: {CONFIG_VARIABLE}]"));
        settings.chain((groups != 0).then_some(file))
    }

    /// Reads the values of these groups. Flags of [`Settings::args`] take precedence over
    /// environment variables. `environment` returns the value of a variable. A variable that is
    /// empty counts as not set, because container tools set variables without a value to the empty
    /// string.
    pub fn from_arguments(
        groups: Groups,
        matches: &ArgMatches,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
        let given = Setting::of(groups).filter_map(|setting| {
            let variable = setting.variable();
            let flag = matches.get_one::<OsString>(setting.key).cloned();
            let (origin, value) = match flag {
                Some(value) => (Origin::Flag(setting.flag), value),
                None => (Origin::Variable(variable.clone()), environment(&variable)?),
            };
            Some((setting.key, Given { origin, value }))
        });
        let flag = if groups == 0 { None } else { matches.get_one::<PathBuf>(CONFIG).cloned() };
        let file = flag.or_else(|| environment(CONFIG_VARIABLE).map(PathBuf::from));
        Self { given: given.collect(), senders: None, file }
    }

    /// Parses the text of a `licet.toml` file. Errors name `path` as the file.
    ///
    /// # Errors
    /// The text is not valid TOML, or contains an unknown key or a value of the wrong type.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let table: Table = toml::from_str(text).map_err(|error| syntax_error(text, path, error))?;
        let mut settings = Self::default();
        for (key, value) in table {
            if key == SENDERS {
                settings.senders = Some(senders::from_toml(value, path)?);
            } else if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) {
                settings.given.insert(setting.key, Given::from_toml(setting, value, path)?);
            } else {
                let known: Vec<_> = SETTINGS.iter().map(|setting| setting.key).chain([SENDERS]).collect();
                return Err(ConfigError::UnknownKey { path: path.to_owned(), key, known: known.join(", ") });
            }
        }
        Ok(settings)
    }

    /// Merges these values (flags and environment) with the configuration file and the defaults,
    /// and checks every value. The file is the one that a flag or the environment names, or
    /// [`FILE`] in this folder, if it exists.
    ///
    /// # Errors
    /// The file cannot be read, it is in the working folder and belongs to another user, or a value
    /// in it, in the environment or in a flag is not allowed.
    pub fn resolve(mut self, folder: &Path) -> Result<Config, ConfigError> {
        let file = match &self.file {
            Some(path) => Self::read(path)?,
            None => Self::in_folder(folder)?,
        };
        file.check()?;
        self.check()?;
        for (key, given) in file.given {
            self.given.entry(key).or_insert(given);
        }
        self.senders = self.senders.or(file.senders);
        self.config()
    }

    /// Reads [`FILE`] in this folder, if it exists. A file of another user is not used, because
    /// that user could direct the programs to another broker or database.
    fn in_folder(folder: &Path) -> Result<Self, ConfigError> {
        let path = folder.join(FILE);
        let owner = match fs::metadata(&path) {
            Ok(metadata) => metadata.uid(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        };
        if owner != 0 && own_user() != Some(owner) {
            return Err(ConfigError::Foreign { path });
        }
        Self::read(&path)
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path);
        let text = text.map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::from_toml(&text, path)
    }

    fn check(&self) -> Result<(), ConfigError> {
        for (key, given) in &self.given {
            let setting = Setting::named(key);
            if !setting.kind.allows(&given.value) {
                return Err(invalid(setting, &given.origin, &given.value));
            }
        }
        Ok(())
    }

    /// The typed configuration. This is the only function that maps keys to Rust types.
    fn config(self) -> Result<Config, ConfigError> {
        Ok(Config {
            amqp_url: self.secret("amqp_url", "amqp_url_file")?,
            database_url: self.secret("database_url", "database_url_file")?,
            management_url: self.optional("management_url", text)?.map(SecretString::from),
            keys: self.required("keys", |folder| Some(PathBuf::from(folder)))?,
            log: self.optional("log", text)?,
            terms: self.terms()?,
            limits: self.limits()?,
            resolved: self.resolved(),
            senders: Senders::new(self.senders)?,
        })
    }

    /// The setting `key`, or the file that contains it. If different layers set them, the layer
    /// that overrides the other decides. If one layer sets both, this is an error.
    fn secret(&self, key: &'static str, file_key: &str) -> Result<Option<Secret>, ConfigError> {
        let origin = |key: &str| self.given.get(key).map(|given| given.origin.clone());
        let layer = |origin: &Option<Origin>| origin.as_ref().map(Origin::layer);
        let (value, file) = (origin(key), origin(file_key));
        match file {
            Some(origin) if layer(&value) == Some(origin.layer()) => {
                let origin = match origin {
                    Origin::File(path) => path.display().to_string(),
                    Origin::Variable(_) => "the environment".into(),
                    Origin::Flag(_) | Origin::Default => "flags".into(),
                };
                Err(ConfigError::SetTwice { key, origin })
            }
            Some(origin) if layer(&value) < Some(origin.layer()) => {
                let path = self.required(file_key, |path| Some(PathBuf::from(path)))?;
                Ok(Some(Secret::File { key: Setting::named(file_key).key, origin, path }))
            }
            Some(_) | None => {
                let file = match value {
                    Some(Origin::File(path)) => Some(path),
                    _ => None,
                };
                Ok(self.optional(key, text)?.map(|value| Secret::Value { value: value.into(), file }))
            }
        }
    }

    /// Every setting with its value and origin. Passwords are left out.
    fn resolved(&self) -> Vec<Resolved> {
        let resolved = |setting: &'static Setting| {
            let (origin, value) = match (self.given.get(setting.key), &setting.default) {
                (Some(given), _) => (given.origin.clone(), given.value.to_string_lossy().into_owned()),
                (None, DefaultValue::Value(default)) => (Origin::Default, (*default).to_owned()),
                (None, DefaultValue::Varies(default)) => (Origin::Default, format!("({default})")),
                (None, DefaultValue::None) => (Origin::Default, "(not set)".to_owned()),
            };
            let file = self.given.get(format!("{}_file", setting.key).as_str());
            if let Some(file) = file.filter(|file| file.origin.layer() > origin.layer()) {
                let value = format!("(in {})", Path::new(&file.value).display());
                return Resolved { key: setting.key, value, origin: file.origin.clone() };
            }
            let is_given = origin != Origin::Default;
            let value = if is_given && matches!(setting.kind, Kind::Url { .. }) { shown_url(&value) } else { value };
            Resolved { key: setting.key, value, origin }
        };
        SETTINGS.iter().map(resolved).collect()
    }

    pub(super) fn terms(&self) -> Result<Terms, ConfigError> {
        Ok(Terms {
            issuer: self.required("issuer", text)?,
            points_currency: self.required("points_currency", |code| Currency::try_from(code.to_str()?).ok())?,
            receipt_ttl: self.required("receipt_ttl_s", seconds)?,
            return_ttl: self.required("return_ttl_s", seconds)?,
            unique_reference: self.required("unique_reference", parsed)?,
        })
    }

    pub(super) fn limits(&self) -> Result<Limits, ConfigError> {
        Ok(Limits {
            batch_max: self.required("batch_max", parsed)?,
            batch_max_bytes: self.required("batch_max_bytes", parsed)?,
            reply_timeout_ms: self.required("reply_timeout_ms", parsed)?,
            database_timeout_s: self.required("database_timeout_s", parsed)?,
            shutdown_timeout_s: self.required("shutdown_timeout_s", parsed)?,
            sweep_interval_s: self.required("sweep_interval_s", parsed)?,
        })
    }

    fn optional<T>(&self, key: &str, parse: impl Fn(&OsStr) -> Option<T>) -> Result<Option<T>, ConfigError> {
        let setting = Setting::named(key);
        let (origin, value) = match (self.given.get(key), &setting.default) {
            (Some(given), _) => (&given.origin, given.value.as_os_str()),
            (None, DefaultValue::Value(default)) => (&Origin::Default, OsStr::new(default)),
            (None, DefaultValue::None | DefaultValue::Varies(_)) => return Ok(None),
        };
        match parse(value) {
            Some(parsed) if setting.kind.allows(value) => Ok(Some(parsed)),
            _ => Err(invalid(setting, origin, value)),
        }
    }

    fn required<T>(&self, key: &str, parse: impl Fn(&OsStr) -> Option<T>) -> Result<T, ConfigError> {
        self.optional(key, parse)?.ok_or_else(|| missing(Setting::named(key)))
    }
}

impl Given {
    fn from_toml(setting: &'static Setting, value: Value, path: &Path) -> Result<Self, ConfigError> {
        let origin = Origin::File(path.to_owned());
        let value = match (&setting.kind, value) {
            (Kind::Number { .. }, Value::Integer(number)) => number.to_string(),
            (Kind::Boolean, Value::Boolean(value)) => value.to_string(),
            (Kind::Number { .. } | Kind::Boolean, value) => return Err(wrong_type(setting, origin, &value)),
            (_, Value::String(text)) => text,
            (_, value) => return Err(wrong_type(setting, origin, &value)),
        };
        Ok(Self { origin, value: value.into() })
    }
}

/// A URL without user, password and parameters.
fn shown_url(url: &str) -> String {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    let secret = SecretString::from(url);
    let address = match scheme {
        "amqp" | "amqps" => BrokerAddress::parse(&secret).map(|address| address.to_string()),
        "http" | "https" => address::without_secrets(url),
        _ => DatabaseAddress::parse(&secret).map(|address| address.to_string()),
    };
    address.map_or_else(|_| "(not a valid URL)".into(), |address| format!("{scheme}: {address}"))
}

/// The user of this process.
fn own_user() -> Option<u32> {
    fs::metadata("/proc/self").ok().map(|process| process.uid())
}

fn text(value: &OsStr) -> Option<String> {
    value.to_str().map(str::to_owned)
}

fn parsed<N: FromStr>(value: &OsStr) -> Option<N> {
    value.to_str()?.parse().ok()
}

fn seconds(value: &OsStr) -> Option<Seconds> {
    Seconds::try_from(parsed::<u64>(value)?).ok()
}

fn invalid(setting: &'static Setting, origin: &Origin, value: &OsStr) -> ConfigError {
    let found = match (&setting.kind, value.to_str()) {
        (_, None) => "not valid UTF-8".into(),
        (Kind::Url { .. }, Some(_)) => "not such a URL".into(),
        (_, Some(text)) => format!("{text:?}"),
    };
    ConfigError::Invalid { key: setting.key, origin: origin.clone(), found, expected: setting.kind.expected() }
}

fn wrong_type(setting: &'static Setting, origin: Origin, value: &Value) -> ConfigError {
    let found = format!("of type {}", value.type_str());
    ConfigError::Invalid { key: setting.key, origin, found, expected: setting.kind.expected() }
}

pub(super) fn missing(setting: &'static Setting) -> ConfigError {
    ConfigError::Missing { key: setting.key, variable: setting.variable(), expected: setting.kind.expected() }
}

/// The error without the line itself, because the line can contain a password.
fn syntax_error(text: &str, path: &Path, mut error: toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    error.set_input(None);
    ConfigError::Syntax { path: path.to_owned(), line, source: Box::new(error) }
}

/// The settings of a command that uses these groups. They can be given as flags, which `--help`
/// lists, and as environment variables.
///
/// ```
/// use licet_common::config::{CommandSettings, groups::{BROKER, KEYS, LOG}};
///
/// #[derive(clap::Args)]
/// struct Arguments {
///     /// Print one JSON object
///     #[arg(long)]
///     json: bool,
///     #[command(flatten)]
///     settings: CommandSettings<{ BROKER | KEYS | LOG }>,
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct CommandSettings<const GROUPS: Groups>(Settings);

impl<const GROUPS: Groups> From<CommandSettings<GROUPS>> for Settings {
    fn from(settings: CommandSettings<GROUPS>) -> Self {
        settings.0
    }
}

impl<const GROUPS: Groups> Args for CommandSettings<GROUPS> {
    fn augment_args(command: Command) -> Command {
        command.args(Settings::args(GROUPS))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const GROUPS: Groups> FromArgMatches for CommandSettings<GROUPS> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(Settings::from_arguments(GROUPS, matches, |variable| std::env::var_os(variable))))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
