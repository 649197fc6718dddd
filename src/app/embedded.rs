//! Servers for development that Millrace brings with it: a broker in this process and a private Postgres cluster, each
//! where none is named. Both end with the process.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::apply::Targets;
use crate::app::reach;
use crate::app::servers::Servers;
use crate::devbroker::{self, Broker};
use crate::engine::budget;
use crate::kafka::settings::Connection;
use crate::postgres::private::{Cluster, Folder, PrivateError};
use crate::postgres::reach::place;
use crate::secrets::{Secret, Secrets};

/// Short: a member of a former run of the same name is forgotten soon.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// What is started where nothing is named.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Servers that were named.
    pub named: Targets,
    /// Where a private Postgres cluster is kept; `None` for a temporary one.
    pub state: Option<PathBuf>,
    /// Port of the broker; 0 takes a free one.
    pub broker_port: u16,
    /// Port of Postgres; 0 takes a free one.
    pub postgres_port: u16,
    /// Name of this process among the members of its groups.
    pub instance: &'static str,
}

/// Servers that run, those that were named among them. Those of our own end when this is dropped; first drop what uses
/// them.
pub struct Embedded {
    /// How roles reach them.
    pub servers: Servers,
    /// A line about each, for people: name, what and where, how long it took.
    pub lines: Vec<[String; 3]>,
    /// Cancelled when the private Postgres has ended.
    pub postgres_ended: CancellationToken,
    /// Whether topics end with this process.
    pub has_broker: bool,
    /// Whether Postgres is a private cluster.
    pub has_cluster: bool,
    /// Whether the private cluster stays after the end.
    pub is_kept: bool,
    _broker: Option<Broker>,
    _cluster: Option<Cluster>,
}

/// Servers on their way: Kafka can be used, Postgres cannot yet.
pub struct Starting {
    servers: Servers,
    broker: Option<(Broker, Duration)>,
    cluster: JoinHandle<Result<Option<Cluster>, PrivateError>>,
    is_kept: bool,
}

/// Begins to start what is not named, all at the same time.
///
/// # Errors
/// When the broker's port is taken.
pub fn begin(wanted: Wanted) -> anyhow::Result<Starting> {
    let Wanted { named, state, broker_port, postgres_port, instance } = wanted;
    let Targets { kafka, registry, postgres, replication: _ } = named;
    let starts_cluster = postgres.is_none();
    let is_kept = starts_cluster && state.is_some();
    let folder = state.map_or(Folder::Temporary, Folder::Kept);
    let cluster = tokio::task::spawn_blocking(move || {
        starts_cluster.then(|| Cluster::start(&folder, postgres_port)).transpose()
    });
    let (kafka, broker) = match kafka {
        Some(connection) => (connection, None),
        None => {
            let (broker, took) = broker(broker_port)?;
            (Connection::plain(broker.address().to_string(), "millrace"), Some((broker, took)))
        }
    };
    let servers = Servers {
        kafka,
        registry,
        postgres,
        session_timeout: SESSION_TIMEOUT,
        instance: instance.to_owned(),
        is_static: false,
        memory_budget_bytes: budget::BUDGET_BYTES,
        secrets: Secrets::default(),
    };
    Ok(Starting { servers, broker, cluster, is_kept })
}

impl Starting {
    /// The servers so far: without the address of a Postgres that only starts.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Waits for Postgres.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or its server does not start.
    pub async fn finish(self) -> anyhow::Result<Embedded> {
        let Self { mut servers, broker, cluster, is_kept } = self;
        let cluster = cluster.await?.context("the private Postgres cannot be started")?;
        if let Some(cluster) = &cluster {
            servers.postgres = Some(Secret::new(cluster.url()));
        }
        let lines = lines(&servers, broker.as_ref().map(|(_, took)| *took), cluster.as_ref())?;
        let postgres_ended = cluster.as_ref().map(Cluster::ended).unwrap_or_default();
        let broker = broker.map(|(broker, _)| broker);
        Ok(Embedded {
            servers,
            lines,
            postgres_ended,
            has_broker: broker.is_some(),
            has_cluster: cluster.is_some(),
            is_kept,
            _broker: broker,
            _cluster: cluster,
        })
    }
}

fn broker(port: u16) -> anyhow::Result<(Broker, Duration)> {
    let begun = Instant::now();
    let settings = devbroker::Settings { port, ..devbroker::Settings::default() };
    let broker = Broker::start(settings).with_context(|| match port {
        0 => String::from("the broker cannot be started"),
        port => format!("the broker cannot listen on 127.0.0.1:{port}; choose another with --broker-port"),
    })?;
    Ok((broker, begun.elapsed()))
}

fn lines(
    servers: &Servers,
    broker: Option<Duration>,
    cluster: Option<&Cluster>,
) -> anyhow::Result<Vec<[String; 3]>> {
    let line = |name: &str, what: String, took: String| [name.to_owned(), what, took];
    let ready = |took: Duration| format!("ready in {:.1} s", took.as_secs_f64());
    let kafka = match broker {
        Some(took) => {
            line("broker", format!("in process, development only   {}", servers.kafka.brokers), ready(took))
        }
        None => line("kafka", servers.kafka.brokers.clone(), String::new()),
    };
    let registry = servers.registry.clone();
    let registry = registry.unwrap_or_else(|| String::from("none: the schemas of the project are used"));
    let postgres = match cluster {
        Some(cluster) => {
            let what = format!("private cluster, {}   port {}", cluster.version(), cluster.port());
            line("postgres", what, ready(cluster.took()))
        }
        None => {
            let url = servers.postgres.as_ref().map(reach::address).transpose()?;
            line("postgres", url.and_then(place).unwrap_or_default(), String::new())
        }
    };
    Ok(vec![kafka, line("registry", registry, String::new()), postgres])
}
