//! `licet demo`: the whole life of real purchases, in this process alone: the in-process broker, a
//! SQLite file in a temporary folder, new keys, all workers, and a payment provider. Then the scenes
//! that few purchases have, on a clock that is moved by weeks.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use licet_client::{Charges, Client, Keyring, Patience, provide, schema::Format};
use licet_common::{
    clock::Clock,
    config::{Config, Limits},
    runtime::Machine,
    signing::folder,
    store::Store,
    transport::Transport,
};
use licet_schema::topology::topology;
use licet_workers::{
    audit::audit,
    program::{Failure, block_on},
    registry, story,
};
use tokio_util::sync::CancellationToken;

use crate::{
    cdnow,
    driver::{DriveError, Driver, Measured},
    report,
    scenes::{Scene, Stage},
};

/// What can be chosen.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How many purchases
    #[arg(long, default_value_t = 2000, value_name = "N")]
    purchases: usize,
    /// How many of them at a time
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    in_flight: u16,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Plays, reports and audits; exit code 1 if anything does not hold.
pub(crate) fn demo(config: &Config, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let purchases = cdnow::sample(arguments.purchases)?;
    if purchases.is_empty() {
        return Err(Failure::Usage("--purchases must be at least 1".into()));
    }
    block_on(play(config, arguments, purchases))
}

async fn play(config: &Config, arguments: &Arguments, purchases: Vec<cdnow::Purchase>) -> Result<ExitCode, Failure> {
    let folder = tempfile::tempdir()?;
    let machine = machine(config, folder.path()).await?;
    let stop = CancellationToken::new();
    let workers = tokio::spawn({
        let (machine, stop) = (machine.clone(), stop.clone());
        async move { registry::start_all(&machine, &stop).await }
    });
    let patience = Patience { each: Duration::from_secs(30), attempts: 4 };
    let client = Client::connect(&machine.transport, Format::Json, patience).await?;
    let provider = tokio::spawn({
        let (transport, client, stop) = (machine.transport.clone(), client.clone(), stop.clone());
        async move { provide(&transport, &client, Charges::Succeed, &stop).await }
    });

    // Terminals know the public keys alone.
    let published = Keyring::from_jwks(&machine.keyring.jwks()).map_err(Failure::Work)?;
    let progress = progress(&purchases, arguments.json);
    let playing = async {
        let driver = Driver::new(client.clone(), published.clone(), progress.clone());
        let measured = driver.drive(&machine.transport, &purchases, usize::from(arguments.in_flight)).await?;
        progress.finish_and_clear();
        let stage = Stage::new(&machine.transport, client, published, machine.clock.clone()).await?;
        Ok::<_, DriveError>((measured, stage.play().await?))
    };
    let played = playing.await;
    progress.finish_and_clear();
    stop.cancel();
    let _ = tokio::join!(workers, provider);
    let (measured, scenes) = played.map_err(|error| Failure::Work(error.to_string()))?;
    conclude(&machine, &measured, &scenes, arguments.json).await
}

async fn conclude(machine: &Machine, measured: &Measured, scenes: &[Scene], json: bool) -> Result<ExitCode, Failure> {
    let peak = report::peak_memory_bytes();
    let audited = audit(&machine.store).await?;
    let mut stories = Vec::new();
    for purchase in measured.example.iter().chain(scenes.iter().map(|scene| &scene.purchase)) {
        stories.extend(story::stories(&machine.store, &purchase.to_string()).await?);
    }
    if json {
        let mut all = report::json(measured, peak, Some(&audited));
        all["scenes"] = serde_json::json!(scenes);
        all["stories"] = serde_json::json!(stories);
        report::tell(all);
    } else {
        report::tell(report::summary(measured));
        report::tell("Then, one by one, on a clock that was moved by a month:");
        for scene in scenes {
            report::tell(format!("  {:<9} {}", scene.name, scene.shown));
        }
        report::tell("");
        stories.iter().for_each(|story| report::tell(report::timeline(story)));
        if let Some(peak) = peak {
            report::tell(format!("Peak memory: {} MB.", peak / 1_000_000));
        }
        report::tell(report::verdict(&audited));
    }
    Ok(if audited.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn machine(config: &Config, folder: &std::path::Path) -> Result<Machine, Failure> {
    let transport = Transport::memory();
    transport.apply(&topology()).await?;
    let url = format!("sqlite:{}", folder.join("licet.db").display());
    let store = Store::open(&url.into(), 1).await?;
    store.migrate().await?;
    Ok(Machine {
        transport,
        store,
        keyring: Arc::new(folder::create(&folder.join("keys"))?),
        clock: Clock::ahead(),
        terms: Arc::new(config.terms.clone()),
        // The scenes wait for the sweep.
        limits: Limits { sweep_interval_s: 1, ..config.limits },
        senders: Arc::default(),
    })
}

/// A bar of certificates on standard error; none where a program reads.
pub(crate) fn progress(purchases: &[cdnow::Purchase], hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    let certificates: usize = purchases.iter().map(|purchase| purchase.cents.len()).sum();
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} licenses granted, {per_sec}, {eta} left");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(certificates as u64).with_style(style)
}
