//! Case A9: names that look alike.

use licet_schema::{Output, Request, entity::certificate_record};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::system::{Mailbox, TestSystem, completion, name, on_both, outcome, purchase, raw, receipt};

on_both!(
    case_a09_a_name_that_is_not_nfc_or_contains_invisible_characters_is_refused,
    case_a09_a_provider_that_looks_like_another_is_refused,
);

/// Sends a body as it is. Returns the code and the detail of its refusal.
async fn refusal(system: &TestSystem, replies: (&str, &mut Mailbox), kind: &str, body: &Value) -> (String, String) {
    let (queue, mailbox) = replies;
    system.publish(raw(Uuid::new_v4(), kind, body.to_string().into_bytes(), Some(queue))).await;
    let reply = mailbox.next().await;
    let kind = reply.properties.kind.expect("a type");
    match Output::decode(&kind, &reply.body).expect("a reply") {
        Output::RequestRefused(refused) => (refused.code.to_string(), refused.detail),
        other => panic!("{body} got {other:?}"),
    }
}

async fn case_a09_a_name_that_is_not_nfc_or_contains_invisible_characters_is_refused(mut system: TestSystem) {
    system.put_song_with_workers().await;
    let (queue, mut replies) = system.listen(&[]).await;
    for (user, advice) in [
        ("Jose\u{301}", "must be in the Unicode normalization form NFC: normalize it before you send it"),
        ("al\u{200b}ice", "format characters such as U+200B: send the name without it"),
        ("\u{202e}ecila", "format characters such as U+202E: send the name without it"),
        ("al\u{2028}ice", "line or paragraph separators such as U+2028: send the name without it"),
        ("al\u{2029}ice", "line or paragraph separators such as U+2029: send the name without it"),
        ("al\u{e000}ice", "private-use characters such as U+E000: send the name without it"),
        ("al\u{378}ice", "unassigned characters such as U+0378: send the name without it"),
    ] {
        let body = json!({"user": user, "items": [{"content": "song"}]});
        let (code, detail) = refusal(&system, (&queue, &mut replies), "purchase.request", &body).await;
        assert_eq!(code, "malformed", "{user:?}");
        assert!(detail.contains(advice), "{user:?}: {detail}");
    }
    assert!(system.rows::<certificate_record::Entity>().await.is_empty(), "nobody bought anything");
    let reply = system.ask(&purchase("Jos\u{e9}", 1)).await;
    assert_eq!(outcome(&reply), "certificate.issued", "the same name in NFC is accepted");
    system.finish().await;
}

async fn case_a09_a_provider_that_looks_like_another_is_refused(mut system: TestSystem) {
    system.put_song_with_workers().await;
    let (queue, mut replies) = system.listen(&[]).await;
    let bought = system.buy("alice", 1).await;
    system.ask(&receipt(&bought)).await;
    let id = bought.certificates[0];
    let amount = json!({"amount_minor": 1000, "currency": "USD"});
    let settlement = |provider: &str| json!({"certificate": id, "settlement": "pay-1", "provider": provider});
    let with = |mut body: Value, field: &str, value: Value| {
        body[field] = value;
        body
    };
    for provider in ["licet\u{200b}", "Licet", "\u{ff4c}\u{ff49}\u{ff43}\u{ff45}\u{ff54}", "my bank", "-bank"] {
        let reason = json!("declined");
        let payout = json!({"license_return": id, "payout": "out-1", "provider": provider});
        for (kind, body) in [
            ("settlement.completion", with(settlement(provider), "amount", amount.clone())),
            ("settlement.failure", with(settlement(provider), "reason", reason.clone())),
            ("settlement.reversal", with(settlement(provider), "reason", reason.clone())),
            ("settlement.reinstatement", with(settlement(provider), "reason", reason.clone())),
            ("settlement.assignment", settlement(provider)),
            ("payout.completion", with(payout.clone(), "amount", amount.clone())),
            ("payout.failure", with(payout, "reason", reason.clone())),
        ] {
            let (code, detail) = refusal(&system, (&queue, &mut replies), kind, &body).await;
            assert_eq!(code, "malformed", "{kind} of {provider:?}");
            assert!(detail.contains("send "), "{kind} of {provider:?}: {detail}");
        }
    }
    let Request::SettlementCompletion(mut own) = completion(&bought) else { unreachable!() };
    own.provider = name("licet");
    assert_eq!(outcome(&system.ask(&Request::SettlementCompletion(own)).await), "forbidden", "the reserved name");
    assert_eq!(outcome(&system.ask(&completion(&bought)).await), "settlement.registered");
    system.finish().await;
}
