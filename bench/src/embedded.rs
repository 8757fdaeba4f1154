//! Licet in this process, with the in-process broker, a SQLite file (WAL, `synchronous=FULL`), and
//! all workers.

use std::{sync::Arc, time::Duration};

use licet_client::Transport;
use licet_common::{
    clock::Clock,
    config::Config,
    program::Failure,
    runtime::Resources,
    signing::folder,
    store::{Store, TOOL_TIMEOUT},
};
use licet_operator::audit::audit;
use licet_workers::registry;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    Common,
    content::put_content,
    cpu::{Meter, resident_mb},
    crypto,
    figures::{Ratio, Report, Run, Target, median},
    load::drive,
    note,
};

pub(super) struct Embedded {
    pub(super) resources: Resources,
    stop: CancellationToken,
    workers: JoinHandle<()>,
    _folder: TempDir,
}

impl Embedded {
    /// Starts all workers and registers the content.
    ///
    /// # Errors
    /// A component cannot be started.
    pub(super) async fn start(config: &Config) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let transport = Transport::memory();
        transport.apply(&registry::topology()).await?;
        let url = format!("sqlite:{}", folder.path().join("licet.db").display());
        let store = Store::create(&url.into(), 1, TOOL_TIMEOUT).await?;
        store.migrate().await?;
        let resources = Resources {
            transport,
            store,
            keyring: Arc::new(folder::create(&folder.path().join("keys"))?),
            clock: Clock::System,
            terms: Arc::new(config.terms.clone()),
            limits: config.limits,
            senders: Arc::default(),
        };
        let stop = CancellationToken::new();
        let workers = tokio::spawn({
            let (resources, stop) = (resources.clone(), stop.clone());
            async move { registry::run_workers(registry::WORKERS, &resources, &stop).await }
        });
        put_content(&resources.transport).await?;
        Ok(Self { resources, stop, workers, _folder: folder })
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        let _ = self.workers.await;
    }
}

/// Measures rounds of Licet in this process, each between two runs of only the signatures and
/// verifications.
///
/// # Errors
/// A run does not complete, or the audit of its database does not pass.
pub(super) async fn measure(config: &Config, common: &Common) -> Result<Report, Failure> {
    let (mut runs, mut ratios) = (Vec::new(), Vec::new());
    let crypto = |round| crypto::measure(round, Duration::from_secs(common.seconds.div_ceil(4)));
    let mut before = crypto(1)?;
    runs.push(before.clone());
    for round in 1..=common.rounds {
        note(common, format_args!("round {round}: embedded, peak"));
        let embedded = Embedded::start(config).await?;
        let measured = drive(&embedded.resources.transport, common.peak(), &Meter::of_driver()).await?;
        let mut run = Run::of(round, "embedded", "peak", &measured);
        run.resident_mb = resident_mb(std::process::id()).into_iter().map(|mb| ("embedded".to_owned(), mb)).collect();
        check(&embedded.resources.store).await?;
        embedded.stop().await;
        let after = crypto(round)?;
        ratios.push(run.lifecycles_per_s / median(&[before.lifecycles_per_s, after.lifecycles_per_s]));
        before = after.clone();
        runs.extend([run, after]);
    }
    let ratios = vec![Ratio::new("embedded / crypto, lifecycles/s", ratios, Some(Target::AtLeast(0.5)))];
    Ok(Report { mode: "embedded", options: common.clone(), machine: Default::default(), runs, ratios })
}

/// Audits the database after a measurement.
///
/// # Errors
/// The audit does not pass, or the database is unavailable.
pub(super) async fn check(store: &Store) -> Result<(), Failure> {
    let audited = audit(store).await.map_err(Failure::work)?;
    if audited.violations.is_empty() {
        return Ok(());
    }
    Err(Failure::Work(format!("the audit found violations of invariants: {:?}", audited.violations)))
}
