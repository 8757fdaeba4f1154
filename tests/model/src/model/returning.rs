//! Licenses given back, and the privileges they bring.

use std::rc::Rc;

use licet_schema::{
    Code, Output,
    message::{
        ContentDeleted, ContentPut, ContentStatus, LicenseDeletion, LicenseReturn, LicenseReturned, PayoutInstructed,
        Privilege, PrivilegeGranted, ReturnOpened, SettlementOutcome,
    },
};
use uuid::Uuid;

use super::{
    Certificate, DAY_MS, LICET, License, LicenseState, Model, Purchase, Return, ReturnState, Settlement, money, time,
};

impl Model {
    pub(super) fn give_back(&mut self, body: &LicenseReturn) -> Result<Output, Code> {
        let id = self.license_shown(&body.license_token)?;
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
            self.lapse(open);
        }
        let made = self.made.license_return;
        let (state, delete_by) = (ReturnState::Opened, self.now + DAY_MS);
        let one = Return { license: id, privilege: body.privilege, state, delete_by, brought: None };
        let known = self.returns.insert(made, one);
        assert!(made.is_nil() || known.is_none(), "the return id {made} was made twice");
        self.license_mut(id).state = LicenseState::Returning;
        Ok(match body.deleted {
            true => self.bring(made),
            false => Output::ReturnOpened(self.told(made, "returning", ContentStatus::Returning)),
        })
    }

    pub(super) fn delete(&mut self, body: &LicenseDeletion) -> Result<Output, Code> {
        let one = self.returns.get(&body.license_return).ok_or(Code::UnknownReturn)?;
        let license = &self.licenses[&one.license];
        if one.state == ReturnState::Completed {
            return Ok(self.returned(body.license_return, true));
        }
        match license.state {
            LicenseState::Revoked => return Err(Code::Superseded),
            LicenseState::Returned => return Err(Code::AlreadyReturned),
            LicenseState::Outstanding | LicenseState::Granted | LicenseState::Returning => {}
        }
        if one.state == ReturnState::Lapsed || self.now > one.delete_by {
            return Err(Code::Lapsed);
        }
        if !self.offers(license).contains(&one.privilege) {
            return Err(Code::NotReturnable);
        }
        Ok(self.bring(body.license_return))
    }

    /// What the terms under which it was bought offer for a license now.
    pub(in crate::histories) fn offers(&self, license: &License) -> Vec<Privilege> {
        let terms = &self.certificates[&license.certificate].terms;
        let policy = &terms.return_policy;
        let offered = [
            (Privilege::Points, policy.points.is_some()),
            (Privilege::Upgrade, policy.upgrade == Some(true) && self.successor(terms).is_some()),
            (Privilege::Buyback, policy.buyback.is_some()),
            (Privilege::Collection, policy.collection == Some(true)),
        ];
        offered.into_iter().filter(|(_, offered)| *offered).map(|(privilege, _)| privilege).collect()
    }

    fn successor(&self, terms: &ContentPut) -> Option<Rc<ContentPut>> {
        let next = terms.successor.as_ref()?;
        self.sold.get(&(next.content.clone(), next.version)).cloned()
    }

    pub(super) fn open_return(&self, license: Uuid) -> Option<Uuid> {
        let open = |one: &Return| one.license == license && one.state == ReturnState::Opened;
        self.returns.iter().find(|(_, one)| open(one)).map(|(id, _)| *id)
    }

    pub(super) fn return_overdue(&self, license: Uuid) -> bool {
        self.open_return(license).is_some_and(|id| self.now > self.returns[&id].delete_by)
    }

    /// The deadline passed: the license is live again.
    pub(super) fn lapse(&mut self, id: Uuid) {
        let one = self.returns.get_mut(&id).expect("the return is known");
        one.state = ReturnState::Lapsed;
        let license = one.license;
        self.license_mut(license).state = LicenseState::Granted;
        let told = self.told(id, "granted", ContentStatus::Live);
        self.events.push(Output::ReturnLapsed(told));
    }

    /// The license goes, the privilege comes.
    fn bring(&mut self, id: Uuid) -> Output {
        let Return { license, privilege, .. } = self.returns[&id].clone();
        self.license_mut(license).state = LicenseState::Returned;
        let certificate = self.licenses[&license].certificate;
        let terms = Rc::clone(&self.certificates[&certificate].terms);
        let user = self.purchase_of(certificate).user.clone();
        let mut brought = PrivilegeGranted {
            kind: privilege,
            points: None,
            certificate: None,
            certificate_token: None,
            amount: None,
        };
        match privilege {
            Privilege::Points => {
                brought.points = terms.return_policy.points;
                self.credit("licet:issued", &user, brought.points.map_or(0, |points| points.get()));
            }
            Privilege::Upgrade => {
                let (id, token) = self.upgrade(certificate);
                (brought.certificate, brought.certificate_token) = (Some(id), Some(token));
            }
            Privilege::Buyback => brought.amount = terms.return_policy.buyback,
            Privilege::Collection => {}
        }
        if let Some(amount) = brought.amount {
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
        (one.state, one.brought) = (ReturnState::Completed, Some(brought));
        self.returned(id, false)
    }

    /// A certificate for the successor, with what the old one still permitted.
    fn upgrade(&mut self, old: Uuid) -> (Uuid, String) {
        let terms = self.successor(&self.certificates[&old].terms).expect("it was on offer");
        let carried = if self.over(old).is_none() { self.remaining(old) } else { 0 };
        if self.over(old).is_none() {
            self.certificate(old).grants -= carried;
            self.end_if_used_up(old);
        }
        let (id, token) = self.made.certificate(0);
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
        };
        self.add_certificate(id, one, token.clone(), None);
        self.purchases.insert(id, bought);
        let outcome = SettlementOutcome::Completed;
        self.settlements
            .insert(key, Settlement { named: (Some(id), None), outcome, amount: Some(price), grants: None });
        (id, token)
    }

    fn license_mut(&mut self, id: Uuid) -> &mut License {
        self.licenses.get_mut(&id).expect("the license is known")
    }

    fn told(&self, id: Uuid, state: &str, content_status: ContentStatus) -> ReturnOpened {
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

    /// The completed return. Told again, it is without its token.
    fn returned(&self, id: Uuid, repeated: bool) -> Output {
        let one = &self.returns[&id];
        let license = &self.licenses[&one.license];
        let terms = &self.certificates[&license.certificate].terms;
        let mut privilege = one.brought.clone().expect("a completed return brought something");
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
