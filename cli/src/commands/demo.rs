//! `licet demo`: runs real purchases in one process, with the in-process broker, an SQLite file,
//! new keys, all workers and a payment provider. Then it runs the rare cases on a clock that is
//! moved ahead by weeks, and audits the database.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use licet_client::{Charges, Client, Keyring, Patience, provide};
use licet_common::{
    clock::Clock,
    config::{
        CommandSettings, Config, Limits,
        groups::{ENGINE, LOG, TERMS},
    },
    program::{Failure, block_on, configure},
    runtime::Resources,
    signing::folder,
    store::{Store, TOOL_TIMEOUT},
    transport::Transport,
};
use licet_operator::{
    audit::{self, audit},
    history::{History, histories},
};
use licet_workers::registry;
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::LOG_OF_TOOLS;
use crate::{
    cdnow,
    driver::{self, DriveError, Driver, Measured},
    report,
    scenes::{Scene, Scenes},
    timeline,
};

/// The introduction to the histories.
const HISTORIES: &str = "
These are the histories of one purchase and of the rare cases. A user buys certificates. With a certificate
that is paid for, a terminal requests a license, which permits the use of its content. A history lists each
message and the events that it caused. Ids are shortened to their last 8 characters.
";

/// The folder in the suggested commands, if the demo kept no folder.
const SUGGESTED_FOLDER: &str = "licet-demo";

#[derive(Args)]
pub(crate) struct Arguments {
    /// The number of purchases
    #[arg(long, default_value_t = 2000, value_name = "N")]
    purchases: usize,
    /// The number of purchases in progress at a time
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    in_flight: u16,
    /// Keep the database and the keys in this new folder [default: delete them afterwards]
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: CommandSettings<{ TERMS | ENGINE | LOG }>,
}

/// Returns exit code 1 if the audit finds a violation.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = configure(arguments.settings.clone(), LOG_OF_TOOLS)?;
    let purchases = cdnow::sample(arguments.purchases)?;
    if purchases.is_empty() {
        return Err(Failure::Usage("--purchases must be at least 1".into()));
    }
    let folder = Folder::new(arguments.keep.as_deref())?;
    block_on(play(&config, &arguments, folder.path(), &purchases))
}

/// The folder of the database and the keys.
enum Folder<'a> {
    Temporary(TempDir),
    Kept(&'a Path),
}

impl<'a> Folder<'a> {
    fn new(keep: Option<&'a Path>) -> Result<Self, Failure> {
        let Some(path) = keep else { return Ok(Self::Temporary(tempfile::tempdir()?)) };
        fs::create_dir(path).map_err(|error| {
            Failure::Usage(format!("--keep {} cannot be created: {error}; name a new folder", path.display()))
        })?;
        Ok(Self::Kept(path))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(path) => path,
        }
    }
}

