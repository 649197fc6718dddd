//! All that a broker keeps, behind one lock: topics, groups, transactions.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::Settings;
use super::group::Group;
use super::partition::Partition;
use super::topics::Topic;
use super::transactions::Transaction;
use super::wire::*;

#[derive(Default)]
pub struct State {
    /// With the port that it listens on.
    pub settings: Settings,
    pub topics: BTreeMap<String, Topic>,
    pub groups: HashMap<String, Group>,
    /// By transactional id.
    pub transactions: HashMap<String, Transaction>,
    /// Producer ids given away.
    pub producers: i64,
    /// Records that retention has deleted.
    pub deleted: u64,
    /// Version of the request that is carried out, and the error that it is to be refused with.
    pub version: i16,
    pub forced: Option<ResponseError>,
}

impl State {
    /// Refuses when a fault says so.
    pub fn allow(&self) -> Answer<()> {
        self.forced.map_or(Ok(()), Err)
    }

    pub fn topic(&mut self, name: &str) -> Answer<&mut Topic> {
        self.allow()?;
        self.topics.get_mut(name).ok_or(UnknownTopicOrPartition)
    }

    pub fn partition(&mut self, topic: &str, index: i32) -> Answer<&mut Partition> {
        let partitions = &mut self.topic(topic)?.partitions;
        let found = usize::try_from(index).ok().and_then(|index| partitions.get_mut(index));
        found.ok_or(UnknownTopicOrPartition)
    }

    /// What happens by itself: sessions, rebalances and transactions run out of time.
    pub fn tick(&mut self, now: Instant) {
        self.forced = None;
        self.groups.values_mut().for_each(|group| group.tick(now));
        self.groups.retain(|_, group| group.was_used());
        self.abort_late_transactions(now);
    }
}
