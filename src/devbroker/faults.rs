//! Faults on order: what a test wants to happen to requests of one API.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Api;

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
    api: Api,
    when: When,
    action: Action,
    /// Requests of the API since the fault was set.
    seen: u64,
    hits: Arc<Hits>,
}

/// What a fault has met, and what holds requests: closed when they are released.
pub struct Hits {
    count: AtomicU64,
    pub gate: Semaphore,
}

/// The faults that are set on a broker.
#[derive(Clone, Default)]
pub struct Faults {
    orders: Arc<Mutex<Vec<Order>>>,
}

/// A fault that is set until this is dropped. Requests it holds are then released.
#[must_use = "the fault ends when this is dropped"]
pub struct Fault {
    faults: Faults,
    hits: Arc<Hits>,
}

impl Faults {
    /// Sets a fault. The first that is set and meant by a request decides.
    pub fn set(&self, api: Api, when: When, action: Action) -> Fault {
        let hits = Arc::new(Hits { count: AtomicU64::new(0), gate: Semaphore::new(0) });
        self.lock().push(Order { api, when, action, seen: 0, hits: hits.clone() });
        Fault { faults: self.clone(), hits }
    }

    /// Counts a request and says what is to happen to it; `None` when no fault means it.
    pub(super) fn meet(&self, api: Api) -> Option<(Action, Arc<Hits>)> {
        let mut decided = None;
        for order in self.lock().iter_mut().filter(|order| order.api == api) {
            order.seen += 1;
            let is_meant = order.when == When::Always || order.when == When::Nth(order.seen);
            if is_meant && decided.is_none() {
                order.hits.count.fetch_add(1, Ordering::SeqCst);
                decided = Some((order.action, order.hits.clone()));
            }
        }
        decided
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Order>> {
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
        self.hits.gate.close();
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.faults.lock().retain(|order| !Arc::ptr_eq(&order.hits, &self.hits));
        self.release();
    }
}
