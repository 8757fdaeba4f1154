//! The table `[senders]` of `licet.toml`, which lists the message types that each broker user may
//! send.

use std::{collections::BTreeMap, path::Path};

use licet_schema::{Request, topology};
use toml::Value;

use super::{ConfigError, Origin};

/// The key of the table in `licet.toml`. There is no flag and no environment variable.
pub(super) const SENDERS: &str = "senders";

/// The message types that each broker user may send. Without a table, every user may send every
/// type. With a table, users that are not listed may not send anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Senders(Option<BTreeMap<String, Vec<String>>>);

impl Senders {
    /// Creates the table. Each entry of a user is a message type, a prefix of message types
    /// followed by `.*`, or `*` for every type. Patterns do not include [`Request::FOR_OPERATORS`].
    /// The entry [`topology::RETRY`] is not a message type: see [`Senders::may_send_for_others`].
    ///
    /// # Errors
    /// An entry matches no message type.
    pub fn new(table: Option<BTreeMap<String, Vec<String>>>) -> Result<Self, ConfigError> {
        for (user, patterns) in table.iter().flatten() {
            let unknown = patterns.iter().find(|pattern| {
                *pattern != topology::RETRY && !Request::KINDS.iter().any(|kind| matches(pattern, kind))
            });
            if let Some(pattern) = unknown {
                return Err(ConfigError::UnknownMessageType { user: user.clone(), pattern: pattern.clone() });
            }
        }
        Ok(Self(table))
    }

    /// Whether there is no table, so that every user may send every type.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this broker user may send messages of this type.
    pub fn permit(&self, user: Option<&str>, kind: &str) -> bool {
        let Some(table) = &self.0 else { return true };
        let patterns = user.and_then(|user| table.get(user));
        patterns.is_some_and(|patterns| patterns.iter().any(|pattern| matches(pattern, kind)))
    }

    /// Whether this broker user may name another user as the sender of a message that it publishes
    /// to [`topology::RETRY`]. The pattern `*` means every message type, not the right to name
    /// another sender.
    pub fn may_send_for_others(&self, user: &str) -> bool {
        let patterns = self.0.as_ref().and_then(|table| table.get(user));
        patterns.is_some_and(|patterns| patterns.iter().any(|pattern| pattern == topology::RETRY))
    }
}

fn matches(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(_) if Request::FOR_OPERATORS.contains(&kind) => false,
        Some("") => true,
        Some(start) => start.ends_with('.') && kind.starts_with(start),
        None => pattern == kind,
    }
}

/// Reads the table from the value in the file.
pub(super) fn from_toml(value: Value, path: &Path) -> Result<BTreeMap<String, Vec<String>>, ConfigError> {
    let found = format!("of type {}", value.type_str());
    let Value::Table(table) = value else { return Err(not_a_table(found, path)) };
    table.into_iter().map(|(user, entries)| Ok((user, list(entries, path)?))).collect()
}

fn list(value: Value, path: &Path) -> Result<Vec<String>, ConfigError> {
    let wrong = |value: &Value| not_a_table(format!("a table with a value of type {}", value.type_str()), path);
    let Value::Array(entries) = value else { return Err(wrong(&value)) };
    entries
        .into_iter()
        .map(|entry| if let Value::String(entry) = entry { Ok(entry) } else { Err(wrong(&entry)) })
        .collect()
}

fn not_a_table(found: String, path: &Path) -> ConfigError {
    let expected = "a table of broker users, each with a list of message types".into();
    ConfigError::Invalid { key: SENDERS, origin: Origin::File(path.to_owned()), found, expected }
}
