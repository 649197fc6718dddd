//! Requests about topics: metadata, creation, settings.

use super::configs::{self, Configs};
use super::state::{Call, State, Topic};
use super::wire::*;

/// Partitions of all topics together.
const PARTITIONS_MAX: usize = 20_000;
const NAME_BYTES_MAX: usize = 249;
const TOPIC_RESOURCE: i8 = 2;
/// Where a value comes from: set on the topic, or a default.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_DEFAULT: i8 = 5;

impl State {
    pub(super) fn metadata(&mut self, call: &Call, ask: &MetadataRequest) -> MetadataResponse {
        let all = |state: &Self| state.topics.keys().cloned().collect();
        let names: Vec<String> = match &ask.topics {
            None => all(self),
            // Before version 1 nothing stood for everything.
            Some(topics) if topics.is_empty() && call.version == 0 => all(self),
            Some(topics) => {
                topics.iter().filter_map(|topic| Some(topic.name.as_ref()?.to_string())).collect()
            }
        };
        let (host, port) = (text(self.address.ip().to_string()), i32::from(self.address.port()));
        made!(MetadataResponse {
            brokers: vec![made!(MetadataResponseBroker { node_id: NODE, host: host, port: port })],
            controller_id: NODE,
            cluster_id: Some(text("development-broker")),
            topics: names.iter().map(|name| self.describe_topic(call, name)).collect(),
        })
    }

    fn describe_topic(&self, call: &Call, name: &str) -> MetadataResponseTopic {
        let topic = call.allow().and_then(|()| match self.topics.get(name) {
            None if !is_legal(name) => Err(ResponseError::InvalidTopicException),
            topic => topic.ok_or(ResponseError::UnknownTopicOrPartition),
        });
        let partition = |index| {
            made!(MetadataResponsePartition {
                partition_index: index,
                leader_id: NODE,
                replica_nodes: vec![NODE],
                isr_nodes: vec![NODE],
                // Older versions have no such field.
                leader_epoch: if call.version >= 7 { 0 } else { -1 },
            })
        };
        let partitions = topic.as_ref().map_or(0, |topic| topic.partitions.len());
        made!(MetadataResponseTopic {
            error_code: code(&topic),
            name: Some(text(name.to_owned()).into()),
            partitions: (0..).take(partitions).map(partition).collect(),
        })
    }

    pub(super) fn create_topics(&mut self, call: &Call, ask: &CreateTopicsRequest) -> CreateTopicsResponse {
        let one = |topic: &CreatableTopic| {
            let result = call.allow().and_then(|()| self.create_topic(topic, ask.validate_only));
            let told = result.as_ref().ok().filter(|_| call.version >= 5);
            made!(CreatableTopicResult {
                name: topic.name.clone(),
                error_code: code(&result),
                error_message: words(&result),
                num_partitions: told.map_or(-1, |partitions| *partitions),
                replication_factor: told.map_or(-1, |_| 1),
            })
        };
        made!(CreateTopicsResponse { topics: ask.topics.iter().map(one).collect() })
    }

    fn create_topic(&mut self, ask: &CreatableTopic, only_check: bool) -> Result<i32, ResponseError> {
        let partitions = match (ask.num_partitions, i32::try_from(ask.assignments.len())) {
            (-1, Ok(assigned)) if assigned > 0 => assigned,
            (-1, _) => self.settings.default_partitions,
            (number, _) => number,
        };
        if !matches!(ask.replication_factor, -1 | 1) {
            return Err(ResponseError::InvalidReplicationFactor);
        }
        // Kafka's metrics cannot tell names apart that differ in these alone.
        let flat = |name: &str| name.replace('.', "_");
        let name = &**ask.name;
        if self.topics.contains_key(name) {
            return Err(ResponseError::TopicAlreadyExists);
        }
        if !is_legal(name) || self.topics.keys().any(|other| flat(other) == flat(name)) {
            return Err(ResponseError::InvalidTopicException);
        }
        let count = self.more_partitions(partitions, 0)?;
        let configs = configs::checked(ask.configs.iter().map(|one| (&one.name, one.value.as_ref())))?;
        if !only_check {
            self.topics.insert(name.to_string(), Topic::new(count, configs));
        }
        Ok(partitions)
    }

    /// A number of partitions as a count, when there is room for that many instead of `before`.
    fn more_partitions(&self, wanted: i32, before: usize) -> Result<usize, ResponseError> {
        let all: usize = self.topics.values().map(|topic| topic.partitions.len()).sum();
        let count = usize::try_from(wanted).ok().filter(|count| *count > before);
        let count = count.ok_or(ResponseError::InvalidPartitions)?;
        if all - before + count > PARTITIONS_MAX { Err(ResponseError::PolicyViolation) } else { Ok(count) }
    }

