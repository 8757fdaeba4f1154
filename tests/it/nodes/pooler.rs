//! PgBouncer in transaction mode, which a test starts itself.

use std::{io::Write, path::Path};

use super::{
    Root, Server, free_port, is_open,
    postgres::{DATABASE, OWNER, as_root},
};

/// A PgBouncer server. It is killed when this value is dropped.
#[derive(Debug)]
pub(crate) struct Pooler {
    pub(crate) port: u16,
    _server: Server,
    _root: Root,
}

impl Pooler {
    /// Starts a pooler in front of the PostgreSQL server at this port. It connects as superuser and
    /// accepts every user without a password. If `drops_settings`, it accepts the settings of a
    /// session and drops them. Otherwise, it refuses connections with such settings.
    pub(crate) fn start(port: u16, server_port: u16, drops_settings: bool) -> Self {
        let root = Root::of("LICET_TEST_POOLER_ROOT");
        let (settings, users) = (root.folder().join("pgbouncer.ini"), root.folder().join("users"));
        let ignored = if drops_settings { "extra_float_digits,options" } else { "extra_float_digits" };
        let text = format!(
            "[databases]\n{DATABASE} = host=127.0.0.1 port={server_port} user=licet\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n\
             auth_file = {}\npool_mode = transaction\ndefault_pool_size = 3\nignore_startup_parameters = {ignored}\n",
            users.display()
        );
        std::fs::write(&settings, text).expect("a file");
        let mut file = std::fs::File::create(&users).expect("a file");
        file.write_all(b"\"licet\" \"\"\n\"worker\" \"\"\n").expect("a file");
        // PgBouncer refuses to run as root.
        let program = Path::new("/usr/sbin/pgbouncer");
        let mut command = if as_root() {
            let mut command = root.command(OWNER[0]);
            command.args(&OWNER[1..]).arg(program);
            command
        } else {
            root.command(program)
        };
        command.arg(&settings);
        let mut server = Server::start(command, &root.folder().join("pgbouncer.log"));
        server.wait_until_ready("PgBouncer", || is_open(port));
        Self { port, _server: server, _root: root }
    }

    /// A port for a pooler that is started later.
    pub(crate) fn free_port() -> u16 {
        free_port()
    }
}
