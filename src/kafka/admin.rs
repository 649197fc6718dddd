//! Topics and groups as the cluster has them, and the difference to what they should be.
//!
//! Creates and, when told to, changes; never deletes. Adding partitions moves keys to other partitions, and a setting
//! that differs may be somebody's decision: differences are told, and the operator decides.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewPartitions, NewTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::kafka::settings::Connection;
use crate::kafka::tail;
use crate::position::{NextOffset, Partition};

const ASK_TIMEOUT: Duration = Duration::from_secs(15);

/// A topic as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Name.
    pub name: String,
    /// Partitions; more is fine.
    pub partitions: i32,
    /// Topic settings by Kafka's names.
    pub settings: BTreeMap<String, String>,
}

/// A topic as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Existing {
    /// Partitions.
    pub partitions: i32,
    /// Copies of its first partition.
    pub replication: usize,
    /// All its settings by Kafka's names, the broker's defaults included.
    pub settings: BTreeMap<String, String>,
}

/// What is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// The topic does not exist.
    Missing,
    /// It has fewer partitions.
    FewerPartitions {
        /// As it is.
        is: i32,
        /// As it should be.
        wanted: i32,
    },
    /// A setting has another value.
    Setting {
        /// Kafka's name of it.
        name: String,
        /// As it is; `None` when the broker does not know it.
        is: Option<String>,
        /// As it should be.
        wanted: String,
    },
}

/// What would have to change for `existing` to be as `wanted`.
pub fn compare(wanted: &Wanted, existing: Option<&Existing>) -> Vec<Difference> {
    let Some(existing) = existing else { return vec![Difference::Missing] };
    let mut differences = Vec::new();
    if existing.partitions < wanted.partitions {
        let (is, wanted) = (existing.partitions, wanted.partitions);
        differences.push(Difference::FewerPartitions { is, wanted });
    }
    for (name, value) in &wanted.settings {
        let is = existing.settings.get(name);
        if !is.is_some_and(|is| suffices(name, is, value)) {
            let (name, wanted) = (name.clone(), value.clone());
            differences.push(Difference::Setting { name, is: is.cloned(), wanted });
        }
    }
    differences
}

/// Whether the setting `name` does with the value `is` what `wanted` asks for.
fn suffices(name: &str, is: &str, wanted: &str) -> bool {
    match name {
        // The order of its words means nothing, and brokers give it back as they like.
        "cleanup.policy" => {
            let words =
                |text: &str| text.split(',').map(|word| word.trim().to_owned()).collect::<BTreeSet<_>>();
            words(is) == words(wanted)
        }
        // Room for more is fine.
        "max.message.bytes" => match (is.parse::<i64>(), wanted.parse::<i64>()) {
            (Ok(is), Ok(wanted)) => is >= wanted,
            _ => is == wanted,
        },
        _ => is == wanted,
    }
}

/// A question or order that Kafka did not answer as hoped.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The client cannot be made.
    #[error("cannot start an admin client")]
    Start(#[source] KafkaError),
    /// No broker answers, or it refuses.
    #[error("cannot {action}")]
    Ask {
        /// What was asked.
        action: &'static str,
        /// librdkafka's error.
        source: KafkaError,
    },
    /// A topic could not be created.
    #[error("cannot create topic `{topic}`: {code:?}")]
    Create {
        /// Topic.
        topic: String,
        /// The broker's code.
        code: RDKafkaErrorCode,
    },
    /// A topic could not be changed.
    #[error("cannot change topic `{topic}`: {code:?}")]
    Change {
        /// Topic.
        topic: String,
        /// The broker's code.
        code: RDKafkaErrorCode,
    },
    /// The cluster could not be asked in the background.
    #[error("the question was not finished")]
    Cancelled,
}

