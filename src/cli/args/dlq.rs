//! What may be typed after `millrace dlq`.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};

use crate::yaml::units;

/// `--from`: with the first stage.
pub const FROM_START: &str = "start";

/// `dlq`.
#[derive(Debug, Subcommand)]
pub enum DlqVerb {
    /// List dead letters, the newest first.
    #[command(
        after_help = "Open letters are those that nobody has replayed or discarded; --all lists the others, too.\n\n\
        A condition is VRL, as in pipelines: `.` is the decoded value, `%type`, `%key`, `%headers` and the others are those \
        of the record that failed.\n\n\
        --since and --until mean when a record failed, for the last time, whatever the time of its event.\n\n\
        Examples:\n  \
        millrace dlq list\n  \
        millrace dlq list --summary                          how many, by pipeline, class and stage\n  \
        millrace dlq list --pipeline leads --class permanent --stage upsert --since 2h\n  \
        millrace dlq list --pipeline leads --where '.email == \"ada@example.com\"'\n  \
        millrace dlq list --where '%headers.\"millrace.dlq.http.status\" == \"404\"' --output json"
    )]
    List(DlqList),
    /// Show one dead letter whole: all headers, the value, and what was decided about it.
    #[command(after_help = "Example:\n  millrace dlq show leads/3/120")]
    Show(DlqShow),
    /// Have dead letters worked on again.
    #[command(
        after_help = "A replayed record is worked on again by the pipeline that gave up, and by no other: it is written to the \
        topic `<pipeline>.replay`, with its original key, value, time, headers and place. Later records of its key may have \
        been worked on already.\n\n\
        With --from failed-stage, `http`, `sql`, `dedupe` and `rate_limit` stages that had answered are not asked again: \
        their answers stand in the letter, unless they were over 64 KiB. With --from start all calls are made again. Either \
        way each call has the idempotency key that it had the first time.\n\n\
        Each letter is replayed once: the record and the decision about its letter are one Kafka transaction, and letters \
        that are decided are passed over. A run that was killed or stopped goes on when the same is typed again. Of two \
        runs about one pipeline at once the earlier one stops.\n\n\
        Refused are letters that were replayed three times, and those for which nothing has changed: the pipeline's text \
        is the one they failed with, and they have failed alike after a replay, or with a class (bug, poison) that says \
        that the record itself is the reason. --force replays the latter all the same.\n\n\
        Examples:\n  \
        millrace dlq replay --pipeline leads --dry-run\n  \
        millrace dlq replay --pipeline leads --class transient --since 2h --yes\n  \
        millrace dlq replay --pipeline leads --stage upsert --rate 20\n  \
        millrace dlq replay --pipeline leads --from start --force\n  \
        millrace dlq replay leads/3/120 leads/3/121"
    )]
    Replay(DlqReplay),
    /// Decide that nothing is to be done about dead letters.
    #[command(
        after_help = "A discarded letter is not listed, replayed or counted any more. It stays in its topic until that topic's \
        retention, and `millrace dlq reopen` takes the decision back.\n\n\
        Examples:\n  \
        millrace dlq discard --pipeline leads --where '.email == null' --reason 'test contacts'\n  \
        millrace dlq discard leads/3/120 --reason 'refunded by hand' --yes"
    )]
    Discard(DlqDiscard),
    /// Take back that dead letters were discarded or replayed: they are open again.
    #[command(
        after_help = "A letter that was replayed and is opened again can be replayed a second time: its record is then worked \
        on twice.\n\n\
        Examples:\n  \
        millrace dlq reopen leads/3/120 --reason 'discarded by mistake'\n  \
        millrace dlq reopen --pipeline leads --decided discarded --since 1d --dry-run"
    )]
    Reopen(DlqReopen),
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
    /// That failed at this stage.
    #[arg(long, value_name = "ID")]
    pub stage: Option<String>,
    /// With this record key.
    #[arg(long)]
    pub key: Option<String>,
    /// That failed at this time or later: 2026-11-25T10:00:00Z, or so long ago: 90m, 2h, 1d.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<DateTime<Utc>>,
    /// That failed before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<DateTime<Utc>>,
    /// Of whose record this VRL condition holds, such as '.country == "ES"'.
    #[arg(long = "where", value_name = "CONDITION")]
    pub condition: Option<String>,
}

/// `dlq list`.
#[derive(Debug, Args)]
pub struct DlqList {
    /// Which.
    #[command(flatten)]
    pub filter: DlqFilter,
    /// Also those that were replayed or discarded.
    #[arg(long)]
    pub all: bool,
    /// How many there are, by pipeline, class, stage and state, instead of each.
    #[arg(long)]
    pub summary: bool,
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

/// What every verb that decides about dead letters understands.
#[derive(Clone, Debug, Args)]
pub struct Deciding {
    /// These dead letters, as `dlq list` prints them; else all that the filters take.
    pub ids: Vec<String>,
    /// Which.
    #[command(flatten)]
    pub filter: DlqFilter,
    /// At most so many, the oldest.
    #[arg(long, default_value_t = 10_000, value_name = "COUNT")]
    pub limit: usize,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// Who decides; stands in the decision.
    #[arg(long, env = "MILLRACE_ACTOR", default_value_t = user(), value_name = "NAME")]
    pub actor: String,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}

/// `dlq replay`.
#[derive(Debug, Args)]
pub struct DlqReplay {
    /// Which and how.
    #[command(flatten)]
    pub deciding: Deciding,
    /// With which stage they begin: the one that failed, or the first.
    #[arg(long, value_name = "PLACE", default_value = "failed-stage", value_parser = ["failed-stage", FROM_START])]
    pub from: String,
    /// At most so many a second.
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// Also where nothing has changed since they failed.
    #[arg(long)]
    pub force: bool,
    /// Why; stands in the decision.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `dlq discard`.
#[derive(Debug, Args)]
pub struct DlqDiscard {
    /// Which and how.
    #[command(flatten)]
    pub deciding: Deciding,
    /// Why; stands in the decision.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// `dlq reopen`.
#[derive(Debug, Args)]
pub struct DlqReopen {
    /// Which and how.
    #[command(flatten)]
    pub deciding: Deciding,
    /// Only those that were decided so; else both.
    #[arg(long, value_name = "STATE", value_parser = ["replayed", "discarded"])]
    pub decided: Option<String>,
    /// Why; stands in the decision.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// A time, or a duration before now.
fn time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.with_timezone(&Utc));
    }
    units::duration(text)
        .and_then(|ago| Utc::now().checked_sub_signed(chrono::Duration::from_std(ago).ok()?))
        .ok_or_else(|| String::from("write a time, 2026-11-25T10:00:00Z, or how long ago: 90m, 2h, 1d"))
}

/// Who is logged in.
fn user() -> String {
    let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    named("USER").or_else(|| named("LOGNAME")).unwrap_or_else(|| String::from("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_or_lies_back() {
        let exact = time("2026-11-25T10:00:00+01:00").expect("a time");
        assert_eq!(exact.to_rfc3339(), "2026-11-25T09:00:00+00:00");
        let ago = Utc::now() - time("2h").expect("a duration");
        assert!((7_199..7_260).contains(&ago.num_seconds()), "{ago}");
        for text in ["", "2", "yesterday", "2026-11-25", "-2h"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
