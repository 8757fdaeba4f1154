//! Returns of licenses, and the privileges given for them.

use std::rc::Rc;

use licet_schema::{
    Code, Money, Output,
    message::{
        ContentDeleted, ContentPut, ContentStatus, Ending, LicenseDeletion, LicenseReturn, LicenseReturned,
        PayoutInstructed, Privilege, PrivilegeGranted, ReturnOpened,
    },
};
use uuid::Uuid;

use super::{
    Certificate, DAY_MS, LICET, License, LicenseState, Model, Purchase, Return, ReturnState, Settlement, money, time,
};

impl Model {
    pub(super) fn return_license(&mut self, body: &LicenseReturn) -> Result<Output, Code> {
        let id = self.presented_license(&body.license_token)?;
        let license = self.licenses.get(&id).ok_or(Code::UnknownLicense)?;
        let user = self.purchase_of(license.certificate).user.clone();
        match license.state {
            LicenseState::Returned => return Err(Code::AlreadyReturned),
            LicenseState::Revoked => return Err(Code::Superseded),
            LicenseState::Returning if !self.return_overdue(id) => return Err(Code::AlreadyReturned),
            _ if user != body.user => return Err(Code::NotHolder),
            LicenseState::Outstanding => return Err(Code::NotReceived),
            LicenseState::Granted | LicenseState::Returning => {}
        }
        if !self.offers(license).contains(&body.privilege) {
            return Err(Code::NotReturnable);
        }
        if let Some(open) = self.open_return(id) {
            self.lapse_return(open);
        }
        let new = self.issued.license_return;
        let (state, delete_by) = (ReturnState::Opened, self.now + DAY_MS);
        let one = Return { license: id, privilege: body.privilege, state, delete_by, granted: None };
        let known = self.returns.insert(new, one);
        assert!(new.is_nil() || known.is_none(), "the return id {new} was issued twice");
        self.license_mut(id).state = LicenseState::Returning;
        Ok(match body.deleted {
            true => self.complete_return(new),
            false => Output::ReturnOpened(self.return_opened(new, "returning", ContentStatus::Returning)),
        })
    }

    pub(super) fn confirm_deletion(&mut self, body: &LicenseDeletion) -> Result<Output, Code> {
        let one = self.returns.get(&body.license_return).ok_or(Code::UnknownReturn)?;
        let license = &self.licenses[&one.license];
        if one.state == ReturnState::Completed {
            return Ok(self.license_returned(body.license_return, true));
        }
        match license.state {
            LicenseState::Revoked => return Err(Code::Superseded),
            LicenseState::Returned => return Err(Code::AlreadyReturned),
            LicenseState::Outstanding | LicenseState::Granted | LicenseState::Returning => {}
        }
        if one.state == ReturnState::Lapsed || self.now > one.delete_by {
            return Err(Code::Lapsed);
        }
        // Other open returns do not prevent this one from completing.
        if !self.offered(license, false).contains(&one.privilege) {
            return Err(Code::NotReturnable);
        }
        Ok(self.complete_return(body.license_return))
    }

    /// The privileges that the terms of the purchase offer for a license now.
    pub(crate) fn offers(&self, license: &License) -> Vec<Privilege> {
        self.offered(license, true)
    }

    /// The privileges that are offered, given the completed returns and, if `open` is true, the open
    /// returns.
    fn offered(&self, license: &License, open: bool) -> Vec<Privilege> {
        let terms = &self.certificates[&license.certificate].terms;
        let policy = &terms.return_policy;
        let left = self.left_to_return(license.certificate, open);
        let paid_in = self.certificates[&self.first_certificate(license.certificate)].price.currency;
        let within = |amount: i64| amount == 0 || (amount <= left && paid_in == terms.price.currency);
        let offered = [
            (Privilege::Points, policy.points.is_some_and(|points| within(points.get()))),
            (Privilege::Upgrade, policy.upgrade == Some(true) && self.successor(terms).is_some()),
            (Privilege::Buyback, policy.buyback.is_some_and(|amount| within(amount.amount_minor.get()))),
            (Privilege::Collection, policy.collection == Some(true)),
        ];
        offered.into_iter().filter(|(_, offered)| *offered).map(|(privilege, _)| privilege).collect()
    }

