//! Dead letters: what their headers say, which are meant, and the record that a replay writes. Pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};

use crate::engine::comeback::{self as back, Comeback, Destination, Past};
use crate::engine::headers::{SOURCE, comeback, connect, dead_letter};
use crate::engine::replayed::{self, Replayed};
use crate::fault::FaultClass;
use crate::plan::Plan;
use crate::record::{Header, HeaderName, InRecord, OutRecord, last_header};

/// A dead letter that was replayed so often is not replayed again: what fails three times fails for a reason.
pub const REPLAYS_MAX: u32 = 3;

/// What the headers of Kafka Connect's error reports begin with.
const CONNECT_PREFIX: &str = "__connect.errors.";

/// Name of a dead letter: `<pipeline>/<partition>/<offset>` in the pipeline's dead-letter topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LetterId {
    /// Pipeline that gave up.
    pub pipeline: String,
    /// Partition of its dead-letter topic.
    pub partition: i32,
    /// Offset there.
    pub offset: i64,
}

impl LetterId {
    /// Reads `<pipeline>/<partition>/<offset>`.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, offset) = text.rsplit_once('/')?;
        let (pipeline, partition) = rest.rsplit_once('/')?;
        let partition: i32 = partition.parse().ok()?;
        let offset: i64 = offset.parse().ok()?;
        let fits = !pipeline.is_empty() && partition >= 0 && offset >= 0;
        fits.then(|| Self { pipeline: pipeline.to_owned(), partition, offset })
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.pipeline, self.partition, self.offset)
    }
}

/// What a dead letter says of itself, without its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Letter {
    /// Its name.
    pub id: LetterId,
    /// Class of the fault.
    pub class: String,
    /// Step at which it failed.
    pub stage: Option<String>,
    /// What happened.
    pub message: String,
    /// Attempts made.
    pub attempts: Option<u32>,
    /// How often it has been replayed.
    pub replays: u32,
    /// When it failed.
    pub failed_at: Option<DateTime<Utc>>,
    /// `topic/partition/offset` of the record that failed.
    pub origin: Option<(String, i32, i64)>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Id of the event.
    pub event_id: Option<String>,
    /// Bytes of a value that was too large to be kept here.
    pub value_dropped: Option<u64>,
    /// How many headers were too large to be kept here.
    pub headers_dropped: Option<u64>,
    /// Bytes of a key that was too large to be kept here.
    pub key_dropped: Option<u64>,
    /// Hash of the pipeline's text that it failed with.
    pub config_hash: Option<String>,
    /// What its last replay said of the failure before.
    pub replayed: Option<Replayed>,
}

/// Reads the headers of a record of the dead-letter topic of `pipeline`.
pub fn letter(pipeline: &str, record: &InRecord) -> Letter {
    let text = |name: &str| record.header_text(name).map(str::to_owned);
    let number = |name: &str| record.header_text(name).and_then(|text| text.parse::<i64>().ok());
    let time = |name: &str| record.header_text(name).and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    let small = |name: &str| number(name).and_then(|number| u32::try_from(number).ok());
    let count = |name: &str| number(name).and_then(|number| u64::try_from(number).ok());
    let origin = || {
        let partition = i32::try_from(number(connect::PARTITION)?).ok()?;
        Some((text(connect::TOPIC)?, partition, number(connect::OFFSET)?))
    };
    Letter {
        id: LetterId { pipeline: pipeline.to_owned(), partition: record.partition, offset: record.offset },
        class: text(dead_letter::CLASS)
            .or_else(|| text(connect::EXCEPTION_CLASS_NAME))
            .unwrap_or_else(|| "unknown".to_owned()),
        stage: text(dead_letter::STAGE).or_else(|| text(connect::STAGE)).filter(|stage| !stage.is_empty()),
        message: text(dead_letter::MESSAGE).or_else(|| text(connect::EXCEPTION_MESSAGE)).unwrap_or_default(),
        attempts: small(dead_letter::ATTEMPTS),
        replays: small(dead_letter::REPLAY_COUNT).unwrap_or(0),
        failed_at: time(dead_letter::LAST_FAILURE)
            .map(|time| time.with_timezone(&Utc))
            .or_else(|| DateTime::from_timestamp_millis(record.timestamp_ms?)),
        origin: origin(),
        key: record.key.clone(),
        event_id: text(dead_letter::EVENT_ID),
        value_dropped: count(dead_letter::VALUE_DROPPED),
        headers_dropped: count(dead_letter::HEADERS_DROPPED),
        key_dropped: count(dead_letter::KEY_DROPPED),
        config_hash: text(dead_letter::CONFIG_HASH),
        replayed: own_headers(&record.headers).1,
    }
}

