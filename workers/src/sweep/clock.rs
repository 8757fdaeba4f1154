//! The sweeper's clock: time as messages.

use std::time::Duration;

use licet_common::{
    runtime::Machine,
    transport::{Lost, Outcome, Outgoing, Properties, Publisher},
};
use licet_schema::{
    Format, Request, Timestamp,
    message::{SweepDue, SweepKind},
    topology,
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

/// The namespace of the clock's message ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x5eed_0000_0000_5000_8000_0000_c10c_0001);
/// A tick that the broker does not confirm in this time is left to the next.
const PATIENCE: Duration = Duration::from_secs(5);

/// Publishes a `sweep.due` of each kind at every interval, until `stop`.
pub(super) async fn tick(machine: &Machine, stop: &CancellationToken) {
    let interval_s = machine.limits.sweep_interval_s;
    let mut ticks = tokio::time::interval(Duration::from_secs(interval_s));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut publisher: Option<Publisher> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let due = messages(machine.clock.now(), interval_s);
        match publish(machine, publisher.take(), &due).await {
            Ok(kept) => publisher = Some(kept),
            // The worker's own loop tells when the broker is away, and when it is back.
            Err(Lost(cause)) => tracing::debug!("a tick was not published: {cause}"),
        }
    }
    if let Some(publisher) = publisher {
        publisher.close().await;
    }
}

async fn publish(machine: &Machine, kept: Option<Publisher>, due: &[Outgoing]) -> Result<Publisher, Lost> {
    let publisher = match kept {
        Some(publisher) => publisher,
        None => machine.transport.publisher().await?,
    };
    let outcomes = publisher.publish(due, PATIENCE).await?;
    if let Some(outcome) = outcomes.iter().find(|outcome| **outcome != Outcome::Confirmed) {
        warn!(?outcome, "the broker does not take a sweep: the next comes with the next tick");
    }
    Ok(publisher)
}

/// What a tick says: the same under the same ids, whichever sweeper says it.
fn messages(now: Timestamp, interval_s: u64) -> Vec<Outgoing> {
    let interval_ms = i64::try_from(interval_s).unwrap_or(1).saturating_mul(1000).max(1);
    let before = Timestamp::from_millis(now.as_millis().div_euclid(interval_ms) * interval_ms);
    SweepKind::ALL.into_iter().filter_map(|kind| message(kind, before)).collect()
}

fn message(kind: SweepKind, before: Timestamp) -> Option<Outgoing> {
    let request = Request::SweepDue(SweepDue { kind, before });
    // A time that RFC 3339 cannot write is no time to sweep.
    let body = request.encode(Format::Json).ok()?;
    let id = Uuid::new_v5(&NAMESPACE, format!("{}:{}", kind.as_str(), before.as_millis()).as_bytes());
    Some(Outgoing {
        exchange: topology::IN.to_owned(),
        routing_key: request.kind().to_owned(),
        mandatory: true,
        properties: Properties {
            message_id: Some(id.to_string()),
            kind: Some(request.kind().to_owned()),
            content_type: Some(Format::Json.content_type().to_owned()),
            app_id: Some(topology::APP_ID.to_owned()),
            ..Properties::default()
        },
        body: body.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sweepers_say_the_same_under_the_same_ids() {
        let at = |millis| {
            let said = messages(Timestamp::from_millis(millis), 10);
            said.into_iter().map(|message| (message.properties.message_id, message.body)).collect::<Vec<_>>()
        };
        assert_eq!(at(1_700_000_000_001), at(1_700_000_009_999));
        assert_eq!(at(1_700_000_000_001).len(), 3);
        assert_ne!(at(1_700_000_000_001), at(1_700_000_010_000));
    }
}
