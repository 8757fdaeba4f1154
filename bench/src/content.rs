//! The content that the lifecycles of the load buy.

use licet_client::{
    Client, Patience, Transport,
    schema::{
        Count, Name, Output, Request, Seconds, Text, Version,
        message::{ContentPut, ReturnPolicy},
        money::{Currency, Money},
        vocabulary::Grants,
    },
};
use licet_common::program::Failure;

/// The name of the content.
pub(super) const CONTENT: &str = "bench";

/// The price of the content.
pub(super) fn price() -> Result<Money, Failure> {
    valid(Money::new(1000, valid(Currency::try_from("USD"))?))
}

/// Registers the content.
///
/// # Errors
/// The content cannot be registered.
pub(super) async fn put_content(transport: &Transport) -> Result<(), Failure> {
    let client = Client::connect(transport, Patience::default()).await?;
    let put = Request::ContentPut(ContentPut {
        content: valid(Name::try_from(CONTENT))?,
        version: valid(Version::try_from(1i64))?,
        title: valid(Text::try_from("The content of a measurement"))?,
        price: price()?,
        grants: valid(Grants::try_from(1i64))?,
        certificate_ttl_s: valid(Seconds::try_from(365 * 86_400i64))?,
        receipt_ttl_s: None,
        successor: None,
        return_policy: ReturnPolicy {
            points: Some(valid(Count::try_from(100i64))?),
            upgrade: None,
            buyback: None,
            collection: None,
        },
        media: None,
    });
    match client.ask(&put).await.map_err(Failure::work)? {
        Output::ContentRegistered(_) => Ok(()),
        other => Err(Failure::Work(format!("the reply to content.put is {}", other.kind()))),
    }
}

/// Unwraps a value of the load. The value is valid unless this program has a defect.
pub(super) fn valid<T>(value: Result<T, impl std::fmt::Display>) -> Result<T, Failure> {
    value.map_err(Failure::work)
}