async fn play(
    config: &Config,
    arguments: &Arguments,
    folder: &Path,
    purchases: &[cdnow::Purchase],
) -> Result<ExitCode, Failure> {
    let resources = resources(config, folder).await?;
    let stop = CancellationToken::new();
    let workers = tokio::spawn({
        let (resources, stop) = (resources.clone(), stop.clone());
        async move { registry::run_workers(registry::WORKERS, &resources, &stop).await }
    });
    let patience = Patience { each: Duration::from_secs(30), attempts: 4 };
    let client = Client::connect(&resources.transport, patience).await?;
    let provider = tokio::spawn({
        let (transport, client, stop) = (resources.transport.clone(), client.clone(), stop.clone());
        async move { provide(&transport, &client, Charges::Succeed, &stop).await }
    });

    // Terminals have only the public keys.
    let published = Keyring::from_jwks(&resources.keyring.jwks()).map_err(Failure::Work)?;
    let progress = driver::progress(purchases, arguments.json);
    let playing = async {
        let driver = Driver::new(client.clone(), published.clone(), progress.clone());
        let measured = driver.drive(&resources.transport, purchases, usize::from(arguments.in_flight)).await?;
        progress.finish_and_clear();
        let scenes = Scenes::new(&resources.transport, client, published, resources.clock.clone()).await?;
        Ok::<_, DriveError>((measured, scenes.play().await?))
    };
    let played = playing.await;
    progress.finish_and_clear();
    stop.cancel();
    let _ = tokio::join!(workers, provider);
    let (measured, scenes) = played.map_err(Failure::work)?;
    let results = Results::gather(&resources.store, measured, scenes).await?;
    if arguments.json {
        report::print(results.json());
    } else {
        report::print(results.text());
        report::print(suggestions(arguments.keep.as_deref()));
    }
    Ok(if results.audited.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn resources(config: &Config, folder: &Path) -> Result<Resources, Failure> {
    let transport = Transport::memory();
    transport.apply(&registry::topology()).await?;
    let url = format!("sqlite:{}", folder.join("licet.db").display());
    let store = Store::create(&url.into(), 1, TOOL_TIMEOUT).await?;
    store.migrate().await?;
    Ok(Resources {
        transport,
        store,
        keyring: Arc::new(folder::create(&folder.join("keys"))?),
        clock: Clock::ahead(),
        terms: Arc::new(config.terms.clone()),
        // Two of the scenes wait for a sweep.
        limits: Limits { sweep_interval_s: 1, ..config.limits },
        senders: Arc::default(),
    })
}

/// Everything that the demo reports.
struct Results {
    measured: Measured,
    scenes: Vec<Scene>,
    histories: Vec<History>,
    peak_memory_bytes: Option<u64>,
    audited: audit::Report,
}

impl Results {
    async fn gather(store: &Store, measured: Measured, scenes: Vec<Scene>) -> Result<Self, Failure> {
        let peak_memory_bytes = report::peak_memory_bytes();
        let audited = audit(store).await.map_err(Failure::work)?;
        let mut found = Vec::new();
        for purchase in measured.example.iter().chain(scenes.iter().map(|scene| &scene.purchase)) {
            found.extend(histories(store, &purchase.to_string()).await.map_err(Failure::work)?);
        }
        Ok(Self { measured, scenes, histories: found, peak_memory_bytes, audited })
    }

    fn json(&self) -> serde_json::Value {
        let mut all = report::json(&self.measured, self.peak_memory_bytes, Some(&self.audited));
        all["scenes"] = json!(self.scenes);
        all["histories"] = json!(self.histories);
        all
    }

    fn text(&self) -> String {
        let mut parts = vec![report::summary(&self.measured)];
        parts.push("Rare cases, one purchase each, on a clock that was moved ahead by about a month:".to_owned());
        let scene = |scene: &Scene| format!("  {:<9} {} (purchase {})", scene.name, scene.shown, scene.purchase);
        parts.extend(self.scenes.iter().map(scene));
        parts.push(HISTORIES.to_owned());
        parts.extend(self.histories.iter().map(timeline::text));
        if let Some(peak) = self.peak_memory_bytes {
            parts.push(format!("Peak memory: {} MB.", peak / 1_000_000));
        }
        parts.push(report::verdict(&self.audited));
        timeline::with_short_ids(&parts.join("\n"))
    }
}

/// Commands to try after the demo.
fn suggestions(kept: Option<&Path>) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "licet".to_owned());
    let folder = kept.unwrap_or(Path::new(SUGGESTED_FOLDER)).display();
    let database = format!("--database sqlite:{folder}/licet.db");
    let keep =
        format!("  # Run the demo again and keep its database\n  {program} demo --purchases 50 --keep {folder}\n");
    let keep = if kept.is_none() { keep.as_str() } else { "" };
    format!(
        "What to try next:
{keep}  # Show the purchases of the user ada, with full ids
  {program} show ada {database}
  # Audit the database
  {program} audit {database}
  # List all commands
  {program} --help
README.md shows how to send your first message through RabbitMQ."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suggested_commands_use_the_folder_that_was_kept() {
        let kept = suggestions(Some(Path::new("here")));
        assert!(kept.contains(" show ada --database sqlite:here/licet.db\n"), "{kept}");
        assert!(!kept.contains("--keep"), "{kept}");
        let deleted = suggestions(None);
        let (keep, show) =
            ("demo --purchases 50 --keep licet-demo\n", "show ada --database sqlite:licet-demo/licet.db\n");
        assert!(deleted.find(keep) < deleted.find(show) && deleted.contains(keep), "{deleted}");
    }

    #[test]
    fn a_folder_that_exists_is_never_used_to_keep_the_database() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = Folder::new(Some(folder.path())).err();
        assert!(
            matches!(&error, Some(Failure::Usage(sentence)) if sentence.contains("name a new folder")),
            "{error:?}"
        );
        let new = folder.path().join("new");
        assert_eq!(Folder::new(Some(&new)).expect("a new folder").path(), new);
        assert!(new.is_dir());
    }
}
