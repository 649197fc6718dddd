//! A member of a consumer group, as the poll thread holds it.
//!
//! Only one thread may use it. The rebalance callback runs inside `poll` and must not wait for anything, so it only
//! notes what the group wants ([`Intent`]); the engine drains and commits, and then calls [`GroupConsumer::assign`]
//! or [`GroupConsumer::unassign`], for which librdkafka waits. While the consumer closes there is nobody to do so,
//! and the callback does it itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::{self, BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::failpoint::{Rule, keeps};
use crate::kafka::arena::{Arena, Size};
use crate::kafka::commit_queue::CommitQueue;
use crate::kafka::complaints::Complaints;
use crate::kafka::fetched::{FetchQueue, Fetched};
use crate::kafka::native::{self, Membership};
use crate::kafka::notes::{Notes, add_assignment, list_of, locked, partitions_of, remove_assignment};
use crate::kafka::offsets::{self, Commit, Committed, Epochs};
use crate::kafka::queue::{Queue, Waker};
use crate::kafka::settings::{ConsumerSettings, Start};
use crate::position::{NextOffset, Partition};
use crate::record::InRecord;

/// How long the questions to the broker may take that stop the poll thread.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// About so many bytes come with one poll; limits are looked at between two.
const POLL_BYTES_MAX: usize = 4 << 20;
/// Most events beside records of one poll. While brokers are gone many errors come in each second, and those that are
/// not taken stay in memory.
const EVENTS_MAX: usize = 1_000;

/// What the group wants of this member. Its coordinator waits until the engine has followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Intent {
    /// Take these partitions.
    Assign(Vec<Partition>),
    /// Give these partitions away, after committing what is done.
    Revoke(Vec<Partition>),
    /// These partitions belong to others already: nothing may be committed.
    Lost(Vec<Partition>),
}

/// Why the consumer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// librdkafka did not take the settings.
    #[error("cannot start the consumer of group `{group}`")]
    Start {
        /// Consumer group.
        group: String,
        /// librdkafka's error.
        source: KafkaError,
    },
    /// The position is not in the log: records were deleted before they were read.
    #[error("group `{group}`: {detail}; the records between are gone; reset the group's offsets to go on")]
    OffsetOutOfRange {
        /// Consumer group.
        group: String,
        /// Which partitions, as far as known.
        detail: String,
    },
    /// Another process has joined the group with the same instance id: one of the two must go.
    #[error(
        "another process uses the instance id `{instance}` in group `{group}`; give each its own --instance"
    )]
    Fenced {
        /// Consumer group.
        group: String,
        /// `group.instance.id`.
        instance: String,
    },
    /// The client is unusable, mostly because it is not authorised.
    #[error("the consumer of group `{group}` cannot go on")]
    Fatal {
        /// Consumer group.
        group: String,
        /// librdkafka's error.
        source: KafkaError,
    },
    /// A question to the broker failed.
    #[error("group `{group}`: cannot {action}")]
    Ask {
        /// Consumer group.
        group: String,
        /// What was tried.
        action: &'static str,
        /// librdkafka's error.
        source: KafkaError,
    },
}

/// Whether to wait for the broker's answer to a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommitMode {
    /// No; a failure shows later ([`GroupConsumer::take_commit_failure`]).
    Async,
    /// Yes.
    Sync,
}

/// Where a partition is read from next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// This offset.
    Offset(NextOffset),
    /// The oldest record that is kept.
    Oldest,
}

/// A member of a consumer group. Closes on drop, which may take seconds.
pub struct GroupConsumer {
    // All three before the consumer, which must live longer.
    events: Queue,
    fetched: FetchQueue,
    commits: CommitQueue,
    consumer: BaseConsumer<Notes>,
    group: String,
    /// Static membership.
    instance: Option<String>,
    start: Start,
    /// Names of the topics seen, so that records share them.
    topics: Vec<Arc<str>>,
    /// Room for the records of the next poll.
    room: Size,
    /// Bytes of a record of the last batch, on average.
    record_bytes: usize,
    epochs: Epochs,
    complaints: Complaints,
}

