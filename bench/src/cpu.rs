//! Reads the processor time and memory of processes from `/proc` (Linux).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    time::Duration,
};

use serde::Serialize;

/// The unit of processor time in `/proc`.
const TICK: Duration = Duration::from_millis(10);

/// Measures the processor time of parts of the system, each of which is a set of processes. A part
/// is left out if its processes cannot be found because they run on another machine or belong to
/// another user.
pub(super) struct Meter {
    parts: BTreeMap<&'static str, Vec<u32>>,
}

/// Processor time by part.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Cpu(pub(super) BTreeMap<&'static str, Duration>);

impl Meter {
    /// Measures only this process, as the part `driver`.
    pub(super) fn of_driver() -> Self {
        Self { parts: BTreeMap::from([("driver", vec![std::process::id()])]) }
    }

    /// Also measures the servers that listen on these ports of this machine, with their child
    /// processes.
    #[must_use]
    pub(super) fn with_servers(self, part: &'static str, ports: impl IntoIterator<Item = u16>) -> Self {
        let processes: BTreeSet<_> = ports.into_iter().filter_map(listener).collect();
        if processes.is_empty() { self } else { self.with(part, processes.into_iter().collect()) }
    }

    /// Also measures these processes, with their child processes.
    #[must_use]
    pub(super) fn with(mut self, part: &'static str, processes: Vec<u32>) -> Self {
        self.parts.insert(part, processes);
        self
    }

    /// The processor time that each part has used until now.
    pub(super) fn read(&self) -> Cpu {
        let table = processes();
        // The workers are children of the driver, but a separate part.
        let separate: BTreeSet<u32> = self.parts.values().flatten().copied().collect();
        let of_tree = |roots: &Vec<u32>| roots.iter().map(|root| ticks(*root, &table, &separate)).sum::<u32>();
        Cpu(self.parts.iter().map(|(part, roots)| (*part, TICK * of_tree(roots))).collect())
    }
}

impl Cpu {
    /// The processor time that was used since an earlier reading.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let before = |part| earlier.0.get(part).copied().unwrap_or_default();
        Self(self.0.iter().map(|(part, used)| (*part, used.saturating_sub(before(part)))).collect())
    }
}

struct Process {
    parent: u32,
    /// The processor time of the process and of its children that have exited.
    ticks: u32,
}

fn processes() -> HashMap<u32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| Some((id, process(id)?))).collect()
}

fn process(id: u32) -> Option<Process> {
    let line = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name of the program is in parentheses and can contain any characters.
    let fields: Vec<&str> = line.rsplit_once(") ")?.1.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u32>().ok();
    Some(Process { parent: number(1)?, ticks: number(11)? + number(12)? + number(13)? + number(14)? })
}

/// The processor time of a process and its descendants, without the processes in `separate`.
fn ticks(root: u32, table: &HashMap<u32, Process>, separate: &BTreeSet<u32>) -> u32 {
    let own = table.get(&root).map_or(0, |process| process.ticks);
    let children = table.iter().filter(|(child, process)| process.parent == root && !separate.contains(child));
    own + children.map(|(child, _)| ticks(*child, table, separate)).sum::<u32>()
}

/// The first process that listens on this port. Its children may have inherited the socket.
fn listener(port: u16) -> Option<u32> {
    let mut sockets = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, ..] = fields[..] else { continue };
            let here = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
            if state == "0A" && here == Some(port) {
                sockets.extend(fields.get(9).map(|inode| format!("socket:[{inode}]")));
            }
        }
    }
    let mut ids: Vec<_> = processes().into_keys().collect();
    ids.sort_unstable();
    ids.into_iter().find(|id| {
        let open = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        open.filter_map(|one| fs::read_link(one.path()).ok())
            .any(|target| target.to_str().is_some_and(|target| sockets.contains(target)))
    })
}

/// The peak resident memory of a process, in MB.
pub(super) fn resident_mb(id: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_is_a_separate_part_is_not_counted_twice() {
        let process = |parent, ticks| Process { parent, ticks };
        let table = HashMap::from([(1, process(0, 10)), (2, process(1, 20)), (3, process(1, 40)), (4, process(3, 80))]);
        assert_eq!(ticks(1, &table, &BTreeSet::from([1, 3])), 30);
        assert_eq!(ticks(3, &table, &BTreeSet::from([1, 3])), 120);
    }

    #[test]
    fn the_listening_process_is_found_and_its_time_increases() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("an address").port();
        assert_eq!(listener(port), Some(std::process::id()));
        let meter = Meter::of_driver().with_servers("broker", [port]);
        let before = meter.read();
        let used = |cpu: &Cpu| cpu.0["broker"];
        let mut after = meter.read();
        while used(&after) < used(&before) + Duration::from_millis(50) {
            std::hint::black_box((0..100_000).fold(0, |all: u64, number: u64| all ^ number.pow(3)));
            after = meter.read();
        }
        assert_eq!(after.since(&before).0["driver"], after.since(&before).0["broker"]);
        assert!(resident_mb(std::process::id()).expect("a process in /proc") > 1.0);
    }
}
