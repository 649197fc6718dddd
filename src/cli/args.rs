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

impl Cli {
    /// What is logged: what was asked for, else what suits the verb. The quickstart's own lines say what happens.
    pub fn log_level(&self) -> &str {
        let is_role = matches!(self.verb, Verb::Ingest(_) | Verb::Worker(_) | Verb::Project(_) | Verb::Up(_));
        let default = if is_role { "warn,millrace=info" } else { "error,millrace=warn" };
        self.common.log_level.as_deref().unwrap_or(default)
    }
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
    /// What is logged, in RUST_LOG's syntax. By default roles tell what they do, other verbs only warn.
    #[arg(long, global = true, env = "MILLRACE_LOG", value_name = "LEVEL")]
    pub log_level: Option<String>,
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
    Lag(LagArgs),
    /// The ledger: how every event ended, per pipeline.
    Ledger(LedgerArgs),
    /// Find out what is wrong with servers, topics and the project, and how to mend it.
    #[command(
        after_help = "Each check ends as `ok`, `warn` or `FAIL`, with what to do about it; none takes longer than 5 s.\n\
        Exit codes: 0 no FAIL, 1 a FAIL, 4 a server could not be reached.\n\n\
        Examples:\n  \
        millrace doctor\n  \
        millrace doctor --output json"
    )]
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
    /// Where the event comes from (`ce_source`).
    #[arg(long, default_value = "millrace-send")]
    pub source: String,
}

/// `tail`.
#[derive(Debug, Args)]
#[command(
    after_help = "A line is: partition/offset, time, key, event type and id, value. Avro is shown as JSON, bytes that are \
    no text in base64. With --output json each line is an object with all headers.\n\n\
    Examples:\n  \
    millrace tail payments                     follow what comes, until Ctrl-C\n  \
    millrace tail payments --last 5            the last five of each partition, then follow\n  \
    millrace tail payments --to-end --limit 10 ten of the oldest\n  \
    millrace tail millrace.executions --to-end --output json"
)]
pub struct TailArgs {
    /// Topic.
    pub topic: String,
    /// From the oldest record on; else what comes from now.
    #[arg(long)]
    pub from_beginning: bool,
    /// From so many records before the end of each partition.
    #[arg(long, value_name = "COUNT", conflicts_with = "from_beginning")]
    pub last: Option<u32>,
    /// Stop at the present end of the topic; begins at the oldest record unless --last says otherwise.
    #[arg(long)]
    pub to_end: bool,
    /// Stop after so many records.
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<usize>,
}

/// `lag`.
#[derive(Debug, Args)]
#[command(
    after_help = "Counts offsets, and the marks that transactions leave are offsets too: a few may stay.\n\n\
    Examples:\n  \
    millrace lag\n  \
    millrace lag --group millrace.leads --output json"
)]
pub struct LagArgs {
    /// Only this consumer group.
    #[arg(long)]
    pub group: Option<String>,
}

/// `ledger`.
#[derive(Debug, Args)]
#[command(
    after_help = "ingested = succeeded + filtered + dead_lettered + in flight: counted over the records that Kafka still has, \
    which are all read. Exit code 1 when a record has no result.\n\n\
    Examples:\n  \
    millrace ledger\n  \
    millrace ledger --quick                    only what Postgres knows; reads no topic"
)]
pub struct LedgerArgs {
    /// Only count results; do not hold them against the topics.
    #[arg(long)]
    pub quick: bool,
}

/// `dlq`.
#[derive(Debug, Subcommand)]
pub enum DlqVerb {
    /// List dead letters, the newest first.
    #[command(after_help = "Examples:\n  \
        millrace dlq list\n  \
        millrace dlq list --pipeline leads --class permanent --limit 20")]
    List(DlqFilter),
    /// Show one dead letter whole: all headers, and the value.
    #[command(after_help = "Example:\n  millrace dlq show leads/3/120")]
    Show(DlqShow),
    /// Publish dead letters to their input topic again.
    #[command(
        after_help = "A replayed record has its original key, value and headers, and counts in `millrace.dlq.replay-count` how \
        often it was replayed; after three times it is refused. It goes to the end of its topic, behind later records \
        of its key: replay where order does not matter, or where stages cope with it. Every pipeline that reads the \
        topic gets it. Dead letters stay where \
        they are, and another run would replay them again.\n\n\
        Examples:\n  \
        millrace dlq replay --pipeline leads --dry-run\n  \
        millrace dlq replay --pipeline leads --class transient --yes\n  \
        millrace dlq replay leads/3/120"
    )]
    Replay(DlqReplay),
}

/// Which dead letters are meant.
#[derive(Clone, Debug, Default, Args)]
pub struct DlqFilter {
    /// Of this pipeline; else of all pipelines of the project.
    #[arg(long)]
    pub pipeline: Option<String>,
    /// Of this class.
    #[arg(long, value_parser = ["transient", "rate_limited", "permanent", "poison", "bug"])]
    pub class: Option<String>,
    /// With this record key.
    #[arg(long)]
    pub key: Option<String>,
    /// At most so many, the newest.
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
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
    /// These dead letters, as `dlq list` prints them; else all that the filters take.
    pub ids: Vec<String>,
    /// Which.
    #[command(flatten)]
    pub filter: DlqFilter,
    /// Only say what would be replayed.
    #[arg(long)]
    pub dry_run: bool,
    /// At most so many a second.
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
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