impl AdminError {
    /// Whether no broker answered, as opposed to one that refused.
    pub fn is_unreachable(&self) -> bool {
        use RDKafkaErrorCode::{
            AllBrokersDown, BrokerTransportFailure, OperationTimedOut, RequestTimedOut, Resolve,
        };
        let Self::Ask { source, .. } = self else { return false };
        source.rdkafka_error_code().is_some_and(|code| {
            matches!(
                code,
                AllBrokersDown | BrokerTransportFailure | OperationTimedOut | RequestTimedOut | Resolve
            )
        })
    }
}

/// The cluster as [`Admin::cluster`] found it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// `host:port` of each broker, by id.
    pub brokers: BTreeMap<i32, String>,
    /// Partitions of each topic.
    pub topics: BTreeMap<String, i32>,
}

/// How far a group is in one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupPosition {
    /// Which partition.
    pub partition: Partition,
    /// Committed up to here; `None` when nothing is.
    pub committed: Option<NextOffset>,
    /// Oldest record that is kept.
    pub begin: NextOffset,
    /// End of what readers of committed records may see.
    pub end: NextOffset,
}

impl GroupPosition {
    /// Records that the group has not committed. Transaction markers count, so it may stay above 0 by a few.
    pub fn lag(&self) -> i64 {
        let from = self.committed.unwrap_or(self.begin).max(self.begin);
        (self.end.0 - from.0).max(0)
    }
}

/// Asks the cluster and creates topics.
pub struct Admin {
    client: AdminClient<DefaultClientContext>,
    connection: Connection,
}

