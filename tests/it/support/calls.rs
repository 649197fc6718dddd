//! A project with one pipeline that calls a destination for each record of one topic; no registry, no Postgres.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::support::millrace::{Addresses, Millrace, Running};
use crate::support::servers;

const PATIENCE: Duration = Duration::from_secs(60);

/// The project, and how it is called.
pub struct Calls {
    /// First word of all its names.
    pub name: String,
    /// The topic it reads.
    pub topic: String,
    /// Its consumer group.
    pub group: String,
    /// How the binary is called.
    pub millrace: Millrace,
    kafka: String,
    _folder: tempfile::TempDir,
}

impl Calls {
    /// Writes and applies it. `head` are lines of the pipeline, such as `delivery: at_least_once`.
    pub fn new(prefix: &str, url: &str, partitions: u32, head: &str) -> Self {
        let stage = "http: {connector: taker, call: take, path_params: {id: .id}}";
        let connector = format!(
            "target:\n  base_url: {url}\n  limits: {{concurrency: 500, timeout: 5m}}\n  calls:\n    \
             take: {{method: POST, path: \"/take/{{id}}\"}}\n"
        );
        let calls = Self::written(&servers::kafka(), prefix, (partitions, head), |_| {
            (String::from(stage), vec![(String::from("connectors/taker.yaml"), connector)])
        });
        calls.millrace.run_ok(&["apply", "--yes"]);
        calls
    }

    /// Writes a project whose pipeline writes each record to topic `<name>.out` instead. It is not applied.
    pub fn emitting(kafka: &str, prefix: &str, partitions: u32) -> Self {
        Self::written(kafka, prefix, (partitions, ""), |name| {
            let topic = format!("partitions: {partitions}\nretention: 1d\nvalue: {{format: json}}\n");
            (
                format!("emit: {{topic: {name}.out, key: .id}}"),
                vec![(format!("topics/{name}.out.yaml"), topic)],
            )
        })
    }

    fn written(
        kafka: &str,
        prefix: &str,
        (partitions, head): (u32, &str),
        rest: impl FnOnce(&str) -> (String, Vec<(String, String)>),
    ) -> Self {
        let name = servers::unique(prefix);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let topic = format!("{name}.in");
        let (stage, mut files) = rest(&name);
        files.push((
            format!("topics/{topic}.yaml"),
            format!("partitions: {partitions}\nretention: 1d\nvalue: {{format: json}}\n"),
        ));
        files.push((
            format!("pipelines/{name}.yaml"),
            format!("input: {{topics: [{topic}]}}\n{head}\nstages:\n  - id: take\n    {stage}\n"),
        ));
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a path in the folder")).expect("can be written");
            std::fs::write(path, text).expect("the folder can be written");
        }
        let kafka = kafka.to_owned();
        let addresses = Addresses { kafka: kafka.clone(), registry: None, postgres: None };
        let millrace = Millrace::new(folder.path(), &name, &addresses);
        Self { topic, group: format!("{name}.{name}"), name, millrace, kafka, _folder: folder }
    }

    /// Starts a worker of this instance, with further words.
    pub fn worker(&self, instance: &str, words: &[&str]) -> Running {
        let mut all = vec!["worker", "--instance", instance, "--metrics", "127.0.0.1:0"];
        all.extend(words);
        self.millrace.start(&format!("worker-{instance}"), &all)
    }

    /// Writes a record for each id; all acknowledged. Keys are the ids.
    pub fn send(&self, ids: &[String]) {
        self.send_padded(ids, String::new);
    }

    /// The same, with something beside each id.
    pub fn send_padded(&self, ids: &[String], mut padding: impl FnMut() -> String) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.kafka)
            .set("compression.type", "zstd")
            .set("linger.ms", "50")
            .set("batch.size", "1000000")
            .create()
            .expect("a producer can be made");
        for id in ids {
            let value = format!("{{\"id\": \"{id}\", \"padding\": \"{}\"}}", padding());
            let mut record = BaseRecord::to(&self.topic).key(id).payload(&value);
            while let Err((_full, back)) = producer.send(record) {
                producer.poll(Duration::from_millis(20));
                record = back;
            }
        }
        producer.flush(PATIENCE).expect("acknowledged");
    }

    /// The group's committed offset of each partition, and the text beside it.
    pub fn committed(&self) -> Vec<(Offset, String)> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.kafka)
            .set("group.id", &self.group)
            .create()
            .expect("a consumer can be made");
        let metadata = consumer.fetch_metadata(Some(&self.topic), PATIENCE).expect("Kafka answers");
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition(&self.topic, partition.id());
        }
        let list = consumer.committed_offsets(list, PATIENCE).expect("the coordinator answers");
        list.elements().iter().map(|element| (element.offset(), element.metadata().to_owned())).collect()
    }
}