/// Which dead letters are meant.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// With this class.
    pub class: Option<String>,
    /// That failed at this step.
    pub stage: Option<String>,
    /// With this key.
    pub key: Option<String>,
    /// That failed at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// That failed before this time.
    pub until: Option<DateTime<Utc>>,
    /// These and no others; empty means all.
    pub ids: Vec<LetterId>,
}

impl Filter {
    /// Whether `letter` is meant.
    pub fn takes(&self, letter: &Letter) -> bool {
        let Self { class, stage, key, since, until, ids } = self;
        class.as_ref().is_none_or(|class| *class == letter.class)
            && stage.as_ref().is_none_or(|stage| Some(stage) == letter.stage.as_ref())
            && key.as_ref().is_none_or(|key| letter.key.as_deref() == Some(key.as_bytes()))
            && since.is_none_or(|since| letter.failed_at.is_some_and(|failed| failed >= since))
            && until.is_none_or(|until| letter.failed_at.is_some_and(|failed| failed < until))
            && (ids.is_empty() || ids.contains(&letter.id))
    }
}

/// The newest before the older ones; of one time the higher offset.
pub fn newest_first(left: &Letter, right: &Letter) -> Ordering {
    let place = |letter: &Letter| (letter.failed_at, letter.id.offset);
    place(right).cmp(&place(left)).then_with(|| left.id.cmp(&right.id))
}

/// Why a dead letter is not replayed; `None` when it may be. `hash` is that of its pipeline's present text, where it is
/// known. With `force`, that nothing has changed is no reason.
pub fn refusal(letter: &Letter, hash: Option<&str>, force: bool) -> Option<String> {
    let dropped = [
        (letter.value_dropped, "its value was"),
        (letter.headers_dropped, "its headers were"),
        (letter.key_dropped, "its key was"),
    ];
    if let Some((_, what)) = dropped.iter().find(|(dropped, _)| dropped.is_some()) {
        return Some(format!("{what} too large to be kept here; the record is still where its origin says"));
    }
    if letter.replays >= REPLAYS_MAX {
        return Some(format!("it was replayed {} times already and failed each time", letter.replays));
    }
    if force { None } else { unchanged(letter, hash) }
}

/// Whether a replay is bound to end as before: the pipeline's text is the one it failed with, and the class says that
/// the record itself is the reason, or it has failed alike after a replay already.
fn unchanged(letter: &Letter, hash: Option<&str>) -> Option<String> {
    let failed_with = letter.config_hash.as_deref()?;
    if hash.is_some_and(|hash| hash != failed_with) {
        return None;
    }
    let class = letter.class.as_str();
    let before = letter.replayed.as_ref();
    if before.is_some_and(|before| {
        before.class.as_deref() == Some(class) && before.config_hash.as_deref() == Some(failed_with)
    }) {
        return Some(format!(
            "it was replayed with this same text of the pipeline ({failed_with}) and failed alike ({class}); \
             mend the pipeline first, or --force"
        ));
    }
    let is_by_itself = class == FaultClass::Bug.name() || class == FaultClass::Poison.name();
    (is_by_itself && hash.is_some()).then(|| {
        format!(
            "the pipeline's text has not changed since ({failed_with}), so the same record would fail the same way \
             ({class}); mend the pipeline first, or --force"
        )
    })
}

/// With which stage a replayed record begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// The one that failed: what the stages before it had been answered is taken again.
    FailedStage,
    /// The first: every call is made again.
    Start,
}

/// Where the letters of each pipeline are replayed to.
#[derive(Debug, Default)]
pub struct Ways {
    /// The topic of replays, by pipeline and input.
    topics: BTreeMap<String, BTreeMap<String, Arc<str>>>,
    /// Partitions of these topics, as far as they are on the cluster.
    partitions: BTreeMap<Arc<str>, i32>,
}

/// Why a letter cannot be written anywhere.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoWay {
    /// For a reason of its own, which stays.
    #[error("{0}")]
    Refused(String),
    /// The project is not applied.
    #[error("there is no topic `{0}`; run `millrace apply`, which creates it")]
    NotApplied(Arc<str>),
}

impl Ways {
    /// Those of a project, on a cluster that has topics with so many partitions.
    pub fn new(plan: &Plan, on_cluster: &BTreeMap<String, i32>) -> Self {
        let mut ways = Self::default();
        for pipeline in &plan.pipelines {
            for own in &pipeline.companions {
                let topics = ways.topics.entry(pipeline.name.to_string()).or_default();
                topics.insert(own.input.to_string(), Arc::clone(&own.replay));
                if let Some(partitions) = on_cluster.get(&*own.replay) {
                    ways.partitions.insert(Arc::clone(&own.replay), *partitions);
                }
            }
        }
        ways
    }