impl Admin {
    /// A client; connects when it is used.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub fn new(connection: &Connection) -> Result<Self, AdminError> {
        let client = connection.client().create().map_err(AdminError::Start)?;
        Ok(Self { client, connection: connection.clone() })
    }

    /// Brokers and topics.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn cluster(&self) -> Result<Cluster, AdminError> {
        let connection = self.connection.clone();
        in_background(move || {
            let metadata = asker(&connection, None)?
                .fetch_metadata(None, ASK_TIMEOUT)
                .map_err(|source| AdminError::Ask { action: "list the brokers", source })?;
            let address = |broker: &rdkafka::metadata::MetadataBroker| {
                (broker.id(), format!("{}:{}", broker.host(), broker.port()))
            };
            let topic = |topic: &rdkafka::metadata::MetadataTopic| {
                (topic.name().to_owned(), count(topic.partitions().len()))
            };
            Ok(Cluster {
                brokers: metadata.brokers().iter().map(address).collect(),
                topics: metadata.topics().iter().map(topic).collect(),
            })
        })
        .await
    }

    /// Those of `names` that exist.
    ///
    /// # Errors
    /// When no broker answers, or describing is not allowed.
    pub async fn describe(&self, names: &[&str]) -> Result<BTreeMap<String, Existing>, AdminError> {
        let connection = self.connection.clone();
        let mut found: BTreeMap<String, Existing> = in_background(move || {
            let metadata = asker(&connection, None)?
                .fetch_metadata(None, ASK_TIMEOUT)
                .map_err(|source| AdminError::Ask { action: "list the topics", source })?;
            let existing = |topic: &rdkafka::metadata::MetadataTopic| Existing {
                partitions: count(topic.partitions().len()),
                replication: topic.partitions().first().map_or(0, |partition| partition.replicas().len()),
                settings: BTreeMap::new(),
            };
            Ok(metadata.topics().iter().map(|topic| (topic.name().to_owned(), existing(topic))).collect())
        })
        .await?;
        found.retain(|name, _| names.contains(&name.as_str()));
        let resources: Vec<_> = found.keys().map(|name| ResourceSpecifier::Topic(name)).collect();
        if resources.is_empty() {
            return Ok(found);
        }
        let ask = |source| AdminError::Ask { action: "read the settings of the topics", source };
        let answers = self.client.describe_configs(resources.iter(), &options()).await.map_err(ask)?;
        let mut settings: HashMap<String, BTreeMap<String, String>> = HashMap::new();
        for answer in answers {
            let resource = answer.map_err(|code| ask(KafkaError::AdminOp(code)))?;
            if let OwnedResourceSpecifier::Topic(name) = resource.specifier {
                let values =
                    resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
                settings.insert(name, values.collect());
            }
        }
        for (name, existing) in &mut found {
            existing.settings = settings.remove(name).unwrap_or_default();
        }
        Ok(found)
    }

    /// Creates `topics`; one that exists already is left as it is. `replication` `None` takes the broker's default.
    ///
    /// # Errors
    /// The first that cannot be created; those before it are.
    pub async fn create(&self, topics: &[Wanted], replication: Option<i32>) -> Result<(), AdminError> {
        let copies = replication.unwrap_or(-1);
        let new: Vec<NewTopic<'_>> = topics.iter().map(|topic| new_topic(topic, copies)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let results = self
            .client
            .create_topics(&new, &options())
            .await
            .map_err(|source| AdminError::Ask { action: "create topics", source })?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(AdminError::Create { topic, code }),
            }
        }
        Ok(())
    }

    /// Gives `topic` the values of `changes`, and keeps every other value that was set on it.
    ///
    /// # Errors
    /// When Kafka refuses a value, or does not answer.
    pub async fn set(&self, topic: &str, changes: &BTreeMap<String, String>) -> Result<(), AdminError> {
        let ask = |source| AdminError::Ask { action: "change the settings of a topic", source };
        let resource = [ResourceSpecifier::Topic(topic)];
        let answers = self.client.describe_configs(resource.iter(), &options()).await.map_err(ask)?;
        let refused = |code| AdminError::Change { topic: topic.to_owned(), code };
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for answer in answers {
            // The order replaces all values at once: what was set before has to be in it.
            let own = answer.map_err(refused)?.entries.into_iter();
            let own = own.filter(|entry| entry.source == ConfigSource::DynamicTopic);
            values.extend(own.filter_map(|entry| Some((entry.name, entry.value?))));
        }
        values.extend(changes.iter().map(|(name, value)| (name.clone(), value.clone())));
        let order = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let order = values.iter().fold(order, |order, (name, value)| order.set(name, value));
        for result in self.client.alter_configs([&order], &options()).await.map_err(ask)? {
            result.map_err(|(_, code)| refused(code))?;
        }
        Ok(())
    }

    /// Adds partitions to `topic` until it has `partitions`.
    ///
    /// # Errors
    /// When Kafka refuses, or does not answer.
    pub async fn grow(&self, topic: &str, partitions: i32) -> Result<(), AdminError> {
        let ask = |source| AdminError::Ask { action: "add partitions to a topic", source };
        let count = usize::try_from(partitions).unwrap_or(0);
        let order = NewPartitions::new(topic, count);
        for result in self.client.create_partitions([&order], &options()).await.map_err(ask)? {
            result.map_err(|(topic, code)| AdminError::Change { topic, code })?;
        }
        Ok(())
    }

    /// How far `group` is in each partition of `topics`.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn positions(&self, group: &str, topics: &[&str]) -> Result<Vec<GroupPosition>, AdminError> {
        let connection = self.connection.clone();
        let (group, topics) = (group.to_owned(), topics.iter().map(|&topic| topic.to_owned()).collect());
        in_background(move || positions(&connection, &group, topics)).await
    }
}

fn new_topic(wanted: &Wanted, copies: i32) -> NewTopic<'_> {
    let Wanted { name, partitions, settings } = wanted;
    let topic = NewTopic::new(name, *partitions, TopicReplication::Fixed(copies));
    settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ASK_TIMEOUT)).operation_timeout(Some(ASK_TIMEOUT))
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

async fn in_background<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, AdminError> + Send + 'static,
) -> Result<T, AdminError> {
    tokio::task::spawn_blocking(ask).await.unwrap_or(Err(AdminError::Cancelled))
}

/// A consumer that joins nothing; with `group` it can ask for that group's offsets.
fn asker(connection: &Connection, group: Option<&str>) -> Result<BaseConsumer, AdminError> {
    let mut config = connection.client();
    config.set("isolation.level", "read_committed").set("enable.auto.commit", "false");
    if let Some(group) = group {
        config.set("group.id", group);
    }
    config.create().map_err(AdminError::Start)
}

