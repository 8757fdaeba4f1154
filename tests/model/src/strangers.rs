//! Tokens from elsewhere: of another Licet with the same key, and of one with a key that nobody
//! trusts.

use ed25519_dalek::SigningKey;
use licet_common::signing::Keyring;
use licet_schema::Code;
use uuid::Uuid;

use super::model::{Model, Stands, Token};
use crate::testing::{HOUR_MS, Stage};

/// One token of each kind.
#[derive(Clone, Debug)]
pub(super) struct Strangers {
    pub(super) certificate: String,
    pub(super) container: String,
    pub(super) license: String,
}

impl Strangers {
    /// Those whose key is trusted here.
    pub(super) fn foreign(model: &mut Model) -> Self {
        Self::of(Stage::with_song(), None, model)
    }

    /// Those whose key is not.
    pub(super) fn untrusted(model: &mut Model) -> Self {
        let mut stage = Stage::with_song();
        stage.keyring = Keyring::new(SigningKey::from_bytes(&[8; 32]), []);
        Self::of(stage, Some(Code::UntrustedKey), model)
    }

    fn of(mut stage: Stage, fault: Option<Code>, model: &mut Model) -> Self {
        // Ids are made of the time: those of another time are others.
        let alone = stage.later(-HOUR_MS).ready(1);
        let license = stage.license(&alone, "elsewhere").expect("a license");
        let together = stage.buy(2);
        let mut learn = |token: &str, stands| {
            model.tokens.insert(token.to_owned(), Token { stands, fault });
            token.to_owned()
        };
        let id = alone.certificates[0];
        let members = together.certificates.clone();
        Self {
            certificate: learn(&alone.tokens[0], Stands::Certificate { id, generation: 1, container: None }),
            container: learn(
                &together.container_token.unwrap_or_default(),
                Stands::Container { id: together.container.unwrap_or_default(), members },
            ),
            license: learn(&license, Stands::License { id: Uuid::from_u128(u128::MAX) }),
        }
    }
}
