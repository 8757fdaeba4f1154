//! Programs in their own processes, which a test starts, kills and terminates.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::system::{TIMEOUT, TestSystem, amqp_url, program};

/// A running program. It is killed when this value is dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program on the services of the system. It writes its log to a file in the system's
    /// folder.
    pub(crate) fn start(system: &TestSystem, name: &str) -> Self {
        let database_url = system.database_url.clone().expect("a PostgreSQL database");
        let settings =
            [("LICET_AMQP_URL", amqp_url()), ("LICET_DATABASE_URL", database_url), ("LICET_BATCH_MAX", "16".into())];
        Self::with(name, &log_of(system, name), &settings)
    }

    /// Starts a program with these settings in the folder of its log, which also contains the
    /// folder `keys`.
    pub(crate) fn with(name: &str, log: &Path, settings: &[(&str, String)]) -> Self {
        Self::with_arguments(name, &[], log, settings)
    }

    /// Like [`Self::with`], with command-line arguments.
    pub(crate) fn with_arguments(name: &str, arguments: &[&str], log: &Path, settings: &[(&str, String)]) -> Self {
        let errors = File::options().create(true).append(true).open(log).expect("a log file");
        let child = Command::new(program(name))
            .args(arguments)
            .current_dir(log.parent().expect("the folder of the log"))
            .envs(settings.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn();
        Self(child.expect("the program starts"))
    }

    /// Kills the program (SIGKILL).
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("the process can be killed");
        self.0.wait().expect("the process has ended");
    }

    /// Terminates the program (SIGTERM) and returns its exit code.
    pub(crate) fn terminate(self) -> Option<i32> {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        self.wait()
    }

    /// Waits until the program ends, and returns its exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.0.try_wait().expect("a child process") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the program did not end in time");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn log_of(system: &TestSystem, name: &str) -> std::path::PathBuf {
    system.folder.path().join(format!("{name}.log"))
}
