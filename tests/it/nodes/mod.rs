//! Services that a test starts itself: nodes on free loopback ports, with their data in a temporary
//! folder. A test can stop and kill them. A node is killed and its data is deleted when it is
//! dropped.
//!
//! The programs are found where Debian installs them, under the root folders in
//! `LICET_TEST_BROKER_ROOT` and `LICET_TEST_DATABASE_ROOT` (default `/`). With another root, their
//! data is inside that root, and each program has its own `/proc`, which is unmounted when the
//! program ends.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

pub(crate) mod pooler;
pub(crate) mod postgres;
pub(crate) mod rabbit;

/// The timeout for a node to start or to end.
const TIMEOUT: Duration = Duration::from_secs(90);

/// The file system in which a service is installed, and a temporary folder in it.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    folder: tempfile::TempDir,
}

impl Root {
    /// The root folder that this environment variable names, with a new temporary folder in it.
    fn of(variable: &str) -> Self {
        let path = PathBuf::from(std::env::var_os(variable).unwrap_or_else(|| "/".into()));
        // The folder for temporary files has the same path inside the root.
        let temporary = path.join(std::env::temp_dir().strip_prefix("/").expect("an absolute path"));
        std::fs::create_dir_all(&temporary).expect("a folder in the root");
        let folder = tempfile::Builder::new().prefix("licet-node.").tempdir_in(temporary).expect("a temporary folder");
        // A server that does not run as root must be able to enter its own folder.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(folder.path(), open).expect("the permissions of a new folder can be set");
        Self { path, folder }
    }

    /// The command that runs a program inside the root.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = if self.path == Path::new("/") {
            Command::new(program.as_ref())
        } else {
            let mut command = Command::new("unshare");
            command.arg("--root").arg(&self.path).arg("--mount-proc").arg("--").arg(program.as_ref());
            command
        };
        // These variables configure the services of the test run, not this service.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["LICET_", "RABBITMQ_", "ERL_", "PG"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null());
        command
    }

    /// The temporary folder, as a path for this process.
    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The same path for a program inside the root.
    fn inside(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.path).map_or_else(|_| path.to_owned(), |inner| Path::new("/").join(inner))
    }

    /// The newest folder `parent/prefix*/child` inside the root, and the version in its name.
    fn newest(&self, parent: &str, prefix: &str, child: &str) -> (PathBuf, String) {
        let installed = self.path.join(parent.trim_start_matches('/'));
        let found = std::fs::read_dir(&installed)
            .unwrap_or_else(|error| panic!("{} cannot be read ({error}): run tests/run.sh", installed.display()));
        let version = |name: String| {
            let version = name.strip_prefix(prefix)?.to_owned();
            let numbers: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
            (!numbers.is_empty()).then_some((numbers, version))
        };
        let newest = found.flatten().filter_map(|entry| version(entry.file_name().into_string().ok()?)).max();
        let (_, version) = newest.unwrap_or_else(|| panic!("nothing is installed in {}", installed.display()));
        (self.inside(&installed).join(format!("{prefix}{version}")).join(child), version)
    }
}

/// A server's process, which is the leader of its own process group.
#[derive(Debug)]
struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts the process. Its output is appended to its log.
    fn start(mut command: Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("a log file");
        let err = out.try_clone().expect("a second handle of the log file");
        let child = command.process_group(0).stdout(out).stderr(err).spawn().expect("the server's program runs");
        Self { child, log: log.to_owned() }
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: &str) {
        signal_group(signal, self.id());
    }

    /// Waits until `is_ready` returns true.
    fn wait_until_ready(&mut self, what: &str, is_ready: impl Fn() -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !is_ready() {
            let ended = self.child.try_wait().expect("the server is a child process");
            assert!(ended.is_none(), "{what} ended while it was starting: {}", self.tail());
            assert!(Instant::now() < deadline, "{what} was not ready in time: {}", self.tail());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_for_exit(&mut self, what: &str) -> ExitStatus {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().expect("the server is a child process") {
                return status;
            }
            assert!(Instant::now() < deadline, "{what} did not end in time: {}", self.tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The log of the server up to now.
    fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn tail(&self) -> String {
        let log = self.log_text();
        let lines: Vec<_> = log.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal("KILL");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Signals a process group. It is not an error if the group has already ended.
fn signal_group(signal: &str, group: u32) {
    let _ = Command::new("kill")
        .arg(format!("-{signal}"))
        .arg("--")
        .arg(format!("-{group}"))
        .stderr(Stdio::null())
        .status()
        .expect("kill runs");
}

/// A free loopback port, below the range that the kernel uses for outgoing connections.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 8_000).unwrap_or_default();
    loop {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 18_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn is_open(port: u16) -> bool {
    std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}
