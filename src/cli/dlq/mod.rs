//! `millrace dlq list | show | replay`: dead letters.

mod replay;

use serde::Serialize;

use crate::app::dead_letters::{self, Filter, Letter, LetterId};
use crate::app::reach;
use crate::cli::args::dlq::{DlqFilter, DlqShow, DlqVerb};
use crate::cli::args::{Common, Output};
use crate::cli::{Exit, check, ends, output, roles, tail, topics};
use crate::kafka::settings::Connection;
use crate::plan::topics::dead_letter_name;
use crate::record::InRecord;
use crate::yaml::lint::nearest;

const SUFFIX: &str = ".dlq";

/// Runs `dlq`.
///
/// # Errors
/// When Kafka cannot be reached, or what was named does not exist.
pub fn run(common: &Common, verb: &DlqVerb) -> anyhow::Result<Exit> {
    match verb {
        DlqVerb::List(filter) => list(common, filter),
        DlqVerb::Show(arguments) => show(common, arguments),
        DlqVerb::Replay(arguments) => replay::run(common, arguments),
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
    message: String,
}

fn row(letter: &Letter) -> Row {
    let key = letter.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned());
    let origin = letter.origin.as_ref();
    Row {
        id: letter.id.to_string(),
        failed_at: letter.failed_at.map(dead_letters::time),
        class: letter.class.clone(),
        stage: letter.stage.clone(),
        key,
        attempts: letter.attempts,
        replays: letter.replays,
        origin: origin.map(|(topic, partition, offset)| format!("{topic}/{partition}/{offset}")),
        event_id: letter.event_id.clone(),
        message: letter.message.clone(),
    }
}

fn list(common: &Common, arguments: &DlqFilter) -> anyhow::Result<Exit> {
    let filter = Filter { class: arguments.class.clone(), key: arguments.key.clone(), ids: Vec::new() };
    let selection = select(common, arguments, &filter)?;
    let rows: Vec<Row> = selection.letters.iter().map(row).collect();
    let columns = ["id", "failed_at", "class", "stage", "key", "replays", "message"];
    output::rows(common.output, &columns, &rows)?;
    if common.output == Output::Text {
        output::print(&format!("{}\n", selection.counted()))?;
    }
    Ok(Exit::Done)
}

/// Dead letters that were asked for.
struct Selection {
    connection: Connection,
    /// The newest first, without their values.
    letters: Vec<Letter>,
    /// How many there are, those beyond the limit included.
    total: usize,
}

impl Selection {
    fn counted(&self) -> String {
        let shown = self.letters.len();
        match self.total {
            1 => String::from("1 dead letter"),
            total if total == shown => format!("{total} dead letters"),
            total => format!("the newest {shown} of {total} dead letters; --limit takes more"),
        }
    }
}

/// Reads the dead-letter topics that are meant, from the oldest record to the present end.
fn select(common: &Common, arguments: &DlqFilter, filter: &Filter) -> anyhow::Result<Selection> {
    let connection = roles::connection(common)?;
    let cluster = roles::block_on(reach::kafka(&connection))?;
    let known = || cluster.topics.keys().filter_map(|topic| topic.strip_suffix(SUFFIX));
    let mut pipelines: Vec<String> = match &arguments.pipeline {
        Some(pipeline) => vec![pipeline.clone()],
        None if !filter.ids.is_empty() => filter.ids.iter().map(|id| id.pipeline.clone()).collect(),
        None => {
            let own =
                check::plan(common)?.pipelines.iter().map(|own| own.name.to_string()).collect::<Vec<_>>();
            // A topic that is not there holds no dead letters.
            own.into_iter().filter(|name| known().any(|known| known == name)).collect()
        }
    };
    pipelines.sort_unstable();
    pipelines.dedup();
    if let Some(unknown) = pipelines.iter().find(|name| !known().any(|known| known == name.as_str())) {
        let help = match nearest(unknown, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`millrace apply` creates it".to_owned(),
        };
        return Err(ends(Exit::Usage, format!("there is no topic `{}`; {help}", dead_letter_name(unknown))));
    }
    let (mut letters, mut total) = (Vec::new(), 0);
    for pipeline in &pipelines {
        topics::scan(&connection, &dead_letter_name(pipeline), |record| {
            let letter = dead_letters::letter(pipeline, &record);
            if filter.takes(&letter) {
                total += 1;
                letters.push(owned(letter));
                if letters.len() > arguments.limit.saturating_mul(2).max(1000) {
                    keep_newest(&mut letters, arguments.limit);
                }
            }
        })?;
    }
    keep_newest(&mut letters, arguments.limit);
    Ok(Selection { connection, letters, total })
}

fn keep_newest(letters: &mut Vec<Letter>, limit: usize) {
    dead_letters::sort_newest_first(letters);
    letters.truncate(limit);
}

/// A key is a slice of everything that was read with it; a list of letters must not keep all that.
fn owned(letter: Letter) -> Letter {
    let key = letter.key.as_deref().map(bytes::Bytes::copy_from_slice);
    Letter { key, ..letter }
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
    let mut found: Option<InRecord> = None;
    topics::scan(&connection, &topic, |record| {
        if record.partition == id.partition && record.offset == id.offset {
            found = Some(record);
        }
    })?;
    let record = found.ok_or_else(|| {
        let help = "`millrace dlq list` prints those that are kept";
        ends(Exit::Failed, format!("there is no dead letter `{id}`; {help}"))
    })?;
    let letter = dead_letters::letter(&id.pipeline, &record);
    // Its schema is that of the topic it came from.
    let origin = letter.origin.as_ref().map_or("", |(topic, _, _)| topic);
    let source = InRecord { topic: origin.into(), ..record.clone() };
    let plan = topics::plan_if_any(common);
    let mut values = topics::values(common, plan.as_ref())?;
    let value = roles::runtime()?.block_on(values.of(&source));
    match common.output {
        Output::Json => {
            let mut object = serde_json::to_value(row(&letter))?;
            object["headers"] = tail::headers(&record).into();
            object["value"] = value.json();
            output::json(&object)?;
        }
        Output::Text => output::print(&text(&letter, &record, &value)?)?,
    }
    Ok(Exit::Done)
}

/// Everything about a dead letter, for people.
fn text(letter: &Letter, record: &InRecord, value: &crate::app::values::Shown) -> anyhow::Result<String> {
    let mut text = format!("{}\n", letter.id);
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
            Some(Err(_)) => crate::app::values::Shown::of(header.value.as_deref()).line(),
        };
        text.push_str(&format!("  {:<width$}  {shown}\n", header.name.as_str()));
    }
    let value = match value {
        crate::app::values::Shown::Json(value) => serde_json::to_string_pretty(value)?,
        crate::app::values::Shown::Text(text) => text.clone(),
        other => other.line(),
    };
    text.push_str(&format!("\n{value}\n"));
    Ok(text)
}
