//! What the terminal's commands tell: sentences for people, one JSON object for programs.

use std::{collections::BTreeMap, process::ExitCode};

use licet_client::{
    schema::message::Instruction,
    terminal::{
        Bought, Certificate, Fetched, License, Outcome, Resumed, Return, Standing, Store, StoreError, TerminalError,
    },
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::report;

/// What is told at the end of a command.
#[derive(Default)]
pub(super) struct Told {
    sentences: Vec<String>,
    failures: Vec<String>,
    lists: BTreeMap<&'static str, Vec<Value>>,
    /// What an earlier command had begun.
    resumed: Option<Value>,
    /// Something is still to come, or was not to be had.
    wanting: bool,
}

impl Told {
    /// What is in the folder.
    pub(super) fn holdings(store: &Store) -> Result<Self, StoreError> {
        let mut told = Self::default();
        for key in ["certificates", "licenses", "returns"] {
            told.lists.insert(key, Vec::new());
        }
        store.certificates()?.iter().for_each(|one| told.certificate(one));
        store.licenses()?.iter().for_each(|one| told.license(one, store));
        store.returns()?.iter().for_each(|one| told.listed_return(one));
        Ok(told)
    }

    /// Says it.
    pub(super) fn tell(self, as_json: bool) -> ExitCode {
        self.failures.iter().for_each(|failure| eprintln!("licet: {failure}"));
        if as_json {
            let mut object = json!(self.lists);
            if let Some(resumed) = self.resumed {
                object["resumed"] = resumed;
            }
            report::tell(object);
        } else if self.sentences.is_empty() && self.failures.is_empty() {
            report::tell("There is nothing to tell.");
        } else {
            self.sentences.iter().for_each(report::tell);
        }
        if self.wanting { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    /// What came of going on with what an earlier command had begun.
    pub(super) fn resumed(&mut self, all: Vec<Result<Resumed, TerminalError>>) {
        let mut resumed = Self::default();
        for one in all {
            match one {
                Ok(Resumed::Bought(bought)) => resumed.bought(Ok(bought)),
                Ok(Resumed::Fetched { certificate, fetched }) => resumed.fetched(certificate, Ok(fetched)),
                Ok(Resumed::Returned(returned)) => resumed.returned(Ok(*returned)),
                Err(error) => resumed.failed(&error),
            }
        }
        self.sentences.extend(resumed.sentences.iter().map(|sentence| format!("From before: {sentence}")));
        self.failures.extend(resumed.failures.iter().map(|failure| format!("from before: {failure}")));
        self.resumed = (!resumed.lists.is_empty()).then(|| json!(resumed.lists));
        self.wanting |= resumed.wanting;
    }

    pub(super) fn bought(&mut self, bought: Result<Bought, TerminalError>) {
        let bought = match bought {
            Ok(bought) => bought,
            Err(error) => return self.failed(&error),
        };
        let ids: Vec<_> = bought.certificates.iter().map(Uuid::to_string).collect();
        let which = if ids.len() == 1 { "The certificate" } else { "The certificates" };
        let payment = match bought.settlement {
            Instruction::Instructed => format!("charged: {}", bought.amount),
            Instruction::NotNeeded => "nothing is left to pay".to_owned(),
        };
        let sentence = format!("{which} {}: held here and acknowledged; {payment}.", ids.join(", "));
        self.add("bought", json!(bought), sentence);
    }

    pub(super) fn fetched(&mut self, certificate: Uuid, fetched: Result<Fetched, TerminalError>) {
        let sentence = match &fetched {
            Ok(Fetched::Here { license, content: Some(path) }) => {
                format!("The license {license} is here, and its content is {}.", path.display())
            }
            Ok(Fetched::Here { license, content: None }) => format!("The license {license} is here."),
            Ok(Fetched::NotPaid) => format!("The certificate {certificate} is not paid for yet: run this again."),
            Ok(Fetched::Ended(code)) => format!("The certificate {certificate} brings no more licenses: {code}."),
            Err(error) => return self.failed(error),
        };
        self.wanting |= !matches!(fetched, Ok(Fetched::Here { .. }));
        self.add("fetched", json!({"certificate": certificate, "outcome": fetched.ok()}), sentence);
    }

    pub(super) fn returned(&mut self, returned: Result<Return, TerminalError>) {
        let returned = match returned {
            Ok(returned) => returned,
            Err(error) => return self.failed(&error),
        };
        self.wanting |= !matches!(returned.outcome, Some(Outcome::Returned(_)));
        let sentence = format!("The license {} {}.", returned.license, outcome(&returned));
        self.add("returned", json!(returned), sentence);
    }

    /// Whether something did not come about.
    pub(super) fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    fn failed(&mut self, error: &TerminalError) {
        self.wanting = true;
        self.failures.push(error.to_string());
        self.lists.entry("failed").or_default().push(error.to_string().into());
    }

    fn add(&mut self, key: &'static str, value: Value, sentence: String) {
        self.sentences.push(sentence);
        self.lists.entry(key).or_default().push(value);
    }

    fn certificate(&mut self, one: &Certificate) {
        let claims = &one.claims;
        let standing = match one.standing {
            Standing::Arrived => "to be acknowledged".to_owned(),
            Standing::Received => "acknowledged".to_owned(),
            Standing::Ended(code) => format!("ended: {code}"),
        };
        let sentence =
            format!("certificate {}  {}@{}  {}  {standing}", claims.jti, claims.content, claims.version, claims.sub);
        self.add("certificates", json!({"claims": claims, "standing": one.standing}), sentence);
    }

    fn license(&mut self, one: &License, store: &Store) {
        let (claims, content) = (&one.claims, store.content(one.claims.jti));
        let standing = if one.received { "acknowledged" } else { "to be acknowledged" };
        let path = content.as_ref().map(|path| format!("  {}", path.display())).unwrap_or_default();
        let what = format!("{}  {}@{}  {}", claims.jti, claims.content, claims.version, claims.sub);
        let value = json!({"claims": claims, "received": one.received, "media": one.media, "content": content});
        self.add("licenses", value, format!("license     {what}  {standing}{path}"));
    }

    fn listed_return(&mut self, one: &Return) {
        let what = format!("{}  {}@{}  {}", one.license, one.content, one.version, one.user);
        self.add("returns", json!(one), format!("license     {what}  {}", outcome(one)));
    }
}

/// What became of a license that was given back.
fn outcome(returned: &Return) -> String {
    match &returned.outcome {
        None => format!("is being returned, to be deleted by {}", returned.delete_by),
        Some(Outcome::Refused(code)) => format!("was not taken back ({code}): if its copy is gone, ask for a reissue"),
        Some(Outcome::Returned(brought)) => match (brought.points, brought.certificate, brought.amount) {
            (Some(points), _, _) => format!("went back for {points} points"),
            (_, Some(certificate), _) => format!("went back for the certificate {certificate}"),
            (_, _, Some(amount)) => format!("went back for {amount}"),
            _ => "went back and is on record".to_owned(),
        },
    }
}
