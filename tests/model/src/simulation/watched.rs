//! A worker with somebody looking over its shoulder: it decides as it always does, and tells what.

use licet_common::{
    decision::{Context, Decision, Tables},
    runtime::Worker,
    signing::Keyring,
    store::{StoreError, Transaction},
};
use licet_schema::{Refusal, Request};
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

use super::cast::Told;

/// What a rule said of a message. It stands once its transaction is committed.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub(super) id: Uuid,
    pub(super) now_ms: i64,
    pub(super) request: Request,
    pub(super) decision: Decision,
}

pub(super) struct Watched<W> {
    pub(super) worker: W,
    pub(super) actor: usize,
    pub(super) tell: UnboundedSender<(usize, Told)>,
}

impl<W: Worker> Worker for Watched<W> {
    /// The request, and what the worker reads of it: a refusal too, so that every decision is seen.
    type Input = (Request, Result<W::Input, Refusal>);

    fn name(&self) -> &'static str {
        self.worker.name()
    }

    fn changes(&self) -> bool {
        self.worker.changes()
    }

    fn rests(&self) -> bool {
        self.worker.rests()
    }

    fn read(&self, keyring: &Keyring, request: Request) -> Result<Self::Input, Refusal> {
        Ok((request.clone(), self.worker.read(keyring, request)))
    }

    fn subject(&self, (_, input): &Self::Input) -> Option<Uuid> {
        input.as_ref().ok().and_then(|input| self.worker.subject(input))
    }

    async fn load(&self, connection: &Transaction, inputs: &[&Self::Input]) -> Result<Tables, StoreError> {
        let inputs: Vec<_> = inputs.iter().filter_map(|(_, input)| input.as_ref().ok()).collect();
        if inputs.is_empty() { Ok(Tables::default()) } else { self.worker.load(connection, &inputs).await }
    }

    fn decide(
        &self,
        context: &Context<'_>,
        tables: &mut Tables,
        (request, input): &Self::Input,
    ) -> Result<Decision, Refusal> {
        let decided = input.as_ref().map_err(Refusal::clone);
        let decided = decided.and_then(|input| self.worker.decide(context, tables, input));
        let decision = match &decided {
            Ok(decision) => decision.clone(),
            Err(refusal) => Decision::refused(refusal, request.kind()),
        };
        let (id, now_ms, request) = (context.message_id, context.now.as_millis(), request.clone());
        let _ = self.tell.send((self.actor, Told::Decided(Box::new(Decided { id, now_ms, request, decision }))));
        decided
    }
}
