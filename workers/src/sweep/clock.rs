//! The clock of the sweep worker, which publishes a message at every interval.

use std::time::{Duration, Instant};

use licet_common::{
    runtime::Resources,
    store::{ClockDifference, StoreError, clock_difference},
    transport::{Lost, Outcome, Outgoing, Properties, Publisher},
};
use licet_schema::{
    Request, Timestamp, encoding,
    message::{SweepDue, SweepKind},
    topology,
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use uuid::Uuid;

/// The namespace of the clock's message ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x5eed_0000_0000_5000_8000_0000_c10c_0001);
/// The timeout for the broker to confirm a tick. A tick that is not confirmed is replaced by the
/// next one.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the worker logs that it ends nothing.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Publishes a `sweep.due` of each kind at every interval, until `stop`.
pub(super) async fn tick(resources: &Resources, stop: &CancellationToken) {
    let interval_s = resources.limits.sweep_interval_s;
    let mut ticks = tokio::time::interval(Duration::from_secs(interval_s));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut publisher: Option<Publisher> = None;
    let mut refused_at: Option<Instant> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        // If the database is unavailable, the worker itself compares the clock before it ends
        // anything.
        let compared = tokio::time::timeout(CONFIRM_TIMEOUT, difference(resources)).await;
        if let Ok(Ok(Some(difference))) = compared {
            if refused_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                refused_at = Some(Instant::now());
                error!("nothing that is overdue is ended, because {difference}");
            }
            continue;
        }
        refused_at = None;
        let due = messages(resources.clock.now(), interval_s);
        match publish(resources, publisher.take(), &due).await {
            Ok(kept) => publisher = Some(kept),
            // The worker's own loop logs outages of the broker.
            Err(lost) => tracing::debug!("a tick was not published: {lost}"),
        }
    }
    if let Some(publisher) = publisher {
        publisher.close().await;
    }
}

async fn difference(resources: &Resources) -> Result<Option<ClockDifference>, StoreError> {
    clock_difference(&resources.store.pool(), &resources.clock).await
}

async fn publish(resources: &Resources, kept: Option<Publisher>, due: &[Outgoing]) -> Result<Publisher, Lost> {
    let publisher = match kept {
        Some(publisher) => publisher,
        None => resources.transport.publisher().await?,
    };
    let outcomes = publisher.publish(due, CONFIRM_TIMEOUT).await?;
    if let Some(outcome) = outcomes.iter().find(|outcome| **outcome != Outcome::Confirmed) {
        warn!(?outcome, "the broker did not accept a sweep.due message: the next tick publishes another");
    }
    Ok(publisher)
}

/// The messages of a tick.
///
/// Several sweep workers publish the same tick with the same message ids, so it is processed once.
/// If the clock is set back, ticks repeat ids that are already in the journal, and nothing is swept
/// until the clock has caught up.
fn messages(now: Timestamp, interval_s: u64) -> Vec<Outgoing> {
    let interval_ms = i64::try_from(interval_s).unwrap_or(1).saturating_mul(1000).max(1);
    let before = Timestamp::from_millis(now.as_millis().div_euclid(interval_ms) * interval_ms);
    SweepKind::ALL.into_iter().filter_map(|kind| message(kind, before)).collect()
}

fn message(kind: SweepKind, before: Timestamp) -> Option<Outgoing> {
    let request = Request::SweepDue(SweepDue { kind, before });
    // If RFC 3339 cannot express the time, no tick is published.
    let body = request.encode().ok()?;
    let id = Uuid::new_v5(&NAMESPACE, format!("{}:{}", kind.as_str(), before.as_millis()).as_bytes());
    Some(Outgoing {
        exchange: topology::IN.to_owned(),
        routing_key: request.kind().to_owned(),
        mandatory: true,
        properties: Properties {
            message_id: Some(id.to_string()),
            kind: Some(request.kind().to_owned()),
            content_type: Some(encoding::CONTENT_TYPE.to_owned()),
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
    fn two_sweep_workers_publish_the_same_messages_under_the_same_ids() {
        let at = |millis| {
            let published = messages(Timestamp::from_millis(millis), 10);
            published.into_iter().map(|message| (message.properties.message_id, message.body)).collect::<Vec<_>>()
        };
        assert_eq!(at(1_700_000_000_001), at(1_700_000_009_999));
        assert_eq!(at(1_700_000_000_001).len(), 3);
        assert_ne!(at(1_700_000_000_001), at(1_700_000_010_000));
    }
}
