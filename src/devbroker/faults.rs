//! Faults on order: what a test wants to happen to requests of one API.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

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
    when: When,
    action: Action,
    /// Requests of the API since the fault was set.
    seen: u64,
    hits: Arc<Hits>,
}

/// What a fault has met.
#[derive(Default)]
pub(super) struct Hits {
    count: AtomicU64,
    is_released: AtomicBool,
    changed: Notify,
}

impl Hits {
    pub(super) async fn released(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_released.load(Ordering::SeqCst) {
                return;
            }
            changed.await;
        }
    }
}

/// Faults that are set, with their numbers, by API.
type Orders = HashMap<i16, Vec<(u64, Order)>>;

/// The faults that are set on a broker.
#[derive(Clone, Default)]
pub struct Faults {
    orders: Arc<Mutex<Orders>>,
    numbers: Arc<AtomicU64>,
}

/// A fault that is set until this is dropped. Requests it holds are then released.
#[must_use = "the fault ends when this is dropped"]
pub struct Fault {
    faults: Faults,
    api: Api,
    number: u64,
    hits: Arc<Hits>,
}

impl Faults {
    /// Sets a fault. The first that is set and meant by a request decides.
    pub fn set(&self, api: Api, when: When, action: Action) -> Fault {
        let hits = Arc::new(Hits::default());
        let number = self.numbers.fetch_add(1, Ordering::SeqCst);
        let order = Order { when, action, seen: 0, hits: hits.clone() };
        self.lock().entry(api as i16).or_default().push((number, order));
        Fault { faults: self.clone(), api, number, hits }
    }

    /// Counts a request and says what is to happen to it; `None` when no fault means it.
    pub(super) fn meet(&self, api: Api) -> Option<(Action, Arc<Hits>)> {
        let mut orders = self.lock();
        let mut decided = None;
        for (_, order) in orders.get_mut(&(api as i16))? {
            order.seen += 1;
            let is_meant = order.when == When::Always || order.when == When::Nth(order.seen);
            if is_meant && decided.is_none() {
                order.hits.count.fetch_add(1, Ordering::SeqCst);
                decided = Some((order.action, order.hits.clone()));
            }
        }
        decided
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
        self.hits.is_released.store(true, Ordering::SeqCst);
        self.hits.changed.notify_waiters();
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        if let Some(orders) = self.faults.lock().get_mut(&(self.api as i16)) {
            orders.retain(|(number, _)| *number != self.number);
        }
        self.release();
    }
}
