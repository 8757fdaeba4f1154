//! The results of the terminal's commands: sentences for people, or one JSON object for programs.

use std::{collections::BTreeMap, process::ExitCode};

use licet_client::{
    schema::{message::Instruction, vocabulary::escaped},
    terminal::{
        Bought, Certificate, Fetched, License, Outcome, Resumed, Return, Standing, Store, StoreError, TerminalError,
    },
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::report::print;

/// The results of one command.
#[derive(Default)]
pub(super) struct Report {
    sentences: Vec<String>,
    failures: Vec<String>,
    lists: BTreeMap<&'static str, Vec<Value>>,
    /// The results of operations that an earlier command started.
    resumed: Option<Value>,
    /// Whether something failed or is not available yet. The exit code is then 1.
    incomplete: bool,
}

impl Report {
    /// A list of the terminal's folder.
    pub(super) fn of_store(store: &Store) -> Result<Self, StoreError> {
        let mut report = Self::default();
        for key in ["certificates", "licenses", "returns"] {
            report.lists.insert(key, Vec::new());
        }
        store.certificates()?.iter().for_each(|one| report.certificate(one));
        store.licenses()?.iter().for_each(|one| report.license(one, store));
        store.returns()?.iter().for_each(|one| report.listed_return(one));
        Ok(report)
    }

    /// Prints the report. Returns the exit code.
    pub(super) fn print(self, as_json: bool) -> ExitCode {
        self.failures.iter().for_each(|failure| eprintln!("licet: {}", escaped(failure)));
        if as_json {
            let mut object = json!(self.lists);
            if let Some(resumed) = self.resumed {
                object["resumed"] = resumed;
            }
            print(object);
        } else if self.sentences.is_empty() && self.failures.is_empty() {
            print("There is nothing to report.");
        } else {
            self.sentences.iter().for_each(print);
        }
        if self.incomplete { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    /// Adds the results of operations that an earlier command started.
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
        self.sentences.extend(resumed.sentences.iter().map(|sentence| format!("Continued: {sentence}")));
        self.failures.extend(
            resumed
                .failures
                .iter()
                .map(|failure| format!("an operation that an earlier command started failed: {failure}")),
        );
        self.resumed = (!resumed.lists.is_empty()).then(|| json!(resumed.lists));
        self.incomplete |= resumed.incomplete;
    }

    pub(super) fn bought(&mut self, bought: Result<Bought, TerminalError>) {
        let bought = match bought {
            Ok(bought) => bought,
            Err(error) => return self.failed(&error),
        };
        let ids: Vec<_> = bought.certificates.iter().map(Uuid::to_string).collect();
        let which = if ids.len() == 1 { "Certificate" } else { "Certificates" };
        let payment = match bought.settlement {
            Instruction::Instructed => format!("The payment provider charges {}.", bought.amount),
            Instruction::NotNeeded => "Nothing is left to pay.".to_owned(),
        };
        let verb = if ids.len() == 1 { "is" } else { "are" };
        let sentence = format!("{which} {} {verb} stored and acknowledged. {payment}", ids.join(", "));
        self.add("bought", json!(bought), sentence);
    }

    pub(super) fn fetched(&mut self, certificate: Uuid, fetched: Result<Fetched, TerminalError>) {
        let sentence = match &fetched {
            Ok(Fetched::Here { license, content: Some(path) }) => {
                format!("License {license} is stored. Its content is in {}.", path.display())
            }
            Ok(Fetched::Here { license, content: None }) => format!("License {license} is stored."),
            Ok(Fetched::NotPaid) => {
                format!("Certificate {certificate} is not paid for yet: run this command again later.")
            }
            Ok(Fetched::Ended(code)) => format!("Certificate {certificate} permits no more licenses: {code}."),
            Err(error) => return self.failed(error),
        };
        self.incomplete |= !matches!(fetched, Ok(Fetched::Here { .. }));
        self.add("fetched", json!({"certificate": certificate, "outcome": fetched.ok()}), sentence);
    }

    pub(super) fn returned(&mut self, returned: Result<Return, TerminalError>) {
        let returned = match returned {
            Ok(returned) => returned,
            Err(error) => return self.failed(&error),
        };
        self.incomplete |= !matches!(returned.outcome, Some(Outcome::Returned(_)));
        let sentence = format!("License {} {}.", returned.license, outcome(&returned));
        self.add("returned", json!(returned), sentence);
    }

    /// Whether something failed.
    pub(super) fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    fn failed(&mut self, error: &TerminalError) {
        self.incomplete = true;
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

/// The result of a return, as the predicate of a sentence whose subject is the license.
fn outcome(returned: &Return) -> String {
    match &returned.outcome {
        None => format!("is being returned; its copy must be deleted by {}", returned.delete_by),
        Some(Outcome::Refused(code)) => {
            format!("could not be returned ({code}); if its copy is already deleted, ask for a reissue")
        }
        Some(Outcome::Returned(brought)) => match (brought.points, brought.certificate, brought.amount) {
            (Some(points), _, _) => format!("was returned for {points} points"),
            (_, Some(certificate), _) => format!("was returned for certificate {certificate}"),
            (_, _, Some(amount)) => format!("was returned for {amount}"),
            _ => "was returned for a collection record".to_owned(),
        },
    }
}
