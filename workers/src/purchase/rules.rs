//! What a purchase makes.

use licet_common::{
    decision::{Context, Decision, Tables},
    signing::{CertificateClaims, ContainerClaims, Draft, Signed},
};
use licet_schema::{
    Code, Name, Output, Refusal, Timestamp, Version,
    entity::{certificate, content, pending_reception, purchase},
    message::{CertificateChecked, CertificateIssued, IssuedCertificate, Item, PurchaseRequest},
    vocabulary::INTEGER_MAX,
};
use uuid::Uuid;

use crate::{
    effects::Effects,
    points,
    presented::PresentedCertificate,
    values::{count, money, name, version},
};

/// Whether a certificate or container is what was signed.
pub(super) fn inspect(context: &Context<'_>, presented: Option<&PresentedCertificate>) -> Decision {
    let altered = presented.is_none_or(|presented| presented.verify(context.keyring, None).is_err());
    let (certificates, container) = presented.map(PresentedCertificate::unverified_certificates).unwrap_or_default();
    let decision = Decision::new(Output::CertificateChecked(CertificateChecked { altered, certificates, container }));
    match presented {
        Some(presented) if !altered => decision.about(presented.unverified_subject().id()),
        _ => decision,
    }
}

/// Issues a certificate for each item, and a container for several.
pub(super) fn purchase(
    context: &Context<'_>,
    tables: &mut Tables,
    request: &PurchaseRequest,
) -> Result<Decision, Refusal> {
    let contents = request.items.iter().map(|item| sold(tables, item)).collect::<Result<Vec<_>, _>>()?;
    let order = Order::new(context, request, contents)?;
    let held = held_points(context, tables, request, &order)?;

    let (certificates, tokens) = order.certificates(context, held);
    let container = order.container(context, &certificates);
    let subject = order.subject(&certificates);
    let digest = container.as_ref().or(tokens.first()).map(|signed| signed.digest);
    tables.pending_receptions.add(pending_reception::Model {
        id: subject,
        container: container.is_some(),
        user: request.user.to_string(),
        token_digest: digest.unwrap_or_default().to_vec(),
        due_at: Some(order.receipt_due_at.as_millis()),
    });
    let reply = Output::CertificateIssued(CertificateIssued {
        certificates: certificates
            .iter()
            .zip(tokens)
            .map(|(row, signed)| IssuedCertificate { certificate: row.id, certificate_token: Some(signed.token) })
            .collect(),
        container: container.is_some().then_some(subject),
        container_token: container.map(|signed| signed.token),
        amount: money(order.amount_minor, &order.currency),
        points_held: count(held),
        receipt_due_at: order.receipt_due_at,
        expires_at: order.expires_at,
        reference: request.reference.clone(),
    });
    for row in certificates {
        tables.purchases.add(permanent(&row));
        tables.certificates.add(row);
    }
    let mut effects = Effects::default();
    points::hold(context, tables, effects.points(), request.user.as_str(), held);
    Ok(effects.into(context, tables, Decision::new(reply).about(subject)))
}

/// What is sold under an item's name: the version it names, or the highest.
fn sold(tables: &Tables, item: &Item) -> Result<content::Model, Refusal> {
    let named = |row: &&content::Model| {
        row.current
            && row.content == item.content.as_str()
            && item.version.is_none_or(|version| version.get() == row.version)
    };
    let found = tables.contents.iter().filter(named).max_by_key(|row| row.version);
    found.cloned().ok_or_else(|| {
        let version = item.version.map(|version| format!(" in version {version}")).unwrap_or_default();
        Refusal::new(Code::UnknownContent, format!("{:?} is not sold here{version}", item.content.as_str()))
    })
}

/// How many points are held: as many as were offered, and no more than the price.
fn held_points(
    context: &Context<'_>,
    tables: &Tables,
    request: &PurchaseRequest,
    order: &Order<'_>,
) -> Result<i64, Refusal> {
    let offered = request.points.map_or(0, |points| points.get());
    let held = offered.min(order.amount_minor);
    let refused = |detail: String| Err(Refusal::new(Code::InsufficientPoints, detail));
    if offered == 0 {
        return Ok(0);
    }
    if order.currency != context.terms.points_currency.as_str() {
        return refused(format!("points pay for contents in {} alone", context.terms.points_currency));
    }
    let balance = points::balance(tables, request.user.as_str());
    if balance < held {
        return refused(format!("{held} points are needed, and there are {balance}"));
    }
    Ok(held)
}

/// A purchase with its prices and deadlines, before anything is made.
struct Order<'a> {
    user: &'a Name,
    contents: Vec<content::Model>,
    reference: Option<String>,
    container: Option<Uuid>,
    amount_minor: i64,
    currency: String,
    receipt_due_at: Timestamp,
    /// The earliest of its certificates'.
    expires_at: Timestamp,
}

