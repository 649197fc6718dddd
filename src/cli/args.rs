//! What may be typed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::telemetry::logs;

/// Kafka-native event-streaming pipeline processor.
///
/// Webhooks and other events land in Kafka topics; pipelines written in YAML take them from there; every event ends
/// as an execution result and as KPIs in Postgres.
#[derive(Debug, Parser)]
#[command(
    name = "millrace",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 done, 1 a check or test failed, 2 usage, 3 configuration refused, \
                  4 a server could not be reached.\n\n\
                  Examples:\n  \
                  millrace check                          look for mistakes, without network\n  \
                  millrace test                           run the tests in the pipeline files\n  \
                  millrace apply                          create topics, schemas and tables\n  \
                  millrace up                             run all roles in one process\n  \
                  millrace dlq list --pipeline leads      look at dead letters"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// What every verb understands.
    #[command(flatten)]
    pub common: Common,
}

/// What every verb understands.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Project folder.
    #[arg(long, global = true, env = "MILLRACE_PROJECT", default_value = ".", value_name = "DIR")]
    pub project: PathBuf,
    /// First word of every topic, consumer group and transactional id that Millrace owns in the cluster.
    #[arg(long, global = true, env = "MILLRACE_NAMESPACE", default_value = "millrace")]
    pub namespace: String,
    /// Kafka bootstrap servers.
    #[arg(long, global = true, env = "MILLRACE_KAFKA", value_name = "HOST:PORT,..")]
    pub kafka: Option<String>,
    /// File of librdkafka settings, `key=value` a line: TLS and SASL.
    #[arg(long, global = true, env = "MILLRACE_KAFKA_CONFIG", value_name = "FILE")]
    pub kafka_config: Option<PathBuf>,
    /// Schema registry (Confluent API). Without one, the schemas of the project are used as they are.
    #[arg(long, global = true, env = "MILLRACE_REGISTRY", value_name = "URL")]
    pub registry: Option<String>,
    /// Postgres.
    #[arg(long, global = true, env = "MILLRACE_POSTGRES", value_name = "URL", hide_env_values = true)]
    pub postgres: Option<String>,
    /// Tables for people, or JSON for programs.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub output: Output,
    /// How logs are written, to standard error.
    #[arg(long, global = true, env = "MILLRACE_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: logs::Format,
    /// What is logged, in RUST_LOG's syntax.
    #[arg(
        long,
        global = true,
        env = "MILLRACE_LOG",
        default_value = "warn,millrace=info",
        value_name = "LEVEL"
    )]
    pub log_level: String,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Output {
    /// Tables for people.
    #[default]
    Text,
    /// JSON for programs.
    Json,
}

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Look for mistakes in the project; needs no network.
    Check(CheckArgs),
    /// Run the tests in the pipeline files; needs no network.
    Test(TestArgs),
    /// Show what `apply` would change.
    Plan(PlanArgs),
    /// Create or change topics, schemas and tables until they are as the project says.
    Apply(ApplyArgs),
    /// Run all roles in one process.
    Up(UpArgs),
    /// Run the role that takes webhooks in.
    Ingest(IngestArgs),
    /// Run the role that takes events through pipelines.
    Worker(WorkerArgs),
    /// Run the role that folds results and facts into Postgres.
    Project(ProjectArgs),
    /// Publish an event to a topic.
    Send(SendArgs),
    /// Print records of a topic.
    Tail(TailArgs),
    /// Dead letters.
    #[command(subcommand)]
    Dlq(DlqVerb),
    /// How far each consumer group is behind.
    Lag,
    /// The ledger: how every event ended, per pipeline.
    Ledger,
    /// Find out what is wrong with servers, topics and the project, and how to mend it.
    Doctor,
    /// See the main job done: signed webhooks in, KPIs out.
    Quickstart(QuickstartArgs),
    /// Ask a running role whether it is ready; for container health checks.
    Health(HealthArgs),
    /// Print completions for a shell.
    Completions(CompletionsArgs),
}

/// `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Also warn of secrets that have no value in this environment.
    #[arg(long)]
    pub secrets: bool,
}

/// `test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Only pipelines whose name holds this text.
    pub pipeline: Option<String>,
}

/// `plan`.
#[derive(Debug, Args)]
#[command(after_help = "Servers that are not named are left out.\n\n\
    Examples:\n  \
    millrace plan --kafka 127.0.0.1:9092\n  \
    millrace plan --output json")]
pub struct PlanArgs {
    /// Copies of each partition of a new topic; by default as many as the brokers are set to.
    #[arg(long, env = "MILLRACE_REPLICATION", value_name = "COPIES", value_parser = clap::value_parser!(i32).range(1..=100))]
    pub replication: Option<i32>,
}

