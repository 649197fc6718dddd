//! Work that leaves the poll thread: lanes decide when, tokio runs it, completions come back by a channel.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::BytesMut;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::engine::lanes::{Lane, Lanes};
use crate::engine::tracker::Ticket;
use crate::plan::pipeline::Ordering;
use crate::record::{Header, HeaderName, InRecord, OutRecord};

/// Work that waits for something outside.
pub type Work = Pin<Box<dyn Future<Output = Vec<OutRecord>> + Send>>;

/// A task that ended; `None` when it went away without a result.
struct Ended {
    ticket: Ticket,
    outputs: Option<Vec<OutRecord>>,
}

/// Reports the end of a task, however it ends.
struct Report {
    ticket: Ticket,
    to: Sender<Ended>,
    outputs: Option<Vec<OutRecord>>,
}

impl Report {
    fn close(mut self, outputs: Vec<OutRecord>) {
        self.outputs = Some(outputs);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // Nobody listens any more when the worker has ended.
        let _ = self.to.send(Ended { ticket: self.ticket, outputs: self.outputs.take() });
    }
}

/// A task was lost: its record would never be completed.
#[derive(Debug, thiserror::Error)]
#[error("the work on offset {} went away without a result", .0.offset)]
pub struct TaskLost(pub Ticket);

/// All work of one group that is waiting or running.
pub struct Tasks {
    lanes: Lanes<(Ticket, InRecord)>,
    running: HashMap<Ticket, (Lane, AbortHandle)>,
    runtime: Handle,
    // At most one message per place of the lanes, and those of cancelled tasks.
    to: Sender<Ended>,
    ended: Receiver<Ended>,
}

impl Tasks {
    /// No work yet; `running_max` at the same time.
    pub fn new(ordering: Ordering, running_max: usize, runtime: Handle) -> Self {
        let (to, ended) = channel();
        Self { lanes: Lanes::new(ordering, running_max), running: HashMap::new(), runtime, to, ended }
    }

    /// Queues a record behind all earlier ones of its lane.
    pub fn push(&mut self, ticket: Ticket, record: InRecord) {
        let lane = self.lanes.lane(ticket.partition, record.key.as_deref());
        self.lanes.push(lane, (ticket, with_own_bytes(record)));
    }

    /// The next record to begin with, if there is a place. Goes on with [`Self::run`] or [`Self::skip`].
    pub fn start(&mut self) -> Option<(Lane, Ticket, InRecord)> {
        let (lane, (ticket, record)) = self.lanes.start()?;
        Some((lane, ticket, record))
    }

    /// Runs `work` on tokio.
    pub fn run(&mut self, lane: Lane, ticket: Ticket, work: Work) {
        let report = Report { ticket, to: self.to.clone(), outputs: None };
        let task = self.runtime.spawn(async move { report.close(work.await) });
        self.running.insert(ticket, (lane, task.abort_handle()));
    }

    /// Runs `work` on tokio, beside all lanes and places.
    pub fn run_unordered(&mut self, ticket: Ticket, work: Work) {
        let lane = self.lanes.enter();
        self.run(lane, ticket, work);
    }

    /// The record needed no task: its lane is free again.
    pub fn skip(&mut self, lane: Lane) {
        self.lanes.finish(lane);
    }

    /// A record that is done, if any; does not wait. Those of cancelled work are left out.
    ///
    /// # Errors
    /// When a task went away without a result, which only a bug can cause.
    pub fn finished(&mut self) -> Result<Option<(Ticket, Vec<OutRecord>)>, TaskLost> {
        while let Ok(Ended { ticket, outputs }) = self.ended.try_recv() {
            let Some((lane, _)) = self.running.remove(&ticket) else { continue };
            self.lanes.finish(lane);
            return outputs.map(|outputs| Some((ticket, outputs))).ok_or(TaskLost(ticket));
        }
        Ok(None)
    }

    /// Forgets waiting work of the partitions that `is_meant` names; running work goes on.
    pub fn discard(&mut self, is_meant: impl Fn(usize) -> bool) {
        self.lanes.discard(|(ticket, _)| is_meant(ticket.partition));
    }

    /// Forgets waiting work and cancels running work of the partitions that `is_meant` names.
    pub fn cancel(&mut self, is_meant: impl Fn(usize) -> bool) {
        self.discard(&is_meant);
        let lanes = &mut self.lanes;
        self.running.retain(|ticket, (lane, task)| {
            let is_kept = !is_meant(ticket.partition);
            if !is_kept {
                task.abort();
                lanes.finish(*lane);
            }
            is_kept
        });
    }

    /// Whether this record's work is running, rather than waiting for its lane or a place.
    pub fn is_running(&self, ticket: &Ticket) -> bool {
        self.running.contains_key(ticket)
    }

    /// Running work of the partitions that `is_meant` names.
    pub fn running(&self, is_meant: impl Fn(usize) -> bool) -> usize {
        self.running.keys().filter(|ticket| is_meant(ticket.partition)).count()
    }

    /// Whether anything waits or runs.
    pub fn is_idle(&self) -> bool {
        self.lanes.running() == 0 && self.lanes.waiting() == 0
    }
}

/// Takes the record's bytes out of its batch's memory, which one slow record would keep as a whole.
pub(super) fn with_own_bytes(record: InRecord) -> InRecord {
    let mut bytes = BytesMut::with_capacity(record.size_bytes());
    let mut copy = |from: &[u8]| {
        bytes.extend_from_slice(from);
        bytes.split().freeze()
    };
    let InRecord { topic, partition, offset, timestamp_ms, key, value, headers } = record;
    let (key, value) = (key.as_deref().map(&mut copy), value.as_deref().map(&mut copy));
    let own = |header: Header| Header {
        name: HeaderName::from_bytes(copy(header.name.as_bytes())),
        value: header.value.as_deref().map(&mut copy),
    };
    let headers = headers.into_iter().map(own).collect();
    InRecord { topic, partition, offset, timestamp_ms, key, value, headers }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.cancel(|_| true);
    }
}
