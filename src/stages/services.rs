//! What stages use of the world outside the event.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use serde_json::{Map, Value};

use crate::connectors::answer::Answer;
use crate::connectors::http::CallInputs;
use crate::connectors::scripted::Script;
use crate::fault::{Fault, FaultClass};
use crate::postgres::dedupe::{Claim, DedupeTable, Sighting};
use crate::postgres::fault::SqlFault;
use crate::postgres::pool::Pool;
use crate::postgres::rows;
use crate::schema::codec::Codec;
use crate::schema::error::SchemaError;
use crate::schema::value::SharedSchema;
use crate::stages::budget::Budgets;
use crate::stages::clock::Clock;
use crate::stages::destinations::Destinations;
use crate::stages::limits::Limits;
use crate::stages::scripted_rows::RowScript;

/// What stages use of the world outside the event; one per process, or one per case of `millrace test`.
#[derive(Debug)]
pub struct Services {
    /// How time passes.
    pub clock: Clock,
    /// Reads values written with other schemas than ours.
    pub codec: Arc<Codec>,
    /// Schemas of the topics that declare Avro, by topic; made with [`Codec::declare`] at the start.
    pub schemas: BTreeMap<String, SharedSchema>,
    /// Calls to destinations.
    pub http: HttpService,
    /// Statements of `sql` stages.
    pub sql: SqlService,
    /// Keys that `dedupe` stages have seen.
    pub dedupe: DedupeStore,
    /// Buckets of the rate limits.
    pub limits: Limits,
    /// Retries that may be made.
    pub budgets: Budgets,
}

/// Calls to destinations.
#[derive(Debug)]
pub enum HttpService {
    /// For real.
    Live(Destinations),
    /// Answers that a test gives.
    Scripted(Script),
}

impl HttpService {
    /// Calls `call` of `connector`.
    ///
    /// # Errors
    /// The [`Fault`] of the call; it names connector and call.
    pub async fn call(
        &self,
        connector: &str,
        call: &str,
        inputs: &CallInputs,
        clock: &Clock,
    ) -> Result<Answer, Fault> {
        match self {
            Self::Live(destinations) => destinations.call(connector, call, inputs, clock).await,
            Self::Scripted(script) => script.call(connector, call, inputs, Utc::now()),
        }
    }
}

impl Services {
    /// Services without a world: simulated time, the answers of a test, keys in memory.
    pub fn offline(schemas: BTreeMap<String, SharedSchema>, http: Script, sql: RowScript) -> Self {
        Self {
            clock: Clock::simulated(),
            codec: Arc::new(Codec::embedded()),
            schemas,
            http: HttpService::Scripted(http),
            sql: SqlService::Scripted(sql),
            dedupe: DedupeStore::memory(),
            limits: Limits::default(),
            budgets: Budgets::default(),
        }
    }

    /// What does not fit between a test's answers and what was asked for; nothing for real services.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = match &self.http {
            HttpService::Live(_) => Vec::new(),
            HttpService::Scripted(script) => script.problems(),
        };
        match &self.sql {
            SqlService::Live(_) | SqlService::Absent => {}
            SqlService::Scripted(script) => problems.extend(script.problems()),
        }
        problems
    }

    /// A value in the Avro schema of `topic`, framed.
    ///
    /// # Errors
    /// [`SchemaError`] when the value does not fit, naming the path; or when the topic's schema was not declared at
    /// the start.
    pub fn encode_avro(&self, topic: &str, value: &serde_json::Value) -> Result<Bytes, SchemaError> {
        match self.schemas.get(topic) {
            Some(schema) => schema.encode(value),
            None => Err(SchemaError::NotASchema { message: format!("topic {topic} has no schema") }),
        }
    }
}

/// Statements of `sql` stages.
#[derive(Debug)]
pub enum SqlService {
    /// For real.
    Live(Pool),
    /// Rows that a test gives.
    Scripted(RowScript),
    /// No Postgres was named at the start. A worker whose pipelines need one does not start like this.
    Absent,
}

impl SqlService {
    /// Runs the statement of step `step`.
    ///
    /// # Errors
    /// Transient or permanent by SQLSTATE.
    pub async fn query(
        &self,
        step: &str,
        statement: &str,
        params: &[Value],
    ) -> Result<Vec<Map<String, Value>>, Fault> {
        match self {
            Self::Live(pool) => rows::query(pool, statement, params).await.map_err(sql_fault),
            Self::Scripted(script) => script.query(step),
            Self::Absent => Err(absent()),
        }
    }
}

/// Owner and end of each key, by scope and hash.
type SeenKeys = HashMap<(String, [u8; 32]), (Sighting, Duration)>;

/// Keys that `dedupe` stages have seen.
#[derive(Debug)]
pub enum DedupeStore {
    /// In Postgres.
    Live(DedupeTable),
    /// In memory, for tests.
    Memory(Mutex<SeenKeys>),
    /// No Postgres was named at the start. A worker whose pipelines need one does not start like this.
    Absent,
}

impl DedupeStore {
    /// An empty store in memory.
    pub fn memory() -> Self {
        Self::Memory(Mutex::new(HashMap::new()))
    }

    /// Whether the key is its claimant's, now or from before.
    ///
    /// # Errors
    /// When that is not known.
    pub async fn claim(&self, claim: Claim, clock: &Clock) -> Result<bool, Fault> {
        match self {
            Self::Live(table) => table.claim(claim).await.map_err(sql_fault),
            Self::Memory(keys) => {
                let Claim { scope, key_hash, sighting, ttl } = claim;
                let now = clock.elapsed();
                let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
                let (first, until) =
                    keys.entry((scope, key_hash)).or_insert_with(|| (sighting.clone(), now + ttl));
                if *until <= now {
                    (*first, *until) = (sighting.clone(), now + ttl);
                }
                Ok(*first == sighting)
            }
            Self::Absent => Err(absent()),
        }
    }
}

/// Transient: whoever starts the worker with a Postgres mends it, and no record is lost meanwhile.
fn absent() -> Fault {
    Fault::new(FaultClass::Transient, "no Postgres was named at the start: --postgres or MILLRACE_POSTGRES")
}

fn sql_fault(fault: SqlFault) -> Fault {
    let message = match &fault.code {
        Some(code) => format!("Postgres {code}: {}", fault.message),
        None => format!("Postgres: {}", fault.message),
    };
    Fault::new(fault.class, message)
}
