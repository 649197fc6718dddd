//! Verbs that work on the files of a project and bring servers in line with them.

use clap::Args;

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
