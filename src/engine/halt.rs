//! Stopping the work of a group while its worker lives: it stays in the group, so that no other worker takes the
//! partitions over and does the same to them; it reads nothing, and what it has in hand is forgotten uncommitted, as at a
//! crash. A new worker, with a mended pipeline, reads it again.

use std::sync::{Arc, OnceLock};

use crate::engine::worker::Worker;

/// The way to stop a group for good, from any thread. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Halt(Arc<OnceLock<Arc<str>>>);

impl Halt {
    /// Stops the group. `false` when it was stopped before: the first reason counts.
    pub fn stop(&self, reason: &str) -> bool {
        self.0.set(Arc::from(reason)).is_ok()
    }

    /// Why the group is stopped; `None` while it is not.
    pub fn reason(&self) -> Option<&Arc<str>> {
        self.0.get()
    }
}

impl Worker {
    /// Whether nothing more may be read, worked on or handed over.
    pub(super) fn is_halted(&self) -> bool {
        self.settings.halt.reason().is_some()
    }

    /// Forgets all work, once. What the sender has in hand ends first: it was handed over before the stop.
    pub(super) fn halt_if_told(&mut self) {
        let Some(reason) = self.settings.halt.reason() else { return };
        if self.status.stopped.is_some() || self.handed.is_some() {
            return;
        }
        let group = self.settings.consumer.group.as_str();
        tracing::warn!(group, "stopped: nothing more is read or committed until the worker is started again");
        self.status.stopped = Some(Arc::clone(reason));
        self.tasks.cancel(|_| true);
        self.unsent.retain(|_| false);
        self.ready_since = None;
        self.epoch = self.epoch.next();
        self.assignment.forget(self.epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::Halt;

    #[test]
    fn the_first_reason_counts_for_all_clones() {
        let halt = Halt::default();
        let clone = halt.clone();
        assert_eq!(clone.reason(), None);
        assert!(halt.stop("too many dead letters") && !clone.stop("another"));
        assert_eq!(clone.reason().map(|reason| &**reason), Some("too many dead letters"));
    }
}