    /// How much more the returns of a certificate may bring. All returns together bring at most its
    /// price. After a refund, the returns of the whole purchase bring at most what is left of the
    /// payment.
    fn left_to_return(&self, certificate: Uuid, open: bool) -> i64 {
        let first = self.first_certificate(certificate);
        let own = self.certificates[&first].price.amount_minor.get() - self.brought(&[first], open);
        let bought = self.purchase_of(first);
        let refunded = bought.settlement.as_ref().and_then(|key| self.settlements[key].refunded_of_payment());
        let Some(refunded) = refunded else { return own };
        let paid = |id: &Uuid| {
            let one = &self.certificates[id];
            one.price.amount_minor.get() - if self.is_reversed(*id) { one.points } else { 0 }
        };
        let paid: i64 = bought.members.iter().map(paid).sum();
        own.min(paid - refunded.amount_minor.get() - self.brought(&bought.members, open))
    }

    /// What the returns of these certificates, and of all upgrades of their licenses, have brought. If
    /// `open` is true, the sum includes what the open returns will bring. Points of a reversed
    /// certificate were taken back and do not count.
    fn brought(&self, certificates: &[Uuid], open: bool) -> i64 {
        let by = |one: &Return| {
            let certificate = self.licenses[&one.license].certificate;
            let first = self.first_certificate(certificate);
            let policy = &self.certificates[&certificate].terms.return_policy;
            let money = |amount: Option<Money>| amount.map(|amount| amount.amount_minor);
            let amounts = match (&one.granted, one.state) {
                _ if !certificates.contains(&first) => [None, None],
                (Some(granted), _) => [granted.points.filter(|_| !self.is_reversed(first)), money(granted.amount)],
                (None, ReturnState::Opened) if open && self.now <= one.delete_by => match one.privilege {
                    Privilege::Points => [policy.points, None],
                    Privilege::Buyback => [None, money(policy.buyback)],
                    Privilege::Upgrade | Privilege::Collection => [None, None],
                },
                (None, _) => [None, None],
            };
            amounts.iter().flatten().map(|amount| amount.get()).sum::<i64>()
        };
        self.returns.values().map(by).sum()
    }

    /// Whether a reversal ended a certificate and was not undone.
    fn is_reversed(&self, certificate: Uuid) -> bool {
        let one = &self.certificates[&certificate];
        one.ended == Some(Ending::Reversed) && !one.reinstated
    }

    /// The certificate that was paid for, if this one is an upgrade, or else itself.
    fn first_certificate(&self, certificate: Uuid) -> Uuid {
        let created = |one: &&Return| one.granted.as_ref().is_some_and(|one| one.certificate == Some(certificate));
        let origin = self.returns.values().find(created).map(|one| self.licenses[&one.license].certificate);
        origin.map_or(certificate, |origin| self.first_certificate(origin))
    }

    fn successor(&self, terms: &ContentPut) -> Option<Rc<ContentPut>> {
        let next = terms.successor.as_ref()?;
        self.contents.get(&(next.content.clone(), next.version)).cloned()
    }

    pub(super) fn open_return(&self, license: Uuid) -> Option<Uuid> {
        let open = |one: &Return| one.license == license && one.state == ReturnState::Opened;
        self.returns.iter().find(|(_, one)| open(one)).map(|(id, _)| *id)
    }

    pub(super) fn return_overdue(&self, license: Uuid) -> bool {
        self.open_return(license).is_some_and(|id| self.now > self.returns[&id].delete_by)
    }

    /// Ends an open return whose deadline has passed. The license is valid again.
    pub(super) fn lapse_return(&mut self, id: Uuid) {
        let one = self.returns.get_mut(&id).expect("the return is known");
        one.state = ReturnState::Lapsed;
        let license = one.license;
        self.license_mut(license).state = LicenseState::Granted;
        let lapsed = self.return_opened(id, "granted", ContentStatus::Live);
        self.events.push(Output::ReturnLapsed(lapsed));
    }

