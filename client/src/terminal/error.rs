//! The errors of a terminal.

use licet_common::signing::TokenError;
use licet_schema::{Code, EncodeError, Output, Refusal, message::Privilege};
use uuid::Uuid;

use super::{media::MediaError, store::StoreError};
use crate::ClientError;

/// An error that prevented an operation of a terminal from completing. The state of the operation
/// is stored. To continue it, call [`super::Terminal::resume`] or repeat the operation.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// No reply arrived.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The request was refused.
    #[error("{kind} was refused as {}: {}", refusal.code, refusal.detail)]
    Refused {
        /// The message type of the request.
        kind: String,
        /// The refusal.
        refusal: Refusal,
    },
    /// A request could not be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A token in a reply is not valid. It is neither stored nor acknowledged.
    #[error(
        "the received {what} was not stored: {source}; if Licet has new keys, fetch its published keys again, then \
         run the command again"
    )]
    Token {
        /// Certificate, container or license.
        what: &'static str,
        /// The underlying error.
        #[source]
        source: TokenError,
    },
    /// A reply contains no token. Nothing from the reply is stored or acknowledged.
    #[error("the received {what} was not stored: the reply contains no token")]
    NoToken {
        /// Certificate, container or license.
        what: &'static str,
    },
    /// The tokens in a reply are valid, but do not match the request. They are neither stored nor
    /// acknowledged.
    #[error("the received {what} was not stored: it does not match the request")]
    Mismatch {
        /// Purchase, certificate, container, license or return.
        what: &'static str,
    },
    /// The terminal's folder does not contain the certificate, license or return.
    #[error("there is no {what} {id} in this terminal's folder: `licet terminal list` lists the folder")]
    Absent {
        /// Certificate, license or return.
        what: &'static str,
        /// Its id.
        id: Uuid,
    },
    /// The license already has an open return for another privilege.
    #[error("the license is already being returned for {privilege}: run the command again with {privilege}")]
    Returning {
        /// The privilege of the open return.
        privilege: Privilege,
    },
    /// The reply has a type that does not fit the request.
    #[error("the reply to {asked} is {answer}: use a client of the same release as the workers")]
    Unexpected {
        /// The message type of the request.
        asked: String,
        /// The message type of the reply.
        answer: &'static str,
    },
    /// The terminal's folder cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The content cannot be downloaded.
    #[error(transparent)]
    Media(#[from] MediaError),
}

impl TerminalError {
    /// The code, if the request was refused.
    pub fn refusal(&self) -> Option<Code> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.code),
            _ => None,
        }
    }

    pub(super) fn unexpected(asked: &str, answer: &Output) -> Self {
        Self::Unexpected { asked: asked.to_owned(), answer: answer.kind() }
    }
}