impl GroupConsumer {
    /// Subscribes; the group's answer comes as an [`Intent`] of a later poll.
    ///
    /// # Errors
    /// When librdkafka refuses the settings or the topics.
    pub fn join(settings: &ConsumerSettings) -> Result<Self, ConsumerError> {
        let start = |source| ConsumerError::Start { group: settings.group.clone(), source };
        let consumer: BaseConsumer<Notes> =
            settings.to_client_config().create_with_context(Notes::default()).map_err(start)?;
        let topics: Vec<&str> = settings.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(start)?;
        let no_memory = || KafkaError::ClientCreation("no memory for a queue".to_owned());
        let fetched = FetchQueue::new(&consumer).ok_or_else(no_memory).map_err(start)?;
        let commits = CommitQueue::new(&consumer).ok_or_else(no_memory).map_err(start)?;
        let events = Queue::of_consumer(&consumer).ok_or_else(no_memory).map_err(start)?;
        Ok(Self {
            events,
            fetched,
            commits,
            consumer,
            group: settings.group.clone(),
            instance: settings.instance.clone(),
            start: settings.start,
            topics: settings.topics.iter().map(|topic| Arc::from(topic.as_str())).collect(),
            room: Size::default(),
            record_bytes: 0,
            epochs: Epochs::default(),
            complaints: Complaints::default(),
        })
    }

    /// Ends a wait in [`Self::poll`], from any thread.
    pub fn waker(&self) -> Waker {
        self.fetched.waker()
    }

