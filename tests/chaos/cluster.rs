//! Servers of the harness's own, started by `scripts/services`: Kafka behind a proxy for each node, and Postgres.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::metadata::MetadataTopic;
use tokio::runtime::Runtime;

use crate::proxy::kafka::KafkaProxy;

const ASK_TIMEOUT: Duration = Duration::from_secs(20);

/// A server's process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Server {
    /// Kafka's node with this number, from 0.
    Kafka(usize),
    /// Postgres.
    Postgres,
}

/// Kafka of one or three nodes, and Postgres.
pub struct Cluster {
    folder: PathBuf,
    /// One for each node.
    pub proxies: Vec<Arc<KafkaProxy>>,
    /// Addresses behind the proxies, for the harness's own clients.
    pub kafka: String,
    /// Addresses of the proxies, for Millrace.
    pub kafka_proxied: String,
    /// Port of Postgres.
    pub postgres_port: u16,
}

impl Cluster {
    /// Starts Kafka with so many nodes, and Postgres, in `folder`.
    pub fn start(folder: &Path, nodes: usize) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let proxies = (0..nodes).map(|_| KafkaProxy::open().map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let ports: Vec<String> = proxies.iter().map(|proxy| proxy.line().port.to_string()).collect();
        let addresses: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut cluster = Self {
            folder: folder.to_owned(),
            proxies,
            kafka: String::new(),
            kafka_proxied: addresses.join(","),
            postgres_port: 0,
        };
        let nodes = nodes.to_string();
        let words = ["--kafka-nodes", nodes.as_str(), "--kafka-proxied", &ports.join(",")];
        cluster.services("start", "kafka,postgres", &words)?;
        let mut direct = Vec::new();
        for (node, proxy) in cluster.proxies.iter().enumerate() {
            direct.push(format!("127.0.0.1:{}", cluster.number::<u16>(Server::Kafka(node), "port")?));
            proxy.line().lead_to(cluster.number(Server::Kafka(node), "proxied-port")?);
        }
        cluster.kafka = direct.join(",");
        cluster.postgres_port = cluster.number(Server::Postgres, "port")?;
        Ok(cluster)
    }

    /// Number of Kafka's nodes.
    pub fn nodes(&self) -> usize {
        self.proxies.len()
    }

    /// `kill -9`.
    pub fn kill(&self, server: Server) -> anyhow::Result<()> {
        self.signal(server, libc::SIGKILL)
    }

    /// Sends a signal to the server's process; Postgres' children end with their parent.
    pub fn signal(&self, server: Server, signal: i32) -> anyhow::Result<()> {
        let pid = self.number::<i32>(server, "pid")?;
        if pid <= 1 {
            bail!("{server:?} has no process");
        }
        // SAFETY: kill(2) with the id of a server that this harness started.
        unsafe { libc::kill(pid, signal) };
        Ok(())
    }

    /// Starts again what does not run.
    pub fn restart(&self) -> anyhow::Result<()> {
        self.services("start", "kafka,postgres", &[])
    }

    /// Lets frozen servers go on, and starts those that are down.
    pub fn heal(&self) -> anyhow::Result<()> {
        for node in 0..self.nodes() {
            self.signal(Server::Kafka(node), libc::SIGCONT)?;
        }
        self.restart()
    }

    /// Deletes the topics of a case: a node that was killed looks through every partition it has when it starts.
    pub fn delete_topics(&self, runtime: &Runtime, prefix: &str) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.kafka).create()?;
        let metadata = admin.inner().fetch_metadata(None, ASK_TIMEOUT)?;
        let topics: Vec<&str> = metadata
            .topics()
            .iter()
            .map(MetadataTopic::name)
            .filter(|name| name.starts_with(prefix))
            .collect();
        runtime.block_on(admin.delete_topics(&topics, &AdminOptions::new()))?;
        Ok(())
    }

    /// Address of a database of Postgres, reached at `port`.
    pub fn postgres_url(port: u16, database: &str) -> String {
        format!("postgres://millrace@127.0.0.1:{port}/{database}")
    }

    fn services(&self, command: &str, only: &str, words: &[&str]) -> anyhow::Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
        let output = Command::new(&script)
            .args([command, "--dir"])
            .arg(&self.folder)
            .args(["--only", only])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("{} cannot be run", script.display()))?;
        if !output.status.success() {
            bail!("scripts/services {command} failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// The number that `scripts/services` noted in a server's file.
    fn number<N: std::str::FromStr>(&self, server: Server, file: &str) -> anyhow::Result<N> {
        let name = match server {
            Server::Kafka(0) => "kafka".to_owned(),
            Server::Kafka(node) => format!("kafka-{}", node + 1),
            Server::Postgres => "postgres".to_owned(),
        };
        let path = self.folder.join(name).join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
        let first = text.split_whitespace().next().unwrap_or_default();
        first.parse().ok().with_context(|| format!("{} holds `{text}`", path.display()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A stopped process hears nothing but SIGKILL.
        for node in 0..self.nodes() {
            let _ = self.signal(Server::Kafka(node), libc::SIGCONT);
        }
        if let Err(error) = self.services("stop", "kafka,postgres", &["--purge"]) {
            eprintln!("{error:#}");
        }
    }
}
