//! Which call to Kafka a thread is in, for those who watch it. Some calls never come back: the offsets of a transaction
//! are waited for without an end while their coordinator is away (librdkafka 5456).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Shared by the thread that calls and those that watch.
#[derive(Clone, Default, Debug)]
pub struct Beacon(Arc<Mutex<Option<(&'static str, Instant)>>>);

impl Beacon {
    /// A call begins, or an attempt of it.
    pub fn enter(&self, call: &'static str) {
        self.set(Some((call, Instant::now())));
    }

    /// It came back.
    pub fn leave(&self) {
        self.set(None);
    }

    /// The call that the thread is in, and since when.
    pub fn current(&self) -> Option<(&'static str, Instant)> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, call: Option<(&'static str, Instant)>) {
        // One assignment: a holder that panicked left it whole.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = call;
    }
}
