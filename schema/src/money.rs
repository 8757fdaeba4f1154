//! Money: whole minor units of one currency. No fractions, no conversions.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    vocabulary::{Count, Unfit},
    wire::wire,
};

/// An ISO 4217 currency code: three capital letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

impl Currency {
    /// The code, such as `USD`.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XXX")
    }
}

impl TryFrom<&str> for Currency {
    type Error = Unfit;
    fn try_from(code: &str) -> Result<Self, Unfit> {
        match <[u8; 3]>::try_from(code.as_bytes()) {
            Ok(letters) if letters.iter().all(u8::is_ascii_uppercase) => Ok(Self(letters)),
            _ => Err(Unfit("a currency is an ISO 4217 code of three capital letters, such as USD".into())),
        }
    }
}

impl TryFrom<String> for Currency {
    type Error = Unfit;
    fn try_from(code: String) -> Result<Self, Unfit> {
        Self::try_from(code.as_str())
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> String {
        currency.as_str().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

wire! {
    /// An amount of money, never negative: `{"amount_minor": 1177, "currency": "USD"}`.
    #[derive(Copy)]
    pub struct Money {
        /// Whole minor units (cents, for USD).
        pub amount_minor: Count,
        /// The currency.
        pub currency: Currency,
    }
}

impl Money {
    /// An amount in minor units.
    ///
    /// # Errors
    /// The amount is negative or above 2^53-1.
    pub fn new(amount_minor: i64, currency: Currency) -> Result<Self, Unfit> {
        Ok(Self { amount_minor: Count::try_from(amount_minor)?, currency })
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (minor units)", self.amount_minor, self.currency)
    }
}
