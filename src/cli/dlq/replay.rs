//! `millrace dlq replay`: publishes dead letters to the topic they came from.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::time::Instant;

use crate::app::dead_letters::{self, Filter, Letter, LetterId};
use crate::cli::args::dlq::DlqReplay;
use crate::cli::args::{Common, Output};
use crate::cli::dlq::{Selection, ids, select};
use crate::cli::{Exit, ask, output, roles, topics};
use crate::kafka::producer::{ProduceError, Producer, Receipt};
use crate::kafka::settings::{Connection, ProducerSettings};
use crate::plan::topics::dead_letter_name;
use crate::record::{InRecord, OutRecord};

/// What a replay adds to a record of the largest size.
const HEADERS_ROOM_BYTES: usize = 1024;
/// Acknowledgements that may be on their way.
const RECEIPTS_MAX: usize = 500;

#[derive(Serialize)]
struct Summary {
    replayed: usize,
    refused: Vec<Refused>,
    failed: Option<String>,
    dry_run: bool,
}

#[derive(Serialize)]
struct Refused {
    id: String,
    why: String,
}

/// What is replayed, and what not.
struct Chosen {
    ids: HashSet<LetterId>,
    /// How many go to each topic.
    topics: BTreeMap<String, usize>,
    refused: Vec<Refused>,
}

/// Runs `dlq replay`.
///
/// # Errors
/// When Kafka cannot be reached, or there is nobody to ask.
pub fn run(common: &Common, arguments: &DlqReplay) -> anyhow::Result<Exit> {
    let DlqReplay { ids: names, filter, dry_run, rate, yes } = arguments;
    let wanted = Filter { class: filter.class.clone(), key: filter.key.clone(), ids: ids(names)? };
    let selection = select(common, filter, &wanted)?;
    let is_text = common.output == Output::Text;
    let chosen = choose(&selection.letters);
    if is_text {
        output::print(&announced(&selection, &chosen, &others(common, &chosen.topics)))?;
    }
    let mut summary = Summary { replayed: 0, refused: chosen.refused, failed: None, dry_run: *dry_run };
    if !chosen.ids.is_empty() && !dry_run {
        let question = format!("replay {} dead letters?", chosen.ids.len());
        if !ask::confirmed(&question, *yes)? {
            output::print("nothing was replayed\n")?;
            return Ok(Exit::Done);
        }
        let bar = bar(chosen.ids.len(), is_text);
        (summary.replayed, summary.failed) = publish(&selection.connection, chosen.ids, *rate, &bar)?;
        bar.finish_and_clear();
    }
    match common.output {
        Output::Json => output::json(&summary)?,
        Output::Text => output::print(&ended(&summary))?,
    }
    Ok(if summary.failed.is_some() { Exit::Failed } else { Exit::Done })
}

/// Sorts out what is not replayed; of two dead letters of one record the newest is taken.
fn choose(letters: &[Letter]) -> Chosen {
    let mut chosen = Chosen { ids: HashSet::new(), topics: BTreeMap::new(), refused: Vec::new() };
    let mut origins = HashSet::new();
    for letter in letters {
        let why = match (dead_letters::refusal(letter), &letter.origin) {
            (Some(why), _) => why,
            (None, Some(origin)) if origins.insert((&letter.id.pipeline, origin)) => {
                *chosen.topics.entry(origin.0.clone()).or_default() += 1;
                chosen.ids.insert(letter.id.clone());
                continue;
            }
            (None, _) => "another dead letter of the same record is replayed".to_owned(),
        };
        chosen.refused.push(Refused { id: letter.id.to_string(), why });
    }
    chosen
}

/// Pipelines that read `topics`, by topic: all of them get what is replayed.
fn others(common: &Common, topics: &BTreeMap<String, usize>) -> Vec<(String, Vec<String>)> {
    let Some(plan) = topics::plan_if_any(common) else { return Vec::new() };
    let readers = |topic: &String| {
        let reads = plan.pipelines.iter().filter(|own| own.topics.iter().any(|own| **own == **topic));
        (topic.clone(), reads.map(|pipeline| pipeline.name.to_string()).collect())
    };
    topics.keys().map(readers).collect()
}

fn announced(selection: &Selection, chosen: &Chosen, readers: &[(String, Vec<String>)]) -> String {
    let mut text = format!("{}\n", selection.counted());
    for (topic, count) in &chosen.topics {
        text.push_str(&format!("  {count} to {topic}\n"));
    }
    for (topic, pipelines) in readers.iter().filter(|(_, pipelines)| pipelines.len() > 1) {
        text.push_str(&format!("  {topic} is read by {}: each gets them\n", pipelines.join(", ")));
    }
    for Refused { id, why } in &chosen.refused {
        text.push_str(&format!("  not {id}: {why}\n"));
    }
    text
}

fn ended(summary: &Summary) -> String {
    let Summary { replayed, refused, failed, dry_run } = summary;
    if *dry_run {
        return "nothing was replayed: --dry-run\n".to_owned();
    }
    let failed = failed.as_ref().map(|why| format!("; stopped: {why}")).unwrap_or_default();
    format!("{replayed} replayed, {} refused{failed}\n", refused.len())
}

