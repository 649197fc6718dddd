//! Faults on order: what a test wants to happen to requests of one API.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// A request type, by its key in Kafka's protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i16)]
#[allow(missing_docs, reason = "the names are the protocol's")]
pub enum Api {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    OffsetCommit = 8,
    OffsetFetch = 9,
    FindCoordinator = 10,
    JoinGroup = 11,
    Heartbeat = 12,
    LeaveGroup = 13,
    SyncGroup = 14,
    DescribeGroups = 15,
    ListGroups = 16,
    CreateTopics = 19,
    DeleteTopics = 20,
    DeleteRecords = 21,
    InitProducerId = 22,
    AddPartitionsToTxn = 24,
    AddOffsetsToTxn = 25,
    EndTxn = 26,
    TxnOffsetCommit = 28,
    DescribeConfigs = 32,
    AlterConfigs = 33,
    CreatePartitions = 37,
    DeleteGroups = 42,
    IncrementalAlterConfigs = 44,
}

/// Which requests of an API a fault is for, counted from the moment it is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Every one, while the fault is set.
    Always,
    /// The n-th alone; 1 is the next.
    Nth(u64),
}

/// What happens to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It waits, and with it all later requests of its connection, until [`Fault::release`]; then it is carried out,
    /// even when its client has gone.
    Hold,
    /// It waits this long, then it is carried out.
    Delay(Duration),
    /// It is not carried out and never answered.
    DropRequest,
    /// It is carried out and never answered.
    DropResponse,
    /// It is not carried out; the connection is closed.
    CloseBefore,
    /// It is carried out; the connection is closed without an answer.
    CloseAfter,
    /// It is not carried out and answered with this error code of Kafka's protocol.
    Error(i16),
    /// It is carried out twice; the second answer is sent.
    Duplicate,
}

struct Order {
    when: When,
    action: Action,
    /// Requests of the API since the fault was set.
    seen: u64,
    hits: Arc<Hits>,
}

#[derive(Default)]
struct Hits {
    count: AtomicU64,
    released: AtomicU64,
    changed: Notify,
}

#[derive(Default)]
struct Orders {
    next: u64,
    by_api: HashMap<i16, Vec<(u64, Order)>>,
}

/// The faults that are set on a broker.
#[derive(Clone, Default)]
pub struct Faults {
    orders: Arc<Mutex<Orders>>,
}

/// A fault that is set until this is dropped. Requests it holds are then released.
#[must_use = "the fault ends when this is dropped"]
pub struct Fault {
    faults: Faults,
    api: Api,
    id: u64,
    hits: Arc<Hits>,
}

/// What the broker is to do with one request.
pub(super) enum Verdict {
    Wait(Held),
    Do(Action),
}

/// A request that waits for [`Fault::release`].
pub(super) struct Held(Arc<Hits>);

impl Held {
    pub(super) async fn released(self) {
        loop {
            let changed = self.0.changed.notified();
            if self.0.released.load(Ordering::SeqCst) > 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Faults {
    /// Sets a fault. The first that is set and meant by a request decides.
    pub fn set(&self, api: Api, when: When, action: Action) -> Fault {
        let hits = Arc::new(Hits::default());
        let mut orders = self.lock();
        orders.next += 1;
        let id = orders.next;
        let order = Order { when, action, seen: 0, hits: hits.clone() };
        orders.by_api.entry(api as i16).or_default().push((id, order));
        drop(orders);
        Fault { faults: self.clone(), api, id, hits }
    }

    /// Counts a request and says what is to happen to it; `None` when no fault means it.
    pub(super) fn meet(&self, api: i16) -> Option<Verdict> {
        let mut orders = self.lock();
        let mut verdict = None;
        for (_, order) in orders.by_api.get_mut(&api)? {
            order.seen += 1;
            let meant = match order.when {
                When::Always => true,
                When::Nth(number) => order.seen == number,
            };
            if meant && verdict.is_none() {
                order.hits.count.fetch_add(1, Ordering::SeqCst);
                verdict = Some(match order.action {
                    Action::Hold => Verdict::Wait(Held(order.hits.clone())),
                    action => Verdict::Do(action),
                });
            }
        }
        verdict
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fault {
    /// How many requests it has met.
    pub fn hits(&self) -> u64 {
        self.hits.count.load(Ordering::SeqCst)
    }

    /// Lets go all requests that it holds or will meet.
    pub fn release(&self) {
        self.hits.released.fetch_add(1, Ordering::SeqCst);
        self.hits.changed.notify_waiters();
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        let mut orders = self.faults.lock();
        if let Some(list) = orders.by_api.get_mut(&(self.api as i16)) {
            list.retain(|(id, _)| *id != self.id);
            // `meet` is on the way of every request: an API without faults costs it one look.
            if list.is_empty() {
                orders.by_api.remove(&(self.api as i16));
            }
        }
        drop(orders);
        self.release();
    }
}
