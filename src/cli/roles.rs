//! `ingest`, `worker`, `project`, `up`: roles in the foreground until SIGTERM or Ctrl-C.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;

use crate::app::servers::{self, Servers};
use crate::app::supervise::{self, Role};
use crate::app::{self, services};
use crate::cli::args::Common;
use crate::cli::args::roles::{IngestArgs, ProjectArgs, UpArgs, WorkerArgs};
use crate::cli::{Exit, check, ends};
use crate::engine::budget;
use crate::kafka::settings::Connection;
use crate::plan::Plan;
use crate::plan::pipeline::Group;
use crate::schema::codec::Codec;
use crate::secrets::{Secret, Secrets};
use crate::telemetry::Metrics;

/// How long a silent member of a group keeps its partitions, where nothing else is said.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(45);
/// The same for static members, which are to be back by then.
const STATIC_SESSION_TIMEOUT: Duration = Duration::from_secs(90);

/// The servers that were named.
///
/// # Errors
/// When Kafka is not named, or its properties cannot be read.
pub fn servers(common: &Common, instance: &str, session_timeout: Duration) -> anyhow::Result<Servers> {
    Ok(Servers {
        kafka: connection(common)?,
        registry: common.registry.clone().filter(|url| !url.is_empty()),
        postgres: common.postgres.clone().map(Secret::new),
        session_timeout,
        instance: instance.to_owned(),
        secrets: Secrets::default(),
        is_static: false,
        memory_budget_bytes: budget::BUDGET_BYTES,
    })
}

/// The servers of a process that runs workers.
fn worker_servers(common: &Common, arguments: &WorkerArgs) -> anyhow::Result<Servers> {
    let default = if arguments.static_membership { STATIC_SESSION_TIMEOUT } else { SESSION_TIMEOUT };
    let session_timeout = arguments.group.session_timeout.unwrap_or(default);
    let servers = servers(common, &arguments.instance, session_timeout)?;
    let (is_static, memory_budget_bytes) = (arguments.static_membership, arguments.memory_budget);
    Ok(Servers { is_static, memory_budget_bytes, ..servers })
}

/// The Kafka that was named.
///
/// # Errors
/// When none is, or its properties cannot be read.
pub fn connection(common: &Common) -> anyhow::Result<Connection> {
    let brokers = common
        .kafka
        .as_ref()
        .ok_or_else(|| ends(Exit::Usage, "no Kafka is named; give --kafka HOST:PORT or MILLRACE_KAFKA"))?;
    let mut connection = Connection::plain(brokers, "millrace");
    if let Some(path) = &common.kafka_config {
        connection.extra = servers::kafka_properties(path)?;
    }
    Ok(connection)
}

/// A runtime for a verb that waits on servers.
///
/// # Errors
/// When the system gives no threads.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime cannot start")
}

/// Waits for `work` on a runtime of its own. A question to a server that is still open when `work` has ended is given
/// up.
///
/// # Errors
/// Those of `work`, or when the system gives no threads.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = runtime()?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// `millrace ingest`.
///
/// # Errors
/// Whatever keeps the role from starting, or ends it.
pub fn ingest(common: &Common, arguments: &IngestArgs) -> anyhow::Result<Exit> {
    let plan = check::plan(common)?;
    let servers = servers(common, "ingest", SESSION_TIMEOUT)?;
    let metrics = Metrics::install()?;
    runtime()?.block_on(async {
        let listener = listen(arguments.listen).await?;
        let public = arguments.public_url.as_deref();
        let roles = vec![app::ingest::role(&plan, &servers, listener, public, None)?];
        run(roles, arguments.metrics.metrics, metrics).await
    })
}

