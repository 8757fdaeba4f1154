//! From rows to what bodies are made of. Rows hold what was checked when it came in. A value that
//! no longer fits means a damaged database: the runtime catches the panic and sets the one message
//! aside.

use licet_schema::{Count, ExternalId, Money, Name, Text, Version, money::Currency, vocabulary::INTEGER_MAX};

/// A name from a row.
pub(crate) fn name(text: &str) -> Name {
    Name::try_from(text).expect("names in the database were checked")
}

/// A text from a row.
pub(crate) fn text(text: &str) -> Text {
    Text::try_from(text).expect("texts in the database were checked")
}

/// Another system's id from a row.
pub(crate) fn external(text: &str) -> ExternalId {
    ExternalId::try_from(text).expect("ids in the database were checked")
}

/// A version from a row.
pub(crate) fn version(number: i64) -> Version {
    Version::try_from(number).expect("versions in the database were checked")
}

/// A count from rows.
pub(crate) fn count(number: i64) -> Count {
    Count::try_from(number).expect("counts in the database are never negative")
}

/// A balance from rows, which may grow beyond what the wire can tell.
pub(crate) fn shown(balance: i64) -> Count {
    count(balance.min(INTEGER_MAX))
}

/// An amount from rows.
pub(crate) fn money(amount_minor: i64, currency: &str) -> Money {
    let currency = Currency::try_from(currency).expect("currencies in the database were checked");
    Money { amount_minor: count(amount_minor), currency }
}
