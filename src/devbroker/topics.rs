//! Requests about topics: metadata, creation, settings.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, CreatePartitionsRequest, CreatePartitionsResponse,
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    DescribeConfigsRequest, DescribeConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, MetadataRequest, MetadataResponse, TopicName, alter_configs_response,
    incremental_alter_configs_response,
};

use super::configs;
use super::server::{NODE, text};
use super::state::{Call, State, Topic, code};

/// Partitions of all topics together.
const PARTITIONS_MAX: usize = 20_000;
const NAME_BYTES_MAX: usize = 249;
const TOPIC_RESOURCE: i8 = 2;
const BROKER_RESOURCE: i8 = 4;
/// Where a value comes from: set on the topic, or a default.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_DEFAULT: i8 = 5;
/// What an incremental change does.
const OPERATION_SET: i8 = 0;
const OPERATION_DELETE: i8 = 1;

type Configs = BTreeMap<String, String>;

impl State {
    pub(super) fn metadata(&mut self, call: &Call, ask: &MetadataRequest) -> MetadataResponse {
        let all = |state: &Self| state.topics.keys().cloned().collect();
        let names: Vec<String> = match &ask.topics {
            None => all(self),
            // Before version 1 nothing stood for everything.
            Some(topics) if topics.is_empty() && call.version == 0 => all(self),
            Some(topics) => {
                topics.iter().filter_map(|topic| topic.name.as_ref()).map(|name| name.to_string()).collect()
            }
        };
        let create = ask.allow_auto_topic_creation && self.settings.auto_create_topics;
        let topics = names.iter().map(|name| {
            if create && !self.topics.contains_key(name) {
                let _ = self.insert_topic(name, self.settings.default_partitions, Configs::new(), false);
            }
            self.describe_topic(call, name)
        });
        let topics = topics.collect();
        let broker = MetadataResponseBroker::default()
            .with_node_id(NODE)
            .with_host(text(self.address.ip().to_string()))
            .with_port(i32::from(self.address.port()));
        MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_controller_id(NODE)
            .with_cluster_id(Some(text("development-broker")))
            .with_topics(topics)
    }

    fn describe_topic(&self, call: &Call, name: &str) -> MetadataResponseTopic {
        let described = MetadataResponseTopic::default().with_name(Some(text(name.to_owned()).into()));
        let topic = self.topics.get(name).ok_or(ResponseError::UnknownTopicOrPartition);
        let topic = match call.allow().and(topic) {
            Ok(topic) => topic,
            Err(_) if call.forced.is_none() && !is_legal(name) => {
                return described.with_error_code(ResponseError::InvalidTopicException.code());
            }
            Err(error) => return described.with_error_code(error.code()),
        };
        let partition = |index: usize| {
            let described = MetadataResponsePartition::default()
                .with_partition_index(i32::try_from(index).unwrap_or(i32::MAX))
                .with_leader_id(NODE)
                .with_replica_nodes(vec![NODE])
                .with_isr_nodes(vec![NODE]);
            if call.version >= 7 { described.with_leader_epoch(0) } else { described }
        };
        described.with_partitions((0..topic.partitions.len()).map(partition).collect())
    }

    pub(super) fn create_topics(&mut self, call: &Call, ask: &CreateTopicsRequest) -> CreateTopicsResponse {
        let one = |topic: &CreatableTopic| {
            let result = call.allow().and_then(|()| self.create_topic(topic, ask.validate_only));
            let response = CreatableTopicResult::default()
                .with_name(topic.name.clone())
                .with_error_code(code(result))
                .with_error_message(result.err().map(|error| text(error.to_string())));
            match result {
                Ok(partitions) if call.version >= 5 => {
                    response.with_num_partitions(partitions).with_replication_factor(1)
                }
                Ok(_) | Err(_) => response,
            }
        };
        CreateTopicsResponse::default().with_topics(ask.topics.iter().map(one).collect())
    }

    fn create_topic(&mut self, ask: &CreatableTopic, only_check: bool) -> Result<i32, ResponseError> {
        let assigned = i32::try_from(ask.assignments.len()).unwrap_or(i32::MAX);
        let partitions = match ask.num_partitions {
            -1 if assigned > 0 => assigned,
            -1 => self.settings.default_partitions,
            number => number,
        };
        if !matches!(ask.replication_factor, -1 | 1) {
            return Err(ResponseError::InvalidReplicationFactor);
        }
        let mut configs = Configs::new();
        for config in &ask.configs {
            let value = config.value.as_deref().ok_or(ResponseError::InvalidConfig)?;
            configs.insert(config.name.to_string(), value.to_string());
        }
        self.insert_topic(&ask.name, partitions, configs, only_check)?;
        Ok(partitions)
    }

