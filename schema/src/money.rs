//! Money: an amount in whole minor units of one currency. There are no fractions of a minor unit
//! and no conversions between currencies.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    body::{Field, bodies},
    vocabulary::{Count, InvalidValue},
};

/// An ISO 4217 currency code: three capital letters. Any three capital letters are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

impl Currency {
    /// The code, such as `USD`.
    pub fn as_str(&self) -> &str {
        match std::str::from_utf8(&self.0) {
            Ok(code) => code,
            Err(_) => unreachable!("a Currency consists of ASCII letters"),
        }
    }

    /// The number of decimal digits of the minor unit: 2 for USD (cents), 0 for JPY, 3 for KWD.
    ///
    /// Source: ISO 4217, list one, column "minor unit". Codes for which the list says "N.A."
    /// (precious metals, funds, test codes) have no minor unit and count whole units. A code that
    /// is not listed has 2 digits.
    pub const fn minor_digits(self) -> usize {
        match &self.0 {
            b"BIF" | b"CLP" | b"DJF" | b"GNF" | b"ISK" | b"JPY" | b"KMF" | b"KRW" | b"PYG" | b"RWF" | b"UGX"
            | b"UYI" | b"VND" | b"VUV" | b"XAF" | b"XOF" | b"XPF" => 0,
            // Listed as "N.A.".
            b"XAG" | b"XAU" | b"XBA" | b"XBB" | b"XBC" | b"XBD" | b"XDR" | b"XPD" | b"XPT" | b"XSU" | b"XTS"
            | b"XUA" | b"XXX" => 0,
            b"BHD" | b"IQD" | b"JOD" | b"KWD" | b"LYD" | b"OMR" | b"TND" => 3,
            b"CLF" | b"UYW" => 4,
            _ => 2,
        }
    }
}

impl TryFrom<&str> for Currency {
    type Error = InvalidValue;
    fn try_from(code: &str) -> Result<Self, InvalidValue> {
        match <[u8; 3]>::try_from(code.as_bytes()) {
            Ok(letters) if letters.iter().all(u8::is_ascii_uppercase) => Ok(Self(letters)),
            _ => Err(InvalidValue("a currency is an ISO 4217 code of three capital letters, such as USD".into())),
        }
    }
}

impl TryFrom<String> for Currency {
    type Error = InvalidValue;
    fn try_from(code: String) -> Result<Self, InvalidValue> {
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

impl Field for Currency {}

bodies! {
    /// An amount of money, never negative: `{"amount_minor": 1177, "currency": "USD"}` is 11.77
    /// USD.
    #[derive(Copy, Hash)]
    pub struct Money {
        /// The amount in whole minor units: cents for USD, yen for JPY.
        pub amount_minor: Count,
        /// The currency.
        pub currency: Currency,
    }
}

impl Money {
    /// Creates an amount from minor units.
    ///
    /// # Errors
    /// The amount is negative or above 2^53-1.
    pub fn new(amount_minor: i64, currency: Currency) -> Result<Self, InvalidValue> {
        Ok(Self { amount_minor: Count::try_from(amount_minor)?, currency })
    }
}

impl fmt::Display for Money {
    /// Writes the amount in major units with all digits of the minor unit: `12.87 USD`, `1300 JPY`,
    /// `1.234 KWD`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.currency.minor_digits() + 1;
        // At least one digit precedes the decimal point.
        let digits = format!("{:0width$}", self.amount_minor.get());
        match digits.split_at(digits.len() + 1 - width) {
            (major, "") => write!(f, "{major} {}", self.currency),
            (major, minor) => write!(f, "{major}.{minor} {}", self.currency),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::INTEGER_MAX;

    fn printed(amount_minor: i64, code: &str) -> String {
        let currency = Currency::try_from(code).expect("a code");
        Money::new(amount_minor, currency).expect("an amount").to_string()
    }

    #[test]
    fn money_prints_in_major_units() {
        for (amount_minor, code, expected) in [
            (1287, "USD", "12.87 USD"),
            (1300, "JPY", "1300 JPY"),
            (1234, "KWD", "1.234 KWD"),
            (12_345, "CLF", "1.2345 CLF"),
            (7, "XAU", "7 XAU"),
            (0, "USD", "0.00 USD"),
            (5, "USD", "0.05 USD"),
            (70, "USD", "0.70 USD"),
            (100, "USD", "1.00 USD"),
            (0, "JPY", "0 JPY"),
            (5, "KWD", "0.005 KWD"),
            (9, "UYW", "0.0009 UYW"),
            (100, "QQQ", "1.00 QQQ"),
            (INTEGER_MAX, "EUR", "90071992547409.91 EUR"),
        ] {
            assert_eq!(printed(amount_minor, code), expected);
        }
    }

    #[test]
    fn a_currency_is_three_capital_ascii_letters() {
        for bad in ["", "US", "USDD", "usd", "U1D", "ÄB", "US "] {
            assert!(Currency::try_from(bad).is_err(), "{bad:?} should not be a currency");
        }
        assert_eq!(Currency::try_from("EUR").expect("a code").as_str(), "EUR");
    }

    #[test]
    fn an_amount_is_not_negative() {
        let usd = Currency::try_from("USD").expect("a code");
        assert!(Money::new(-1, usd).is_err());
        assert!(Money::new(INTEGER_MAX + 1, usd).is_err());
    }
}
