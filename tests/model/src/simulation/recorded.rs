//! A worker whose decisions are recorded. It behaves like the worker that it contains.

use licet_common::{
    config::{Groups, Terms},
    decision::{Context, Decision, RuleError},
    runtime::Worker,
    signing::Keyring,
    store::{Source, StoreError},
};
use licet_schema::{Refusal, Request};
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

use super::workers_under_test::Report;

/// A decision about a message. It takes effect when its transaction is committed.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub(super) id: Uuid,
    pub(super) now_ms: i64,
    pub(super) request: Request,
    pub(super) decision: Decision,
}

/// A worker whose decisions are reported to the simulation. `run_beside` is not forwarded: the
/// simulation sends the messages of the sweep worker's clock itself.
pub(super) struct Recorded<W> {
    pub(super) worker: W,
    /// The number of this copy.
    pub(super) copy: usize,
    pub(super) reports: UnboundedSender<(usize, Report)>,
}

impl<W: Worker> Recorded<W> {
    fn report(&self, report: Report) {
        // The simulation may have ended.
        let _ = self.reports.send((self.copy, report));
    }
}

impl<W: Worker> Worker for Recorded<W> {
    const NAME: &'static str = W::NAME;
    const HANDLES: &'static [&'static str] = W::HANDLES;
    const CHANGES: bool = W::CHANGES;
    const PAUSES: bool = W::PAUSES;
    const ENDS_BY_CLOCK: bool = W::ENDS_BY_CLOCK;
    const BATCH_MAX: Option<u16> = W::BATCH_MAX;
    const SETTINGS: Groups = W::SETTINGS;

    /// The request, and the result of the worker's `read`. A refusal is also an input, so that
    /// `decide` is called for every message.
    type Input = (Request, Result<W::Input, Refusal>);
    type Rows = W::Rows;

    fn with_terms(self, terms: &Terms) -> Self {
        Self { worker: self.worker.with_terms(terms), ..self }
    }

    fn read(&self, keyring: &Keyring, request: Request) -> Result<Self::Input, Refusal> {
        Ok((request.clone(), self.worker.read(keyring, request)))
    }

    fn subject(&self, (_, input): &Self::Input) -> Option<Uuid> {
        input.as_ref().ok().and_then(|input| self.worker.subject(input))
    }

    async fn load<S: Source>(&self, source: &S, inputs: &[&Self::Input]) -> Result<Self::Rows, StoreError> {
        let inputs: Vec<_> = inputs.iter().filter_map(|(_, input)| input.as_ref().ok()).collect();
        if inputs.is_empty() { Ok(Self::Rows::default()) } else { self.worker.load(source, &inputs).await }
    }

    fn decide(
        &self,
        context: &Context<'_>,
        rows: &mut Self::Rows,
        (request, input): &Self::Input,
    ) -> Result<Decision, RuleError> {
        let decided = match input {
            Ok(input) => self.worker.decide(context, rows, input),
            Err(refusal) => Err(refusal.clone().into()),
        };
        let decision = match &decided {
            Ok(decision) => decision.clone(),
            Err(RuleError::Refused(refusal)) => Decision::refused(refusal, request.kind()),
            Err(RuleError::Defect(defect)) => {
                self.report(Report::Defect(format!("{defect}, found with {request:#?}")));
                return decided;
            }
        };
        let (id, now_ms, request) = (context.message_id, context.now.as_millis(), request.clone());
        self.report(Report::Decided(Box::new(Decided { id, now_ms, request, decision })));
        decided
    }
}