    /// The topic that `letter` is replayed to. It has a partition of the number that the record came from.
    ///
    /// # Errors
    /// When the project does not know the letter's pipeline or input any more, or it is not applied.
    pub fn of(&self, letter: &Letter) -> Result<&Arc<str>, NoWay> {
        let refused = |why: String| Err(NoWay::Refused(why));
        let pipeline = &letter.id.pipeline;
        let Some((input, partition, _)) = &letter.origin else {
            return refused("its headers do not say which topic it came from".to_owned());
        };
        let Some(topics) = self.topics.get(pipeline) else {
            return refused(format!("the project has no pipeline `{pipeline}`, so nobody would read it"));
        };
        let Some(topic) = topics.get(input) else {
            return refused(format!(
                "`{pipeline}` does not read topic `{input}`, which it came from, so it would not take it"
            ));
        };
        match self.partitions.get(topic) {
            None => Err(NoWay::NotApplied(Arc::clone(topic))),
            Some(partitions) if !(0..*partitions).contains(partition) => refused(format!(
                "it came from partition {partition} of `{input}`, and `{topic}` has {partitions} partitions; \
                 `millrace apply` gives it as many as `{input}` has"
            )),
            Some(_) => Ok(topic),
        }
    }
}

/// The record that a replay of a dead letter of `pipeline` writes to `topic`: one that comes back, with its own key,
/// value, headers, time and place, and how often it was replayed. `None` when the dead letter does not say where it came
/// from.
pub fn replay(pipeline: &str, record: &InRecord, topic: &Arc<str>, from: From) -> Option<OutRecord> {
    let Letter { id, class, attempts, replays, failed_at, origin, config_hash, replayed, .. } =
        letter(pipeline, record);
    let (input, partition, offset) = origin?;
    let first = replayed.and_then(|replayed| replayed.first_failure);
    let first = first.or_else(|| record.header_text(dead_letter::FIRST_FAILURE).map(str::to_owned));
    let first = first.or_else(|| failed_at.map(time));
    let first_time = first.as_deref().and_then(|first| DateTime::parse_from_rfc3339(first).ok());
    let replayed = Replayed {
        count: replays.saturating_add(1),
        first_failure: first,
        class: Some(class),
        config_hash,
        letter: Some(id.to_string()),
    };
    let answers = match from {
        From::FailedStage => Comeback::read(record.clone()).map(|back| back.past.answers).unwrap_or_default(),
        From::Start => Default::default(),
    };
    let past = Past {
        attempts: attempts.unwrap_or(0),
        tier: 0,
        first_failure: first_time.map(|time| time.with_timezone(&Utc)),
        replay: replayed.headers(),
        answers,
    };
    let failed = InRecord {
        topic: Arc::from(input),
        partition,
        offset,
        timestamp_ms: own_time(record),
        key: record.key.clone(),
        value: record.value.clone(),
        headers: own_headers(&record.headers).0,
    };
    Some(back::write(&failed, &past, None, Destination { topic: Arc::clone(topic), tier: 0, due: None }))
}

/// Kafka's timestamp of the record that failed. A letter that does not say it, an older one or one that something else
/// wrote, has it as its own.
pub fn own_time(record: &InRecord) -> Option<i64> {
    match Comeback::read(record.clone()) {
        Ok(back) => back.record.timestamp_ms,
        Err(_) => record.timestamp_ms,
    }
}

/// The headers that the record had before it became a dead letter, and what its last replay said. Those of the dead
/// letter stand behind them, and say how many there are; in older ones they begin with the last `millrace.source`; where
/// something else wrote the dead letter, they are known by their names.
fn own_headers(headers: &[Header]) -> (Vec<Header>, Option<Replayed>) {
    let count = last_header(headers, comeback::ORIGIN_HEADERS);
    let count = count.and_then(|count| std::str::from_utf8(count).ok()?.parse::<usize>().ok());
    if let Some((own, added)) = count.and_then(|count| headers.split_at_checked(count)) {
        let (own, replayed) = replayed::split(own);
        return (own.to_vec(), replayed.or_else(|| Replayed::of(added)));
    }
    let is_error = |name: &HeaderName| {
        name.as_str().starts_with(CONNECT_PREFIX) || name.as_str().starts_with(dead_letter::PREFIX)
    };
    let begin = headers.iter().rposition(|header| header.name.as_str() == SOURCE);
    if let Some(begin) = begin
        && headers[begin + 1..].iter().any(|header| is_error(&header.name))
        && headers[begin + 1..].iter().all(|header| is_error(&header.name))
    {
        let (own, replayed) = replayed::split(&headers[..begin]);
        return (own.to_vec(), replayed);
    }
    (headers.iter().filter(|header| !is_error(&header.name)).cloned().collect(), None)
}

/// A time as the command line prints it.
pub fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
#[path = "dead_letters_tests.rs"]
mod tests;