    /// Appends up to `records_max` records, waiting up to `wait` for the first; returns whether no more were ready. Serves the group first: what it wants is in [`Self::take_intents`] afterwards.
    ///
    /// # Errors
    /// Only those after which the group's work cannot go on; lost connections are not among them.
    pub fn poll(
        &mut self,
        records_max: usize,
        wait: Duration,
        records: &mut Vec<InRecord>,
    ) -> Result<bool, ConsumerError> {
        self.commits.serve();
        let records_max = records_max.min(POLL_BYTES_MAX / self.record_bytes.max(1)).max(1);
        let Self { consumer, events, fetched, topics, room, epochs, record_bytes, .. } = self;
        let mut arena = Arena::with_capacity(*room);
        let mut add = |arena: &mut Arena, message: &Fetched<'_>, topic: Arc<str>| {
            epochs.saw(&topic, message.partition(), message.offset(), message.leader_epoch());
            arena.add(topic, message);
        };
        let mut failed = Vec::new();
        // What a poll gives does not tell an empty queue from a line of librdkafka's log.
        for _ in 0..events.waiting().clamp(1, EVENTS_MAX) {
            match consumer.poll(Duration::ZERO) {
                // A partition that could not be forwarded.
                Some(Ok(message)) => {
                    if let Some(message) = Fetched::of(&message) {
                        add(&mut arena, &message, shared_name(topics, message.topic()));
                    }
                }
                Some(Err(error)) => failed.push(error),
                None => {}
            }
        }
        let wait = if locked(&consumer.context().intents).is_empty() { wait } else { Duration::ZERO };
        // Most records are of the topic of the one before.
        let mut last: Option<(usize, Arc<str>)> = None;
        let is_short = fetched.take(records_max, wait, |message| match (message.error(), &last) {
            (Some(code), _) => failed.push(KafkaError::MessageConsumption(code)),
            (None, Some((handle, topic))) if *handle == message.topic_handle() => {
                add(&mut arena, message, Arc::clone(topic));
            }
            (None, _) => {
                let topic = shared_name(topics, message.topic());
                last = Some((message.topic_handle(), Arc::clone(&topic)));
                add(&mut arena, message, topic);
            }
        });
        *room = arena.size().or_half_of(*room);
        *record_bytes = arena.record_bytes().unwrap_or(*record_bytes);
        arena.finish(records);
        failed.into_iter().try_for_each(|error| self.judge(error))?;
        Ok(is_short)
    }

    /// What the group has asked for since the last call, oldest first.
    pub fn take_intents(&mut self) -> Vec<Intent> {
        std::mem::take(&mut *locked(&self.consumer.context().intents))
    }

    /// Why an asynchronous commit failed, once.
    pub fn take_commit_failure(&mut self) -> Option<KafkaError> {
        self.commits.take_failure()
    }

    /// Which errors end the work and which pass by themselves.
    fn judge(&mut self, error: KafkaError) -> Result<(), ConsumerError> {
        let group = self.group.clone();
        match error {
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => {
                Err(ConsumerError::OffsetOutOfRange { group, detail: self.out_of_range() })
            }
            KafkaError::MessageConsumptionFatal(_)
            | KafkaError::MessageConsumption(RDKafkaErrorCode::Fatal) => Err(self.fatal(error)),
            KafkaError::MessageConsumption(code) => {
                // Connections come back, topics appear, rights are granted: librdkafka goes on trying.
                if let Some(left_out) = self.complaints.note(code, Instant::now()) {
                    tracing::warn!(group, code = ?code, error = %error, left_out, "consumer");
                }
                Ok(())
            }
            KafkaError::PartitionEOF(_) => Ok(()),
            other => Err(ConsumerError::Fatal { group, source: other }),
        }
    }

    fn fatal(&self, source: KafkaError) -> ConsumerError {
        let group = self.group.clone();
        let code = self.consumer.client().fatal_error().map(|(code, _)| code);
        match (&self.instance, code.or(source.rdkafka_error_code())) {
            (Some(instance), Some(RDKafkaErrorCode::FencedInstanceId)) => {
                ConsumerError::Fenced { group, instance: instance.clone() }
            }
            _ => ConsumerError::Fatal { group, source },
        }
    }

    fn out_of_range(&self) -> String {
        let mut found = Vec::new();
        let assigned = self.consumer.assignment().map(|list| partitions_of(&list)).unwrap_or_default();
        let committed = self.committed(&assigned).unwrap_or_default();
        for Committed { partition, next, .. } in committed {
            let kept = self.consumer.fetch_watermarks(&partition.topic, partition.number, ASK_TIMEOUT);
            if let (Some(NextOffset(next)), Ok((low, high))) = (next, kept)
                && !(low..=high).contains(&next)
            {
                found.push(format!("{partition} is at offset {next}, the log holds {low} to {high}"));
            }
        }
        if found.is_empty() { "an offset is not in the log".to_owned() } else { found.join(", ") }
    }

    /// Committed offsets, waiting for open transactions on them to end.
    ///
    /// # Errors
    /// When the coordinator does not answer within seconds.
    pub fn committed(&self, partitions: &[Partition]) -> Result<Vec<Committed>, ConsumerError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let ask = |source| self.failed("read the committed offsets", source);
        let list = self.consumer.committed_offsets(list_of(partitions), ASK_TIMEOUT).map_err(ask)?;
        offsets::committed_of(&list).map_err(ask)
    }

    /// Where each of `partitions` goes on: its committed offset, else where the settings say; and the text beside it. A
    /// start at the end is committed here, or a restart before the first commit would skip records.
    ///
    /// # Errors
    /// When the broker does not answer within seconds.
    pub fn resolve(
        &mut self,
        partitions: &[Partition],
    ) -> Result<Vec<(Partition, From, String)>, ConsumerError> {
        self.resolve_from(partitions, self.start)
    }

    /// As [`Self::resolve`], of partitions that begin at `start` without a committed offset.
    ///
    /// # Errors
    /// When the broker does not answer within seconds.
    pub fn resolve_from(
        &mut self,
        partitions: &[Partition],
        start: Start,
    ) -> Result<Vec<(Partition, From, String)>, ConsumerError> {
        let mut resolved = Vec::with_capacity(partitions.len());
        let mut fresh = Vec::new();
        for Committed { partition, next, leader_epoch, note } in self.committed(partitions)? {
            let from = match (next, start) {
                (Some(next), _) => From::Offset(next),
                (None, Start::Earliest) => From::Oldest,
                (None, Start::Latest) => {
                    let (_, end) = self.range_of(&partition)?;
                    fresh.push(Commit::at(partition.clone(), end));
                    From::Offset(end)
                }
            };
            self.epochs.begin(&partition, next, leader_epoch);
            resolved.push((partition, from, note));
        }
        if !fresh.is_empty() {
            self.commit(&fresh, CommitMode::Sync)?;
        }
        Ok(resolved)
    }

    /// Follows [`Intent::Assign`].
    ///
    /// # Errors
    /// When librdkafka refuses.
    pub fn assign(&self, partitions: &[(Partition, From)]) -> Result<(), ConsumerError> {
        let list = self.positions(partitions)?;
        partitions.iter().for_each(|(partition, _)| self.fetched.forward(&self.consumer, partition));
        add_assignment(&self.consumer, &list).map_err(|source| self.failed("assign", source))
    }

    /// Follows [`Intent::Revoke`] and [`Intent::Lost`]. Partitions that are paused must be resumed before, as
    /// librdkafka keeps the pause for the next time they come.
    ///
    /// # Errors
    /// When librdkafka refuses.
    pub fn unassign(&mut self, partitions: &[Partition]) -> Result<(), ConsumerError> {
        partitions.iter().for_each(|partition| self.epochs.forget(partition));
        remove_assignment(&self.consumer, &list_of(partitions))
            .map_err(|source| self.failed("unassign", source))
    }

    /// Reads on from other positions; records fetched before are thrown away.
    ///
    /// # Errors
    /// When a partition cannot be moved, or not within seconds.
    pub fn seek(&self, partitions: &[(Partition, From)]) -> Result<(), ConsumerError> {
        if partitions.is_empty() {
            return Ok(());
        }
        let seek = |source| self.failed("seek", source);
        let list = self.consumer.seek_partitions(self.positions(partitions)?, ASK_TIMEOUT).map_err(seek)?;
        list.elements().iter().try_for_each(|element| element.error().map_err(seek))
    }

    fn positions(&self, partitions: &[(Partition, From)]) -> Result<TopicPartitionList, ConsumerError> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (partition, from) in partitions {
            let offset = match from {
                From::Offset(NextOffset(next)) => Offset::Offset(*next),
                From::Oldest => Offset::Beginning,
            };
            list.add_partition_offset(&partition.topic, partition.number, offset)
                .map_err(|source| self.failed("name a position", source))?;
            if let From::Offset(next) = from
                && let Some(epoch) = self.epochs.before(partition, *next)
            {
                // The broker compares it before anything is fetched.
                native::set_leader_epoch(&list, list.count() - 1, epoch);
            }
        }
        Ok(list)
    }

    /// Stops fetching; librdkafka throws away what it has ready.
    ///
    /// # Errors
    /// When librdkafka does not know a partition.
    pub fn pause(&self, partitions: &[Partition]) -> Result<(), ConsumerError> {
        self.consumer.pause(&list_of(partitions)).map_err(|source| self.failed("pause", source))
    }

    /// Fetches again. Only for partitions that were paused: librdkafka repeats records otherwise.
    ///
    /// # Errors
    /// When librdkafka does not know a partition.
    pub fn resume(&self, partitions: &[Partition]) -> Result<(), ConsumerError> {
        self.consumer.resume(&list_of(partitions)).map_err(|source| self.failed("resume", source))
    }

    /// An offset to commit, with the leader epoch of the record before it.
    pub fn commit_of(&self, partition: Partition, next: NextOffset, note: String) -> Commit {
        let leader_epoch = self.epochs.before(&partition, next);
        Commit { partition, next, leader_epoch, note }
    }

    /// Commits outside of a transaction.
    ///
    /// # Errors
    /// When the broker refuses (sync), or librdkafka does not take it.
    pub fn commit(&mut self, commits: &[Commit], mode: CommitMode) -> Result<(), ConsumerError> {
        let list = offsets::commit_list(commits).map_err(|source| self.failed("name an offset", source))?;
        let result = match mode {
            CommitMode::Async => self.commits.send(&self.consumer, &list),
            CommitMode::Sync => self.consumer.commit(&list, consumer::CommitMode::Sync),
        };
        result.map_err(|source| self.failed("commit offsets", source))
    }

    /// Whether an asynchronous commit waits for its answer. A next one would overtake it when it is repeated, and the
    /// committed offset go back.
    pub fn is_committing(&self) -> bool {
        self.commits.is_waiting()
    }

    /// This member, for a transaction's offsets; `None` while it is not in the group or has lost its partitions.
    pub fn membership(&self) -> Option<Membership> {
        if !keeps(Rule::MembershipInTransaction) {
            return Membership::anonymous(&self.group);
        }
        if self.consumer.assignment_lost() { None } else { Membership::of(&self.consumer) }
    }

    /// The oldest offset that is kept, and the end. Asks the broker.
    ///
    /// # Errors
    /// When it does not answer within seconds.
    pub fn range_of(&self, partition: &Partition) -> Result<(NextOffset, NextOffset), ConsumerError> {
        let (oldest, end) = self
            .consumer
            .fetch_watermarks(&partition.topic, partition.number, ASK_TIMEOUT)
            .map_err(|source| self.failed("read the ends of a partition", source))?;
        Ok((NextOffset(oldest), NextOffset(end)))
    }

    /// End of a partition, as the last fetch told.
    pub fn end_of(&self, partition: &Partition) -> Option<NextOffset> {
        native::cached_end(&self.consumer, &partition.topic, partition.number).map(NextOffset)
    }

    /// From here on rebalances are followed inside the callback. To be called before drop.
    pub fn begin_close(&self) {
        self.consumer.context().is_closing.store(true, Ordering::Release);
    }

    fn failed(&self, action: &'static str, source: KafkaError) -> ConsumerError {
        ConsumerError::Ask { group: self.group.clone(), action, source }
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        // An intent that nobody followed would make the close wait for ever.
        self.begin_close();
        for intent in self.take_intents() {
            let result = match intent {
                Intent::Assign(partitions) => add_assignment(&self.consumer, &list_of(&partitions)),
                Intent::Revoke(partitions) | Intent::Lost(partitions) => {
                    remove_assignment(&self.consumer, &list_of(&partitions))
                }
            };
            if let Err(error) = result {
                tracing::warn!(group = self.group, %error, "could not follow a rebalance while closing");
            }
        }
    }
}

/// The one copy of a topic's name that all records share.
fn shared_name(names: &mut Vec<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(known) = names.iter().find(|known| &***known == name) {
        return Arc::clone(known);
    }
    names.push(Arc::from(name));
    Arc::clone(names.last().expect("just pushed"))
}

#[cfg(test)]
#[path = "consumer_tests.rs"]
mod tests;
