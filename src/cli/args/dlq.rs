//! `dlq`.

use clap::{Args, Subcommand};

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
