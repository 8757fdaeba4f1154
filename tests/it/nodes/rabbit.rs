//! RabbitMQ nodes that a test starts itself: a single node, or a cluster of three nodes.

use std::{path::PathBuf, process::Command, sync::Arc};

use super::{Root, Server, free_port, is_open};

const LOOPBACK: &str = "-kernel inet_dist_use_interface {127,0,0,1}";

/// The parts that the nodes of a cluster share: programs, cookie and port mapper (epmd).
#[derive(Debug)]
struct Installation {
    root: Root,
    programs: PathBuf,
    version: String,
    epmd_port: u16,
    _epmd: Server,
}

/// A RabbitMQ node.
#[derive(Debug)]
pub(crate) struct Rabbit {
    installation: Arc<Installation>,
    name: String,
    pub(crate) port: u16,
    /// The port of the management API. Only [`Rabbit::with_management`] serves it.
    pub(crate) management_port: u16,
    dist_port: u16,
    server: Option<Server>,
}

impl Rabbit {
    /// Starts a single node.
    pub(crate) fn start() -> Self {
        let mut node = Self::new(&Arc::new(Installation::new()), "solo");
        node.configure(&[]);
        node.launch();
        node.wait_until_ready();
        node
    }

    /// Starts a single node with the management API.
    pub(crate) fn with_management() -> Self {
        let mut node = Self::new(&Arc::new(Installation::new()), "managed");
        node.configure(&[]);
        std::fs::write(node.folder().join("plugins"), "[rabbitmq_management].\n").expect("a file");
        let lines = format!("management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {}\n", node.management_port);
        std::fs::write(node.folder().join("conf.d/management.conf"), lines).expect("a file");
        node.launch();
        node.wait_until_ready();
        node
    }

    /// Starts a cluster of three nodes.
    pub(crate) fn cluster() -> Vec<Self> {
        let installation = Arc::new(Installation::new());
        let mut nodes: Vec<_> = ["one", "two", "three"].iter().map(|name| Self::new(&installation, name)).collect();
        let names: Vec<_> = nodes.iter().map(|node| node.name.clone()).collect();
        // Start all nodes at once, because RabbitMQ 4.3 forms a cluster only after it has reached
        // every node.
        for node in &mut nodes {
            node.configure(&names);
            node.launch();
        }
        nodes.iter_mut().for_each(Self::wait_until_ready);
        let status = nodes[0].ctl(&["cluster_status", "--formatter", "json"]);
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        assert_eq!(status["running_nodes"].as_array().map(Vec::len), Some(3), "a cluster of three: {status}");
        nodes
    }

    fn new(installation: &Arc<Installation>, name: &str) -> Self {
        let name = format!("{name}-{}@localhost", installation.epmd_port);
        let [port, management_port, dist_port] = [(); 3].map(|()| free_port());
        Self { installation: installation.clone(), name, port, management_port, dist_port, server: None }
    }

    fn configure(&self, cluster: &[String]) {
        let folder = self.folder();
        std::fs::create_dir_all(folder.join("conf.d")).expect("a folder");
        let mut lines = vec![
            format!("listeners.tcp.1 = 127.0.0.1:{}", self.port),
            "max_message_size = 1048576".into(),
            "log.console = true".into(),
        ];
        if !cluster.is_empty() {
            lines.push("cluster_formation.peer_discovery_backend = classic_config".into());
            let numbered = cluster.iter().enumerate();
            lines.extend(
                numbered.map(|(index, name)| format!("cluster_formation.classic_config.nodes.{} = {name}", index + 1)),
            );
            // Without this setting, a minority of the nodes would continue alone and could lose
            // confirmed messages.
            lines.push("cluster_partition_handling = pause_minority".into());
        }
        std::fs::write(folder.join("rabbitmq.conf"), lines.join("\n") + "\n").expect("a file");
        std::fs::write(folder.join("plugins"), "[].\n").expect("a file");
    }

    /// Starts the node, for the first time or again. When this returns, the node may not accept
    /// connections yet.
    pub(crate) fn launch(&mut self) {
        let mut command = self.command("rabbitmq-server");
        command.env("RABBITMQ_LOGS", "-");
        self.server = Some(Server::start(command, &self.folder().join("node.log")));
    }

    /// Waits until the node accepts connections. The port opens before the node is ready, so this
    /// function waits for an answer to the protocol header.
    pub(crate) fn wait_until_ready(&mut self) {
        let port = self.port;
        let mut server = self.server.take().expect("the node was launched");
        server.wait_until_ready(&self.name, || speaks_amqp(port));
        self.server = Some(server);
    }

