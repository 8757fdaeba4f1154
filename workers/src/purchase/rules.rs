//! Rules of `purchase.request` and `certificate.check`.

use licet_common::{
    decision::{Context, Decision, RuleError},
    rows::Defect,
    signing::Signed,
};
use licet_schema::{
    Code, Count, ExternalId, Money, Name, Output, Refusal, Timestamp,
    entity::{Digest, certificate, content, pending_reception, reference},
    message::{CertificateChecked, CertificateIssued, IssuedCertificate, Item, PurchaseRequest},
    money::Currency,
    token::{CertificateClaims, ContainerClaims},
    vocabulary::INTEGER_MAX,
};
use uuid::Uuid;

use crate::domain::{
    Tables,
    certificates::{Subject, ended_unpaid, first, record},
    count,
    effects::Effects,
    points,
    refusals::refuse,
    token_check::PurchaseToken,
};

/// Checks whether the token of a certificate or container has a valid signature.
pub(super) fn check(context: &Context<'_>, token: Option<&PurchaseToken>) -> Decision {
    let verified = token.filter(|token| token.verify(context.keyring, None).is_ok());
    let (certificates, container) = match token {
        Some(token) => token.unverified_certificates(),
        None => (Vec::new(), None),
    };
    let checked = CertificateChecked { altered: verified.is_none(), certificates, container };
    let decision = Decision::new(Output::CertificateChecked(checked));
    match verified {
        Some(token) => decision.about(token.unverified_subject().id()),
        None => decision,
    }
}

/// Issues a certificate for each item, and a container if there are several items.
pub(super) fn purchase(
    context: &Context<'_>,
    tables: &mut Tables,
    request: &PurchaseRequest,
) -> Result<Decision, RuleError> {
    let contents = request.items.iter().map(|item| sold(tables, item)).collect::<Result<Vec<_>, _>>()?;
    let order = Order::new(context, request, contents)?;
    let key = request.reference.clone().filter(|_| context.terms.unique_reference);
    let key = key.map(|reference| (reference, context.sender.unwrap_or_default().to_owned()));
    if let Some(key) = &key
        && let Some(first) = bought_before(context, tables, key)?
    {
        return Ok(reference_used(first, &key.0));
    }
    let held = held_points(context, tables, request, &order)?;

    let certificates = order.certificates(context, held)?;
    let container = order.container(context, &certificates)?;
    let alone = first(&certificates, context.message_id)?;
    let subject = order.container.unwrap_or(alone.row.id);
    if let Some(key) = &key
        && tables.bought_with(&key.0, &key.1)?.iter().any(|row| row.purchase == subject)
    {
        // This message was decided before. Writing the journal row of this decision fails, and the
        // runtime then finds the recorded answer.
        return Ok(reference_used(Subject::of(alone.row.id, order.container), &key.0));
    }
    let sent = container.as_ref().unwrap_or(&alone.signed);
    tables.pending_receptions.insert(pending_reception::Model {
        id: subject,
        container: order.container.is_some(),
        user: request.user.clone(),
        token_digest: Some(Digest(sent.digest)),
        due_at: Some(order.receipt_due_at),
    })?;
    let issued = certificates
        .iter()
        .map(|one| IssuedCertificate { certificate: one.row.id, certificate_token: Some(one.signed.token.clone()) });
    let reply = Output::CertificateIssued(CertificateIssued {
        certificates: issued.collect(),
        container: order.container,
        container_token: container.map(|signed| signed.token),
        amount: Money { amount_minor: order.amount_minor, currency: order.currency },
        points_held: held,
        receipt_due_at: order.receipt_due_at,
        expires_at: order.expires_at,
        reference: request.reference.clone(),
    });
    for Issued { row, .. } in certificates {
        tables.records.insert(record(&row))?;
        tables.certificates.insert(row)?;
    }
    if let Some((reference, sender)) = key {
        let earlier = i64::try_from(tables.bought_with(&reference, &sender)?.len()).unwrap_or(i64::MAX);
        let earlier = count(earlier, "a count is at most 2^53-1", context)?;
        let container = order.container.is_some();
        tables.references.insert(reference::Model { reference, sender, earlier, purchase: subject, container })?;
    }
    let mut effects = Effects::default();
    points::hold(context, tables, effects.points(), &request.user, held.get())?;
    Ok(effects.into(context, tables, Decision::new(reply).about(subject))?)
}

/// The content of an item: the version that the item names, or the highest version.
fn sold(tables: &Tables, item: &Item) -> Result<content::Model, RuleError> {
    let named = |row: &&content::Model| item.version.is_none_or(|version| version == row.version);
    let found = tables.sold(&item.content)?.into_iter().filter(named).max_by_key(|row| row.version);
    match found {
        Some(content) => Ok(content.clone()),
        None => {
            let version = item.version.map(|version| format!(" in version {version}")).unwrap_or_default();
            refuse(Code::UnknownContent, format!("{:?} is not sold here{version}", item.content.as_str()))
        }
    }
}

/// The earliest purchase that prevents the sender from using this reference again, if there is one:
/// a purchase that did not end unpaid. There can be several, because a late payment makes a
/// purchase that ended unpaid live again, even if its reference has been used again.
fn bought_before(
    context: &Context<'_>,
    tables: &mut Tables,
    key: &(ExternalId, String),
) -> Result<Option<Subject>, Defect> {
    let earlier: Vec<_> = tables.bought_with(&key.0, &key.1)?.into_iter().map(Subject::of_row).collect();
    for one in earlier {
        // A purchase of this batch cannot have ended, and `load` did not request its rows.
        let is_new = tables.pending_receptions.added_row(&one.id()).is_some();
        if is_new || !ended_unpaid(tables, one, context.now)? {
            return Ok(Some(one));
        }
    }
    Ok(None)
}