/// `apply`.
#[derive(Debug, Args)]
#[command(
    after_help = "Servers that are not named are left out. Nothing is ever deleted, and running it again \
    changes nothing.\n\n\
    Examples:\n  \
    millrace apply                             show, ask, change\n  \
    millrace apply --yes                       for scripts: do not ask\n  \
    millrace apply --yes --replication 3       three copies of each new partition"
)]
pub struct ApplyArgs {
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    /// What `plan` understands.
    #[command(flatten)]
    pub plan: PlanArgs,
}

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
    /// How long a silent member keeps its partitions.
    #[arg(long, env = "MILLRACE_SESSION_TIMEOUT", default_value = "45s", value_parser = duration, value_name = "DURATION")]
    pub session_timeout: Duration,
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
    #[command(flatten)]
    /// Group membership.
    pub group: GroupArgs,
    #[command(flatten)]
    /// Metrics.
    pub metrics: MetricsArgs,
}

/// `project`.
#[derive(Clone, Debug, Args)]
pub struct ProjectArgs {
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
    /// The worker.
    pub worker: WorkerArgs,
}

/// `send`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    millrace send events.hello --key ada --json '{\"name\": \"Ada\"}' --type hello.said\n  \
    millrace send events.stripe --key cus_1 --type payment_intent.succeeded --file event.json")]
pub struct SendArgs {
    /// Topic.
    pub topic: String,
    /// Record key.
    #[arg(long)]
    pub key: Option<String>,
    /// Value, as JSON text.
    #[arg(long, conflicts_with = "file")]
    pub json: Option<String>,
    /// File that holds the value; `-` is standard input.
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// Event type (`ce_type`).
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// Event id (`ce_id`); by default a new UUID.
    #[arg(long)]
    pub id: Option<String>,
}

/// `tail`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    millrace tail payments                     follow what comes\n  \
    millrace tail payments --from-beginning --limit 10\n  \
    millrace tail millrace.executions --output json")]
pub struct TailArgs {
    /// Topic.
    pub topic: String,
    /// From the first record on; else what comes from now.
    #[arg(long)]
    pub from_beginning: bool,
    /// Stop at the present end of the topic.
    #[arg(long)]
    pub to_end: bool,
    /// Stop after so many records.
    #[arg(long)]
    pub limit: Option<usize>,
}

/// `dlq`.
#[derive(Debug, Subcommand)]
pub enum DlqVerb {
    /// List dead letters.
    List(DlqFilter),
    /// Show one dead letter whole.
    Show(DlqShow),
    /// Publish dead letters to their input topic again.
    Replay(DlqReplay),
}

/// Which dead letters are meant.
#[derive(Clone, Debug, Default, Args)]
pub struct DlqFilter {
    /// Of this pipeline; else of all.
    #[arg(long)]
    pub pipeline: Option<String>,
    /// Of this class: transient, rate_limited, permanent, poison, bug.
    #[arg(long)]
    pub class: Option<String>,
    /// With this record key.
    #[arg(long)]
    pub key: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 1000)]
    pub limit: usize,
}

/// `dlq show`.
#[derive(Debug, Args)]
pub struct DlqShow {
    /// The dead letter: `<pipeline>/<partition>/<offset>`, as `dlq list` prints it.
    pub id: String,
}

/// `dlq replay`.
#[derive(Debug, Args)]
pub struct DlqReplay {
    /// Which.
    #[command(flatten)]
    pub filter: DlqFilter,
    /// Only say what would be replayed.
    #[arg(long)]
    pub dry_run: bool,
    /// At most so many a second.
    #[arg(long, default_value_t = 100)]
    pub rate: u32,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}

/// `quickstart`.
#[derive(Clone, Debug, Args)]
pub struct QuickstartArgs {
    /// End when everything expected has arrived; the exit code says whether it did.
    #[arg(long)]
    pub once: bool,
    /// Address of the webhook endpoint; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    pub listen: SocketAddr,
    #[command(flatten)]
    /// Metrics.
    pub metrics: MetricsArgs,
}

/// `health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    #[command(flatten)]
    /// Where the role serves its health.
    pub metrics: MetricsArgs,
}

/// `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell.
    pub shell: clap_complete::Shell,
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::yaml::units::duration(text).ok_or_else(|| String::from(crate::yaml::units::DURATION_HELP))
}

/// The host's name, which container platforms keep for a stateful instance.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { String::from("local") } else { name.to_owned() }
}