    fn insert_topic(
        &mut self,
        name: &str,
        partitions: i32,
        configs: Configs,
        only_check: bool,
    ) -> Result<(), ResponseError> {
        if !is_legal(name) {
            return Err(ResponseError::InvalidTopicException);
        }
        if self.topics.contains_key(name) {
            return Err(ResponseError::TopicAlreadyExists);
        }
        // Kafka's metrics cannot tell such names apart.
        let flat = |name: &str| name.replace('.', "_");
        if self.topics.keys().any(|other| flat(other) == flat(name)) {
            return Err(ResponseError::InvalidTopicException);
        }
        let count = self.more_partitions(partitions, 0)?;
        configs.iter().try_for_each(|(name, value)| configs::check(name, value))?;
        if !only_check {
            self.topics.insert(name.to_owned(), Topic::new(count, configs));
        }
        Ok(())
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
            DeletableTopicResult::default().with_name(Some(name.clone())).with_error_code(code(delete(name)))
        };
        DeleteTopicsResponse::default().with_responses(ask.topic_names.iter().map(one).collect())
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
            CreatePartitionsTopicResult::default()
                .with_name(topic.name.clone())
                .with_error_code(code(result))
                .with_error_message(result.err().map(|error| text(error.to_string())))
        };
        CreatePartitionsResponse::default().with_results(ask.topics.iter().map(one).collect())
    }

    pub(super) fn describe_configs(
        &mut self,
        call: &Call,
        ask: &DescribeConfigsRequest,
    ) -> DescribeConfigsResponse {
        let results = ask.resources.iter().map(|resource| {
            let none = Configs::new();
            let set = match (call.allow(), resource.resource_type) {
                (Err(error), _) => Err(error),
                (Ok(()), BROKER_RESOURCE) => Ok(&none),
                (Ok(()), TOPIC_RESOURCE) => self
                    .topics
                    .get(&*resource.resource_name)
                    .map(|topic| &topic.configs)
                    .ok_or(ResponseError::UnknownTopicOrPartition),
                (Ok(()), _) => Err(ResponseError::InvalidRequest),
            };
            let wanted = |name: &str| {
                let keys = resource.configuration_keys.as_ref();
                resource.resource_type == TOPIC_RESOURCE
                    && keys.is_none_or(|keys| keys.iter().any(|key| &**key == name))
            };
            let one = |set: &Configs, name: &'static str| {
                let source = if set.contains_key(name) { SOURCE_TOPIC } else { SOURCE_DEFAULT };
                DescribeConfigsResourceResult::default()
                    .with_name(text(name))
                    .with_value(Some(text(configs::value(set, name).to_owned())))
                    .with_config_source(source)
            };
            let configs = set.map_or_else(
                |_| Vec::new(),
                |set| {
                    let names = configs::DEFAULTS.iter().map(|(name, _)| *name);
                    names.filter(|name| wanted(name)).map(|name| one(set, name)).collect()
                },
            );
            DescribeConfigsResult::default()
                .with_error_code(code(set))
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
                .with_configs(configs)
        });
        DescribeConfigsResponse::default().with_results(results.collect())
    }

    /// Replaces all settings of the topics at once.
    pub(super) fn alter_configs(&mut self, call: &Call, ask: &AlterConfigsRequest) -> AlterConfigsResponse {
        let responses = ask.resources.iter().map(|resource| {
            let entries = resource.configs.iter();
            let entries = entries.map(|config| (OPERATION_SET, &*config.name, config.value.as_deref()));
            let what = (resource.resource_type, &*resource.resource_name);
            let result = self.change(call, what, Some(Configs::new()), entries, ask.validate_only);
            alter_configs_response::AlterConfigsResourceResponse::default()
                .with_error_code(code(result))
                .with_error_message(result.err().map(|error| text(error.to_string())))
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
        });
        AlterConfigsResponse::default().with_responses(responses.collect())
    }

    /// Changes single settings of the topics.
    pub(super) fn incremental_alter_configs(
        &mut self,
        call: &Call,
        ask: &IncrementalAlterConfigsRequest,
    ) -> IncrementalAlterConfigsResponse {
        let responses = ask.resources.iter().map(|resource| {
            let entries = resource.configs.iter();
            let entries = entries.map(|one| (one.config_operation, &*one.name, one.value.as_deref()));
            let what = (resource.resource_type, &*resource.resource_name);
            let result = self.change(call, what, None, entries, ask.validate_only);
            incremental_alter_configs_response::AlterConfigsResourceResponse::default()
                .with_error_code(code(result))
                .with_error_message(result.err().map(|error| text(error.to_string())))
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
        });
        IncrementalAlterConfigsResponse::default().with_responses(responses.collect())
    }

    /// Changes a topic's settings, starting from `from` or from what is set.
    fn change<'a>(
        &mut self,
        call: &Call,
        (kind, name): (i8, &str),
        from: Option<Configs>,
        entries: impl Iterator<Item = (i8, &'a str, Option<&'a str>)>,
        only_check: bool,
    ) -> Result<(), ResponseError> {
        call.allow()?;
        if kind != TOPIC_RESOURCE {
            return Err(ResponseError::InvalidRequest);
        }
        let topic = self.topics.get_mut(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
        let mut configs = from.unwrap_or_else(|| topic.configs.clone());
        for (operation, name, value) in entries {
            match (operation, value) {
                (OPERATION_DELETE, _) => drop(configs.remove(name)),
                (OPERATION_SET, Some(value)) => {
                    configs::check(name, value)?;
                    configs.insert(name.to_owned(), value.to_owned());
                }
                _ => return Err(ResponseError::InvalidConfig),
            }
        }
        if !only_check {
            topic.configs = configs;
        }
        Ok(())
    }
}

fn is_legal(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !matches!(name, "." | "..") && name.bytes().all(legal)
}
