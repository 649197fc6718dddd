//! Roles.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use crate::engine::budget::BUDGET_BYTES_MIN;

/// Where metrics and health are served.
#[derive(Clone, Debug, Args)]
pub struct MetricsArgs {
    /// Address of `/metrics`, `/health/live` and `/health/ready`.
    #[arg(long, env = "MILLRACE_METRICS", default_value = "127.0.0.1:9464", value_name = "HOST:PORT")]
    pub metrics: SocketAddr,
}

/// `ingest`.
#[derive(Clone, Debug, Args)]
pub struct IngestArgs {
    /// Address of the webhook endpoint.
    #[arg(long, env = "MILLRACE_LISTEN", default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    pub listen: SocketAddr,
    /// Address under which senders reach the endpoint, such as https://hooks.example.com; some of them sign it.
    #[arg(long, env = "MILLRACE_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    #[command(flatten)]
    /// Metrics.
    pub metrics: MetricsArgs,
}

/// What the roles that join a consumer group understand.
#[derive(Clone, Debug, Args)]
pub struct GroupArgs {
    /// How long a silent member keeps its partitions; by default 45s, with --static-membership 90s.
    #[arg(long, env = "MILLRACE_SESSION_TIMEOUT", value_parser = duration, value_name = "DURATION")]
    pub session_timeout: Option<Duration>,
}

/// `worker`.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// Name of this instance, stable over restarts and used by no other: part of its transactional ids, so that a
    /// restarted worker ends what its predecessor left open.
    #[arg(long, env = "MILLRACE_INSTANCE", default_value_t = host_name())]
    pub instance: String,
    /// Only these pipelines' groups.
    #[arg(long, value_name = "PIPELINE", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Keep the partitions of this instance over a restart: it does not leave its groups when it stops, and takes its
    /// place again if it is back within the session timeout. Until then nobody else reads them, also when it is dead.
    #[arg(long, env = "MILLRACE_STATIC_MEMBERSHIP")]
    pub static_membership: bool,
    /// Memory for records, from fetched to committed, over all groups of this process. Beside it the process needs about
    /// 64MiB.
    #[arg(long, env = "MILLRACE_MEMORY_BUDGET", default_value = "128MiB", value_parser = memory_budget, value_name = "SIZE")]
    pub memory_budget: usize,
    #[command(flatten)]
    /// Group membership.
    pub group: GroupArgs,
    #[command(flatten)]
    /// Metrics.
    pub metrics: MetricsArgs,
}

/// How long the projector keeps rows.
#[derive(Clone, Copy, Debug, Args)]
pub struct KeepArgs {
    /// How long execution results are kept in Postgres; by default for ever. KPIs say it themselves (`retention:`).
    #[arg(long, env = "MILLRACE_EXECUTIONS_RETENTION", value_parser = duration, value_name = "DURATION")]
    pub executions_retention: Option<Duration>,
}

/// `project`.
#[derive(Clone, Debug, Args)]
pub struct ProjectArgs {
    #[command(flatten)]
    /// What is kept.
    pub keep: KeepArgs,
    #[command(flatten)]
    /// Group membership.
    pub group: GroupArgs,
    #[command(flatten)]
    /// Metrics.
    pub metrics: MetricsArgs,
}

/// `up`.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// Address of the webhook endpoint.
    #[arg(long, env = "MILLRACE_LISTEN", default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    pub listen: SocketAddr,
    /// Address under which senders reach the endpoint, such as https://hooks.example.com; some of them sign it.
    #[arg(long, env = "MILLRACE_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    #[command(flatten)]
    /// What the projector keeps.
    pub keep: KeepArgs,
    #[command(flatten)]
    /// The worker.
    pub worker: WorkerArgs,
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::yaml::units::duration(text).ok_or_else(|| String::from(crate::yaml::units::DURATION_HELP))
}

fn memory_budget(text: &str) -> Result<usize, String> {
    let bytes = crate::yaml::units::size(text).and_then(|bytes| usize::try_from(bytes).ok());
    match bytes {
        Some(bytes) if bytes >= BUDGET_BYTES_MIN => Ok(bytes),
        Some(_) => Err(format!("at least {}MiB", BUDGET_BYTES_MIN >> 20)),
        None => Err(String::from(crate::yaml::units::SIZE_HELP)),
    }
}

/// The host's name, which container platforms keep for a stateful instance.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { String::from("local") } else { name.to_owned() }
}
