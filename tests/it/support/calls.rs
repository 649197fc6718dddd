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
    _folder: tempfile::TempDir,
}

impl Calls {
    /// Writes and applies it. `head` are lines of the pipeline, such as `delivery: at_least_once`.
    pub fn new(prefix: &str, url: &str, partitions: u32, head: &str) -> Self {
        let name = servers::unique(prefix);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |path: &str, text: String| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a path in the folder")).expect("can be written");
            std::fs::write(path, text).expect("the folder can be written");
        };
        file(
            "connectors/taker.yaml",
            format!(
                "target:\n  base_url: {url}\n  limits: {{concurrency: 500, timeout: 5m}}\n  calls:\n    \
                 take: {{method: POST, path: \"/take/{{id}}\"}}\n"
            ),
        );
        let topic = format!("{name}.in");
        file(
            &format!("topics/{topic}.yaml"),
            format!("partitions: {partitions}\nretention: 1d\nvalue: {{format: json}}\n"),
        );
        file(
            &format!("pipelines/{name}.yaml"),
            format!(
                "input: {{topics: [{topic}]}}\n{head}\nstages:\n  - id: take\n    \
                 http: {{connector: taker, call: take, path_params: {{id: .id}}}}\n"
            ),
        );
        let addresses = Addresses { kafka: servers::kafka(), registry: None, postgres: None };
        let millrace = Millrace::new(folder.path(), &name, &addresses);
        millrace.run_ok(&["apply", "--yes"]);
        Self { topic, group: format!("{name}.{name}"), name, millrace, _folder: folder }
    }

    /// Starts a worker of this instance, with further words.
    pub fn worker(&self, instance: &str, words: &[&str]) -> Running {
        let mut all = vec!["worker", "--instance", instance, "--metrics", "127.0.0.1:0"];
        all.extend(words);
        self.millrace.start(&format!("worker-{instance}"), &all)
    }

    /// Writes a record for each id, with `padding` beside it; all acknowledged. Keys are the ids.
    pub fn send(&self, ids: &[String], padding: &str) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", servers::kafka())
            .set("compression.type", "zstd")
            .set("linger.ms", "50")
            .set("batch.size", "1000000")
            .create()
            .expect("a producer can be made");
        for id in ids {
            let value = format!("{{\"id\": \"{id}\", \"padding\": \"{padding}\"}}");
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
            .set("bootstrap.servers", servers::kafka())
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