fn positions(
    connection: &Connection,
    group: &str,
    topics: Vec<String>,
) -> Result<Vec<GroupPosition>, AdminError> {
    let consumer = asker(connection, Some(group))?;
    let ask = |action| move |source| AdminError::Ask { action, source };
    let metadata = consumer.fetch_metadata(None, ASK_TIMEOUT).map_err(ask("list the topics"))?;
    let mut list = TopicPartitionList::new();
    for topic in metadata.topics().iter().filter(|topic| topics.iter().any(|name| name == topic.name())) {
        for partition in topic.partitions() {
            list.add_partition(topic.name(), partition.id());
        }
    }
    if list.count() == 0 {
        return Ok(Vec::new());
    }
    let committed = consumer
        .committed_offsets(list, ASK_TIMEOUT)
        .map_err(ask("read the committed offsets of the group"))?;
    committed
        .elements()
        .iter()
        .map(|element| {
            let (begin, end) = tail::watermarks(&consumer, element.topic(), element.partition())
                .map_err(ask("read the ends of the partitions"))?;
            let committed = match element.offset() {
                Offset::Offset(next) => Some(NextOffset(next)),
                _ => None,
            };
            let partition = Partition::new(element.topic(), element.partition());
            Ok(GroupPosition { partition, committed, begin: NextOffset(begin), end: NextOffset(end) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            name: "payments".to_owned(),
            partitions: 12,
            settings: BTreeMap::from([("retention.ms".to_owned(), "86400000".to_owned())]),
        }
    }

    #[test]
    fn tells_what_is_missing() {
        assert_eq!(compare(&wanted(), None), [Difference::Missing]);
        let mut existing = Existing { partitions: 4, replication: 1, settings: BTreeMap::new() };
        existing.settings.insert("retention.ms".to_owned(), "1000".to_owned());
        let differences = compare(&wanted(), Some(&existing));
        let setting = Difference::Setting {
            name: "retention.ms".to_owned(),
            is: Some("1000".to_owned()),
            wanted: "86400000".to_owned(),
        };
        assert_eq!(differences, [Difference::FewerPartitions { is: 4, wanted: 12 }, setting]);
    }

    #[test]
    fn more_partitions_and_other_settings_are_fine() {
        let existing = Existing {
            partitions: 24,
            replication: 3,
            settings: BTreeMap::from([
                ("retention.ms".to_owned(), "86400000".to_owned()),
                ("segment.bytes".to_owned(), "1073741824".to_owned()),
            ]),
        };
        assert_eq!(compare(&wanted(), Some(&existing)), []);
    }

    #[test]
    fn a_setting_may_be_written_otherwise_or_give_more_room() {
        let wanted = Wanted {
            settings: BTreeMap::from([
                ("cleanup.policy".to_owned(), "compact,delete".to_owned()),
                ("max.message.bytes".to_owned(), "1114112".to_owned()),
            ]),
            ..wanted()
        };
        let existing = |policy: &str, bytes: &str| Existing {
            partitions: 12,
            replication: 1,
            settings: BTreeMap::from([
                ("cleanup.policy".to_owned(), policy.to_owned()),
                ("max.message.bytes".to_owned(), bytes.to_owned()),
            ]),
        };
        assert_eq!(compare(&wanted, Some(&existing("delete,compact", "2097152"))), []);
        assert_eq!(compare(&wanted, Some(&existing("delete", "1048588"))).len(), 2);
    }

    #[test]
    fn lag_counts_from_what_is_kept() {
        let position = |committed: Option<i64>| GroupPosition {
            partition: Partition::new("a", 0),
            committed: committed.map(NextOffset),
            begin: NextOffset(100),
            end: NextOffset(150),
        };
        assert_eq!(position(None).lag(), 50);
        assert_eq!(position(Some(140)).lag(), 10);
        assert_eq!(position(Some(20)).lag(), 50, "records that are gone are no lag");
    }
}
