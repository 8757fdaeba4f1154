//! A PostgreSQL server that a test starts itself, with fsync on.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sea_orm::{ConnectionTrait, Database, DbErr};

use super::{Root, Server, free_port};

/// PostgreSQL refuses to run as root.
pub(super) const OWNER: [&str; 4] = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"];

/// The role of the worker programs. Unlike `licet`, it is not a superuser and owns nothing.
pub(crate) const WORKER: &str = "worker";
/// The password of [`WORKER`]. The server asks for no other password.
pub(crate) const PASSWORD: &str = "right";
/// The database of the worker programs.
pub(crate) const DATABASE: &str = "licet";

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
        let rules = data.join("pg_hba.conf");
        let others = std::fs::read_to_string(&rules).expect("the rules of the new server");
        std::fs::write(&rules, format!("host all {WORKER} 127.0.0.1/32 scram-sha-256\n{others}")).expect("a file");
        postgres.launch();
        postgres
    }

    /// Creates the database [`DATABASE`] and the role [`WORKER`], which gets the privileges of a
    /// worker on all tables that `licet` creates.
    pub(crate) async fn create_database(&self) {
        self.execute("postgres", &format!("CREATE ROLE {WORKER} LOGIN PASSWORD '{PASSWORD}'")).await;
        self.execute("postgres", &format!("CREATE DATABASE {DATABASE}")).await;
        let defaults = "ALTER DEFAULT PRIVILEGES GRANT";
        let tables = format!("{defaults} SELECT, INSERT, UPDATE, DELETE ON TABLES TO {WORKER}");
        self.execute(DATABASE, &tables).await;
        self.execute(DATABASE, &format!("{defaults} USAGE ON SEQUENCES TO {WORKER}")).await;
    }

    /// Executes a statement as superuser.
    pub(crate) async fn execute(&self, database: &str, statement: &str) {
        self.try_execute(database, statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    /// Like [`Self::execute`], but returns an error if the server does not execute the statement.
    pub(crate) async fn try_execute(&self, database: &str, statement: &str) -> Result<(), DbErr> {
        let connection = Database::connect(Self::url(self.port, database)).await?;
        connection.execute_unprepared(statement).await?;
        connection.close().await
    }

    /// The URL of the worker programs' database at this port.
    pub(crate) fn worker_url(port: u16) -> String {
        format!("postgres://{WORKER}:{PASSWORD}@127.0.0.1:{port}/{DATABASE}")
    }

    /// A file system of this size in the folder of the server, which is mounted until the returned
    /// value is dropped. Only root can mount it.
    pub(crate) fn small_file_system(&mut self, megabytes: usize) -> SmallFileSystem {
        let folder = self.root.folder().join("small");
        std::fs::create_dir(&folder).expect("a folder");
        let size = format!("size={megabytes}m,mode=777");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder).status();
        assert!(mounted.expect("mount runs").success(), "this test must run as root");
        // A server with a root folder of its own sees only what was mounted before it started.
        self.stop_immediately();
        self.launch();
        let inside = self.root.inside(&folder).join("tablespace");
        let mut create = self.root.command("install");
        create.args(["-d", "-m", "700", "-o", "postgres"]).arg(&inside);
        assert!(create.status().expect("install runs").success(), "a folder for the tablespace");
        SmallFileSystem { folder, inside }
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

/// A mounted file system. See [`Postgres::small_file_system`].
#[derive(Debug)]
pub(crate) struct SmallFileSystem {
    folder: PathBuf,
    /// The folder for a tablespace, as the server sees it.
    pub(crate) inside: PathBuf,
}

impl SmallFileSystem {
    /// Fills the file system.
    pub(crate) fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).expect("a file");
        let block = vec![0; 1 << 16];
        while file.write_all(&block).is_ok() {}
    }

    /// Undoes [`Self::fill`].
    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.filler()).expect("the file");
    }

    fn filler(&self) -> PathBuf {
        Path::new(&self.folder).join("filler")
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}

/// Runs a client program of the installed PostgreSQL, such as `pg_dump`, with this input. Returns
/// its output.
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

pub(super) fn as_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
