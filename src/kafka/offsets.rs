//! Offsets as they are committed and given back: with the leader epoch of the last record done, so that a truncated log
//! is noticed, and with a text of the engine's own beside them.

use std::collections::HashMap;
use std::sync::Arc;

use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::kafka::native;
use crate::position::{NextOffset, Partition};

/// Changes of leader that are remembered of one partition; commits are never so far behind.
const CHANGES_MAX: usize = 16;

/// One offset to commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    /// Which partition.
    pub partition: Partition,
    /// Where to go on.
    pub next: NextOffset,
    /// Leader epoch of the record before, as far as known. The next reader has the broker compare it: records that were
    /// replaced after a truncation of the log are noticed then.
    pub leader_epoch: Option<i32>,
    /// Stands beside the offset and comes back with it; mostly empty.
    pub note: String,
}

impl Commit {
    /// Of an offset alone.
    pub fn at(partition: Partition, next: NextOffset) -> Self {
        Self { partition, next, leader_epoch: None, note: String::new() }
    }
}

/// What is committed for a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Which partition.
    pub partition: Partition,
    /// Where to go on; `None` when nothing is committed.
    pub next: Option<NextOffset>,
    /// Leader epoch that was committed with it.
    pub leader_epoch: Option<i32>,
    /// The text beside it. Anybody may have written it.
    pub note: String,
}

/// Offsets as librdkafka wants them.
pub(crate) fn commit_list(commits: &[Commit]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(commits.len());
    for Commit { partition, next: NextOffset(next), leader_epoch, note } in commits {
        let mut element = list.add_partition(&partition.topic, partition.number);
        element.set_offset(Offset::Offset(*next))?;
        if !note.is_empty() {
            element.set_metadata(note);
        }
        if let Some(epoch) = leader_epoch {
            native::set_leader_epoch(&list, list.count() - 1, *epoch);
        }
    }
    Ok(list)
}

/// What a list of committed offsets says.
///
/// # Errors
/// When the broker refused one of the partitions.
pub(crate) fn committed_of(list: &TopicPartitionList) -> Result<Vec<Committed>, KafkaError> {
    let mut all = Vec::with_capacity(list.count());
    for (index, element) in list.elements().iter().enumerate() {
        element.error()?;
        all.push(Committed {
            partition: Partition::new(element.topic(), element.partition()),
            next: match element.offset() {
                Offset::Offset(next) => Some(NextOffset(next)),
                _ => None,
            },
            leader_epoch: native::leader_epoch(list, index),
            note: native::note(list, index),
        });
    }
    Ok(all)
}

/// Leader epochs of the records read, by partition.
#[derive(Default, Debug)]
pub(crate) struct Epochs {
    known: HashMap<Partition, Known>,
    /// The record read last; records of one partition come in runs.
    last: Option<Last>,
}

#[derive(Default, Debug)]
struct Known {
    /// Where each epoch began.
    changes: Vec<(i64, i32)>,
    /// Highest offset read. An epoch says nothing about later ones: the broker would take them for truncated.
    seen: i64,
}

#[derive(Debug)]
struct Last {
    partition: Partition,
    epoch: i32,
    offset: i64,
}

impl Epochs {
    /// The record at `offset` was written under `epoch`; negative when the broker does not tell.
    pub(crate) fn saw(&mut self, topic: &Arc<str>, number: i32, offset: i64, epoch: i32) {
        if let Some(last) = &mut self.last
            && (last.partition.number, last.epoch) == (number, epoch)
            && Arc::ptr_eq(&last.partition.topic, topic)
        {
            last.offset = offset;
            return;
        }
        self.note_last();
        let partition = Partition { topic: Arc::clone(topic), number };
        let Known { changes, seen } = self.known.entry(partition.clone()).or_default();
        if epoch >= 0 && changes.last().is_none_or(|(from, last)| *from < offset && *last != epoch) {
            if changes.len() == CHANGES_MAX {
                changes.remove(0);
            }
            changes.push((offset, epoch));
        }
        *seen = offset;
        self.last = Some(Last { partition, epoch, offset });
    }

    fn note_last(&mut self) {
        if let Some(Last { partition, epoch: _, offset }) = self.last.take()
            && let Some(known) = self.known.get_mut(&partition)
        {
            known.seen = offset;
        }
    }

    /// A partition begins at `next`, committed under `epoch`: what was known of it is forgotten.
    pub(crate) fn begin(&mut self, partition: &Partition, next: Option<NextOffset>, epoch: Option<i32>) {
        self.forget(partition);
        if let (Some(NextOffset(next)), Some(epoch)) = (next, epoch) {
            self.known.insert(partition.clone(), Known { changes: vec![(next - 1, epoch)], seen: next - 1 });
        }
    }

    /// A partition is not read any more.
    pub(crate) fn forget(&mut self, partition: &Partition) {
        self.note_last();
        self.known.remove(partition);
    }

    /// Epoch of the last record before `next`, when that one was read.
    pub(crate) fn before(&self, partition: &Partition, next: NextOffset) -> Option<i32> {
        let Known { changes, seen } = self.known.get(partition)?;
        let last = self.last.as_ref().filter(|last| last.partition == *partition);
        if next.0 > last.map_or(*seen, |last| last.offset) + 1 {
            return None;
        }
        let behind = changes.partition_point(|(from, _)| *from < next.0);
        behind.checked_sub(1).map(|at| changes[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_committed_with_the_epoch_of_the_record_before_it() {
        let topic: Arc<str> = Arc::from("in");
        let partition = Partition { topic: Arc::clone(&topic), number: 3 };
        let mut epochs = Epochs::default();
        epochs.begin(&partition, Some(NextOffset(10)), Some(4));
        for (offset, epoch) in [(10, 4), (11, 4), (12, 6), (15, 6), (16, 7)] {
            epochs.saw(&topic, 3, offset, epoch);
            epochs.saw(&topic, 2, offset, 1);
        }
        let before = |next| epochs.before(&partition, NextOffset(next));
        assert_eq!(before(10), Some(4), "as it was committed");
        assert_eq!((before(12), before(13), before(16), before(17)), (Some(4), Some(6), Some(6), Some(7)));
        assert_eq!((before(9), before(18)), (None, None), "not read");
        epochs.begin(&partition, Some(NextOffset(12)), None);
        assert_eq!(epochs.before(&partition, NextOffset(12)), None);
    }

    #[test]
    fn offset_epoch_and_note_come_back() {
        let commits = [
            Commit {
                leader_epoch: Some(7),
                note: String::from("AQ"),
                ..Commit::at(Partition::new("a", 0), NextOffset(5))
            },
            Commit::at(Partition::new("a", 1), NextOffset(6)),
        ];
        let list = commit_list(&commits).expect("sound");
        let back = committed_of(&list).expect("no errors");
        let flat: Vec<_> = back.iter().map(|one| (one.next, one.leader_epoch, one.note.as_str())).collect();
        assert_eq!(flat, [(Some(NextOffset(5)), Some(7), "AQ"), (Some(NextOffset(6)), None, "")]);
    }
}
