//! Every metric: name, kind, labels, help. Dashboards and alert rules are tested against this list.

/// What kind of metric it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Distribution in seconds.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name as Prometheus shows it.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*
        /// All metrics, in the order of this file.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD_INFO = Gauge "millrace_build_info" ["version"] "1, with the version as a label";

    INGEST_REQUESTS = Counter "millrace_ingest_requests_total" ["connector", "status"] "webhook requests answered, by HTTP status";
    INGEST_DURATION = Histogram "millrace_ingest_request_duration_seconds" ["connector"] "from the request's head to the answer";
    INGEST_EVENTS = Counter "millrace_ingest_events_total" ["connector"] "events acknowledged by Kafka";
    INGEST_CONNECTIONS = Gauge "millrace_ingest_connections" [] "open connections of the webhook endpoint";

    RECORDS = Counter "millrace_records_total" ["group"] "records read from input topics";
    RECORDS_UNMATCHED = Counter "millrace_records_unmatched_total" ["group"] "records whose event type no pipeline of the group takes";
    EXECUTIONS = Counter "millrace_executions_total" ["pipeline", "outcome"] "verdicts, by outcome";
    EXECUTION_DURATION = Histogram "millrace_execution_duration_seconds" ["pipeline"] "from the first stage's begin to the verdict";
    DEAD_LETTERS = Counter "millrace_dead_letters_total" ["pipeline", "class"] "records written to a dead-letter topic, by class of the fault";
    PIPELINE_STOPPED = Gauge "millrace_pipeline_stopped" ["pipeline"] "1 while the pipeline is stopped because too many of its events became dead letters";
    RETRIES = Counter "millrace_retries_total" ["pipeline"] "attempts after the first";
    PARKED = Counter "millrace_parked_total" ["pipeline", "why"] "records sent to a retry topic: `failed`, or `behind` an earlier record of their key";
    STALE_COMPLETIONS = Counter "millrace_stale_completions_total" ["group"] "work finished after its partition was given away; not sent";
    TRANSACTIONS = Counter "millrace_transactions_total" ["group", "outcome"] "Kafka transactions committed or aborted";
    TRANSACTION_DURATION = Histogram "millrace_transaction_duration_seconds" ["group"] "from begin to the end of commit";
    MEMORY_BUDGET = Gauge "millrace_memory_budget_bytes" [] "memory that records at work of all groups of the process may take up";
    MEMORY_HELD = Gauge "millrace_memory_held_bytes" ["group"] "memory of records read and not committed, and of what they led to";
    PRODUCERS_REPLACED = Counter "millrace_producers_replaced_total" ["group"] "transactional producers not used again after a slow commit or a broken connection";
    CONSUMER_LAG = Gauge "millrace_consumer_lag" ["group", "topic", "partition"] "records between the committed offset and the end of the partition";
    CONSUMER_IN_FLIGHT = Gauge "millrace_consumer_in_flight" ["group", "topic", "partition"] "records read and not yet committed";
    CONSUMER_OLDEST_AGE = Gauge "millrace_consumer_oldest_in_flight_age_seconds" ["group", "topic", "partition"] "age of the oldest record not yet committed";
    CONSUMER_PAUSED = Gauge "millrace_consumer_paused" ["group", "topic", "partition"] "1 while the partition is paused";

    HTTP_REQUESTS = Counter "millrace_http_requests_total" ["connector", "call", "status"] "calls to destinations, by HTTP status or `error`";
    HTTP_DURATION = Histogram "millrace_http_request_duration_seconds" ["connector", "call"] "time of calls to destinations";
    BREAKER_OPEN = Gauge "millrace_breaker_open" ["connector"] "1 while the destination's circuit is open";
    RATE_LIMITED = Counter "millrace_rate_limited_total" ["pipeline", "stage"] "records that had to wait for a rate limit";

    PROJECTOR_RECORDS = Counter "millrace_projector_records_total" ["topic"] "records folded into Postgres";
    PROJECTOR_REJECTED = Counter "millrace_projector_rejected_total" ["topic", "reason"] "records the projector could not fold; kept in projector_rejects or kpi_rejected";
    PROJECTOR_TRANSACTIONS = Counter "millrace_projector_transactions_total" ["outcome"] "SQL transactions of the projector";
    PROJECTOR_EXPIRED = Counter "millrace_projector_expired_total" ["table"] "rows deleted because they were older than they are kept";
    PROJECTOR_LAG = Gauge "millrace_projector_lag" ["topic", "partition"] "records between the projector's position and the end of the partition";
}
