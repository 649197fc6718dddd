//! Requests about topics: metadata, creation, settings.

use std::collections::BTreeMap;

use super::partition::Partition;
use super::state::State;
use super::wire::*;

/// Partitions of all topics together.
const PARTITIONS_MAX: usize = 20_000;
const NAME_BYTES_MAX: usize = 249;
const TOPIC_RESOURCE: i8 = 2;
/// Where a value comes from: set on the topic, or a default.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_DEFAULT: i8 = 5;

/// Settings of topics: names and defaults of Kafka 4.
const DEFAULTS: &str = "
    cleanup.policy=delete compression.gzip.level=-1 compression.lz4.level=9 compression.type=producer
    compression.zstd.level=3 delete.retention.ms=86400000 file.delete.delay.ms=60000
    flush.messages=9223372036854775807 flush.ms=9223372036854775807 follower.replication.throttled.replicas=
    index.interval.bytes=4096 leader.replication.throttled.replicas= local.retention.bytes=-2
    local.retention.ms=-2 max.compaction.lag.ms=9223372036854775807 max.message.bytes=1048588
    message.timestamp.after.max.ms=3600000 message.timestamp.before.max.ms=9223372036854775807
    message.timestamp.type=CreateTime min.cleanable.dirty.ratio=0.5 min.compaction.lag.ms=0
    min.insync.replicas=1 preallocate=false remote.log.copy.disable=false remote.log.delete.on.disable=false
    remote.storage.enable=false retention.bytes=-1 retention.ms=604800000 segment.bytes=1073741824
    segment.index.bytes=10485760 segment.jitter.ms=0 segment.ms=604800000
    unclean.leader.election.enable=false
";

#[derive(Default)]
pub struct Topic {
    pub partitions: Vec<Partition>,
    /// What is set on it.
    pub configs: BTreeMap<String, String>,
    /// Whether it was told that retention deletes here.
    pub is_cut: bool,
}

impl Topic {
    /// The value in force.
    pub fn config(&self, name: &str) -> &str {
        self.configs.get(name).map_or_else(|| default(name).unwrap_or_default(), String::as_str)
    }

    /// The value in force where it is a number of bytes.
    pub fn bytes(&self, name: &str) -> usize {
        self.config(name).parse().unwrap_or(usize::MAX)
    }

    /// Bytes that a partition may keep: what the topic says, and at most what the broker has. Kafka keeps the newest
    /// value of each key of a compacted topic, so that only the broker's limit counts there.
    pub fn bytes_max(&self, broker: usize) -> usize {
        let policy = self.config("cleanup.policy");
        let deletes = policy.split(',').any(|word| word.trim() == "delete");
        if deletes { broker.min(self.bytes("retention.bytes")) } else { broker }
    }
}

impl State {
    pub fn metadata(&mut self, ask: &MetadataRequest) -> MetadataResponse {
        let topics = match &ask.topics {
            Some(topics) => {
                let names = topics.iter().filter_map(|topic| topic.name.as_ref());
                names.map(|name| self.describe_topic(name)).collect()
            }
            None => self.topics.keys().map(|name| self.describe_topic(name)).collect(),
        };
        let (host, port) = (HOST, self.settings.port.into());
        let broker = made!(MetadataResponseBroker { node_id: NODE, host, port });
        made!(MetadataResponse {
            brokers: vec![broker],
            controller_id: NODE,
            cluster_id: Some("development-broker".into()),
            topics,
        })
    }

    fn describe_topic(&self, name: &str) -> MetadataResponseTopic {
        let topic = self.allow().and_then(|()| match self.topics.get(name) {
            None if !is_legal(name) => Err(InvalidTopicException),
            topic => topic.ok_or(UnknownTopicOrPartition),
        });
        let nodes = || vec![NODE];
        let first =
            made!(MetadataResponsePartition { leader_id: NODE, replica_nodes: nodes(), isr_nodes: nodes() });
        let mut partitions = vec![first; topic.as_ref().map_or(0, |topic| topic.partitions.len())];
        (0..).zip(&mut partitions).for_each(|(index, partition)| partition.partition_index = index);
        let (error_code, name) = (code(&topic), Some(StrBytes::from(name.to_owned()).into()));
        made!(MetadataResponseTopic { error_code, name, partitions })
    }

    pub fn create_topics(&mut self, ask: &CreateTopicsRequest) -> CreateTopicsResponse {
        let one = |topic: &CreatableTopic| {
            let result = self.allow().and_then(|()| self.create_topic(topic, ask.validate_only));
            made!(CreatableTopicResult { name: topic.name.clone(), error_code: code(&result) })
        };
        made!(CreateTopicsResponse { topics: ask.topics.iter().map(one).collect() })
    }

    fn create_topic(&mut self, ask: &CreatableTopic, only_check: bool) -> Answer<()> {
        let wanted = if ask.num_partitions == -1 { 1 } else { ask.num_partitions };
        ensure(matches!(ask.replication_factor, -1 | 1), InvalidReplicationFactor)?;
        // Kafka's metrics cannot tell names apart that differ in these alone.
        let flat = |name: &str| name.replace('.', "_");
        let name = &**ask.name;
        ensure(!self.topics.contains_key(name), TopicAlreadyExists)?;
        let is_free = self.topics.keys().all(|other| flat(other) != flat(name));
        ensure(is_free && is_legal(name), InvalidTopicException)?;
        let count = self.more_partitions(wanted, 0)?;
        let configs = (ask.configs.iter().map(|one| checked(&one.name, one.value.as_deref())))
            .collect::<Answer<_>>()?;
        if !only_check {
            let partitions = std::iter::repeat_with(Partition::default).take(count).collect();
            self.topics.insert(name.to_owned(), Topic { partitions, configs, is_cut: false });
        }
        Ok(())
    }

