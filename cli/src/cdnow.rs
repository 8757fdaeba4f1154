//! Reads real purchases from the log of CDNOW, an online music store, as text or compressed with
//! gzip.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use licet_common::program::Failure;

/// A sample of the log, so that the demo needs no file. The README in its folder names the source.
const SAMPLE: &str = include_str!("../data/cdnow_sample.txt");

/// One purchase of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Purchase {
    /// The customer.
    pub(crate) customer: String,
    /// Each CD's price in whole cents.
    pub(crate) cents: Vec<i64>,
}

/// The first `most` purchases of the sample. The sample is repeated if it is too short.
pub(crate) fn sample(most: usize) -> Result<Vec<Purchase>, Failure> {
    let all = read(SAMPLE.as_bytes(), "the sample")?;
    Ok(all.iter().cycle().take(most).cloned().collect())
}

/// The purchases of a file, plain or compressed with gzip.
pub(crate) fn file(path: &Path, most: Option<usize>) -> Result<Vec<Purchase>, Failure> {
    let name = path.display().to_string();
    let unreadable = |error: std::io::Error| Failure::Usage(format!("{name} cannot be read: {error}"));
    let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
    let gzip = file.fill_buf().map_err(unreadable)?.starts_with(&[0x1f, 0x8b]);
    let reader: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut all = read(reader, &name)?;
    all.truncate(most.unwrap_or(usize::MAX));
    Ok(all)
}

/// The distinct prices in these purchases. Each price becomes a content item.
pub(crate) fn prices(purchases: &[Purchase]) -> BTreeSet<i64> {
    purchases.iter().flat_map(|purchase| purchase.cents.iter().copied()).collect()
}

fn read(source: impl Read, name: &str) -> Result<Vec<Purchase>, Failure> {
    let mut purchases = Vec::new();
    for (index, line) in BufReader::new(source).lines().enumerate().skip(1) {
        let line = line.map_err(|error| Failure::Usage(format!("{name} cannot be read: {error}")))?;
        if line.trim().is_empty() {
            continue;
        }
        purchases.push(parse(&line).ok_or_else(|| {
            let wanted = "customer_id date number_of_cds dollar_value";
            Failure::Usage(format!("{name}, line {}: expected {wanted}, found {line:?}", index + 1))
        })?);
    }
    Ok(purchases)
}

fn parse(line: &str) -> Option<Purchase> {
    let mut fields = line.split_whitespace();
    let (customer, _date, number, value) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let (number, value) = (number.parse::<i64>().ok().filter(|number| (1..=100).contains(number))?, cents(value)?);
    Some(Purchase { customer: customer.to_owned(), cents: split(value, number) })
}

/// Converts dollars to cents: `11.77` becomes 1177.
fn cents(value: &str) -> Option<i64> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let fraction: i64 = format!("{fraction:0<2}").get(..2)?.parse().ok()?;
    Some(whole.parse::<i64>().ok()?.checked_mul(100)? + fraction)
}

/// Splits a value into equal parts in whole cents. The last part includes the remainder.
fn split(value: i64, number: i64) -> Vec<i64> {
    let each = value / number;
    let mut parts = vec![each; usize::try_from(number).unwrap_or(1)];
    if let Some(last) = parts.last_mut() {
        *last += value % number;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purchase_is_split_into_whole_cents_with_the_remainder_in_the_last_part() {
        let purchase = parse(" 00002 19970112  5   77.03").expect("a line of the log");
        assert_eq!(purchase, Purchase { customer: "00002".into(), cents: vec![1540, 1540, 1540, 1540, 1543] });
        assert_eq!(parse("00001 19970101 1 12").expect("whole dollars").cents, [1200]);
        assert!(parse("00001 19970101 0 11.77").is_none());
        assert!(parse("not a purchase").is_none());
    }

    #[test]
    fn the_sample_fits_the_demo_and_contains_large_purchases() {
        let sample = sample(2000).expect("the sample");
        assert_eq!(sample.len(), 2000);
        assert!(sample.iter().any(|purchase| purchase.cents.len() > 10));
    }
}
