//! The encoding of message bodies: JSON.
//!
//! A body is exactly one JSON object, with no data after it. Unknown and repeated fields are
//! rejected. A field whose value is `null` counts as absent. White space, the order of fields and
//! escapes in strings are not significant.

use mediatype::{MediaType, ReadParams, names};
use serde::{Serialize, de::DeserializeOwned};

use crate::{refusal::Code, vocabulary::InvalidValue};

/// The content type of every message body.
pub const CONTENT_TYPE: &str = "application/json";

/// Checks that the `content_type` property of a message is absent or the MIME type of JSON. Upper
/// case and parameters make no difference, except that a `charset` must be UTF-8.
///
/// # Errors
/// [`DecodeError::ContentType`] if the property has any other value.
pub fn check_content_type(content_type: Option<&str>) -> Result<(), DecodeError> {
    let Some(text) = content_type else { return Ok(()) };
    let is_json = MediaType::parse(text.trim()).is_ok_and(|found| {
        let charset = found.get_param(names::CHARSET);
        found.essence() == MediaType::new(names::APPLICATION, names::JSON)
            && charset.is_none_or(|charset| charset.unquoted_str().eq_ignore_ascii_case("utf-8"))
    });
    if is_json { Ok(()) } else { Err(DecodeError::ContentType { found: text.to_owned() }) }
}

/// The reason a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The message type does not exist in this direction.
    #[error("unknown message type {kind:?}: use the name of a message type as the routing key")]
    UnknownType {
        /// The message type.
        kind: String,
    },
    /// The content type is not supported.
    #[error("unsupported content type {found:?}: send {CONTENT_TYPE}, or omit content_type")]
    ContentType {
        /// The content type of the message.
        found: String,
    },
    /// The body is not JSON, or not the JSON of this message type.
    #[error("the body is not valid JSON for this message type: {source}")]
    Json {
        /// The error from serde_json, with line and column.
        source: serde_json::Error,
    },
    /// Fields contradict each other, or a list is too short or too long.
    #[error("the body is inconsistent: {source}")]
    Inconsistent {
        /// The violated rule.
        source: InvalidValue,
    },
}

impl DecodeError {
    /// The refusal code for this error.
    pub const fn code(&self) -> Code {
        match self {
            Self::UnknownType { .. } | Self::ContentType { .. } | Self::Json { .. } | Self::Inconsistent { .. } => {
                Code::Malformed
            }
        }
    }
}

/// The error of a body that cannot be encoded. The only cause is a time outside the years 0 to
/// 9999, which RFC 3339 cannot represent.
#[derive(Debug, thiserror::Error)]
#[error("the body cannot be encoded as JSON: {0}")]
pub struct EncodeError(#[source] serde_json::Error);

/// Encodes `body` as JSON.
///
/// # Errors
/// The body contains a time outside the years 0 to 9999.
pub fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, EncodeError> {
    serde_json::to_vec(body).map_err(EncodeError)
}

/// Decodes a body of the type `T`.
///
/// # Errors
/// [`DecodeError::Json`] if the bytes are not exactly one JSON body of this type.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(body).map_err(|source| DecodeError::Json { source })
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::{Timestamp, message::SweepDue, message::SweepKind};

    #[test]
    fn only_json_or_no_content_type_is_supported() {
        assert!(check_content_type(None).is_ok());
        for good in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            " application/json; profile=x ",
        ] {
            assert!(check_content_type(Some(good)).is_ok(), "{good}");
        }
        for bad in [
            "",
            "application/vnd.licet.postcard",
            "text/json",
            "application/json; charset=latin1",
            "application/json+x",
        ] {
            let error = check_content_type(Some(bad)).expect_err(bad);
            assert_eq!(error.code(), Code::Malformed);
        }
    }

    #[test]
    fn a_time_that_rfc_3339_cannot_express_is_an_encode_error_with_its_source() {
        let body = SweepDue { kind: SweepKind::Return, before: Timestamp::from_millis(i64::MAX) };
        let error = encode(&body).expect_err("the year is after 9999");
        assert!(error.source().is_some());
    }

    #[test]
    fn nothing_may_follow_a_body() {
        let body = br#"{"kind":"return","before":"2026-11-22T10:00:00Z"}"#;
        assert!(decode::<SweepDue>(body).is_ok());
        assert!(decode::<SweepDue>(&[body, b" \n".as_slice()].concat()).is_ok());
        assert!(decode::<SweepDue>(&[body, b"{}".as_slice()].concat()).is_err());
        assert!(decode::<SweepDue>(b"").is_err());
    }
}
