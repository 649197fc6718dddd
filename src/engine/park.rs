//! Which records wait, for their time or behind an earlier one of their key.
//!
//! A record that failed for a while waits in a retry topic, a *companion* of its input: partition `p` of the companion
//! belongs to whoever has partition `p` of the input, so everything about a key is with one worker, and what is known
//! here is read from the companions on assignment. Nothing is kept anywhere else.
//!
//! **Time.** Records of one companion partition are taken in order. While the first is not due, the partition is
//! paused; the records that were fetched already are held here, as far as there is room, and read again otherwise.
//!
//! **Order** (`ordering: key`). Levels of an input: 0 is the input, 1 and up are its tiers. What waits in a deeper level is
//! older. So a record is worked on only when no deeper level holds its key; else it follows into the shallowest that
//! does, due at once. By this rule the levels of a key, the deepest first, and the offsets within each, are the order of
//! its input, always. A key is held until what waited is *committed*: only then no later output can overtake it.
//!
//! | key K waits in | record of K read from the input | from tier 1 | from tier 2 |
//! |---|---|---|---|
//! | nowhere | is worked on | | |
//! | tier 1 | follows into tier 1 | is worked on | |
//! | tiers 1 and 2 | follows into tier 1 | follows into tier 2 | is worked on |
//!
//! Keys are known by their hash: two that share one wait for each other, no more. Beyond [`KEYS_MAX`] of one input
//! partition keys are not told apart: every record follows until nothing waits.
//!
//! Pure: time is an argument.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use crate::engine::tracker::Ticket;
use crate::plan::topics::Companions;
use crate::position::{NextOffset, Partition};
use crate::record::{InRecord, OutRecord};

/// Keys of one input partition in one pipeline that are told apart.
pub const KEYS_MAX: usize = 200_000;
/// Records of one companion partition that are held; the others are read again when it is their turn.
const HELD_RECORDS_MAX: usize = 100;

/// The way back of one pipeline's input.
#[derive(Clone, Debug)]
pub struct Line {
    /// Number of the pipeline within its group.
    pub pipeline: usize,
    /// Topics.
    pub companions: Companions,
    /// Whether later records of a key wait for earlier ones.
    pub keeps_order: bool,
}

/// What a partition is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Of an input topic.
    Input,
    /// Of a companion: index of its line, and level; level 0 is the topic of replays.
    Back {
        /// Index of the line.
        line: usize,
        /// Level.
        level: usize,
    },
}

/// How a record is to be taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Way {
    /// By all pipelines that want it; but for those listed it follows into this level.
    Input(Vec<(usize, usize)>),
    /// By one pipeline, to which it comes back; or it follows into this level.
    Back {
        /// Number of the pipeline.
        pipeline: usize,
        /// The level.
        behind: Option<usize>,
    },
}

impl Way {
    /// As a record that nothing waits for.
    pub const OPEN: Self = Self::Input(Vec::new());
}

/// What happens to a record that was read from a companion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// It is due, and nothing waits before it.
    Due,
    /// It is to be held.
    Held,
    /// It is to be read again later.
    Skipped,
}

/// A companion partition whose time has come.
#[derive(Debug, Default)]
pub struct Woken {
    /// Records that are due.
    pub records: Vec<(Ticket, InRecord)>,
    /// Partitions that go on: all that was held of them is due.
    pub go_on: Vec<usize>,
    /// Of these, those that go on from an earlier record, which was not held.
    pub read_again: Vec<(usize, NextOffset)>,
}

/// What waits in a companion, as it was found on assignment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// How many records wait of each key, by hash.
    keys: HashMap<u64, usize>,
    /// Records of further keys, when there are too many.
    others: usize,
    /// Records before this offset are counted.
    pub end: i64,
}

impl Found {
    /// Counts a record.
    pub fn add(&mut self, hash: u64) {
        let has_room = self.keys.len() < KEYS_MAX;
        match self.keys.get_mut(&hash) {
            Some(count) => *count += 1,
            None if has_room => {
                self.keys.insert(hash, 1);
            }
            None => self.others += 1,
        }
    }
}

