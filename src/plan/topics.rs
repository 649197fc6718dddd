//! Every topic that a project needs: declared ones, companions and dead letters of pipelines, and those of the ledger.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::ledger::Namespace;
use crate::stages::context::ValueFormat;
use crate::yaml::units;

/// Partitions of the ledger's topics.
const LEDGER_PARTITIONS: NonZeroU32 = NonZeroU32::new(12).expect("12 is not zero");
/// How long execution results are kept in Kafka; Postgres keeps them longer.
const EXECUTIONS_RETENTION: Duration = Duration::from_secs(14 * 86_400);
/// How long KPI facts are kept: as far back as a KPI can be rebuilt.
const FACTS_RETENTION: Duration = Duration::from_secs(90 * 86_400);
/// How long dead letters wait for somebody to look at them.
const DEAD_LETTER_RETENTION: Duration = Duration::from_secs(30 * 86_400);
/// How long records wait in a retry topic or for a replay: far beyond the longest tier, for a worker that is down.
pub const COMPANION_RETENTION: Duration = Duration::from_secs(30 * 86_400);
/// How long decisions about dead letters are kept: longer than the letters.
const DECISIONS_RETENTION: Duration = Duration::from_secs(90 * 86_400);
/// Room for a record of 1 MiB, the most that is taken in or written, and 64 KiB for what Kafka puts around it.
pub const RECORD_ROOM_BYTES: u32 = (1 << 20) + (64 << 10);
/// Room for a source record of Kafka's default limit of 1 MiB and the headers that dead letters and companions add.
const DEAD_LETTER_BYTES_MAX: u32 = 2 << 20;

/// What a topic is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Declared in `topics/`.
    Declared,
    /// Dead letters of a pipeline.
    DeadLetter,
    /// Records of an input that come back to a pipeline.
    Companion,
    /// Execution results.
    Executions,
    /// KPI facts.
    KpiFacts,
    /// KPI values.
    Kpis,
    /// What was decided about dead letters.
    Decisions,
}

/// A topic as it should be.
#[derive(Clone, PartialEq, Debug)]
pub struct TopicSpec {
    /// Name.
    pub name: Arc<str>,
    /// What it is for.
    pub role: Role,
    /// Partitions; more is fine, fewer is not.
    pub partitions: NonZeroU32,
    /// Kafka's topic settings that matter, such as `retention.ms`; others are the broker's.
    pub settings: BTreeMap<&'static str, String>,
    /// How values are written. The ledger's own topics have their schemas in the build and say `Bytes` here.
    pub value: ValueFormat,
    /// The topic whose partitions it mirrors, number by number: it is never to have fewer.
    pub mirrors: Option<Arc<str>>,
}

/// The topics by which the records of one input come back to a pipeline. None is subscribed to: who reads partition `p`
/// of the input reads partition `p` of these.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Companions {
    /// The input topic.
    pub input: Arc<str>,
    /// Retry tiers, the shortest first.
    pub tiers: Vec<Tier>,
    /// What `millrace dlq replay` writes to.
    pub replay: Arc<str>,
}

/// One retry tier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tier {
    /// How long a record waits in it.
    pub delay: Duration,
    /// Its topic.
    pub topic: Arc<str>,
}

impl Companions {
    /// The topics, tiers first.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.tiers.iter().map(|tier| &tier.topic).chain([&self.replay])
    }
}

/// The companions of each of a pipeline's inputs: `<pipeline>.retry.<tier>` and `<pipeline>.replay`; where there are
/// several inputs, `<pipeline>.<input>.retry.<tier>` and so on.
pub fn companions(pipeline: &str, inputs: &[Arc<str>], tiers: &[Duration]) -> Vec<Companions> {
    let of = |input: &Arc<str>| {
        let stem = match inputs.len() {
            1 => pipeline.to_owned(),
            _ => format!("{pipeline}.{input}"),
        };
        let tier = |delay: &Duration| Tier {
            delay: *delay,
            topic: format!("{stem}.retry.{}", units::duration_text(*delay)).into(),
        };
        Companions {
            input: Arc::clone(input),
            tiers: tiers.iter().map(tier).collect(),
            replay: format!("{stem}.replay").into(),
        }
    };
    inputs.iter().map(of).collect()
}

/// A companion of `input`, which is declared with so many `partitions`.
pub fn companion(name: &Arc<str>, input: &Arc<str>, partitions: NonZeroU32) -> TopicSpec {
    let mut settings = deleted_after(COMPANION_RETENTION);
    settings.insert("max.message.bytes", DEAD_LETTER_BYTES_MAX.to_string());
    // By the record's own time, an old event would be deleted as soon as it is parked.
    settings.insert("message.timestamp.type", String::from("LogAppendTime"));
    TopicSpec {
        name: Arc::clone(name),
        role: Role::Companion,
        partitions,
        settings,
        value: ValueFormat::Bytes,
        mirrors: Some(Arc::clone(input)),
    }
}

/// The dead-letter topic of `pipeline`: `<pipeline>.dlq`.
pub fn dead_letter_name(pipeline: &str) -> Arc<str> {
    format!("{pipeline}.dlq").into()
}

/// The dead letters of `pipeline`. As many partitions as its widest input has, so that keys spread alike.
pub fn dead_letter(pipeline: &str, partitions: NonZeroU32) -> TopicSpec {
    let mut settings = deleted_after(DEAD_LETTER_RETENTION);
    settings.insert("max.message.bytes", DEAD_LETTER_BYTES_MAX.to_string());
    // By the event's own time, the letter of an old one would be deleted before anybody has looked at it.
    settings.insert("message.timestamp.type", String::from("LogAppendTime"));
    TopicSpec {
        name: dead_letter_name(pipeline),
        role: Role::DeadLetter,
        partitions,
        settings,
        value: ValueFormat::Bytes,
        mirrors: None,
    }
}

/// The topics of the ledger in `namespace`.
pub fn ledger(namespace: &Namespace) -> [TopicSpec; 4] {
    let spec = |name, role, settings| TopicSpec {
        name,
        role,
        partitions: LEDGER_PARTITIONS,
        settings,
        value: ValueFormat::Bytes,
        mirrors: None,
    };
    let compacted = BTreeMap::from([("cleanup.policy", String::from("compact"))]);
    [
        spec(namespace.executions_topic(), Role::Executions, deleted_after(EXECUTIONS_RETENTION)),
        spec(namespace.kpi_facts_topic(), Role::KpiFacts, deleted_after(FACTS_RETENTION)),
        spec(namespace.kpis_topic(), Role::Kpis, compacted),
        decisions(namespace),
    ]
}

/// What was decided about dead letters: the last decision of each letter, and none for ever. Decisions are few and made
/// by people, so one partition holds all, in their order.
fn decisions(namespace: &Namespace) -> TopicSpec {
    let mut settings = deleted_after(DECISIONS_RETENTION);
    settings.insert("cleanup.policy", String::from("compact,delete"));
    TopicSpec {
        name: namespace.decisions_topic(),
        role: Role::Decisions,
        partitions: NonZeroU32::MIN,
        settings,
        value: ValueFormat::Bytes,
        mirrors: None,
    }
}

/// Settings of a topic whose records are deleted after `retention`.
fn deleted_after(retention: Duration) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("cleanup.policy", String::from("delete")),
        ("retention.ms", retention.as_millis().to_string()),
    ])
}
