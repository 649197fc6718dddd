//! Topics of the benchmark: made, filled, read back and deleted.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaRespErr;

use crate::events::{self, Shape};
use crate::job::Job;
use crate::raw::{self, BatchConsumer, PartitionList};

/// More events than the requests that can be in flight leave behind.
const EVENTS_MAX: usize = 100;
const SETTLING_MAX: Duration = Duration::from_secs(10);
const ASK_MAX: Duration = Duration::from_secs(10);
const FULL_QUEUE_WAIT: Duration = Duration::from_millis(1);

/// Headers of the input's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InputHeaders {
    None,
    CloudEvents,
}

fn cloud_events(seq: u64, shape: Shape) -> OwnedHeaders {
    fn header<'a>(key: &'a str, value: &'a str) -> Header<'a, &'a str> {
        Header { key, value: Some(value) }
    }
    OwnedHeaders::new_with_capacity(4)
        .insert(header("ce_id", &events::id(seq)))
        .insert(header("ce_source", "stripe"))
        .insert(header("ce_type", &shape.kind(seq)))
        .insert(header("content-type", "application/json"))
}

pub struct Topics {
    kafka: String,
    runtime: tokio::runtime::Runtime,
    admin: AdminClient<DefaultClientContext>,
}

impl Topics {
    pub fn connect(kafka: &str) -> Result<Topics, String> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", kafka);
        let admin = runtime.block_on(async { config.create() }).map_err(|e: KafkaError| e.to_string())?;
        Ok(Topics { kafka: kafka.to_owned(), runtime, admin })
    }

    /// Creates the topic; false when it exists already.
    pub fn create(&self, name: &str, partitions: i32) -> Result<bool, String> {
        self.create_with(name, partitions, &[])
    }

    /// Creates the topic with settings of its own; false when it exists already.
    pub fn create_with(
        &self,
        name: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> Result<bool, String> {
        let topic =
            NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("file.delete.delay.ms", "1000");
        let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        let results = self
            .runtime
            .block_on(self.admin.create_topics([&topic], &AdminOptions::new()))
            .map_err(|e| e.to_string())?;
        match results.into_iter().next() {
            Some(Ok(_)) => {
                self.settle(name, partitions);
                Ok(true)
            }
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
            Some(Err((name, code))) => Err(format!("cannot create {name}: {code}")),
            None => Err("the broker answered nothing".to_owned()),
        }
    }

    /// Waits until every partition answers: a consumer that subscribes before is told that the topic is unknown.
    fn settle(&self, name: &str, partitions: i32) {
        let started = Instant::now();
        while self.records(name, partitions).is_err() && started.elapsed() < SETTLING_MAX {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn delete(&self, name: &str) -> Result<(), String> {
        let deleted = self.runtime.block_on(self.admin.delete_topics(&[name], &AdminOptions::new()));
        deleted.map(drop).map_err(|e| e.to_string())
    }

    /// Deletes every topic whose name begins with `prefix`.
    pub fn delete_all(&self, prefix: &str) -> Result<(), String> {
        let metadata = self.admin.inner().fetch_metadata(None, ASK_MAX).map_err(|e| e.to_string())?;
        let names =
            metadata.topics().iter().map(|topic| topic.name()).filter(|name| name.starts_with(prefix));
        let names: Vec<&str> = names.collect();
        let deleted = self.runtime.block_on(self.admin.delete_topics(&names, &AdminOptions::new()));
        deleted.map(drop).map_err(|e| e.to_string())
    }

    /// The input topic with this many events, filled on first use and kept for later runs.
    pub fn input(
        &self,
        partitions: i32,
        events: u64,
        shape: Shape,
        headers: InputHeaders,
    ) -> Result<String, String> {
        let kind = match headers {
            InputHeaders::None => "",
            InputHeaders::CloudEvents => "ce-",
        };
        let Shape { keys, bytes, types } = shape;
        let name = format!("bench-in-{kind}{partitions}-{events}-{keys}-{bytes}-{types}");
        if self.create(&name, partitions)? {
            self.fill(&name, events, shape, headers)?;
        }
        let held = self.records(&name, partitions)?;
        if held != events {
            return Err(format!("{name} holds {held} records, expected {events}: delete it"));
        }
        Ok(name)
    }

    fn records(&self, name: &str, partitions: i32) -> Result<u64, String> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.kafka);
        let client: BaseConsumer = config.create().map_err(|e| e.to_string())?;
        let mut records = 0;
        for partition in 0..partitions {
            let (low, high) = client
                .fetch_watermarks(name, partition, Duration::from_secs(10))
                .map_err(|e| e.to_string())?;
            records += (high - low) as u64;
        }
        Ok(records)
    }

    fn fill(&self, name: &str, events: u64, shape: Shape, headers: InputHeaders) -> Result<(), String> {
        let producer: BaseProducer = Job::new(&self.kafka, "fill")
            .producer("fill")
            .set("delivery.report.only.error", "true")
            .create()
            .map_err(|e| e.to_string())?;
        let (mut key, mut payload) = (Vec::new(), Vec::new());
        for seq in 0..events {
            shape.write(seq, 0, &mut key, &mut payload);
            let record = BaseRecord::to(name).key(&key[..]).payload(&payload[..]);
            let record = match headers {
                InputHeaders::None => record,
                InputHeaders::CloudEvents => record.headers(cloud_events(seq, shape)),
            };
            send(&producer, record)?;
        }
        producer.flush(Duration::from_secs(60)).map_err(|e| e.to_string())
    }

    /// Reads everything that a `read_committed` reader sees and checks it: the right number of records, and in
    /// every partition rising sequence numbers, so none lost, none doubled, and order kept.
    pub fn verify(&self, name: &str, partitions: i32, expected: u64) -> Result<(), String> {
        let mut job = Job::new(&self.kafka, "verify");
        job.output = format!("{name}-verify");
        let mut config = job.consumer();
        config.set("enable.partition.eof", "true");
        let mut consumer = BatchConsumer::new(&config, 4096)?;
        let list = PartitionList::new();
        (0..partitions).for_each(|partition| list.add(name, partition, Some(0)));
        consumer.assign(&list)?;
        let mut last = vec![None; partitions as usize];
        let mut ends = vec![false; partitions as usize];
        let mut records = 0;
        let started = Instant::now();
        while !(records >= expected && ends.iter().all(|end| *end)) {
            if started.elapsed() > Duration::from_secs(120) {
                return Err(format!("{name}: read {records} of {expected} in two minutes"));
            }
            for message in consumer.receive(Duration::from_millis(100)).iter() {
                let partition = message.partition as usize;
                if message.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF {
                    ends[partition] = true;
                    continue;
                }
                // SAFETY: the message lives as long as the batch.
                let payload = unsafe { raw::bytes(message.payload, message.len) };
                let seq = events::seq(payload);
                if seq.is_none() || seq <= last[partition] {
                    return Err(format!("{name}-{partition}: {seq:?} after {:?}", last[partition]));
                }
                last[partition] = seq;
                ends[partition] = false;
                records += 1;
            }
        }
        if records == expected {
            Ok(())
        } else {
            Err(format!("{name}: {records} records, expected {expected}"))
        }
    }
}

/// Sends one record; waits when the queue is full.
pub fn send(producer: &BaseProducer, record: BaseRecord<'_, [u8], [u8]>) -> Result<(), String> {
    let mut record = record;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                // A call with a timeout spins through its last millisecond, and one without serves one event:
                // freeing only that one's few records leads to batches of a few records, for good.
                (0..EVENTS_MAX).for_each(|_| producer.poll(Duration::ZERO));
                std::thread::sleep(FULL_QUEUE_WAIT);
                record = refused;
            }
            Err((error, _)) => return Err(error.to_string()),
        }
    }
}
