//! `millrace dlq list | show | replay | discard | reopen`: dead letters.

mod decide;
mod select;

use serde::Serialize;

use crate::app::dead_letters::{self, LetterId};
use crate::app::decisions::{self, Decision, Decisions, State};
use crate::app::redrive;
use crate::app::values::Shown;
use crate::cli::args::dlq::{DlqList, DlqShow, DlqVerb};
use crate::cli::args::{Common, Output};
use crate::cli::dlq::select::{Found, Kind, Selection, Wanted, select, source};
use crate::cli::{Exit, check, ends, output, roles, tail, topics};
use crate::kafka::tail::{Begin, TailError};
use crate::plan::topics::dead_letter_name;
use crate::record::InRecord;

/// Runs `dlq`.
///
/// # Errors
/// When Kafka cannot be reached, or what was named does not exist.
pub fn run(common: &Common, verb: &DlqVerb) -> anyhow::Result<Exit> {
    match verb {
        DlqVerb::List(arguments) => list(common, arguments),
        DlqVerb::Show(arguments) => show(common, arguments),
        DlqVerb::Replay(arguments) => decide::replay(common, arguments),
        DlqVerb::Discard(arguments) => decide::discard(common, arguments),
        DlqVerb::Reopen(arguments) => decide::reopen(common, arguments),
    }
}

#[derive(Serialize)]
struct Row {
    id: String,
    failed_at: Option<String>,
    class: String,
    stage: Option<String>,
    key: Option<String>,
    attempts: Option<u32>,
    replays: u32,
    origin: Option<String>,
    event_id: Option<String>,
    config_hash: Option<String>,
    state: State,
    decision: Option<Decision>,
    message: String,
}

fn row(found: &Found) -> Row {
    let Found { letter, state, decision } = found;
    let key = letter.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned());
    Row {
        id: letter.id.to_string(),
        failed_at: letter.failed_at.map(dead_letters::time),
        class: letter.class.clone(),
        stage: letter.stage.clone(),
        key,
        attempts: letter.attempts,
        replays: letter.replays,
        origin: decisions::origin_text(letter),
        event_id: letter.event_id.clone(),
        config_hash: letter.config_hash.clone(),
        state: *state,
        decision: decision.clone(),
        message: letter.message.clone(),
    }
}

/// One line of `--summary`.
#[derive(Serialize)]
struct Sum<'a> {
    #[serde(flatten)]
    kind: &'a Kind,
    count: usize,
    oldest: Option<String>,
    newest: Option<String>,
}

fn sums(selection: &Selection) -> Vec<Sum<'_>> {
    selection
        .counts
        .iter()
        .map(|(kind, tally)| Sum {
            kind,
            count: tally.count,
            oldest: tally.oldest.map(dead_letters::time),
            newest: tally.newest.map(dead_letters::time),
        })
        .collect()
}

fn list(common: &Common, arguments: &DlqList) -> anyhow::Result<Exit> {
    let states: &[State] =
        if arguments.all { &[State::Open, State::Replayed, State::Discarded] } else { &[State::Open] };
    let limit = if arguments.summary { 0 } else { arguments.limit };
    let wanted = Wanted { filter: &arguments.filter, ids: Vec::new(), states, limit, newest: true };
    let selection = select(common, wanted)?;
    if arguments.summary {
        let columns = ["pipeline", "class", "stage", "state", "count", "oldest", "newest"];
        output::rows(common.output, &columns, &sums(&selection))?;
    } else {
        let rows: Vec<Row> = selection.letters.iter().map(row).collect();
        let open = ["id", "failed_at", "class", "stage", "key", "replays", "message"];
        let all = ["id", "failed_at", "class", "stage", "key", "replays", "state", "message"];
        output::rows(common.output, if arguments.all { &all } else { &open }, &rows)?;
    }
    if common.output == Output::Text {
        let word = if arguments.all { "" } else { "open " };
        output::print(&format!("{}{}", counted(&selection, word, limit), unreadable(&selection)))?;
    }
    Ok(Exit::Done)
}