    /// A number of partitions as a count, when there is room for that many instead of `before`.
    fn more_partitions(&self, wanted: i32, before: usize) -> Answer<usize> {
        let all: usize = self.topics.values().map(|topic| topic.partitions.len()).sum();
        let count = usize::try_from(wanted).unwrap_or(0);
        ensure(count > before, InvalidPartitions)?;
        ensure(all - before + count <= PARTITIONS_MAX, PolicyViolation)?;
        Ok(count)
    }

    pub fn delete_topics(&mut self, ask: &DeleteTopicsRequest) -> DeleteTopicsResponse {
        let mut delete = |name: &TopicName| {
            self.allow()?;
            self.topics.remove(&***name).ok_or(UnknownTopicOrPartition)?;
            self.groups.values_mut().for_each(|group| group.offsets.forget(name));
            Ok(())
        };
        let one = |name: &TopicName| {
            made!(DeletableTopicResult { name: Some(name.clone()), error_code: code(&delete(name)) })
        };
        made!(DeleteTopicsResponse { responses: ask.topic_names.iter().map(one).collect() })
    }

    pub fn create_partitions(&mut self, ask: &CreatePartitionsRequest) -> CreatePartitionsResponse {
        let mut grow = |wanted: &CreatePartitionsTopic| {
            let before = self.topic(&wanted.name)?.partitions.len();
            let count = self.more_partitions(wanted.count, before)?;
            if !ask.validate_only {
                self.topic(&wanted.name)?.partitions.resize_with(count, Default::default);
            }
            Ok(())
        };
        let one = |topic: &CreatePartitionsTopic| {
            made!(CreatePartitionsTopicResult { name: topic.name.clone(), error_code: code(&grow(topic)) })
        };
        made!(CreatePartitionsResponse { results: ask.topics.iter().map(one).collect() })
    }

    pub fn describe_configs(&mut self, ask: &DescribeConfigsRequest) -> DescribeConfigsResponse {
        let results = ask.resources.iter().map(|resource| {
            let (resource_type, resource_name) = (resource.resource_type, resource.resource_name.clone());
            let allowed = ensure(resource_type == TOPIC_RESOURCE, InvalidRequest);
            let topic = allowed.and_then(|()| self.topic(&resource_name));
            let error_code = code(&topic);
            let describe = |topic: &mut Topic| {
                let one = |name: &'static str| {
                    let value = Some(topic.config(name).to_owned().into());
                    let is_set = topic.configs.contains_key(name);
                    let config_source = if is_set { SOURCE_TOPIC } else { SOURCE_DEFAULT };
                    made!(DescribeConfigsResourceResult { name: name.into(), value, config_source })
                };
                defaults().map(|(name, _)| one(name)).collect()
            };
            let configs = topic.map(describe).unwrap_or_default();
            made!(DescribeConfigsResult { error_code, resource_type, resource_name, configs })
        });
        made!(DescribeConfigsResponse { results: results.collect() })
    }

    /// Replaces all settings of the topics at once.
    pub fn alter_configs(&mut self, ask: &AlterConfigsRequest) -> AlterConfigsResponse {
        let responses = ask.resources.iter().map(|resource| {
            let (resource_type, resource_name) = (resource.resource_type, resource.resource_name.clone());
            let configs = resource.configs.iter().map(|one| checked(&one.name, one.value.as_deref()));
            let allowed = ensure(resource_type == TOPIC_RESOURCE, InvalidRequest);
            let result = allowed.and_then(|()| {
                let configs = configs.collect::<Answer<_>>()?;
                let topic = self.topic(&resource_name)?;
                if !ask.validate_only {
                    topic.configs = configs;
                }
                Ok(())
            });
            made!(AlterConfigsResourceResponse { error_code: code(&result), resource_type, resource_name })
        });
        made!(AlterConfigsResponse { responses: responses.collect() })
    }
}

fn is_legal(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !matches!(name, "." | "..") && name.bytes().all(legal)
}

fn defaults() -> impl Iterator<Item = (&'static str, &'static str)> {
    DEFAULTS.split_ascii_whitespace().filter_map(|setting| setting.split_once('='))
}

fn default(name: &str) -> Option<&'static str> {
    defaults().find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// A setting that a request brings, when Kafka would take it. Only values of the default's kind are.
fn checked(name: &str, value: Option<&str>) -> Answer<(String, String)> {
    let (default, value) = default(name).zip(value).ok_or(InvalidConfig)?;
    let among = |words: &[&str]| value.split(',').all(|word| words.contains(&word.trim()));
    let good = match name {
        "cleanup.policy" => among(&["compact", "delete"]),
        "compression.type" => among(&["uncompressed", "producer", "gzip", "lz4", "snappy", "zstd"]),
        "message.timestamp.type" => among(&["CreateTime", "LogAppendTime"]),
        _ if default.parse::<i64>().is_ok() => matches!(value.parse::<i64>(), Ok(-2..)),
        _ if default.parse::<bool>().is_ok() => value.parse::<bool>().is_ok(),
        _ if default.parse::<f64>().is_ok() => matches!(value.parse::<f64>(), Ok(0.0..=1.0)),
        _ => true,
    };
    ensure(good, InvalidConfig)?;
    Ok((name.to_owned(), value.to_owned()))
}