    pub(super) fn delete_topics(&mut self, call: &Call, ask: &DeleteTopicsRequest) -> DeleteTopicsResponse {
        let mut delete = |name: &TopicName| {
            call.allow()?;
            self.topics.remove(&***name).ok_or(ResponseError::UnknownTopicOrPartition)?;
            self.groups.values_mut().for_each(|group| group.offsets.forget(name));
            Ok(())
        };
        let one = |name: &TopicName| {
            made!(DeletableTopicResult { name: Some(name.clone()), error_code: code(&delete(name)) })
        };
        made!(DeleteTopicsResponse { responses: ask.topic_names.iter().map(one).collect() })
    }

    pub(super) fn create_partitions(
        &mut self,
        call: &Call,
        ask: &CreatePartitionsRequest,
    ) -> CreatePartitionsResponse {
        let mut grow = |ask: &CreatePartitionsTopic, only_check: bool| {
            call.allow()?;
            let unknown = ResponseError::UnknownTopicOrPartition;
            let before = self.topics.get(&**ask.name).ok_or(unknown)?.partitions.len();
            let count = self.more_partitions(ask.count, before)?;
            let topic = self.topics.get_mut(&**ask.name).filter(|_| !only_check);
            topic.into_iter().for_each(|topic| topic.partitions.resize_with(count, Default::default));
            Ok(())
        };
        let one = |topic: &CreatePartitionsTopic| {
            let result = grow(topic, ask.validate_only);
            let (name, error_code, error_message) = (topic.name.clone(), code(&result), words(&result));
            made!(CreatePartitionsTopicResult {
                name: name,
                error_code: error_code,
                error_message: error_message
            })
        };
        made!(CreatePartitionsResponse { results: ask.topics.iter().map(one).collect() })
    }

    pub(super) fn describe_configs(
        &mut self,
        call: &Call,
        ask: &DescribeConfigsRequest,
    ) -> DescribeConfigsResponse {
        let results = ask.resources.iter().map(|resource| {
            let set = call.allow().and_then(|()| match resource.resource_type {
                TOPIC_RESOURCE => {
                    let topic = self.topics.get(&*resource.resource_name);
                    topic.map(|topic| &topic.configs).ok_or(ResponseError::UnknownTopicOrPartition)
                }
                _ => Err(ResponseError::InvalidRequest),
            });
            let wanted = |name: &str| {
                let keys = resource.configuration_keys.as_ref();
                keys.is_none_or(|keys| keys.iter().any(|key| &**key == name))
            };
            let one = |set: &Configs, name: &'static str| {
                made!(DescribeConfigsResourceResult {
                    name: text(name),
                    value: Some(text(configs::value(set, name).to_owned())),
                    config_source: if set.contains_key(name) { SOURCE_TOPIC } else { SOURCE_DEFAULT },
                })
            };
            let names = || configs::DEFAULTS.iter().map(|(name, _)| *name).filter(|name| wanted(name));
            made!(DescribeConfigsResult {
                error_code: code(&set),
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
                configs: set.map_or_else(|_| Vec::new(), |set| names().map(|name| one(set, name)).collect()),
            })
        });
        made!(DescribeConfigsResponse { results: results.collect() })
    }

    /// Replaces all settings of the topics at once.
    pub(super) fn alter_configs(&mut self, call: &Call, ask: &AlterConfigsRequest) -> AlterConfigsResponse {
        let mut alter = |resource: &AlterConfigsResource| {
            call.allow()?;
            let is_topic = resource.resource_type == TOPIC_RESOURCE;
            let topic = self.topics.get_mut(&*resource.resource_name).filter(|_| is_topic);
            let topic = topic.ok_or(ResponseError::UnknownTopicOrPartition)?;
            let configs =
                configs::checked(resource.configs.iter().map(|one| (&one.name, one.value.as_ref())))?;
            if !ask.validate_only {
                topic.configs = configs;
            }
            Ok(())
        };
        let responses = ask.resources.iter().map(|resource| {
            let result = alter(resource);
            made!(AlterConfigsResourceResponse {
                error_code: code(&result),
                error_message: words(&result),
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
            })
        });
        made!(AlterConfigsResponse { responses: responses.collect() })
    }
}

fn is_legal(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !matches!(name, "." | "..") && name.bytes().all(legal)
}
