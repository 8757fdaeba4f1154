//! All of Licet in this process: the in-process broker, a SQLite file (WAL, synchronous=FULL), all
//! workers.

use std::{sync::Arc, time::Duration};

use licet_client::{Transport, schema::topology::topology};
use licet_common::{clock::Clock, config::Config, runtime::Machine, signing::folder, store::Store};
use licet_workers::{audit::audit, program::Failure, registry};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    Common,
    cpu::{Meter, resident_mb},
    crypto,
    figures::{Mark, Ratio, Report, Run, median},
    goods::put_content,
    load::drive,
    note,
};

pub(super) struct Embedded {
    pub(super) machine: Machine,
    stop: CancellationToken,
    workers: JoinHandle<()>,
    _folder: TempDir,
}

impl Embedded {
    /// Starts it, with something to sell.
    ///
    /// # Errors
    /// It does not start.
    pub(super) async fn start(config: &Config) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let transport = Transport::memory();
        transport.apply(&topology()).await?;
        let store = Store::open(&format!("sqlite:{}", folder.path().join("licet.db").display()).into(), 1).await?;
        store.migrate().await?;
        let machine = Machine {
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
            let (machine, stop) = (machine.clone(), stop.clone());
            async move { registry::start_all(&machine, &stop).await }
        });
        put_content(&machine.transport).await?;
        Ok(Self { machine, stop, workers, _folder: folder })
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        let _ = self.workers.await;
    }
}

/// Measures rounds of Licet in this process, each between two of its signatures and verifications.
///
/// # Errors
/// A run does not come to its end, or the auditor is not content with what it left.
pub(super) async fn measure(config: &Config, common: &Common) -> Result<Report, Failure> {
    let (mut runs, mut ratios) = (Vec::new(), Vec::new());
    let crypto = |round| crypto::measure(round, Duration::from_secs(common.seconds.div_ceil(4)));
    let mut before = crypto(1)?;
    runs.push(before.clone());
    for round in 1..=common.rounds {
        note(common, format_args!("round {round}: embedded under peak"));
        let embedded = Embedded::start(config).await?;
        let measured = drive(&embedded.machine.transport, common.peak(), &Meter::of_driver()).await?;
        let mut run = Run::of(round, "embedded", "peak", &measured);
        run.resident_mb = resident_mb(std::process::id()).into_iter().map(|mb| ("embedded".to_owned(), mb)).collect();
        let audited = audit(&embedded.machine.store).await?;
        if !audited.violations.is_empty() {
            return Err(Failure::Work(format!("the auditor found broken invariants: {:?}", audited.violations)));
        }
        embedded.stop().await;
        let after = crypto(round)?;
        ratios.push(run.lifecycles_per_s / median(&[before.lifecycles_per_s, after.lifecycles_per_s]));
        before = after.clone();
        runs.extend([run, after]);
    }
    let ratios = vec![Ratio::new("embedded / crypto, lifecycles/s", ratios, Some(Mark::AtLeast(0.5)))];
    Ok(Report { mode: "embedded", options: common.clone(), machine: Default::default(), runs, ratios })
}
