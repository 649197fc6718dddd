//! Names of the record headers that Millrace writes.

/// On every record a worker writes: `topic/partition/offset` of the record it follows from.
pub const SOURCE: &str = "millrace.source";

/// On records that come back to their pipeline, through a retry topic or from a dead letter, and on dead letters, so
/// that a replay can hand them on. They stand behind the record's own headers. All values are text.
pub mod comeback {
    /// `topic/partition/offset` of the record as it was first read: results and idempotency keys name it.
    pub const ORIGIN: &str = "millrace.origin";
    /// Kafka's timestamp of that record, milliseconds since 1970; absent when it had none.
    pub const ORIGIN_TIMESTAMP: &str = "millrace.origin.timestamp";
    /// How many headers that record had: those before this block.
    pub const ORIGIN_HEADERS: &str = "millrace.origin.headers";
    /// What steps with outside effects answered already, as JSON; absent when nothing was, or it is too large.
    pub const ANSWERS: &str = "millrace.answers";
    /// Attempts made in all runs so far.
    pub const ATTEMPTS: &str = "millrace.attempts";
    /// When it failed for the first time (RFC 3339).
    pub const FIRST_FAILURE: &str = "millrace.first-failure";
    /// Retry tier it waits in, from 1.
    pub const TIER: &str = "millrace.retry.tier";
    /// When it is to be tried again, milliseconds since 1970; 0 is at once.
    pub const DUE: &str = "millrace.retry.due";
    /// Step at which it failed last; absent when it only follows an earlier record of its key.
    pub const STAGE: &str = "millrace.retry.stage";
    /// Class of that fault.
    pub const CLASS: &str = "millrace.retry.class";
    /// What happened then.
    pub const MESSAGE: &str = "millrace.retry.message";
}

/// Error headers as Kafka Connect names them, so that its tools read our dead letters. All values are text.
pub mod connect {
    /// Topic the record was read from.
    pub const TOPIC: &str = "__connect.errors.topic";
    /// Partition it was read from.
    pub const PARTITION: &str = "__connect.errors.partition";
    /// Its offset there.
    pub const OFFSET: &str = "__connect.errors.offset";
    /// Who could not work on it: the pipeline.
    pub const CONNECTOR_NAME: &str = "__connect.errors.connector.name";
    /// Step at which it failed.
    pub const STAGE: &str = "__connect.errors.stage";
    /// What failed: `millrace.<step>`.
    pub const CLASS_NAME: &str = "__connect.errors.class.name";
    /// Class of the fault.
    pub const EXCEPTION_CLASS_NAME: &str = "__connect.errors.exception.class.name";
    /// What happened.
    pub const EXCEPTION_MESSAGE: &str = "__connect.errors.exception.message";
}

/// Error headers of our own on dead letters. All values are text.
pub mod dead_letter {
    /// Pipeline that gave up.
    pub const PIPELINE: &str = "millrace.dlq.pipeline";
    /// Step at which it failed; absent when it did not get that far.
    pub const STAGE: &str = "millrace.dlq.stage";
    /// Class of the fault.
    pub const CLASS: &str = "millrace.dlq.class";
    /// What happened.
    pub const MESSAGE: &str = "millrace.dlq.message";
    /// Attempts made.
    pub const ATTEMPTS: &str = "millrace.dlq.attempts";
    /// When it failed for the first time, over all replays (RFC 3339). On a replayed record, too.
    pub const FIRST_FAILURE: &str = "millrace.dlq.first-failure";
    /// When it failed now.
    pub const LAST_FAILURE: &str = "millrace.dlq.last-failure";
    /// Hash of the pipeline's text.
    pub const CONFIG_HASH: &str = "millrace.dlq.config-hash";
    /// How often it has been replayed. On a replayed record, too.
    pub const REPLAY_COUNT: &str = "millrace.dlq.replay-count";
    /// On a replayed record: the class it failed with before.
    pub const REPLAYED_CLASS: &str = "millrace.dlq.replayed-class";
    /// On a replayed record: hash of the pipeline's text that it failed with before.
    pub const REPLAYED_CONFIG_HASH: &str = "millrace.dlq.replayed-config-hash";
    /// On a replayed record: the dead letter it comes from, `<pipeline>/<partition>/<offset>`.
    pub const REPLAYED_LETTER: &str = "millrace.dlq.replayed-letter";
    /// HTTP status, when a destination answered one.
    pub const HTTP_STATUS: &str = "millrace.dlq.http.status";
    /// Id of the event.
    pub const EVENT_ID: &str = "millrace.dlq.event-id";
    /// Bytes of the value, when it was too large to be written again: it is still where the source headers say.
    pub const VALUE_DROPPED: &str = "millrace.dlq.value-dropped";
    /// How many headers the record had, when they were too large to be written again.
    pub const HEADERS_DROPPED: &str = "millrace.dlq.headers-dropped";
    /// Bytes of the key, when it was too large to be written again.
    pub const KEY_DROPPED: &str = "millrace.dlq.key-dropped";

    /// What every header of this kind begins with.
    pub const PREFIX: &str = "millrace.dlq.";
}
