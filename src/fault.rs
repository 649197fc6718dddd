//! Why a stage could not do its work, and what follows from it.

use std::fmt;
use std::time::Duration;

/// What kind of failure it is; decides between retry and dead letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultClass {
    /// May work later: time-outs, 5xx, connection errors, Postgres 08*, 40001, 40P01, 57P0*. Retried.
    Transient,
    /// The destination asked to wait. Waited for, not counted as an attempt.
    Throttled {
        /// How long the destination asked to wait, when it said so.
        after: Option<Duration>,
    },
    /// Will not work however often it is tried: 4xx, validation, a missing field. Dead letter at once.
    Permanent,
    /// The record cannot be decoded. Dead letter at once, with the raw bytes.
    Poison,
    /// A program's run-time error. Dead letter, naming program and line.
    Bug,
}

impl FaultClass {
    /// Name in the ledger, in metrics and in dead-letter headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Throttled { .. } => "rate_limited",
            Self::Permanent => "permanent",
            Self::Poison => "poison",
            Self::Bug => "bug",
        }
    }

    /// Whether trying again can help.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Transient | Self::Throttled { .. } => true,
            Self::Permanent | Self::Poison | Self::Bug => false,
        }
    }
}

/// A failed stage. The message says what happened and where; it never holds a secret or the payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What kind of failure.
    pub class: FaultClass,
    /// What happened, in words for an operator.
    pub message: String,
    /// HTTP status, when a destination answered one.
    pub http_status: Option<u16>,
}

impl Fault {
    /// A fault of `class` that says `message`.
    pub fn new(class: FaultClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), http_status: None }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class.name(), self.message)
    }
}

impl std::error::Error for Fault {}