    /// Kills the node (SIGKILL).
    pub(crate) fn kill(&mut self) {
        let mut server = self.server.take().expect("the node runs");
        server.signal("KILL");
        server.wait_for_exit(&self.name);
    }

    /// Stops the node cleanly.
    pub(crate) fn stop(&mut self) {
        self.ctl(&["stop"]);
        self.server.take().expect("the node runs").wait_for_exit(&self.name);
    }

    /// Makes the node write the registrations of its quorum queues to disk. RabbitMQ does this only
    /// after several seconds. If a node is killed before that, its queues have no leader afterwards
    /// and do not recover.
    pub(crate) fn write_registrations(&self) {
        self.ctl(&["eval", "[ok = dets:sync(Table) || Table <- dets:all()]."]);
    }

    /// The process id of the node.
    pub(crate) fn id(&self) -> u32 {
        self.server.as_ref().expect("the node runs").id()
    }

    /// The version of RabbitMQ.
    pub(crate) fn version(&self) -> &str {
        &self.installation.version
    }

    /// The URL of a node or of a proxy at this port.
    pub(crate) fn url(port: u16, heartbeat_s: u16) -> String {
        format!("amqp://guest:guest@127.0.0.1:{port}/%2f?heartbeat={heartbeat_s}")
    }

    /// Runs `rabbitmqctl` against this node and returns its output.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        self.try_ctl(arguments).unwrap_or_else(|error| panic!("rabbitmqctl {arguments:?}: {error}"))
    }

    /// Like [`Self::ctl`], but returns an error if the node does not answer.
    pub(crate) fn try_ctl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.command("rabbitmqctl");
        let output = command.args(["--quiet", "-n", &self.name]).args(arguments).output();
        let output = output.map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// The log of the node, or the error if it cannot be read.
    pub(crate) fn log(&self) -> String {
        std::fs::read(self.folder().join("node.log"))
            .map_or_else(|error| error.to_string(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Runs a `rabbitmqctl` command that prints a table.
    pub(crate) fn table(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--formatter", "json"]);
        let output = self.ctl(&arguments);
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.name == name
    }

    /// The name of the node that leads a quorum queue.
    pub(crate) fn leader_of(&self, queue: &str) -> String {
        let rows = self.table(&["list_queues", "name", "leader"]);
        let row = rows.iter().find(|row| row["name"] == queue).expect("the queue exists");
        row["leader"].as_str().expect("the queue has a leader").to_owned()
    }

    fn folder(&self) -> PathBuf {
        self.installation.root.folder().join(self.name.split('@').next().unwrap_or_default())
    }

    fn command(&self, program: &str) -> Command {
        let installation = &self.installation;
        let folder = installation.root.inside(&self.folder());
        let mut command = installation.root.command(installation.programs.join(program));
        installation.environment(&mut command);
        command
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_PID_FILE", folder.join("node.pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_CONFIG_FILES", folder.join("conf.d"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("rabbitmq-env.conf"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", LOOPBACK)
            .env("RABBITMQ_CTL_ERL_ARGS", LOOPBACK);
        command
    }
}

impl Installation {
    fn new() -> Self {
        let root = Root::of("LICET_TEST_BROKER_ROOT");
        let (programs, version) = root.newest("/usr/lib/rabbitmq/lib", "rabbitmq_server-", "sbin");
        let epmd_port = free_port();
        // epmd does not run as a daemon, so that it ends with the test. It starts first, because
        // Erlang would otherwise start an epmd of its own as a daemon.
        let mut epmd = root.command("epmd");
        epmd.args(["-port", &epmd_port.to_string(), "-address", "127.0.0.1"]);
        let mut epmd = Server::start(epmd, &root.folder().join("epmd.log"));
        epmd.wait_until_ready("epmd", || is_open(epmd_port));
        Self { root, programs, version, epmd_port, _epmd: epmd }
    }

    /// The cookie is written to HOME, so all nodes of the cluster share it.
    fn environment(&self, command: &mut Command) {
        let home = self.root.inside(self.root.folder());
        command
            .current_dir("/")
            .env("HOME", home)
            .env("LANG", "C.UTF-8")
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env_remove("NOTIFY_SOCKET");
    }
}

/// Whether the server at this port answers the AMQP protocol header.
fn speaks_amqp(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut socket) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = socket.set_read_timeout(Some(std::time::Duration::from_secs(2)));
    let mut first = [0];
    socket.write_all(b"AMQP\0\0\x09\x01").is_ok() && socket.read_exact(&mut first).is_ok() && first == [1]
}
