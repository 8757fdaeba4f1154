//! The worker processes of a measurement: the real workers, or workers that only answer.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use licet_client::schema::topology;
use licet_common::program::Failure;
use licet_workers::registry;

use super::{
    cpu::resident_mb,
    partitions::{LIFECYCLE_WORKERS, Partitions},
};

/// The timeout for workers to start and to stop.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

/// The kind of workers that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The real workers.
    Full,
    /// Workers that only answer.
    Ceiling,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Ceiling => "ceiling",
        }
    }
}

/// The number of worker processes and of queues.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// The number of copies of each worker in `multiplied` that share a queue.
    pub(super) copies: usize,
    /// The names of the workers that run in several copies.
    pub(super) multiplied: Vec<String>,
    /// Partitioned queues that replace the work queue of each worker of a lifecycle.
    pub(super) partitions: Option<Partitions>,
}

impl Default for Layout {
    /// One process for each worker, on its work queue.
    fn default() -> Self {
        Self { copies: 1, multiplied: Vec::new(), partitions: None }
    }
}

/// A worker process and the queue that it consumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) worker: String,
    pub(super) queue: String,
}

impl Layout {
    /// One placement for each process.
    pub(super) fn placements(&self, kind: Kind) -> Vec<Placement> {
        let names: Vec<&str> = match kind {
            Kind::Full => registry::names().collect(),
            Kind::Ceiling => LIFECYCLE_WORKERS.to_vec(),
        };
        names.into_iter().flat_map(|name| self.placements_of(name)).collect()
    }

    fn placements_of(&self, name: &str) -> Vec<Placement> {
        let copies = if self.multiplied.iter().any(|other| other == name) { self.copies } else { 1 };
        let queues = self.partitions.map_or(vec![topology::work_queue(name)], |partitions| partitions.queues(name));
        let placement = |queue| Placement { worker: name.to_owned(), queue };
        queues.into_iter().flat_map(|queue| vec![queue; copies]).map(placement).collect()
    }
}

/// Running worker processes. They are killed when this value is dropped.
#[derive(Default)]
pub(super) struct RunningWorkers {
    processes: Vec<(String, Child)>,
}

impl RunningWorkers {
    pub(super) fn add(&mut self, worker: &str, process: Child) {
        self.processes.push((worker.to_owned(), process));
    }

    pub(super) fn count(&self) -> usize {
        self.processes.len()
    }

    pub(super) fn process_ids(&self) -> Vec<u32> {
        self.processes.iter().map(|(_, child)| child.id()).collect()
    }

    /// The peak resident memory of each worker, in MB. For several copies, the largest value.
    pub(super) fn resident_mb(&self) -> BTreeMap<String, f64> {
        let each = self.processes.iter().filter_map(|(name, child)| Some((name.clone(), resident_mb(child.id())?)));
        each.fold(BTreeMap::new(), |mut all, (name, mb)| {
            let peak = all.entry(name).or_insert(0.0_f64);
            *peak = peak.max(mb);
            all
        })
    }

    /// Stops all workers with SIGTERM, and waits for them.
    ///
    /// # Errors
    /// A worker does not stop in time, or ends with an error.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        let ids = self.process_ids().into_iter().map(|id| id.to_string());
        Command::new("kill").arg("-TERM").args(ids).status()?;
        for (name, child) in &mut self.processes {
            let began = Instant::now();
            let status = loop {
                match child.try_wait()? {
                    Some(status) => break status,
                    None if began.elapsed() > TIMEOUT => {
                        return Err(Failure::Work(format!("the {name} worker did not stop in time")));
                    }
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            };
            if !status.success() {
                return Err(Failure::Work(format!("the {name} worker ended with {status}")));
            }
        }
        self.processes.clear();
        Ok(())
    }
}

impl Drop for RunningWorkers {
    fn drop(&mut self) {
        for (_, child) in &mut self.processes {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The program of a worker, which must be in the same folder as this program.
pub(super) fn program_of(this: &Path, worker: &str) -> Result<PathBuf, Failure> {
    let program = this.with_file_name(format!("licet-{worker}"));
    if program.exists() {
        return Ok(program);
    }
    Err(Failure::Usage(format!(
        "{} does not exist: build all programs (cargo build --profile dist)",
        program.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_one_process_on_its_work_queue_unless_the_layout_says_otherwise() {
        let full = Layout::default().placements(Kind::Full);
        assert_eq!(full.len(), registry::WORKERS.len());
        assert!(full.iter().all(|one| one.queue == topology::work_queue(&one.worker)), "{full:?}");
        let copied = Layout { copies: 2, multiplied: vec!["license".into()], partitions: None };
        let of = |layout: &Layout, kind, worker: &str| {
            let placements = layout.placements(kind).into_iter().filter(|one| one.worker == worker);
            placements.map(|one| one.queue).collect::<Vec<_>>()
        };
        assert_eq!(of(&copied, Kind::Full, "license"), vec![topology::work_queue("license"); 2]);
        assert_eq!(of(&copied, Kind::Full, "return").len(), 1);
        let partitioned = Layout { partitions: Some(Partitions(3)), ..Layout::default() };
        assert_eq!(of(&partitioned, Kind::Ceiling, "purchase"), Partitions(3).queues("purchase"));
    }

    #[test]
    fn a_program_that_is_not_installed_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let this = folder.path().join("licet-bench");
        let Err(Failure::Usage(error)) = program_of(&this, "license") else { panic!("it does not exist") };
        assert!(error.contains("licet-license does not exist"), "{error}");
        let program = folder.path().join("licet-license");
        std::fs::write(&program, "").expect("a file");
        assert_eq!(program_of(&this, "license").expect("a program"), program);
    }

    #[test]
    fn every_worker_of_a_lifecycle_exists() {
        assert!(LIFECYCLE_WORKERS.iter().all(|name| registry::find(name).is_ok()));
    }
}
