//! A queue of librdkafka's, held: unsafe code about its life. What is done with it stands where it is used.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

/// A handle of a queue, given back on drop. To be dropped before its client.
pub(super) struct Queue(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues do not belong to a thread.
unsafe impl Send for Queue {}

impl Queue {
    /// A queue of its own; `None` when librdkafka has no memory.
    pub(super) fn new<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<Self> {
        // SAFETY: the client is alive; the queue is ours.
        NonNull::new(unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) }).map(Self)
    }

    /// The queue of a consumer, from which the safe wrapper's `poll` takes; `None` as above.
    pub(super) fn of_consumer<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<Self> {
        // SAFETY: the client is alive; the handle is ours.
        NonNull::new(unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) }).map(Self)
    }

    /// The queue of everything that a client tells; `None` as above.
    pub(super) fn main<C: ClientContext>(client: &Client<C>) -> Option<Self> {
        // SAFETY: the client is alive; the handle is ours.
        NonNull::new(unsafe { sys::rd_kafka_queue_get_main(client.native_ptr()) }).map(Self)
    }

    /// For a call that takes it along.
    pub(super) fn as_ptr(&self) -> *mut sys::rd_kafka_queue_t {
        self.0.as_ptr()
    }

    /// How many events wait.
    pub(super) fn waiting(&self) -> usize {
        // SAFETY: the handle is valid.
        unsafe { sys::rd_kafka_queue_length(self.as_ptr()) }
    }

    /// Hands each event that waits to `each`, without waiting for more. It is destroyed afterwards.
    pub(super) fn drain(&self, mut each: impl FnMut(*mut sys::rd_kafka_event_t)) {
        // SAFETY: the handle is valid; an event is ours until it is destroyed.
        while let Some(event) = NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.as_ptr(), 0) }) {
            each(event.as_ptr());
            // SAFETY: destroyed once; nothing of it is kept.
            unsafe { sys::rd_kafka_event_destroy(event.as_ptr()) };
        }
    }
}

/// Ends a wait for a queue, from any thread; nothing once the queue is gone.
#[derive(Clone)]
pub struct Waker(Arc<Mutex<Option<Lent>>>);

/// A handle that belongs to somebody else.
struct Lent(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: as for the queue itself.
unsafe impl Send for Lent {}

impl Waker {
    /// Of this queue, whose owner calls [`Self::end`] before it goes.
    pub(super) fn of(queue: &Queue) -> Self {
        Self(Arc::new(Mutex::new(Some(Lent(queue.0)))))
    }

    /// Lets who waits for the queue go on, or who will wait next if nobody does.
    pub fn wake(&self) {
        if let Some(Lent(queue)) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // SAFETY: until `end`, which waits for the lock, the queue is there.
            unsafe { sys::rd_kafka_queue_yield(queue.as_ptr()) };
        }
    }

    /// The queue is about to go.
    pub(super) fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: given back once, while the client lives; what is forwarded here or under way holds references of its own.
        unsafe { sys::rd_kafka_queue_destroy(self.as_ptr()) };
    }
}
