//! What may be typed for `kpi`.

use clap::{Args, Subcommand};

/// `kpi`.
#[derive(Debug, Subcommand)]
pub enum KpiVerb {
    /// List KPIs: those of the project and those of the database.
    #[command(
        after_help = "`state` is `ok`; `changed`, when the files say something else than the database; `missing`, \
        when `millrace apply` has not made it yet; `left over`, when no file defines it any more.\n\n\
        Examples:\n  \
        millrace kpi list\n  \
        millrace kpi list --output json"
    )]
    List,
    /// Show one KPI: its definition, its windows and its latest values.
    #[command(after_help = "Example:\n  millrace kpi show revenue")]
    Show(KpiShow),
    /// Fold KPIs anew from the facts in Kafka, beside the running projector.
    #[command(
        after_help = "The new rows are built beside the old ones, which everybody goes on reading, then take their place in \
        one transaction. What differs is reported. A rebuild that was killed goes on where it stood when the same one is \
        started again.\n\n\
        A KPI whose fact, aggregate, dimensions or time zone changed is rebuilt by the new definition; one that got \
        another window gets its past.\n\n\
        When Kafka does not keep all facts any more, and old windows had more events than can be read again, nothing is \
        changed unless --keep-older or --accept-loss says what to do.\n\n\
        Exit codes: 0 done, 1 not done, 4 a server could not be reached.\n\n\
        Examples:\n  \
        millrace kpi rebuild revenue --dry-run      build and compare, change nothing\n  \
        millrace kpi rebuild revenue\n  \
        millrace kpi rebuild --all --yes --output json"
    )]
    Rebuild(KpiRebuild),
}

/// `kpi show`.
#[derive(Debug, Args)]
pub struct KpiShow {
    /// The KPI.
    pub name: String,
    /// So many values of each window, the latest.
    #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = clap::value_parser!(i64).range(0..=1000))]
    pub last: i64,
}

/// `kpi rebuild`.
#[derive(Debug, Args)]
pub struct KpiRebuild {
    /// These KPIs.
    #[arg(required_unless_present = "all")]
    pub names: Vec<String>,
    /// All KPIs of the project, reading the facts once.
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// Build and compare, but change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Windows whose facts Kafka does not keep any more stay as they are, by the old definition.
    #[arg(long, conflicts_with = "accept_loss")]
    pub keep_older: bool,
    /// Windows whose facts Kafka does not keep any more shrink to what can be read.
    #[arg(long)]
    pub accept_loss: bool,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}