impl<'a> Order<'a> {
    fn new(
        context: &Context<'_>,
        request: &'a PurchaseRequest,
        contents: Vec<content::Model>,
    ) -> Result<Self, Refusal> {
        let malformed = |detail: &str| Refusal::new(Code::Malformed, detail);
        let currency = contents.first().map(|content| content.currency.clone()).unwrap_or_default();
        if contents.iter().any(|content| content.currency != currency) {
            return Err(malformed(
                "the items are sold in several currencies: buy those of each currency by themselves",
            ));
        }
        let amount_minor: i64 = contents.iter().map(|content| content.price_minor).sum();
        if amount_minor > INTEGER_MAX {
            return Err(malformed("the prices add up to more than an amount can be: buy fewer items at once"));
        }
        let earliest = |ttl: fn(&content::Model, i64) -> i64, default: i64| {
            let seconds = contents.iter().map(|content| ttl(content, default)).min().unwrap_or(default);
            Timestamp::from_millis(context.now.as_millis() + seconds * 1000)
        };
        Ok(Self {
            user: &request.user,
            reference: request.reference.as_ref().map(ToString::to_string),
            container: (contents.len() > 1).then(|| context.id("container", 0)),
            amount_minor,
            currency,
            receipt_due_at: earliest(
                |content, default| content.receipt_ttl_s.unwrap_or(default),
                context.terms.receipt_ttl.get(),
            ),
            expires_at: earliest(|content, _| content.certificate_ttl_s, 0),
            contents,
        })
    }

    /// The rows and their tokens, in the order of the items; the points go to the first first.
    fn certificates(&self, context: &Context<'_>, mut points: i64) -> (Vec<certificate::Model>, Vec<Signed>) {
        let row = |(index, content): (usize, &content::Model)| {
            let covered = points.min(content.price_minor);
            points -= covered;
            let mut row = self.row(context, context.id("certificate", index), content, covered);
            let signed = context.sign(Draft::certificate(&claims(context, &row)));
            row.token_digest = signed.digest.to_vec();
            (row, signed)
        };
        self.contents.iter().enumerate().map(row).unzip()
    }

    fn row(&self, context: &Context<'_>, id: Uuid, content: &content::Model, points: i64) -> certificate::Model {
        let now = context.now.as_millis();
        certificate::Model {
            id,
            container: self.container,
            user: self.user.to_string(),
            content: content.content.clone(),
            version: content.version,
            revision: content.revision,
            amount_minor: content.price_minor,
            currency: content.currency.clone(),
            points,
            reference: self.reference.clone(),
            generation: 1,
            token_digest: Vec::new(),
            issued_at: now,
            receipt_due_at: self.receipt_due_at.as_millis(),
            expires_at: now + content.certificate_ttl_s * 1000,
            received_at: None,
            settlement: None,
            provider: None,
            settled_at: None,
            grants: content.grants,
            granted: 0,
            outstanding: 0,
        }
    }

    fn container(&self, context: &Context<'_>, certificates: &[certificate::Model]) -> Option<Signed> {
        let claims = ContainerClaims {
            iss: context.terms.issuer.clone(),
            jti: self.container?,
            sub: self.user.clone(),
            certificates: certificates.iter().map(|row| row.id).collect(),
            iat: context.now.as_seconds(),
            exp: self.expires_at.as_seconds(),
        };
        Some(context.sign(Draft::container(&claims)))
    }

    fn subject(&self, certificates: &[certificate::Model]) -> Uuid {
        self.container.or_else(|| certificates.first().map(|row| row.id)).unwrap_or_default()
    }
}

pub(crate) fn claims(context: &Context<'_>, row: &certificate::Model) -> CertificateClaims {
    let version: Version = version(row.version);
    CertificateClaims {
        iss: context.terms.issuer.clone(),
        jti: row.id,
        sub: name(&row.user),
        content: name(&row.content),
        version,
        generation: row.generation,
        iat: context.now.as_seconds(),
        exp: Timestamp::from_millis(row.expires_at).as_seconds(),
        container: row.container,
    }
}

pub(crate) fn permanent(row: &certificate::Model) -> purchase::Model {
    purchase::Model {
        id: row.id,
        container: row.container,
        user: row.user.clone(),
        content: row.content.clone(),
        version: row.version,
        revision: row.revision,
        amount_minor: row.amount_minor,
        currency: row.currency.clone(),
        points: row.points,
        reference: row.reference.clone(),
        purchased_at: row.issued_at,
        generation: row.generation,
        received_at: None,
        settlement: None,
        provider: None,
        settled_at: None,
        grants: None,
        granted: 0,
        ended: None,
        ended_at: None,
    }
}
