//! Tests of reading letters and of filters.

use std::sync::Arc;

use licet_common::transport::{Death, Delivery, Properties};
use licet_schema::{Request, Timestamp, message::LicenseReceipt};

use super::*;

fn letter(id: Option<&str>, reason: &str, failed_at_ms: i64, kind: &str, content_type: &str, body: &[u8]) -> Letter {
    let headers = [
        (topology::HEADER_REASON, reason.to_owned()),
        (topology::HEADER_ROUTING_KEY, kind.to_owned()),
        (topology::HEADER_FAILED_AT, Timestamp::from_millis(failed_at_ms).to_string()),
        (topology::HEADER_ATTEMPT, "5".to_owned()),
    ];
    let properties = Properties {
        message_id: id.map(str::to_owned),
        content_type: Some(content_type.to_owned()),
        headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        ..Properties::default()
    };
    let (exchange, routing_key) = (topology::DEFAULT.to_owned(), "licet.dead.reception".to_owned());
    let body = body.to_vec().into();
    let delivery = Delivery { tag: 1, exchange, routing_key, redeliveries: 0, properties, death: None, body };
    Letter::read("reception", delivery, &Trust::new(None, Arc::default()))
}

fn text(body: &[u8]) -> Body {
    letter(None, "why", 0, "license.receipt", "application/json", body).body()
}

#[test]
fn a_filter_allows_a_letter_that_meets_all_of_its_conditions() {
    let letter = letter(Some("7"), "malformed: Unknown field", 5_000, "license.receipt", "application/json", b"");
    let at = |ms| Some(Timestamp::from_millis(ms));
    let open = Filter::default;
    assert!(open().is_open() && open().allows(&letter));
    for (filter, allowed) in [
        (Filter { ids: vec!["6".into(), "7".into()], ..open() }, true),
        (Filter { ids: vec!["6".into()], ..open() }, false),
        (Filter { reason: Some("unknown FIELD".into()), ..open() }, true),
        (Filter { reason: Some("panicked".into()), ..open() }, false),
        (Filter { before: at(5_001), ..open() }, true),
        (Filter { before: at(5_000), ..open() }, false),
        (Filter { after: at(4_999), ..open() }, true),
        (Filter { after: at(5_000), ..open() }, false),
        (Filter { ids: vec!["7".into()], reason: Some("panicked".into()), ..open() }, false),
    ] {
        assert_eq!(filter.allows(&letter), allowed, "{filter:?}");
        assert!(!filter.is_open());
    }
}

#[test]
fn a_body_is_shown_as_request_text_or_bytes_and_shortened_if_it_is_long() {
    let receipt = Request::LicenseReceipt(LicenseReceipt { license_token: "a.b.c".into() });
    let expected = Body::Request(serde_json::json!({"license_token": "a.b.c"}));
    let body = receipt.encode().expect("a body");
    assert_eq!(text(&body), expected);
    // A body with repeated fields is not a valid request, so it is shown unchanged.
    assert_eq!(text(br#"{"a":1,"a":2}"#), Body::Text(r#"{"a":1,"a":2}"#.into()));
    let unsupported = letter(None, "why", 0, "license.receipt", "text/plain", &body).body();
    assert_eq!(unsupported, Body::Text(r#"{"license_token":"a.b.c"}"#.into()), "no worker would read it");
    assert_eq!(text(&[0xff, 0x00]), Body::Hex("ff00".into()));
    let Body::Text(long) = text("ä".repeat(100_000).as_bytes()) else { panic!("it is text") };
    assert!(long.len() < 5_000 && long.ends_with("… and 195904 more bytes"), "{}", &long[4_000..]);
    let Body::Hex(long) = text(&[0xff; 100_000]) else { panic!("it is not text") };
    assert!(long.len() < 2_000 && long.ends_with("more bytes"));
}

#[test]
fn a_letter_that_the_broker_dead_lettered_has_the_brokers_reason_and_time() {
    let Letter { delivery, .. } = letter(Some("7"), "forged", 0, "forged", "application/json", b"{}");
    let death = Death {
        reason: "delivery_limit".into(),
        exchange: topology::IN.into(),
        routing_key: "license.receipt".into(),
        at_s: Some(9),
    };
    let delivery = Delivery { death: Some(death), ..delivery };
    let details = Letter::read("reception", delivery, &Trust::new(None, Arc::default())).details;
    assert!(details.reason.contains("delivery_limit"), "{details:?}");
    assert_eq!((details.kind.as_str(), details.attempts), ("license.receipt", 0), "headers on licet.in are ignored");
    assert_eq!(details.failed_at, Some(Timestamp::from_millis(9_000)));
}

#[test]
fn a_letter_whose_sender_is_known_only_from_an_untrusted_publisher_is_not_replayed() {
    let of = |author: Option<&str>| {
        let headers = [
            (topology::HEADER_REASON, "forbidden"),
            (topology::HEADER_SENDER, "bank"),
            (topology::HEADER_CLAIMED_BY, "licet-old"),
        ];
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let properties = Properties { user_id: author.map(str::to_owned), headers, ..Properties::default() };
        let (exchange, routing_key) = (topology::DEFAULT.to_owned(), "licet.dead.settlement".to_owned());
        let body = Default::default();
        let delivery = Delivery { tag: 1, exchange, routing_key, redeliveries: 0, properties, death: None, body };
        Letter::read("settlement", delivery, &Trust::new(Some("licet-new"), Arc::default()))
    };
    let claimed = of(Some("licet-new"));
    let refused = replay::trusted_origin(&claimed).expect_err("only licet-old claims that the bank sent it");
    assert!(matches!(&refused, DeadLetterError::UntrustedSender { publisher, .. } if publisher == "licet-old"));
    assert!(refused.to_string().contains("\"licet.retry\" for \"licet-old\""), "{refused}");
    let by_nobody_known = replay::trusted_origin(&of(None)).map(|_| ()).expect_err("its publisher is unknown");
    assert!(by_nobody_known.to_string().contains("\"unknown\""), "{by_nobody_known}");
}

#[test]
fn a_time_that_rfc_3339_cannot_express_is_left_out() {
    let (exchange, routing_key) = (topology::DEFAULT.to_owned(), "licet.dead.catalog".to_owned());
    let (reason, at_s) = ("rejected".to_owned(), Some(u64::MAX / 2));
    let death = Some(Death { reason, exchange: topology::IN.into(), routing_key: "content.put".into(), at_s });
    let properties = Properties::default();
    let delivery =
        Delivery { tag: 1, exchange, routing_key, redeliveries: 0, properties, death, body: Default::default() };
    let letter = Letter::read("catalog", delivery, &Trust::new(None, Arc::default()));
    assert_eq!(letter.details.failed_at, None);
    assert!(serde_json::to_value(&letter.details).is_ok());
}
