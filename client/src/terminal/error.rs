//! Why a terminal could not do what it was asked to.

use licet_common::signing::TokenError;
use licet_schema::{Code, Output, Refusal, format::EncodeError, message::Privilege};
use uuid::Uuid;

use super::{media::MediaError, store::StoreError};
use crate::ClientError;

/// Why a terminal could not do what it was asked to. What was begun is kept, and goes on with
/// [`super::Terminal::resume`] or when the same is asked for again.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// There is no answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer is no.
    #[error("{kind} was refused as {}: {}", refusal.code, refusal.detail)]
    Refused {
        /// What was asked.
        kind: String,
        /// Why.
        refusal: Refusal,
    },
    /// What came does not verify. It is not kept and not acknowledged.
    #[error(
        "the {what} that came was not kept: {source}; if Licet has new keys, fetch its published ones again, then repeat this"
    )]
    Token {
        /// A certificate, container or license.
        what: &'static str,
        /// What is wrong with it.
        source: TokenError,
    },
    /// What came verifies and is for something else. It is not kept and not acknowledged.
    #[error("the {what} that came was not kept: it is not the one that was asked for")]
    Mismatch {
        /// A certificate, container or license.
        what: &'static str,
    },
    /// It is not in this terminal's folder.
    #[error("there is no {what} {id} in this terminal's folder: `licet terminal list` shows what is there")]
    Absent {
        /// A certificate or license.
        what: &'static str,
        /// Its id.
        id: Uuid,
    },
    /// The license is being given back for another privilege.
    #[error("the license is being returned for {}: repeat it with that", name_of(*.privilege))]
    Returning {
        /// What the open return brings.
        privilege: Privilege,
    },
    /// The answer is none that the question has.
    #[error("{asked} was answered with {answer}: is this client older than Licet's workers?")]
    Unexpected {
        /// What was asked.
        asked: String,
        /// What came.
        answer: &'static str,
    },
    /// It cannot be kept, or not be found again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The content cannot be had.
    #[error(transparent)]
    Media(#[from] MediaError),
}

impl TerminalError {
    /// The code, if it is a refusal.
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

impl From<EncodeError> for TerminalError {
    fn from(error: EncodeError) -> Self {
        Self::Client(ClientError::Unwritable(error.to_string()))
    }
}

fn name_of(privilege: Privilege) -> &'static str {
    match privilege {
        Privilege::Points => "points",
        Privilege::Upgrade => "upgrade",
        Privilege::Buyback => "buyback",
        Privilege::Collection => "collection",
    }
}
