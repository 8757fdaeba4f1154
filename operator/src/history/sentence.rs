//! Outputs as plain English sentences.

use licet_schema::{
    Output,
    message::{
        CertificateIssued, Ending, Instruction, LicenseReturned, PayoutOutcome, PointsChanged, Privilege, Restoration,
        Revocation, SettlementOutcome, SettlementRegistered,
    },
};

/// Describes an event in one or two sentences with full ids.
pub fn sentence(event: &Output) -> String {
    match event {
        Output::ContentRegistered(body) => format!("Version {} of {} was registered.", body.version, body.content),
        Output::CertificateIssued(body) => issued(body),
        Output::CertificateAccepted(body) => match body.settlement {
            Instruction::Instructed => "Receipt of the purchase was acknowledged.".to_owned(),
            Instruction::NotNeeded => "Receipt of the purchase was acknowledged. Nothing is left to pay.".to_owned(),
        },
        Output::SettlementInstructed(body) => {
            format!("The payment provider was instructed to charge {} to {}.", body.amount, body.user)
        }
        Output::SettlementRegistered(body) => registered(body),
        Output::SettlementUnmatched(body) => {
            let amount = body.amount.map(|amount| format!(" of {amount}")).unwrap_or_default();
            let (settlement, provider, reason) = (&body.settlement, &body.provider, body.reason);
            match &body.refund {
                Some(refund) => format!(
                    "Refund {refund}{amount} of payment {settlement} from {provider} does not match the payment \
                     ({reason}). An operator must clarify it with the provider."
                ),
                None => format!(
                    "Payment {settlement}{amount} from {provider} matches no purchase ({reason}). An operator must \
                     assign or refund it."
                ),
            }
        }
        Output::CertificateReissued(body) => format!(
            "Certificate {} was reissued in generation {}: {} of its licenses count as granted, and it grants {}.",
            body.certificate,
            body.generation,
            body.granted,
            more_licenses(body.remaining.get())
        ),
        Output::CertificateRetired(body) => {
            format!("Certificate {} ended: {}.", body.certificate, ending(body.reason))
        }
        Output::CertificateRestored(body) => match body.reason {
            Restoration::Paid => format!("Certificate {} is live again, because it was paid for.", body.certificate),
        },
        Output::LicenseIssued(body) => {
            format!(
                "License {} was issued. Its certificate grants {}.",
                body.license,
                more_licenses(body.remaining.get())
            )
        }
        Output::LicenseGranted(body) => {
            format!("Receipt of license {} of certificate {} was acknowledged.", body.license, body.certificate)
        }
        Output::LicenseRevoked(body) => {
            let why = match body.reason {
                Revocation::Reissued => "its certificate was reissued",
                Revocation::Reversed => "the payment for it was refunded or charged back",
            };
            format!("License {} was revoked, because {why}.", body.license)
        }
        Output::ReturnOpened(body) => format!(
            "Return {} of license {} ({:?}) for {} was opened. The terminal must delete its copy by {}.",
            body.license_return,
            body.license,
            body.attributes.title.as_str(),
            wish(body.privilege),
            body.delete_by
        ),
        Output::ReturnLapsed(body) => format!(
            "Return {} lapsed, because the deletion was not reported in time. License {} remains valid.",
            body.license_return, body.license
        ),
        Output::LicenseReturned(body) => returned(body),
        Output::ContentDeleted(body) => format!(
            "Content systems must delete the copy of {}, version {}, that belongs to {}.",
            body.content, body.version, body.user
        ),
        Output::PointsChanged(body) => points(body),
        Output::PayoutInstructed(body) => {
            format!("The payment provider was instructed to pay {} to {}.", body.amount, body.user)
        }
        Output::PayoutRegistered(body) => match body.outcome {
            PayoutOutcome::Completed => {
                format!("Payout {} for return {} was completed.", body.payout, body.license_return)
            }
            PayoutOutcome::Failed => format!("Payout {} for return {} failed.", body.payout, body.license_return),
            PayoutOutcome::Pending => format!(
                "Payout {} for return {} failed before its completion was reported.",
                body.payout, body.license_return
            ),
        },
        Output::RequestRefused(body) => {
            format!("{} was refused as {}: {}", body.message_type, body.code, body.detail)
        }
        Output::CertificateChecked(body) => {
            format!("A token was checked: it is {}.", if body.altered { "altered" } else { "genuine" })
        }
        Output::HoldingsListed(body) => format!("The licenses of {} were listed.", body.user),
        Output::StatusListed(_) => "The status of certificates was listed.".to_owned(),
        Output::SweepDue(body) => format!("A sweep of deadlines before {} was requested.", body.before),
    }
}

