//! The settlement worker takes in what payment providers say: the part of the license generating
//! means that registers account settlement completion, with the number of times a license can be
//! granted, with the certificate it pays for.
//!
//! In: `settlement.completion`. Out: `settlement.registered`. Promised: a settlement pays for
//! exactly one certificate or container, whole, once; it may come before the reception notice, and
//! then nothing more is charged. Money that matches nothing, or not in amount, is refused to the
//! provider, and all the same kept and announced as `settlement.unmatched`: never dropped.
//!
//! Locks the certificates (all members, for a container); reads the settlements of these ids.

mod rules;
#[cfg(test)]
mod tests;

use licet_common::{
    decision::{Context, Decision, Tables},
    runtime::Worker,
    signing::Keyring,
    store::{
        StoreError, Transaction, locks,
        rows::{Lock, select},
    },
};
use licet_schema::{
    Refusal, Request,
    entity::{settlement, unmatched_settlement},
    message::SettlementCompletion,
};
use uuid::Uuid;

/// The settlement worker.
#[derive(Debug)]
pub struct Settlement;

impl Worker for Settlement {
    type Input = SettlementCompletion;

    fn name(&self) -> &'static str {
        "settlement"
    }

    fn read(&self, _: &Keyring, request: Request) -> Result<SettlementCompletion, Refusal> {
        match request {
            Request::SettlementCompletion(completion) => rules::check(completion),
            other => Err(crate::program::not_handled(self.name(), &other)),
        }
    }

    fn subject(&self, input: &SettlementCompletion) -> Option<Uuid> {
        input.container.or(input.certificate)
    }

    async fn load(&self, connection: &Transaction, inputs: &[&SettlementCompletion]) -> Result<Tables, StoreError> {
        let mut tables = Tables::default();
        let mut wanted = locks::Wanted::default();
        wanted.certificates.extend(inputs.iter().filter_map(|input| input.certificate));
        wanted.containers.extend(inputs.iter().filter_map(|input| input.container));
        locks::certificates(connection, &wanted, &mut tables).await?;
        let keys = || {
            let key =
                |input: &&SettlementCompletion| vec![input.provider.as_str().into(), input.settlement.as_str().into()];
            inputs.iter().map(key).collect()
        };
        let columns = [settlement::Column::Provider, settlement::Column::Settlement];
        let known = select::<settlement::Entity>(connection, &columns, keys(), Lock::None).await?;
        tables.settlements.load_all(known);
        let columns = [unmatched_settlement::Column::Provider, unmatched_settlement::Column::Settlement];
        let unmatched = select::<unmatched_settlement::Entity>(connection, &columns, keys(), Lock::None).await?;
        tables.unmatched_settlements.load_all(unmatched);
        Ok(tables)
    }

    fn decide(
        &self,
        context: &Context<'_>,
        tables: &mut Tables,
        input: &SettlementCompletion,
    ) -> Result<Decision, Refusal> {
        Ok(rules::completion(context, tables, input))
    }
}
