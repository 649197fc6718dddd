//! Verbs that work with records, and with how far their readers are.

use std::path::PathBuf;

use clap::Args;

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
    after_help = "ingested = succeeded + filtered + dead_lettered + parked + in flight: counted over the records that Kafka still has, \
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
