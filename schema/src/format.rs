//! The two encodings of a body, JSON and postcard, and how a body is read strictly.
//!
//! JSON: a body is an object; unknown and repeated fields are refused, null is absent. What one
//! reader may write in several ways (blanks, the order of fields, escapes) means the same.
//! Postcard: one header byte with the schema version, then one frozen struct of that version, then
//! nothing; each value has exactly one byte string. No byte string is read in both encodings: JSON
//! does not begin with the byte 1. The structs of
//! [`crate::message`] are version 1; `tests/it/contracts.rs` freezes their bytes. A change of a field
//! is a new version with a struct of its own, never an edit of the old one.

use serde::{Serialize, de::DeserializeOwned};

/// The schema version that postcard bodies begin with.
pub const POSTCARD_VERSION: u8 = 1;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `application/json`
    Json,
    /// `application/vnd.licet.postcard`
    Postcard,
}

impl Format {
    /// The content type of this encoding.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Postcard => "application/vnd.licet.postcard",
        }
    }

    /// The encoding that a message names; JSON if it names none.
    ///
    /// # Errors
    /// The content type is neither of the two.
    pub fn of(content_type: Option<&str>) -> Result<Self, DecodeError> {
        match content_type {
            None | Some("application/json") => Ok(Self::Json),
            Some("application/vnd.licet.postcard") => Ok(Self::Postcard),
            Some(other) => Err(DecodeError::ContentType { found: other.to_owned() }),
        }
    }
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A type that does not exist in this direction.
    #[error("there is no message type {kind:?}")]
    UnknownType {
        /// The type it named.
        kind: String,
    },
    /// A content type that is not spoken.
    #[error("the content type {found:?} is not spoken here: send application/json or application/vnd.licet.postcard")]
    ContentType {
        /// The content type it named.
        found: String,
    },
    /// Not JSON, or not this type's JSON.
    #[error("the JSON body cannot be read: {source}")]
    Json {
        /// What serde_json found.
        source: serde_json::Error,
    },
    /// Fields that contradict each other, or a list that is too short or too long.
    #[error("the body contradicts itself: {what}")]
    Unsound {
        /// What is wrong.
        what: crate::vocabulary::Unfit,
    },
    /// No header byte at all.
    #[error("the postcard body is empty: it begins with its schema version")]
    Empty,
    /// A schema version from another release.
    #[error("schema version {version} is not known here: send version {POSTCARD_VERSION}")]
    Version {
        /// The version it named.
        version: u8,
    },
    /// Not this type's struct.
    #[error("the postcard body cannot be read: {source}")]
    Postcard {
        /// What postcard found.
        source: postcard::Error,
    },
    /// Bytes after the struct.
    #[error("{count} bytes follow the postcard body: nothing may follow it")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// Another spelling of what postcard writes in one way: a number with leading zeros.
    #[error("the postcard body is not in its only form: write each number in as few bytes as it needs")]
    NotShortest,
}

impl DecodeError {
    /// The refusal code that answers it.
    pub fn code(&self) -> crate::Code {
        match self {
            Self::Version { .. } => crate::Code::UnsupportedVersion,
            Self::UnknownType { .. }
            | Self::ContentType { .. }
            | Self::Json { .. }
            | Self::Unsound { .. }
            | Self::Empty
            | Self::Postcard { .. }
            | Self::TrailingBytes { .. }
            | Self::NotShortest => crate::Code::Malformed,
        }
    }
}

/// A body that its encoding cannot write.
#[derive(Debug, thiserror::Error)]
#[error("the body cannot be written: {0}")]
pub struct EncodeError(String);

/// Writes `body`.
///
/// # Errors
/// A time that RFC 3339 cannot write (a year after 9999).
pub fn encode<T: Serialize>(format: Format, body: &T) -> Result<Vec<u8>, EncodeError> {
    match format {
        Format::Json => serde_json::to_vec(body).map_err(|error| EncodeError(error.to_string())),
        Format::Postcard => {
            postcard::to_extend(body, vec![POSTCARD_VERSION]).map_err(|error| EncodeError(error.to_string()))
        }
    }
}

/// Reads a body of type `T`, whole.
///
/// # Errors
/// The bytes are not exactly one such body.
pub fn decode<T: Serialize + DeserializeOwned>(format: Format, body: &[u8]) -> Result<T, DecodeError> {
    match format {
        Format::Json => serde_json::from_slice(body).map_err(|source| DecodeError::Json { source }),
        Format::Postcard => {
            let (&version, rest) = body.split_first().ok_or(DecodeError::Empty)?;
            if version != POSTCARD_VERSION {
                return Err(DecodeError::Version { version });
            }
            let (value, left) = postcard::take_from_bytes(rest).map_err(|source| DecodeError::Postcard { source })?;
            if !left.is_empty() {
                return Err(DecodeError::TrailingBytes { count: left.len() });
            }
            // postcard's numbers may have leading zeros: refused, so that one value is one byte string.
            let only = encode(format, &value).is_ok_and(|only| only == body);
            if only { Ok(value) } else { Err(DecodeError::NotShortest) }
        }
    }
}
