//! What may be typed.

pub mod dlq;
pub mod embedded;
pub mod kpi;
pub mod project;
pub mod records;
pub mod roles;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cli::args::dlq::DlqVerb;
use crate::cli::args::embedded::{DevArgs, QuickstartArgs};
use crate::cli::args::kpi::KpiVerb;
use crate::cli::args::project::{ApplyArgs, CheckArgs, PlanArgs, TestArgs};
use crate::cli::args::records::{LagArgs, LedgerArgs, SendArgs, TailArgs};
use crate::cli::args::roles::{IngestArgs, MetricsArgs, ProjectArgs, UpArgs, WorkerArgs};
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
    /// KPIs: look at them, fold them anew.
    #[command(subcommand)]
    Kpi(KpiVerb),
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
    /// Run an author's project on servers that come with it, and take changes over while it runs.
    Dev(DevArgs),
    /// See the main job done: signed webhooks in, KPIs out.
    Quickstart(QuickstartArgs),
    /// Ask a running role whether it is ready; for container health checks.
    Health(HealthArgs),
    /// Print completions for a shell.
    Completions(CompletionsArgs),
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