fn issued(body: &CertificateIssued) -> String {
    let points = match body.points_held.get() {
        0 => String::new(),
        points => format!(" {points} points were reserved for it."),
    };
    match (&body.container, body.certificates.as_slice()) {
        (None, [one]) => format!("Certificate {} was issued for {}.{points}", one.certificate, body.amount),
        (Some(container), all) => {
            format!("{} certificates were issued in container {container} for {}.{points}", all.len(), body.amount)
        }
        (None, all) => format!("{} certificates were issued for {}.{points}", all.len(), body.amount),
    }
}

fn registered(body: &SettlementRegistered) -> String {
    let what = match body.outcome {
        SettlementOutcome::Completed => "was received",
        SettlementOutcome::Failed => "failed",
        SettlementOutcome::Reversed => "was refunded or charged back",
        SettlementOutcome::Refunded => "was refunded in part",
        SettlementOutcome::Pending => "has not arrived yet; a report of its refund or reinstatement was kept",
        SettlementOutcome::Reinstated => {
            "is no longer refunded: if the refund revoked certificates, a reissue makes them live again"
        }
    };
    let refunded = body.refunded.filter(|sum| sum.amount_minor.get() > 0);
    let refunded = refunded.map(|sum| format!(" {sum} of it is refunded.")).unwrap_or_default();
    let grants = match body.grants.map(|grants| grants.get()) {
        Some(1) => " Each certificate grants 1 license.".to_owned(),
        Some(grants) => format!(" Each certificate grants {grants} licenses."),
        None => String::new(),
    };
    format!("Payment {} {what}.{refunded}{grants}", body.settlement)
}

fn returned(body: &LicenseReturned) -> String {
    let privilege = &body.privilege;
    let received = match (privilege.kind, privilege.points, privilege.certificate, privilege.amount) {
        (Privilege::Points, Some(points), _, _) => format!("{points} points"),
        (Privilege::Upgrade, _, Some(certificate), _) => format!("certificate {certificate} for the successor"),
        (Privilege::Buyback, _, _, Some(amount)) => format!("a buy-back for {amount}"),
        (kind, ..) => wish(kind).to_owned(),
    };
    let title = body.attributes.title.as_str();
    format!("{} returned license {} ({title:?}) and received {received}.", body.user, body.license)
}

fn points(body: &PointsChanged) -> String {
    match body.delta {
        0 => format!("The points of {} remained at {}.", body.user, body.balance),
        delta @ 1.. => format!("The points of {} increased by {delta} to {}.", body.user, body.balance),
        delta => format!("The points of {} decreased by {} to {}.", body.user, delta.unsigned_abs(), body.balance),
    }
}

/// Describes how a certificate ended. The text follows a colon.
pub(super) fn ending(ending: Ending) -> &'static str {
    match ending {
        Ending::Exhausted => "all its grants are used",
        Ending::Lapsed => "its receipt was not acknowledged in time",
        Ending::Expired => "it expired",
        Ending::Declined => "its payment was declined",
        Ending::Reversed => "its payment was refunded or charged back",
    }
}

fn wish(privilege: Privilege) -> &'static str {
    match privilege {
        Privilege::Points => "points",
        Privilege::Upgrade => "an upgrade",
        Privilege::Buyback => "a buy-back",
        Privilege::Collection => "a collection record",
    }
}

fn more_licenses(count: i64) -> String {
    match count {
        0 => "no more licenses".to_owned(),
        1 => "1 more license".to_owned(),
        count => format!("{count} more licenses"),
    }
}

#[cfg(test)]
mod tests {
    use licet_schema::{
        Count, ExternalId, Money, Name, Text, Timestamp, Version,
        message::{CertificateRetired, ContentStatus, IssuedCertificate, LicenseAttributes, PrivilegeGranted},
        money::Currency,
        vocabulary::Grants,
    };
    use uuid::Uuid;

    use super::*;

    fn money(amount_minor: i64) -> Money {
        Money::new(amount_minor, Currency::try_from("USD").expect("a code")).expect("an amount")
    }

    fn count(number: i64) -> Count {
        Count::try_from(number).expect("a count")
    }

    fn name(text: &str) -> Name {
        Name::try_from(text).expect("a name")
    }

