//! Events, what each must lead to, and the journal of those that Kafka has acknowledged.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, ClientContext, Message as _};
use serde_json::json;

use crate::invariants::Acked;
use crate::project::Workload;
use crate::support::dice::Dice;

/// 2026-11-20 00:00:00 UTC.
const BEGIN: i64 = 1_795_132_800;
/// How long an event may be on its way: longer than any outage of a case.
const DELIVERY_LIMIT: Duration = Duration::from_secs(300);

/// What an event is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Is copied.
    Good,
    /// Is filtered.
    Skip,
    /// Cannot be handled: becomes a dead letter.
    Poison,
}

/// Makes events, a stream for each seed.
pub struct Maker {
    dice: Dice,
    workload: Workload,
    next: HashMap<u64, u64>,
    word: &'static str,
    note_bytes: Option<usize>,
}

impl Maker {
    /// The events of `workload` with this seed.
    pub fn new(workload: Workload, seed: u64) -> Self {
        Self { dice: Dice::new(seed), workload, next: HashMap::new(), word: "key", note_bytes: None }
    }

    /// The same with other keys, for a second stream.
    pub fn with_keys(self, word: &'static str) -> Self {
        Self { word, ..self }
    }

    /// The next event: key and value.
    pub fn event(&mut self) -> (String, Vec<u8>) {
        let number = self.key();
        let next = self.next.entry(number).or_default();
        let seq = *next;
        *next += 1;
        let kind = match self.dice.roll(200) {
            0 => Kind::Poison,
            1..=10 => Kind::Skip,
            _ => Kind::Good,
        };
        let key = format!("{}-{number:05}", self.word);
        let at = BEGIN + i64::try_from(self.dice.roll(24 * 3600)).expect("small");
        let mut value = json!({
            "key": key,
            "seq": seq,
            "amount": self.dice.roll(100_000) + 1,
            "at": at,
            "shop": format!("shop-{}", number % 7),
            "kind": match kind { Kind::Good => "good", Kind::Skip => "skip", Kind::Poison => "poison" },
            "note": self.note(),
        });
        if kind == Kind::Poison {
            value["seq"] = json!(format!("no number: {seq}"));
        }
        (key, value.to_string().into_bytes())
    }

    /// A large one compresses to a tenth.
    fn note(&mut self) -> String {
        let Some(bytes) = self.note_bytes else {
            return "the rest of an event that nobody looks at, so that it has a size".to_owned();
        };
        let mut note = String::with_capacity(bytes + 160);
        while note.len() < bytes {
            write!(note, "{:016x}{}", self.dice.roll(u64::MAX), "-".repeat(144)).expect("into memory");
        }
        note
    }

    /// Keys are even for most workloads. Of W4's 200, four have four fifths of the events.
    fn key(&mut self) -> u64 {
        match self.workload {
            Workload::Copy | Workload::Http | Workload::Kpi => self.dice.roll(1_000),
            Workload::Keys if self.dice.roll(5) == 0 => 4 + self.dice.roll(196),
            Workload::Keys => self.dice.roll(4),
        }
    }
}

/// Acknowledged events, and those whose fate is unknown.
#[derive(Default)]
pub struct Journal {
    /// Acknowledged: they must lead to results.
    pub acked: Vec<Acked>,
    /// Failed or timed out: they may.
    pub unknown: u64,
    file: Option<BufWriter<File>>,
}

struct Noting(Arc<Mutex<Journal>>);

impl ClientContext for Noting {}

impl ProducerContext for Noting {
    type DeliveryOpaque = ();

    fn delivery(&self, report: &DeliveryResult<'_>, (): ()) {
        let mut journal = locked(&self.0);
        match report {
            Ok(message) => {
                let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
                let acked = Acked { key, partition: message.partition(), offset: message.offset() };
                if let Some(file) = &mut journal.file {
                    // The journal on disk is for people who look for a cause; what counts is in memory.
                    let _ = writeln!(file, "{} {} {}", acked.key, acked.partition, acked.offset);
                }
                journal.acked.push(acked);
            }
            Err(_) => journal.unknown += 1,
        }
    }
}

fn locked(journal: &Mutex<Journal>) -> std::sync::MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Sends events, acknowledged by all in-sync replicas, and keeps the journal.
pub struct Generator {
    producer: ThreadedProducer<Noting>,
    journal: Arc<Mutex<Journal>>,
    maker: Maker,
    topic: String,
    /// Events given to the producer.
    pub sent: u64,
}

impl Generator {
    /// A generator for `topic`; the journal is `journal.txt` in `folder`.
    pub fn new(kafka: &str, topic: &str, maker: Maker, folder: &Path) -> anyhow::Result<Self> {
        let file = Some(BufWriter::new(File::create(folder.join("journal.txt"))?));
        let journal = Arc::new(Mutex::new(Journal { file, ..Journal::default() }));
        let producer = ClientConfig::new()
            .set("bootstrap.servers", kafka)
            .set("client.id", "generator")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "10")
            .set("compression.type", "lz4")
            .set("message.timeout.ms", DELIVERY_LIMIT.as_millis().to_string())
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.messages", "1000000")
            .set("message.max.bytes", "2000000")
            .create_with_context(Noting(Arc::clone(&journal)))?;
        Ok(Self { producer, journal, maker, topic: topic.to_owned(), sent: 0 })
    }

    /// Gives `count` events to the producer and does not wait for their acknowledgement.
    pub fn send(&mut self, count: u64) -> anyhow::Result<()> {
        for _ in 0..count {
            let (key, value) = self.maker.event();
            self.send_one(&key, Some(&value))?;
        }
        Ok(())
    }

    /// Gives one record to the producer.
    pub fn send_one(&mut self, key: &str, value: Option<&[u8]>) -> anyhow::Result<()> {
        let id = format!("{}-{}", self.topic, self.sent);
        let headers = OwnedHeaders::new()
            .insert(Header { key: "ce_specversion", value: Some("1.0") })
            .insert(Header { key: "ce_id", value: Some(&id) })
            .insert(Header { key: "ce_source", value: Some("chaos") })
            .insert(Header { key: "ce_type", value: Some("chaos.sale") });
        let mut record: BaseRecord<'_, str, [u8]> = BaseRecord::to(&self.topic).key(key).headers(headers);
        record.payload = value;
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((error, back)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                    record = back;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        self.sent += 1;
        Ok(())
    }

    /// From now on events have so many bytes.
    pub fn enlarge(&mut self, bytes: usize) {
        self.maker.note_bytes = Some(bytes);
    }

    /// Waits until the fate of all is known.
    pub fn settle(&self) -> anyhow::Result<()> {
        self.producer.flush(DELIVERY_LIMIT)?;
        Ok(())
    }

    /// Acknowledged events, and how many have an unknown fate.
    pub fn journal(&self) -> (Vec<Acked>, u64) {
        let mut journal = locked(&self.journal);
        if let Some(file) = &mut journal.file {
            // See above.
            let _ = file.flush();
        }
        (journal.acked.clone(), journal.unknown)
    }
}