    /// Ends the license and gives the privilege.
    fn complete_return(&mut self, id: Uuid) -> Output {
        let Return { license, privilege, .. } = self.returns[&id].clone();
        self.license_mut(license).state = LicenseState::Returned;
        let certificate = self.licenses[&license].certificate;
        let terms = Rc::clone(&self.certificates[&certificate].terms);
        let user = self.purchase_of(certificate).user.clone();
        let mut granted = PrivilegeGranted {
            kind: privilege,
            points: None,
            certificate: None,
            certificate_token: None,
            amount: None,
        };
        match privilege {
            Privilege::Points => {
                granted.points = terms.return_policy.points;
                self.credit("licet:issued", &user, granted.points.map_or(0, |points| points.get()));
            }
            Privilege::Upgrade => {
                let (id, token) = self.upgrade(certificate);
                (granted.certificate, granted.certificate_token) = (Some(id), Some(token));
            }
            Privilege::Buyback => granted.amount = terms.return_policy.buyback,
            Privilege::Collection => {}
        }
        if let Some(amount) = granted.amount {
            let user = user.clone();
            self.events.push(Output::PayoutInstructed(PayoutInstructed { license_return: id, user, amount }));
        }
        let (content, version) = (terms.content.clone(), terms.version);
        self.events.push(Output::ContentDeleted(ContentDeleted {
            license_return: id,
            license,
            user,
            content,
            version,
        }));
        let one = self.returns.get_mut(&id).expect("the return is known");
        (one.state, one.granted) = (ReturnState::Completed, Some(granted));
        self.license_returned(id, false)
    }

    /// Issues a certificate for the successor, with the licenses that the old certificate still
    /// granted.
    fn upgrade(&mut self, old: Uuid) -> (Uuid, String) {
        let terms = self.successor(&self.certificates[&old].terms).expect("the offer was checked");
        let carried = if self.ending(old).is_none() { self.remaining(old) } else { 0 };
        if self.ending(old).is_none() {
            self.certificate_mut(old).grants -= carried;
            self.end_if_exhausted(old);
        }
        let (id, token) = self.issued.certificate(0);
        let key = (LICET.try_into().expect("a name"), id.to_string().as_str().try_into().expect("visible ASCII"));
        let before = self.purchase_of(old);
        let bought = Purchase {
            user: before.user.clone(),
            members: vec![id],
            container: false,
            reference: before.reference.clone(),
            bought_at: self.now,
            receipt_due_at: self.now,
            settlement: Some(key.clone()),
        };
        let price = money(0, terms.price.currency);
        let expires_at = self.now + terms.certificate_ttl_s.get() * 1000;
        let one = Certificate {
            purchase: id,
            terms,
            price,
            points: 0,
            generation: 1,
            expires_at,
            received: true,
            grants: 1 + carried,
            ended: None,
            reinstated: false,
        };
        self.add_certificate(id, one, token.clone(), None);
        self.purchases.insert(id, bought);
        self.settlements.insert(key, Settlement::free((Some(id), None), price));
        (id, token)
    }

    fn license_mut(&mut self, id: Uuid) -> &mut License {
        self.licenses.get_mut(&id).expect("the license is known")
    }

    fn return_opened(&self, id: Uuid, state: &str, content_status: ContentStatus) -> ReturnOpened {
        let one = &self.returns[&id];
        let terms = &self.certificates[&self.licenses[&one.license].certificate].terms;
        ReturnOpened {
            license_return: id,
            license: one.license,
            content: terms.content.clone(),
            version: terms.version,
            attributes: self.attributes(&self.licenses[&one.license], state),
            privilege: one.privilege,
            delete_by: time(one.delete_by),
            content_status,
        }
    }

    /// A completed return. A repeated reply has no token.
    fn license_returned(&self, id: Uuid, repeated: bool) -> Output {
        let one = &self.returns[&id];
        let license = &self.licenses[&one.license];
        let terms = &self.certificates[&license.certificate].terms;
        let mut privilege = one.granted.clone().expect("a completed return has a privilege");
        if repeated {
            privilege.certificate_token = None;
        }
        Output::LicenseReturned(LicenseReturned {
            license_return: id,
            license: one.license,
            user: self.purchase_of(license.certificate).user.clone(),
            content: terms.content.clone(),
            version: terms.version,
            attributes: self.attributes(license, "returned"),
            privilege,
            content_status: ContentStatus::Deleted,
            repeated,
        })
    }
}