/// `millrace worker`.
///
/// # Errors
/// Whatever keeps the role from starting, or ends it.
pub fn worker(common: &Common, arguments: &WorkerArgs) -> anyhow::Result<Exit> {
    let plan = check::plan(common)?;
    let servers = worker_servers(common, arguments)?;
    let metrics = Metrics::install()?;
    runtime()?.block_on(async {
        let codec = servers.codec(&plan.namespace).await?;
        let roles = workers(&plan, &servers, &arguments.only, codec).await?;
        run(roles, arguments.metrics.metrics, metrics).await
    })
}

/// `millrace project`.
///
/// # Errors
/// Whatever keeps the role from starting, or ends it.
pub fn project(common: &Common, arguments: &ProjectArgs) -> anyhow::Result<Exit> {
    let plan = check::plan(common)?;
    let session_timeout = arguments.group.session_timeout.unwrap_or(SESSION_TIMEOUT);
    let servers = servers(common, "project", session_timeout)?;
    let metrics = Metrics::install()?;
    runtime()?.block_on(async {
        let codec = servers.codec(&plan.namespace).await?;
        let kept = arguments.keep.executions_retention;
        let roles = vec![app::project::role_keeping(&plan, &servers, codec, kept)?];
        run(roles, arguments.metrics.metrics, metrics).await
    })
}

/// `millrace up`.
///
/// # Errors
/// Whatever keeps a role from starting, or ends it.
pub fn up(common: &Common, arguments: &UpArgs) -> anyhow::Result<Exit> {
    let plan = check::plan(common)?;
    let servers = worker_servers(common, &arguments.worker)?;
    let metrics = Metrics::install()?;
    runtime()?.block_on(async {
        let listener = listen(arguments.listen).await?;
        let mut roles = Vec::new();
        if !plan.sources.is_empty() {
            let public = arguments.public_url.as_deref();
            roles.push(app::ingest::role(&plan, &servers, listener, public, None)?);
        }
        let codec = servers.codec(&plan.namespace).await?;
        roles.extend(workers(&plan, &servers, &arguments.worker.only, Arc::clone(&codec)).await?);
        let kept = arguments.keep.executions_retention;
        roles.push(app::project::role_keeping(&plan, &servers, codec, kept)?);
        run(roles, arguments.worker.metrics.metrics, metrics).await
    })
}

/// A worker for each group; with `only`, for each group that has one of these pipelines.
///
/// # Errors
/// When a name is unknown, or a worker cannot start.
pub async fn workers(
    plan: &Plan,
    servers: &Servers,
    only: &[String],
    codec: Arc<Codec>,
) -> anyhow::Result<Vec<Role>> {
    if let Some(unknown) = only.iter().find(|name| plan.pipeline(name).is_none()) {
        return Err(ends(Exit::Usage, format!("there is no pipeline `{unknown}` in this project")));
    }
    let services = Arc::new(services::live(plan, servers, codec).await?);
    let is_wanted = |group: &&Group| {
        only.is_empty()
            || group.pipelines.iter().any(|pipeline| only.iter().any(|name| *name == *pipeline.name))
    };
    let groups: Vec<&Group> = plan.groups.iter().filter(is_wanted).collect();
    let shared = app::worker::Shared::new(plan, servers, services, groups.len());
    groups.into_iter().map(|group| app::worker::role(&Arc::new(group.clone()), &shared)).collect()
}

/// Listens on `address`.
///
/// # Errors
/// When it is taken.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for webhooks; choose another with --listen"))
}

async fn run(roles: Vec<Role>, metrics_at: SocketAddr, metrics: Metrics) -> anyhow::Result<Exit> {
    let shutdown = supervise::shutdown_on_signal()?;
    let admin = tokio_util::sync::CancellationToken::new();
    let address = supervise::serve_health(metrics_at, metrics, &roles, admin.clone()).await?;
    let names: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
    tracing::info!(roles = names.join(", "), metrics = %address, "started");
    let result = supervise::run(roles, shutdown).await;
    // Health is served to the end, so that an orchestrator sees the drain.
    admin.cancel();
    result.map(|()| Exit::Done)
}
