//! What stages use of the world outside the event.

use crate::stages::clock::Clock;

/// What stages use of the world outside the event; one per process, or one per case of `millrace test`.
#[derive(Debug)]
pub struct Services {
    /// How time passes.
    pub clock: Clock,
}
