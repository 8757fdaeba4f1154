//! Formats histories as text for people.

use std::fmt::Write as _;

use licet_operator::history::{History, sentence, short_id};
use uuid::Uuid;

/// The length of a UUID as text.
const ID_LENGTH: usize = 36;

/// The history with full ids: the certificates, then a line for each message and for each event.
pub(crate) fn text(history: &History) -> String {
    let History { purchase, user, certificates, entries } = history;
    let count =
        if certificates.len() == 1 { "1 certificate".into() } else { format!("{} certificates", certificates.len()) };
    let mut text = format!("{user} bought {count} (purchase {purchase}):\n");
    for certificate in certificates {
        let _ = writeln!(text, "  {certificate}");
    }
    let began = entries.first().map_or(0, |entry| entry.at.as_millis());
    for entry in entries {
        let result = match (&entry.code, &entry.detail) {
            (Some(code), Some(detail)) => format!("refused as {code}: {detail}"),
            (Some(code), None) => format!("refused as {code}"),
            (None, _) => String::new(),
        };
        let heading = format!("  {:>9}  {:<21}  {result}", elapsed(entry.at.as_millis() - began), entry.kind);
        let _ = writeln!(text, "{}", heading.trim_end());
        for event in &entry.events {
            let _ = writeln!(text, "               {}", sentence(event));
        }
    }
    text
}

/// The text with every id shortened to its last characters. `licet show` accepts these short ids.
pub(crate) fn with_short_ids(text: &str) -> String {
    let mut shortened = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        match rest.get(..ID_LENGTH).and_then(|start| Uuid::try_parse(start).ok()) {
            Some(id) => {
                shortened.push_str(&short_id(id));
                rest = &rest[ID_LENGTH..];
            }
            None => {
                shortened.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    shortened
}

/// The time since the first message, in the largest useful unit.
fn elapsed(millis: i64) -> String {
    match millis {
        ..10_000 => format!("+{millis} ms"),
        10_000..600_000 => format!("+{} s", millis / 1000),
        600_000..7_200_000 => format!("+{} min", millis / 60_000),
        7_200_000..172_800_000 => format!("+{} h", millis / 3_600_000),
        _ => format!("+{} days", millis / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use licet_operator::history::{Certificate, Entry};
    use licet_schema::{
        Count, Money, Name, Output, Text, Timestamp, Version,
        message::{Ending, LicenseIssued},
        money::Currency,
    };

    use super::*;

    #[test]
    fn every_id_in_a_text_is_shortened_to_its_end_and_nothing_else_changes() {
        let text = "Größe: charge-01980a5d-ac96-774b-bcce-b302099a8057, (01980a5d-ac96-774b-bcce-b302099a8058)";
        assert_eq!(with_short_ids(text), "Größe: charge-099a8057, (099a8058)");
        for unchanged in ["", "ü", "no id 01980a5d-ac96-774b-bcce-b302099a805", &"ä".repeat(50)] {
            assert_eq!(with_short_ids(unchanged), unchanged);
        }
    }

    #[test]
    fn a_history_names_user_title_and_price_and_lists_messages_and_events_in_order() {
        let id = Uuid::from_u128(0x0198_0a5d_ac96_774b_bcce_b302_099a_8057);
        let certificate = Certificate {
            id,
            title: Some(Text::try_from("An album").expect("a text")),
            content: Name::try_from("album").expect("a name"),
            version: Version::try_from(1i64).expect("a version"),
            price: Money::new(1287, Currency::try_from("USD").expect("a code")).expect("an amount"),
            ended: Some(Ending::Expired),
        };
        let issued = Output::LicenseIssued(LicenseIssued { license: id, license_token: None, remaining: Count::ZERO });
        let entry = |at, kind: &str, refusal: Option<(&str, &str)>, events| Entry {
            at: Timestamp::from_millis(at),
            message_id: Uuid::nil(),
            kind: kind.into(),
            code: refusal.map(|(code, _)| code.into()),
            detail: refusal.map(|(_, detail)| detail.into()),
            events,
        };
        let history = History {
            purchase: id,
            user: Name::try_from("ada").expect("a name"),
            certificates: vec![certificate],
            entries: vec![
                entry(1_000, "license.request", None, vec![issued]),
                entry(4_000, "license.request", Some(("exhausted", "it grants no more")), vec![]),
            ],
        };
        let expected = "\
ada bought 1 certificate (purchase 099a8057):
  \"An album\" (album, version 1) for 12.87 USD, certificate 099a8057, ended: it expired
      +0 ms  license.request
               License 099a8057 was issued. Its certificate grants no more licenses.
   +3000 ms  license.request        refused as exhausted: it grants no more
";
        assert_eq!(with_short_ids(&text(&history)), expected);
    }

    #[test]
    fn elapsed_times_have_their_largest_useful_unit() {
        let printed = [0, 9_999, 10_000, 600_000, 7_200_000, 90_000_000, 172_800_000].map(elapsed);
        assert_eq!(printed, ["+0 ms", "+9999 ms", "+10 s", "+10 min", "+2 h", "+25 h", "+2 days"]);
    }
}
