//! Programs as processes of their own, which a test starts, kills and terminates.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::world::{PATIENCE, World, amqp_url, program};

/// A running program. It is killed when the test is done with it.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program on the world's services; what it logs goes to a file in the world's folder.
    pub(crate) fn start(world: &World, name: &str) -> Self {
        let database_url = world.database_url.clone().expect("a PostgreSQL database");
        let settings =
            [("LICET_AMQP_URL", amqp_url()), ("LICET_DATABASE_URL", database_url), ("LICET_BATCH_MAX", "16".into())];
        Self::with(name, &log_of(world, name), &settings)
    }

    /// Starts a program with these settings in the folder of its log, where the folder `keys` is.
    pub(crate) fn with(name: &str, log: &Path, settings: &[(&str, String)]) -> Self {
        let said = File::options().create(true).append(true).open(log).expect("a log file");
        let child = Command::new(program(name))
            .current_dir(log.parent().expect("its folder"))
            .envs(settings.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn();
        Self(child.expect("the program starts"))
    }

    /// SIGKILL: no goodbye of any kind.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it is gone");
    }

    /// SIGTERM, and its exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().expect("it is our child") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the program does not end");
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

pub(crate) fn log_of(world: &World, name: &str) -> std::path::PathBuf {
    world.folder.path().join(format!("{name}.log"))
}