fn bar(length: usize, is_text: bool) -> ProgressBar {
    let is_shown = is_text && std::io::stderr().is_terminal();
    let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
    let bar = ProgressBar::with_draw_target(Some(length as u64), target);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Publishes the dead letters `ids` in the order of their topics, each once; gives how many were taken, and what
/// stopped it.
fn publish(
    connection: &Connection,
    mut ids: HashSet<LetterId>,
    rate: u32,
    bar: &ProgressBar,
) -> anyhow::Result<(usize, Option<String>)> {
    let mut settings = ProducerSettings::new(connection.clone());
    settings.message_bytes_max += HEADERS_ROOM_BYTES;
    let runtime = roles::runtime()?;
    let mut publisher = {
        let _entered = runtime.enter();
        Publisher {
            producer: Producer::start(settings)?,
            receipts: VecDeque::new(),
            begun: Instant::now(),
            sent: 0,
            rate,
            delivered: 0,
            bar,
            failed: None,
        }
    };
    let pipelines: std::collections::BTreeSet<String> = ids.iter().map(|id| id.pipeline.clone()).collect();
    for pipeline in pipelines {
        topics::scan(connection, &dead_letter_name(&pipeline), |record: InRecord| {
            let id =
                LetterId { pipeline: pipeline.clone(), partition: record.partition, offset: record.offset };
            // Taken off the list: a dead letter is never published twice.
            if publisher.failed.is_none()
                && ids.remove(&id)
                && let Some(record) = dead_letters::replay(&record)
            {
                runtime.block_on(publisher.publish(&id, &record));
            }
        })?;
    }
    runtime.block_on(publisher.drain(0));
    if publisher.failed.is_none() && !ids.is_empty() {
        publisher.failed = Some(format!("{} dead letters are not kept any more", ids.len()));
    }
    let result = (publisher.delivered, publisher.failed);
    runtime.shutdown_background();
    Ok(result)
}

struct Publisher<'a> {
    producer: Producer,
    receipts: VecDeque<(LetterId, Receipt)>,
    begun: Instant,
    sent: u32,
    rate: u32,
    delivered: usize,
    bar: &'a ProgressBar,
    failed: Option<String>,
}

impl Publisher<'_> {
    async fn publish(&mut self, id: &LetterId, record: &OutRecord) {
        tokio::time::sleep_until(self.begun + pause(self.sent, self.rate)).await;
        self.sent += 1;
        loop {
            match self.producer.enqueue(record) {
                Ok(receipt) => {
                    self.receipts.push_back((id.clone(), receipt));
                    break;
                }
                Err(ProduceError::Busy) if !self.receipts.is_empty() => {
                    let fewer = self.receipts.len() / 2;
                    self.drain(fewer).await;
                }
                Err(error) => {
                    self.fail(id, &error);
                    break;
                }
            }
        }
        self.drain(RECEIPTS_MAX).await;
    }

    /// Waits until at most `left` acknowledgements are on their way.
    async fn drain(&mut self, left: usize) {
        while self.receipts.len() > left {
            let Some((id, receipt)) = self.receipts.pop_front() else { return };
            match receipt.delivered().await {
                Ok(_) => {
                    self.delivered += 1;
                    self.bar.inc(1);
                }
                Err(error) => self.fail(&id, &error),
            }
        }
    }

    fn fail(&mut self, id: &LetterId, error: &ProduceError) {
        if self.failed.is_none() {
            self.failed = Some(format!("{id}: {error}"));
        }
    }
}

/// When record number `sent` may go, from the begin on.
fn pause(sent: u32, rate: u32) -> Duration {
    Duration::from_secs_f64(f64::from(sent) / f64::from(rate.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(offset: i64, origin: Option<i64>, replays: u32) -> Letter {
        Letter {
            id: LetterId { pipeline: "leads".to_owned(), partition: 0, offset },
            class: "permanent".to_owned(),
            stage: None,
            message: String::new(),
            attempts: Some(1),
            replays,
            failed_at: None,
            origin: origin.map(|offset| ("events".to_owned(), 0, offset)),
            key: None,
            event_id: None,
            value_dropped: None,
        }
    }

    #[test]
    fn one_dead_letter_of_each_record_is_replayed() {
        let letters =
            [letter(4, Some(1), 0), letter(3, Some(1), 0), letter(2, Some(2), 3), letter(1, None, 0)];
        let chosen = choose(&letters);
        assert_eq!(chosen.ids, HashSet::from([letters[0].id.clone()]));
        assert_eq!(chosen.topics, BTreeMap::from([("events".to_owned(), 1)]));
        let refused: Vec<&str> = chosen.refused.iter().map(|refused| refused.id.as_str()).collect();
        assert_eq!(refused, ["leads/0/3", "leads/0/2", "leads/0/1"]);
    }

    #[test]
    fn records_keep_their_pace() {
        assert_eq!(pause(0, 10), Duration::ZERO);
        assert_eq!(pause(25, 10), Duration::from_millis(2500));
    }
}
