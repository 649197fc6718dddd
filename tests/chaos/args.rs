//! What is typed after `scripts/chaos`.

use std::path::PathBuf;

use clap::builder::TypedValueParser as _;
use clap::{Parser, ValueEnum};

/// Runs Millrace on servers of its own, hurts it, and checks that nothing is lost, doubled or out of order.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "scripts/chaos",
    after_help = "CASE is a number, or a part of a name. Progress goes to standard error, the table of results to standard output.\n\
    Exit codes: 0 everything held (with --mutations: every mutation was found out), 1 it did not, 2 usage.\n\n\
    Examples:\n  \
    scripts/chaos --list                       what there is\n  \
    scripts/chaos                              all cases, 100,000 events each\n  \
    scripts/chaos 12 --events 5000             one case\n  \
    scripts/chaos kill --seed 7                all cases with `kill` in their name, with the faults of seed 7\n  \
    scripts/chaos --short                      eight cases, with few events\n  \
    scripts/chaos --mutations 2 12             switch off the rule that each case is there for; it must find out\n  \
    scripts/chaos --output json > results.json"
)]
pub struct Args {
    /// Cases; all when none is named.
    #[arg(value_name = "CASE")]
    pub cases: Vec<String>,
    /// All cases, as when none is named.
    #[arg(long, conflicts_with_all = ["cases", "short"])]
    pub all: bool,
    /// Drives workload and faults; the same number repeats a run. By default a new one, which is printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Events of each workload.
    #[arg(long, default_value_t = 100_000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(500..=10_000_000))]
    pub events: u64,
    /// Runs of each case, with seeds that follow each other.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub runs: u64,
    /// Cases played at a time, beside each other on the same servers; by default 4 of the short set, else 1.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=16).map(usize::from))]
    pub jobs: Option<usize>,
    /// Tell what cases there are.
    #[arg(long)]
    pub list: bool,
    /// Only the short set, with 2,000 events.
    #[arg(long, conflicts_with_all = ["cases", "events"])]
    pub short: bool,
    /// Run each case with its rule switched off, and expect it to fail. Needs a build with debug assertions.
    #[arg(long)]
    pub mutations: bool,
    /// Folder of logs and journals. By default a temporary one, which stays when something did not hold.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Another build of `millrace` than the one made with the harness.
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// The servers' folders are made in this one.
    #[arg(long, env = "MILLRACE_CHAOS_SERVERS", value_name = "DIR", hide = true)]
    pub servers: Option<PathBuf>,
    /// A table for people, or JSON for programs.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Output {
    /// A table.
    #[default]
    Text,
    /// A list of objects.
    Json,
}