    fn issued(certificates: usize, container: Option<Uuid>, points: i64) -> String {
        let certificate =
            |index: usize| IssuedCertificate { certificate: Uuid::from_u128(index as u128), certificate_token: None };
        sentence(&Output::CertificateIssued(CertificateIssued {
            certificates: (1..=certificates).map(certificate).collect(),
            container,
            container_token: None,
            amount: money(1287),
            points_held: count(points),
            receipt_due_at: Timestamp::from_millis(0),
            expires_at: Timestamp::from_millis(0),
            reference: None,
        }))
    }

    fn returned(privilege: PrivilegeGranted) -> String {
        sentence(&Output::LicenseReturned(LicenseReturned {
            license_return: Uuid::from_u128(1),
            license: Uuid::from_u128(2),
            user: name("ada"),
            content: name("album"),
            version: Version::try_from(1i64).expect("a version"),
            attributes: LicenseAttributes {
                title: Text::try_from("An album").expect("a text"),
                purchased_at: Timestamp::from_millis(0),
                amount: money(1500),
                granted_at: None,
                state: Text::try_from("returned").expect("a text"),
            },
            privilege,
            content_status: ContentStatus::Deleted,
            repeated: false,
        }))
    }

    #[test]
    fn the_sentence_about_a_purchase_names_the_amount_and_the_points() {
        let alone = format!("Certificate {} was issued for 12.87 USD.", Uuid::from_u128(1));
        assert_eq!(issued(1, None, 0), alone);
        let container = Uuid::from_u128(9);
        let together = format!(
            "2 certificates were issued in container {container} for 12.87 USD. 150 points were reserved for it."
        );
        assert_eq!(issued(2, Some(container), 150), together);
    }

    #[test]
    fn the_sentence_about_a_return_names_the_user_the_title_and_the_privilege() {
        let none = || PrivilegeGranted {
            kind: Privilege::Collection,
            points: None,
            certificate: None,
            certificate_token: None,
            amount: None,
        };
        let license = Uuid::from_u128(2);
        let (kind, points) = (Privilege::Points, Some(count(150)));
        for (privilege, received) in [
            (PrivilegeGranted { kind, points, ..none() }, "150 points".to_owned()),
            (
                PrivilegeGranted { kind: Privilege::Upgrade, certificate: Some(license), ..none() },
                format!("certificate {license} for the successor"),
            ),
            (
                PrivilegeGranted { kind: Privilege::Buyback, amount: Some(money(750)), ..none() },
                "a buy-back for 7.50 USD".to_owned(),
            ),
            (none(), "a collection record".to_owned()),
        ] {
            let expected = format!("ada returned license {license} (\"An album\") and received {received}.");
            assert_eq!(returned(privilege), expected);
        }
    }

    #[test]
    fn the_sentences_about_payments_and_endings_name_the_outcome() {
        let payment = |outcome, grants| {
            sentence(&Output::SettlementRegistered(SettlementRegistered {
                certificate: Some(Uuid::from_u128(1)),
                container: None,
                settlement: ExternalId::try_from("pay-1").expect("an id"),
                outcome,
                grants,
                refunded: None,
                repeated: false,
                reference: None,
            }))
        };
        let three = Some(Grants::try_from(3i64).expect("three"));
        let received = "Payment pay-1 was received. Each certificate grants 3 licenses.";
        assert_eq!(payment(SettlementOutcome::Completed, three), received);
        assert_eq!(payment(SettlementOutcome::Failed, None), "Payment pay-1 failed.");
        assert_eq!(payment(SettlementOutcome::Reversed, None), "Payment pay-1 was refunded or charged back.");
        let certificate = Uuid::from_u128(1);
        for reason in Ending::ALL {
            let ended = sentence(&Output::CertificateRetired(CertificateRetired { certificate, reason }));
            assert_eq!(ended, format!("Certificate {certificate} ended: {}.", ending(reason)));
        }
    }

    #[test]
    fn the_sentence_about_points_names_the_direction_and_the_new_balance() {
        let changed = |delta, balance| {
            let (user, balance, cause) = (name("ada"), count(balance), Uuid::nil());
            sentence(&Output::PointsChanged(PointsChanged { user, delta, balance, cause }))
        };
        assert_eq!(changed(150, 200), "The points of ada increased by 150 to 200.");
        assert_eq!(changed(-150, 50), "The points of ada decreased by 150 to 50.");
        assert_eq!(changed(0, 50), "The points of ada remained at 50.");
    }
}
