//! What a measurement sells.

use licet_client::{
    Client, Patience, Transport,
    schema::{
        Count, Format, Name, Output, Request, Seconds, Text, Version,
        message::{ContentPut, ReturnPolicy},
        money::{Currency, Money},
        vocabulary::Grants,
    },
};
use licet_workers::program::Failure;

/// What is sold.
pub(super) const CONTENT: &str = "bench";

/// What it costs.
pub(super) fn price() -> Result<Money, Failure> {
    unfit(Money::new(1000, unfit(Currency::try_from("USD"))?))
}

/// Offers what is sold.
///
/// # Errors
/// It is not registered.
pub(super) async fn put_content(transport: &Transport) -> Result<(), Failure> {
    let client = Client::connect(transport, Format::Json, Patience::default()).await?;
    let put = Request::ContentPut(ContentPut {
        content: unfit(Name::try_from(CONTENT))?,
        version: unfit(Version::try_from(1i64))?,
        title: unfit(Text::try_from("What a measurement sells"))?,
        price: price()?,
        grants: unfit(Grants::try_from(1i64))?,
        certificate_ttl_s: unfit(Seconds::try_from(365 * 86_400i64))?,
        receipt_ttl_s: None,
        successor: None,
        return_policy: ReturnPolicy {
            points: Some(unfit(Count::try_from(100i64))?),
            upgrade: None,
            buyback: None,
            collection: None,
        },
        media: None,
    });
    match client.ask(&put).await.map_err(|error| Failure::Work(error.to_string()))? {
        Output::ContentRegistered(_) => Ok(()),
        other => Err(Failure::Work(format!("content.put was answered with {}", other.kind()))),
    }
}

/// What the load makes itself is always fit; a mistake in it is told.
pub(super) fn unfit<T>(made: Result<T, impl std::fmt::Display>) -> Result<T, Failure> {
    made.map_err(|unfit| Failure::Work(unfit.to_string()))
}