/// The refusal of a purchase whose reference the sender used before.
fn reference_used(first: Subject, reference: &ExternalId) -> Decision {
    let kind = if first.container().is_some() { "container" } else { "certificate" };
    let detail = format!(
        "{kind} {} was already bought with the reference {:?}: send status.query for it, or use a new reference for \
         another purchase",
        first.id(),
        reference.as_str()
    );
    Decision::refused(&Refusal::new(Code::ReferenceUsed, detail), "purchase.request").about(first.id())
}

/// The number of points to hold: the number that was offered, but at most the price.
fn held_points(
    context: &Context<'_>,
    tables: &Tables,
    request: &PurchaseRequest,
    order: &Order<'_>,
) -> Result<Count, RuleError> {
    let Some(offered) = request.points.filter(|points| points.get() > 0) else { return Ok(Count::ZERO) };
    if order.currency != context.terms.points_currency {
        let detail = format!("points can pay only for contents in {}", context.terms.points_currency);
        return refuse(Code::InsufficientPoints, detail);
    }
    let held = offered.min(order.amount_minor);
    let balance = points::balance(tables, &request.user)?;
    if balance < held.get() {
        return refuse(Code::InsufficientPoints, format!("{held} points are needed, but the user has {balance}"));
    }
    Ok(held)
}

/// A certificate and its token.
struct Issued {
    row: certificate::Model,
    signed: Signed,
}

/// A purchase with its prices and deadlines, before its certificates are created.
struct Order<'a> {
    user: &'a Name,
    contents: Vec<content::Model>,
    reference: Option<ExternalId>,
    container: Option<Uuid>,
    amount_minor: Count,
    currency: Currency,
    /// Not later than `expires_at`.
    receipt_due_at: Timestamp,
    /// The earliest expiry of the certificates.
    expires_at: Timestamp,
}

impl<'a> Order<'a> {
    fn new(
        context: &Context<'_>,
        request: &'a PurchaseRequest,
        contents: Vec<content::Model>,
    ) -> Result<Self, RuleError> {
        let currency = first(&contents, context.message_id)?.currency;
        if contents.iter().any(|content| content.currency != currency) {
            let detail = "the items are sold in several currencies: send a separate purchase.request for each currency";
            return refuse(Code::Malformed, detail);
        }
        let amount: i64 = contents.iter().map(|content| content.price_minor.get()).sum();
        if amount > INTEGER_MAX {
            let detail = "the sum of the prices exceeds the maximum amount: buy fewer items at once";
            return refuse(Code::Malformed, detail);
        }
        let receipts = contents.iter().map(|content| content.receipt_ttl_s.unwrap_or(context.terms.receipt_ttl));
        let expiries = contents.iter().map(|content| content.certificate_ttl_s);
        let none = || Defect::violated("a purchase has at least one certificate", context.message_id);
        let expires_at = context.now.plus(expiries.min().ok_or_else(none)?);
        let receipt_due_at = context.now.plus(receipts.min().ok_or_else(none)?).min(expires_at);
        Ok(Self {
            user: &request.user,
            reference: request.reference.clone(),
            container: (contents.len() > 1).then(|| context.id("container", 0)),
            amount_minor: count(amount, "prices are never negative", context)?,
            currency,
            receipt_due_at,
            expires_at,
            contents,
        })
    }

    /// Issues the certificates in the order of the items. Points pay for the items in the same
    /// order.
    fn certificates(&self, context: &Context<'_>, points: Count) -> Result<Vec<Issued>, Defect> {
        let mut left = points;
        let issue = |(index, content): (usize, &content::Model)| {
            let covered = left.min(content.price_minor);
            left = left
                .checked_sub(covered)
                .ok_or_else(|| Defect::violated("points pay at most the price", context.message_id))?;
            self.issue(context, context.id("certificate", index), content, covered)
        };
        self.contents.iter().enumerate().map(issue).collect()
    }

    fn issue(
        &self,
        context: &Context<'_>,
        id: Uuid,
        content: &content::Model,
        points: Count,
    ) -> Result<Issued, Defect> {
        let expires_at = context.now.plus(content.certificate_ttl_s);
        let signed = context.sign(&CertificateClaims {
            iss: context.terms.issuer.clone(),
            jti: id,
            sub: self.user.clone(),
            content: content.content.clone(),
            version: content.version,
            generation: 1,
            iat: context.now.as_seconds(),
            exp: expires_at.as_seconds(),
            container: self.container,
        })?;
        let row = certificate::Model {
            id,
            container: self.container,
            user: self.user.clone(),
            content: content.content.clone(),
            version: content.version,
            revision: content.revision,
            amount_minor: content.price_minor,
            currency: content.currency,
            points,
            reference: self.reference.clone(),
            generation: Count::ONE,
            token_digest: Digest(signed.digest),
            issued_at: context.now,
            receipt_due_at: self.receipt_due_at,
            expires_at,
            received_at: None,
            settlement: None,
            provider: None,
            settled_at: None,
            grants: content.grants.into(),
            granted: Count::ZERO,
            outstanding: Count::ZERO,
        };
        Ok(Issued { row, signed })
    }

    fn container(&self, context: &Context<'_>, certificates: &[Issued]) -> Result<Option<Signed>, Defect> {
        let Some(container) = self.container else { return Ok(None) };
        let claims = ContainerClaims {
            iss: context.terms.issuer.clone(),
            jti: container,
            sub: self.user.clone(),
            certificates: certificates.iter().map(|one| one.row.id).collect(),
            iat: context.now.as_seconds(),
            exp: self.expires_at.as_seconds(),
        };
        context.sign(&claims).map(Some)
    }
}
