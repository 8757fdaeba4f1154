//! The errors of a terminal.

use licet_common::signing::TokenError;
use licet_schema::{Code, EncodeError, Output, Refusal, message::Privilege};
use uuid::Uuid;

use super::{media::MediaError, store::StoreError};
use crate::ClientError;

/// Why an operation of a terminal did not complete. What it began is stored:
/// [`super::Terminal::resume`] continues it, and so does the same operation again.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// There is no reply.
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
         repeat this"
    )]
    Token {
        /// Certificate, container or license.
        what: &'static str,
        /// What is wrong with the token.
        #[source]
        source: TokenError,
    },
    /// A reply lacks a token. Nothing of it is stored or acknowledged.
    #[error("the received {what} was not stored: the reply contains no token")]
    NoToken {
        /// Certificate, container or license.
        what: &'static str,
    },
    /// The tokens in a reply are valid, but are not those of the request. They are neither stored
    /// nor acknowledged.
    #[error("the received {what} was not stored: it is not the requested one")]
    Mismatch {
        /// Purchase, certificate, container, license or return.
        what: &'static str,
    },
    /// The terminal's folder does not contain it.
    #[error("there is no {what} {id} in this terminal's folder: `licet terminal list` shows its contents")]
    Absent {
        /// Certificate, license or return.
        what: &'static str,
        /// Its id.
        id: Uuid,
    },
    /// A return of the license for another privilege is open.
    #[error("the license is already being returned for {privilege}: repeat this with {privilege}")]
    Returning {
        /// The privilege of the open return.
        privilege: Privilege,
    },
    /// The reply is of a type that does not answer the request.
    #[error("the reply to {asked} is {answer}: is this client older than Licet's workers?")]
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