/// All that waits in one worker.
#[derive(Debug, Default)]
pub struct Park {
    lines: Vec<Line>,
    /// Companions by topic.
    topics: HashMap<Arc<str>, (usize, usize)>,
    /// Lines that keep order, by input topic.
    ordered: HashMap<Arc<str>, Vec<usize>>,
    waiting: HashMap<usize, Waiting>,
    due: BTreeSet<(i64, usize)>,
    held_bytes: usize,
    held_bytes_max: usize,
    keys: HashMap<(usize, i32), Keys>,
    hasher: RandomState,
}

/// A companion partition that waits.
#[derive(Debug, Default)]
struct Waiting {
    held: VecDeque<(i64, Ticket, InRecord)>,
    /// First record that was not held.
    skipped: Option<i64>,
    due: i64,
}

/// Keys that wait, of one line in one partition.
#[derive(Debug, Default)]
struct Keys {
    /// By hash and level; not used any more when there were too many.
    counts: HashMap<(u64, usize), Count>,
    levels: Vec<Level>,
    is_full: bool,
}

/// Records that wait. Some were sent there by this worker and have not been read back yet.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    waiting: usize,
    unread: usize,
}

impl Count {
    fn add(&mut self, more: Self) {
        self.waiting += more.waiting;
        self.unread += more.unread;
    }
}

#[derive(Debug, Default)]
struct Level {
    all: Count,
    /// Records before this offset were counted on assignment.
    counted_to: i64,
    /// Read and not yet committed: offset and hash.
    open: VecDeque<(i64, u64)>,
}

impl Park {
    /// Nothing waits. At most `held_bytes_max` bytes of records are held.
    pub fn new(lines: Vec<Line>, held_bytes_max: usize) -> Self {
        let mut park = Self { held_bytes_max, ..Self::default() };
        for (index, line) in lines.iter().enumerate() {
            let Companions { input, tiers, replay } = &line.companions;
            for (tier, own) in tiers.iter().enumerate() {
                park.topics.insert(Arc::clone(&own.topic), (index, tier + 1));
            }
            park.topics.insert(Arc::clone(replay), (index, 0));
            if line.keeps_order && !tiers.is_empty() {
                park.ordered.entry(Arc::clone(input)).or_default().push(index);
            }
        }
        park.lines = lines;
        park
    }

    /// What a partition of `topic` is.
    pub fn place(&self, topic: &str) -> Place {
        match self.topics.get(topic) {
            Some(&(line, level)) => Place::Back { line, level },
            None => Place::Input,
        }
    }

    /// The companion partitions of input partitions; they come and go with them.
    pub fn companions(&self, inputs: &[Partition]) -> Vec<Partition> {
        let of = |input: &Partition| {
            let number = input.number;
            let lines = self.lines.iter().filter(|line| line.companions.input == input.topic);
            let topics = lines.flat_map(|line| line.companions.topics());
            topics.map(move |topic| Partition::new(Arc::clone(topic), number)).collect::<Vec<_>>()
        };
        inputs.iter().flat_map(of).collect()
    }

    /// Whether keys that wait in `partition` are to be told to [`Self::begin`].
    pub fn keeps_order(&self, partition: &Partition) -> bool {
        match self.place(&partition.topic) {
            Place::Back { line, level } => level > 0 && self.lines[line].keeps_order,
            Place::Input => false,
        }
    }

    /// Whether later records wait for earlier ones anywhere.
    pub fn keeps_any_order(&self) -> bool {
        !self.ordered.is_empty()
    }

