//! Tokens from two other Licet systems. One has the same key, the other has a key that is not
//! trusted.

use ed25519_dalek::SigningKey;
use licet_common::signing::Keyring;
use licet_schema::Code;
use licet_workers::fixture::{Fixture, HOUR_MS};
use uuid::Uuid;

use crate::model::{Model, Token, TokenSubject};

/// One token of each kind.
#[derive(Clone, Debug)]
pub(crate) struct ForeignTokens {
    pub(crate) certificate: String,
    pub(crate) container: String,
    pub(crate) license: String,
}

impl ForeignTokens {
    /// Tokens whose key is trusted.
    pub(crate) fn trusted(model: &mut Model) -> Self {
        Self::issue(Fixture::with_song(), None, model)
    }

    /// Tokens whose key is not trusted.
    pub(crate) fn untrusted(model: &mut Model) -> Self {
        let mut fixture = Fixture::with_song();
        fixture.keyring = Keyring::new(SigningKey::from_bytes(&[8; 32]), []);
        Self::issue(fixture, Some(Code::UntrustedKey), model)
    }

    fn issue(mut fixture: Fixture, fault: Option<Code>, model: &mut Model) -> Self {
        // Ids depend on the time, so an earlier time yields different ids.
        let single = fixture.later(-HOUR_MS).ready(1);
        let license = fixture.license(&single, "elsewhere").expect("a license");
        let several = fixture.buy(2);
        let mut register = |token: &str, subject| {
            model.tokens.insert(token.to_owned(), Token { subject, fault });
            token.to_owned()
        };
        let id = single.certificates[0];
        let container = several.container.expect("a container");
        let members = several.certificates.clone();
        Self {
            certificate: register(&single.tokens[0], TokenSubject::Certificate { id, generation: 1, container: None }),
            container: register(
                &several.container_token.expect("a container token"),
                TokenSubject::Container { id: container, members },
            ),
            license: register(&license, TokenSubject::License { id: Uuid::from_u128(u128::MAX) }),
        }
    }
}
