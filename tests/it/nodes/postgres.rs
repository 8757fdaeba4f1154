//! A PostgreSQL server that a test starts itself, with fsync on.

use std::{io::Write, path::PathBuf, process::Stdio};

use super::{Root, Server, free_port};

/// PostgreSQL refuses to run as root.
const OWNER: [&str; 4] = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"];

/// A PostgreSQL server. See the module documentation.
#[derive(Debug)]
pub(crate) struct Postgres {
    root: Root,
    programs: PathBuf,
    /// The version, such as 15.
    pub(crate) version: String,
    pub(crate) port: u16,
    server: Option<Server>,
}

impl Postgres {
    /// Starts a new server.
    pub(crate) fn start() -> Self {
        let root = Root::of("LICET_TEST_DATABASE_ROOT");
        let (programs, version) = root.newest("/usr/lib/postgresql", "", "bin");
        let mut postgres = Self { root, programs, version, port: free_port(), server: None };
        let data = postgres.data();
        std::fs::create_dir(&data).expect("a folder");
        let inside = postgres.root.inside(&data);
        if as_root() {
            let status = postgres.root.command("chown").arg("postgres:").arg(&inside).status();
            assert!(status.expect("chown runs").success(), "the user postgres exists");
        }
        let mut initdb = postgres.command("initdb");
        initdb.args(["-U", "licet", "-A", "trust", "-E", "UTF8", "--no-locale"]);
        // initdb does not sync, because the data is new. The server itself runs with fsync.
        let created = initdb.args(["--no-sync", "-D"]).arg(&inside).output().expect("initdb runs");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
        postgres.launch();
        postgres
    }

    /// Starts the server again after it has ended.
    pub(crate) fn launch(&mut self) {
        let (data, port) = (self.root.inside(&self.data()), self.port.to_string());
        let mut command = self.command("postgres");
        command.arg("-D").arg(&data).args(["-p", &port, "-k"]).arg(&data);
        for setting in ["listen_addresses=127.0.0.1", "max_connections=200", "fsync=on"] {
            command.args(["-c", setting]);
        }
        let mut server = Server::start(command, &self.root.folder().join("postgres.log"));
        server.wait_until_ready("PostgreSQL", || {
            let mut ready = self.root.command(self.programs.join("pg_isready"));
            ready.args(["-q", "-h", "127.0.0.1", "-p", &port, "-U", "licet", "-d", "postgres"]);
            ready.status().is_ok_and(|status| status.success())
        });
        self.server = Some(server);
    }

    /// Stops the server without a checkpoint, as `pg_ctl stop -m immediate` does.
    pub(crate) fn stop_immediately(&mut self) {
        let mut server = self.server.take().expect("the server runs");
        // Only the postmaster receives the signal. It stops its child processes.
        let status = std::process::Command::new("kill").args(["-QUIT", &server.id().to_string()]).status();
        assert!(status.expect("kill runs").success(), "the postmaster runs");
        server.wait_for_exit("PostgreSQL");
    }

    /// How often the log contains this text.
    pub(crate) fn count_in_log(&self, text: &str) -> usize {
        self.server.as_ref().map_or(0, |server| server.log_text().matches(text).count())
    }

    /// The URL of a database at this port.
    pub(crate) fn url(port: u16, database: &str) -> String {
        format!("postgres://licet@127.0.0.1:{port}/{database}")
    }

    fn data(&self) -> PathBuf {
        self.root.folder().join("data")
    }

    fn command(&self, program: &str) -> std::process::Command {
        let program = self.programs.join(program);
        if !as_root() {
            return self.root.command(program);
        }
        let mut command = self.root.command(OWNER[0]);
        command.args(&OWNER[1..]).arg(program);
        command.current_dir("/");
        command
    }
}

/// Runs a client program of the installed PostgreSQL, such as `pg_dump`, with this input. Returns its
/// output.
pub(crate) fn run_client(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let root = Root::of("LICET_TEST_DATABASE_ROOT");
    let (programs, _) = root.newest("/usr/lib/postgresql", "", "bin");
    let mut command = root.command(programs.join(program));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    child.stdin.take().expect("a pipe").write_all(input).expect("the program reads its input");
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn as_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