/// `12 open dead letters`, and how many of them are shown.
fn counted(selection: &Selection, word: &str, limit: usize) -> String {
    let total = selection.total();
    match (total, selection.letters.len()) {
        (1, _) => format!("1 {word}dead letter\n"),
        (total, shown) if shown == total || limit == 0 => format!("{total} {word}dead letters\n"),
        (total, shown) => format!("{shown} of {total} {word}dead letters; --limit takes more\n"),
    }
}

/// That a condition could not be held against some letters; they are left out.
fn unreadable(selection: &Selection) -> String {
    match &selection.unreadable {
        (0, _) => String::new(),
        (count, why) => format!("{count} more could not be held against --where, the last because {why}\n"),
    }
}

/// The names that were typed.
fn ids(texts: &[String]) -> anyhow::Result<Vec<LetterId>> {
    let read = |text: &String| {
        LetterId::parse(text).ok_or_else(|| {
            let help = "write <pipeline>/<partition>/<offset>, as `millrace dlq list` prints it";
            ends(Exit::Usage, format!("`{text}` is no dead letter's name; {help}"))
        })
    };
    texts.iter().map(read).collect()
}

fn show(common: &Common, arguments: &DlqShow) -> anyhow::Result<Exit> {
    let id = ids(std::slice::from_ref(&arguments.id))?.remove(0);
    let topic = dead_letter_name(&id.pipeline);
    let connection = topics::existing(common, &topic)?;
    let record = topics::first(&connection, &topic, Begin::At(id.partition, id.offset))?
        .filter(|record| (record.partition, record.offset) == (id.partition, id.offset))
        .ok_or_else(|| {
            let help = "`millrace dlq list --all` prints those that are kept";
            ends(Exit::Failed, format!("there is no dead letter `{id}`; {help}"))
        })?;
    let letter = dead_letters::letter(&id.pipeline, &record);
    let decisions_topic = check::namespace(common)?.decisions_topic();
    let decided = match redrive::decisions_about(&connection, &decisions_topic, &id.pipeline) {
        Err(TailError::NoTopic(_)) => Decisions::default(),
        decided => decided?,
    };
    let (state, decision) = decided.of(&letter);
    let source = source(&letter, &record);
    let found = Found { letter, state, decision: decision.cloned() };
    let plan = topics::plan_if_any(common);
    let mut values = topics::values(common, plan.as_ref())?;
    let value = roles::runtime()?.block_on(values.of(&source));
    match common.output {
        Output::Json => {
            let mut object = serde_json::to_value(row(&found))?;
            object["headers"] = tail::headers(&record).into();
            object["value"] = value.json();
            output::json(&object)?;
        }
        Output::Text => output::print(&text(&found, &record, &value)?)?,
    }
    Ok(Exit::Done)
}

/// Everything about a dead letter, for people.
fn text(found: &Found, record: &InRecord, value: &Shown) -> anyhow::Result<String> {
    let mut text = format!("{}  {}{}\n", found.letter.id, found.state.name(), decided(found));
    let width = record.headers.iter().map(|header| header.name.as_str().len()).max().unwrap_or(0).max(3);
    let key = match tail::key(record) {
        serde_json::Value::String(key) => key,
        other => other.to_string(),
    };
    text.push_str(&format!("  {:<width$}  {key}\n", "key"));
    for header in &record.headers {
        let shown = match header.value.as_deref().map(std::str::from_utf8) {
            None => "(null)".to_owned(),
            Some(Ok(text)) => text.escape_debug().to_string(),
            Some(Err(_)) => Shown::of(header.value.as_deref()).line(),
        };
        text.push_str(&format!("  {:<width$}  {shown}\n", header.name.as_str()));
    }
    let value = match value {
        Shown::Json(value) => serde_json::to_string_pretty(value)?,
        Shown::Text(text) => text.clone(),
        other => other.line(),
    };
    text.push_str(&format!("\n{value}\n"));
    Ok(text)
}

/// Who decided, when and why.
fn decided(found: &Found) -> String {
    let Some(Decision { decided_at, actor, reason, .. }) = &found.decision else { return String::new() };
    let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!(", {} by {actor}{reason}", dead_letters::time(*decided_at))
}