    /// Whether nothing ever comes back.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// What keys are hashed with.
    pub fn hasher(&self) -> RandomState {
        self.hasher.clone()
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    // ------------------------------------------------------------------------------------------------------------ time

    /// A record was read from companion partition `index`, due at `due_ms`. A held one is to be given to [`Self::hold`].
    pub fn arrival(&mut self, index: usize, record: &InRecord, due_ms: i64, now_ms: i64) -> Arrival {
        let is_full = self.held_bytes + record.size_bytes() > self.held_bytes_max;
        match self.waiting.get_mut(&index) {
            None if due_ms <= now_ms => return Arrival::Due,
            None if !is_full => {
                self.waiting.insert(index, Waiting { due: due_ms, ..Waiting::default() });
                self.due.insert((due_ms, index));
                return Arrival::Held;
            }
            None => {
                let skipped = Some(record.offset);
                self.waiting.insert(index, Waiting { due: due_ms, skipped, ..Waiting::default() });
                self.due.insert((due_ms, index));
            }
            Some(Waiting { skipped: Some(_), .. }) => {}
            Some(waiting) if is_full || waiting.held.len() >= HELD_RECORDS_MAX => {
                waiting.skipped = Some(record.offset);
            }
            Some(_) => return Arrival::Held,
        }
        Arrival::Skipped
    }

    /// Holds a record until it is due and those before it are.
    pub fn hold(&mut self, ticket: Ticket, record: InRecord, due_ms: i64) {
        let Some(waiting) = self.waiting.get_mut(&ticket.partition) else { return };
        self.held_bytes += record.size_bytes();
        waiting.held.push_back((due_ms, ticket, record));
    }

    /// Whether companion partition `index` waits, so that nothing more is to be read from it.
    pub fn is_waiting(&self, index: usize) -> bool {
        self.waiting.contains_key(&index)
    }

    /// Whose time has come.
    pub fn wake(&mut self, now_ms: i64) -> Woken {
        let mut woken = Woken::default();
        while let Some(&(due, index)) = self.due.first().filter(|(due, _)| *due <= now_ms) {
            self.due.remove(&(due, index));
            let Some(mut waiting) = self.waiting.remove(&index) else { continue };
            while waiting.held.front().is_some_and(|(due, _, _)| *due <= now_ms) {
                let Some((_, ticket, record)) = waiting.held.pop_front() else { break };
                self.held_bytes -= record.size_bytes();
                woken.records.push((ticket, record));
            }
            if let Some((due, _, _)) = waiting.held.front() {
                waiting.due = *due;
                self.due.insert((*due, index));
                self.waiting.insert(index, waiting);
                continue;
            }
            woken.go_on.push(index);
            woken.read_again.extend(waiting.skipped.map(|offset| (index, NextOffset(offset))));
        }
        woken
    }

    // ----------------------------------------------------------------------------------------------------------- order

    /// A companion partition was assigned, or is read again. `found` is what waits in it.
    pub fn begin(&mut self, partition: &Partition, found: Found) {
        let Place::Back { line, level } = self.place(&partition.topic) else { return };
        let keys = self.keys.entry((line, partition.number)).or_default();
        keys.level(level).counted_to = found.end;
        for (hash, count) in found.keys {
            keys.add(hash, level, Count { waiting: count, unread: 0 });
        }
        if found.others > 0 {
            keys.is_full = true;
            keys.counts = HashMap::new();
            keys.level(level).all.waiting += found.others;
        }
    }

    /// How a record of `partition` is to be taken now.
    pub fn way(&self, partition: &Partition, key: Option<&[u8]>) -> Way {
        match self.place(&partition.topic) {
            Place::Back { line, level } => Way::Back {
                pipeline: self.lines[line].pipeline,
                behind: key
                    .filter(|_| level > 0)
                    .and_then(|key| self.behind(line, partition.number, level, key)),
            },
            Place::Input => {
                let (Some(lines), Some(key)) = (self.ordered.get(&partition.topic), key) else {
                    return Way::OPEN;
                };
                let behind = lines.iter().filter_map(|line| {
                    let level = self.behind(*line, partition.number, 0, key)?;
                    Some((self.lines[*line].pipeline, level))
                });
                Way::Input(behind.collect())
            }
        }
    }

    /// The shallowest level below `level` that holds `key`.
    fn behind(&self, line: usize, number: i32, level: usize, key: &[u8]) -> Option<usize> {
        let keys = self.keys.get(&(line, number))?;
        (level + 1..keys.levels.len()).find(|deeper| keys.holds(self.hash(key), *deeper))
    }

    /// A record was done, and led to these.
    pub fn sent(&mut self, outputs: &[OutRecord]) {
        if self.ordered.is_empty() {
            return;
        }
        for output in outputs {
            // Only what goes to a companion has a partition already.
            let (Some(number), Some(key)) = (output.partition, output.key.as_deref()) else { continue };
            let Some(&(line, level)) = self.topics.get(&output.topic) else { continue };
            let hash = self.hash(key);
            if let Some(keys) = self.keys.get_mut(&(line, number)).filter(|_| level > 0) {
                keys.add(hash, level, Count { waiting: 1, unread: 1 });
            }
        }
    }

    /// A record was read from `partition`, and is in work or held from now on.
    pub fn read(&mut self, partition: &Partition, offset: i64, key: Option<&[u8]>) {
        let Place::Back { line, level } = self.place(&partition.topic) else { return };
        let Some(hash) = key.filter(|_| level > 0).map(|key| self.hash(key)) else { return };
        let Some(keys) = self.keys.get_mut(&(line, partition.number)) else { return };
        if offset >= keys.level(level).counted_to && !keys.reads_back(hash, level) {
            // Written by somebody else.
            keys.add(hash, level, Count { waiting: 1, unread: 0 });
        }
        keys.level(level).open.push_back((offset, hash));
    }

    /// Records of `partition` are committed up to `next`: their keys do not wait there any more.
    pub fn settled(&mut self, partition: &Partition, next: NextOffset) {
        let Place::Back { line, level } = self.place(&partition.topic) else { return };
        let Some(keys) = self.keys.get_mut(&(line, partition.number)) else { return };
        while let Some((_, hash)) = keys.level(level).open.pop_front_if(|(offset, _)| *offset < next.0) {
            keys.remove(hash, level);
        }
    }

    /// A companion partition was given away, or is to be read again.
    pub fn end(&mut self, index: usize, partition: &Partition) {
        let Place::Back { line, .. } = self.place(&partition.topic) else { return };
        self.keys.remove(&(line, partition.number));
        if let Some(waiting) = self.waiting.remove(&index) {
            self.due.remove(&(waiting.due, index));
            let bytes: usize = waiting.held.iter().map(|(_, _, record)| record.size_bytes()).sum();
            self.held_bytes -= bytes;
        }
    }

    /// Records that are held for their time.
    pub fn held(&self) -> usize {
        self.waiting.values().map(|waiting| waiting.held.len()).sum()
    }
}

impl Keys {
    fn level(&mut self, level: usize) -> &mut Level {
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Level::default);
        }
        &mut self.levels[level]
    }

    fn holds(&self, hash: u64, level: usize) -> bool {
        if self.is_full {
            return self.levels.get(level).is_some_and(|level| level.all.waiting > 0);
        }
        self.counts.contains_key(&(hash, level))
    }

    fn add(&mut self, hash: u64, level: usize, more: Count) {
        self.level(level).all.add(more);
        if self.is_full {
            return;
        }
        self.counts.entry((hash, level)).or_default().add(more);
        if self.counts.len() > KEYS_MAX {
            self.is_full = true;
            self.counts = HashMap::new();
        }
    }

    /// Whether a record that is read now is one that was sent by us.
    fn reads_back(&mut self, hash: u64, level: usize) -> bool {
        if !self.is_full {
            let Some(count) = self.counts.get_mut(&(hash, level)).filter(|count| count.unread > 0) else {
                return false;
            };
            count.unread -= 1;
        }
        let all = &mut self.level(level).all;
        let is_ours = all.unread > 0;
        all.unread -= usize::from(is_ours);
        is_ours
    }

    fn remove(&mut self, hash: u64, level: usize) {
        let all = &mut self.level(level).all;
        all.waiting = all.waiting.saturating_sub(1);
        if let Some(count) = self.counts.get_mut(&(hash, level)) {
            count.waiting = count.waiting.saturating_sub(1);
            if count.waiting == 0 {
                self.counts.remove(&(hash, level));
            }
        }
        if self.is_full && self.levels.iter().all(|level| level.all.waiting == 0) {
            self.is_full = false;
        }
    }
}

#[cfg(test)]
#[path = "park_tests.rs"]
mod tests;
