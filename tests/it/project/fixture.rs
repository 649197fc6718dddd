//! Topics, database, codec and project of one scenario, and what should come of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use millrace::config::kpi::{Aggregate, Window};
use millrace::config::topic::OnConflict;
use millrace::kafka::settings::Connection;
use millrace::ledger::{ExecutionResult, KpiFact, Namespace, Outcome};
use millrace::plan::kpis::KpiSpec;
use millrace::plan::tables::TableSpec;
use millrace::postgres::{migrate, pool};
use millrace::project::apply;
use millrace::project::rebuild::Rebuild;
use millrace::project::rebuild::compare::Keep;
use millrace::project::settings::{ProjectSettings, ProjectSpecs, ProjectStatus};
use millrace::project::worker::{self, ProjectError, Services};
use millrace::schema::codec::Codec;
use millrace::schema::value::ValueSchema;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rust_decimal::Decimal;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::support::servers;

pub const PAYMENT_SCHEMA: &str = r#"{"type":"record","name":"Payment","namespace":"millrace.tests","fields":[
  {"name":"payment_id","type":"string"},
  {"name":"amount","type":"long"},
  {"name":"paid_at","type":{"type":"long","logicalType":"timestamp-micros"}},
  {"name":"labels","type":{"type":"map","values":"string"}},
  {"name":"note","type":["null","string"],"default":null}
]}"#;

const PARTITIONS: i32 = 4;
const CURRENCIES: [&str; 3] = ["EUR", "USD", "GBP"];

pub struct Fixture {
    pub kafka: String,
    pub namespace: Namespace,
    pub pool: PgPool,
    pub codec: Arc<Codec>,
    pub kpis: Vec<KpiSpec>,
    pub tables: Vec<TableSpec>,
    pub payments: String,
    producer: FutureProducer,
}

/// A projector that runs in this process.
pub struct Running {
    pub task: tokio::task::JoinHandle<Result<(), ProjectError>>,
    pub status: ProjectStatus,
    shutdown: CancellationToken,
}

impl Running {
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("no panic").expect("an orderly end");
    }
}

impl Fixture {
    pub async fn new(name: &str) -> Self {
        let database = servers::database(&servers::unique(name)).await;
        Self::on(name, &database.url).await
    }

    /// With a database elsewhere.
    pub async fn on(name: &str, database: &str) -> Self {
        let kafka = servers::kafka();
        let word = servers::unique(name);
        let namespace = Namespace::new(&word).expect("a namespace");
        let payments = format!("{word}.payments");
        let topics = [namespace.executions_topic(), namespace.kpi_facts_topic()];
        servers::create_topics(&[
            (&topics[0], PARTITIONS),
            (&topics[1], PARTITIONS),
            (&namespace.kpis_topic(), PARTITIONS),
            (&payments, PARTITIONS),
        ])
        .await;
        let pool = pool::lazy(database, "tests", 8).expect("an address");
        migrate::run(&pool).await.expect("the migrations run");
        let codec = match servers::registry() {
            Some(url) => Codec::with_registry(&url, &namespace).await.expect("the registry answers"),
            None => Codec::embedded(),
        };
        let kpis = vec![KpiSpec {
            name: "revenue".into(),
            fact: "payment".into(),
            aggregate: Aggregate::Sum,
            windows: vec![Window::Minute, Window::Hour, Window::Day],
            dimensions: vec!["currency".into()],
            time_zone: chrono_tz::Europe::Madrid,
            lateness: Duration::from_secs(3_600),
            retention: None,
        }];
        let tables = vec![table(&payments, OnConflict::Newest)];
        apply::run(&pool, &kpis, &tables).await.expect("tables can be made");
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &kafka)
            .set("transactional.id", &word)
            .set("linger.ms", "5")
            .create::<FutureProducer>()
            .expect("a producer");
        let ready = producer.clone();
        tokio::task::spawn_blocking(move || ready.init_transactions(Duration::from_secs(30)))
            .await
            .expect("no panic")
            .expect("transactions can begin");
        Self { kafka, namespace, pool, codec: Arc::new(codec), kpis, tables, payments, producer }
    }

    pub fn settings(&self) -> ProjectSettings {
        let connection = Connection::plain(self.kafka.clone(), "millrace-tests");
        ProjectSettings {
            session_timeout: Duration::from_secs(6),
            fenced_wait: Duration::from_secs(2),
            retry_max: Duration::from_millis(500),
            publish_every: Duration::from_millis(100),
            ..ProjectSettings::new(connection, self.namespace.clone())
        }
    }

    pub fn start(&self) -> Running {
        self.start_with(self.settings())
    }

    pub fn start_with(&self, settings: ProjectSettings) -> Running {
        let status = ProjectStatus::default();
        let shutdown = CancellationToken::new();
        let specs = ProjectSpecs { kpis: self.kpis.clone(), tables: self.tables.clone() };
        let services = Services { codec: Arc::clone(&self.codec), pool: self.pool.clone() };
        let task = tokio::spawn(worker::run(settings, specs, services, status.clone(), shutdown.clone()));
        Running { task, status, shutdown }
    }

    /// Waits until the positions of all partitions stand at their ends as they are now: markers of transactions included, so the ends
    /// are compared with what the positions can reach.
    pub async fn caught_up(&self, running: &Running) {
        let give_up = std::time::Instant::now() + Duration::from_secs(60);
        let ends = self.ends().await;
        let mut last = None;
        loop {
            assert!(!running.task.is_finished(), "the projector has ended");
            let rows: Vec<(String, i32, i64)> =
                sqlx::query_as("select topic, partition, next_offset from projector_positions order by 1, 2")
                    .fetch_all(&self.pool)
                    .await
                    .unwrap_or_default();
            // Quiet for two rounds with records of every topic folded, and nothing left to read.
            let is_level = ends.iter().all(|((topic, partition), end)| {
                rows.iter().any(|(name, number, next)| (name, number) == (topic, partition) && end < next)
            });
            if is_level && last.as_ref() == Some(&rows) {
                let shown = running.status.partitions();
                assert!(shown.values().all(|status| rows.iter().any(|(.., next)| *next == status.next.0)));
                return;
            }
            last = Some(rows);
            assert!(std::time::Instant::now() < give_up, "the projector does not catch up: {last:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The offset of the last record that a read_committed consumer sees, of each partition that has one.
    async fn ends(&self) -> BTreeMap<(String, i32), i64> {
        let kafka = self.kafka.clone();
        let topics = [
            self.namespace.executions_topic().to_string(),
            self.namespace.kpi_facts_topic().to_string(),
            self.payments.clone(),
        ];
        tokio::task::spawn_blocking(move || {
            let mut ends = BTreeMap::new();
            for topic in topics {
                for record in crate::support::readback::read_all(&kafka, &topic) {
                    let end = ends.entry((topic.clone(), record.partition)).or_insert(record.offset);
                    *end = record.offset.max(*end);
                }
            }
            ends
        })
        .await
        .expect("no panic")
    }

    /// Facts and results of `numbers`; an aborted transaction leaves none.
    pub async fn write(&self, oracle: &mut Oracle, numbers: Range<i64>, commit: bool) {
        let facts: Vec<KpiFact> = numbers
            .clone()
            .map(|number| {
                let currency = CURRENCIES[(number % 3) as usize];
                let seconds = (number * 7_919) % 200_000;
                fact(
                    number,
                    (number * 31) % 100_000 - 20_000,
                    currency,
                    start() + chrono::Duration::seconds(seconds),
                )
            })
            .collect();
        let results: Vec<ExecutionResult> = numbers.map(result).collect();
        self.begin().await;
        for fact in &facts {
            self.send(&self.namespace.kpi_facts_topic(), &fact.dimensions["currency"], self.codec.fact(fact))
                .await;
        }
        for result in &results {
            self.send(&self.namespace.executions_topic(), &result.event_id, self.codec.execution(result))
                .await;
        }
        self.end(commit).await;
        if commit {
            oracle.add(&facts, &results);
        }
    }

    pub async fn write_facts(&self, facts: &[KpiFact], commit: bool) {
        self.begin().await;
        for fact in facts {
            self.send(&self.namespace.kpi_facts_topic(), "k", self.codec.fact(fact)).await;
        }
        self.end(commit).await;
    }

    pub async fn write_results(&self, results: &[ExecutionResult], commit: bool) {
        self.begin().await;
        for result in results {
            self.send(&self.namespace.executions_topic(), &result.event_id, self.codec.execution(result))
                .await;
        }
        self.end(commit).await;
    }

    pub async fn write_payment(&self, key: &str, value: serde_json::Value, time: DateTime<Utc>) {
        let schema = self.codec.declare(&self.payments, PAYMENT_SCHEMA).await.expect("a schema");
        let value = schema.encode(&value).expect("fits");
        self.write_bytes(&self.payments, key, Some(&value), Some(time)).await;
    }

    /// One record as it is, in a transaction of its own.
    pub async fn write_bytes(
        &self,
        topic: &str,
        key: &str,
        value: Option<&[u8]>,
        time: Option<DateTime<Utc>>,
    ) {
        self.begin().await;
        let mut headers = OwnedHeaders::new();
        if let Some(time) = time {
            headers = headers.insert(Header { key: "ce_time", value: Some(&time.to_rfc3339()) });
        }
        let mut record = FutureRecord::to(topic).key(key).headers(headers);
        record.payload = value;
        self.producer.send(record, Duration::from_secs(10)).await.expect("Kafka takes it");
        self.end(true).await;
    }

    /// Deletes the records of every partition of `topic` before `offset`, as retention does.
    pub async fn delete_records(&self, topic: &str, offset: i64) {
        servers::delete_records(topic, PARTITIONS, offset).await;
    }

    /// Folds `kpis` anew, beside whatever runs.
    pub fn rebuild(&self, kpis: Vec<KpiSpec>) -> Rebuild {
        Rebuild {
            pool: self.pool.clone(),
            connection: Connection::plain(self.kafka.clone(), "millrace-tests"),
            namespace: self.namespace.clone(),
            codec: Arc::clone(&self.codec),
            kpis,
            keep: Keep::Refuse,
            is_dry_run: false,
        }
    }

    async fn begin(&self) {
        self.producer.begin_transaction().expect("a transaction begins");
    }

    async fn send(&self, topic: &str, key: &str, value: bytes::Bytes) {
        let record = FutureRecord::to(topic).key(key).payload(&value[..]);
        self.producer.send_result(record).map_err(|(error, _)| error).expect("room in the queue");
    }

    async fn end(&self, commit: bool) {
        let producer = self.producer.clone();
        tokio::task::spawn_blocking(move || {
            producer.flush(Duration::from_secs(30)).expect("Kafka takes the records");
            match commit {
                true => producer.commit_transaction(Duration::from_secs(30)),
                false => producer.abort_transaction(Duration::from_secs(30)),
            }
        })
        .await
        .expect("no panic")
        .expect("the transaction ends");
    }
}

pub fn table(topic: &str, on_conflict: OnConflict) -> TableSpec {
    let columns = ValueSchema::parse(PAYMENT_SCHEMA).and_then(|schema| schema.columns()).expect("a record");
    TableSpec {
        topic: topic.into(),
        schema: PAYMENT_SCHEMA.into(),
        name: "payments".into(),
        columns,
        primary_key: vec!["payment_id".into()],
        on_conflict,
    }
}

pub fn payment_json(id: &str, amount: i64) -> serde_json::Value {
    serde_json::json!({
        "payment_id": id, "amount": amount, "paid_at": "2026-11-23T13:00:00Z", "labels": {"a": "b\u{0}"},
        "note": "tab\tand \\ and\nline and \u{0}",
    })
}

fn start() -> DateTime<Utc> {
    "2026-10-24T12:00:00Z".parse().expect("a time")
}

pub fn fact(number: i64, cents: i64, currency: &str, time: DateTime<Utc>) -> KpiFact {
    KpiFact {
        fact: String::from("payment"),
        value: Decimal::new(cents, 2),
        time,
        dimensions: BTreeMap::from([(String::from("currency"), currency.to_owned())]),
        pipeline: String::from("stripe-payments"),
        tenant: None,
        topic: String::from("events.stripe"),
        partition: 0,
        offset: number,
    }
}

pub fn result(number: i64) -> ExecutionResult {
    let outcome = [Outcome::Succeeded, Outcome::Filtered, Outcome::DeadLettered][(number % 3) as usize];
    ExecutionResult {
        pipeline: String::from("stripe-payments"),
        outcome,
        stage: (outcome != Outcome::Succeeded).then(|| String::from("store")),
        error_class: (outcome == Outcome::DeadLettered).then(|| String::from("permanent")),
        error: (outcome == Outcome::DeadLettered).then(|| String::from("a\tb\\c\nd\u{0}")),
        attempts: 1,
        event_id: format!("evt_{number}"),
        event_source: String::from("stripe"),
        event_type: String::from("payment_intent.succeeded"),
        tenant: None,
        topic: String::from("events.stripe"),
        partition: 0,
        offset: number,
        event_time: start(),
        started_at: start(),
        duration_us: 12,
        records_out: 1,
        config_hash: String::from("0123456789ab"),
    }
}

/// What the tables must hold.
#[derive(Default)]
pub struct Oracle {
    revenue: BTreeMap<(i64, String), (i64, Decimal)>,
    outcomes: BTreeMap<String, i64>,
}

impl Oracle {
    fn add(&mut self, facts: &[KpiFact], results: &[ExecutionResult]) {
        for fact in facts {
            // Madrid's offset is of whole hours.
            let hour = fact.time.timestamp().div_euclid(3_600) * 3_600;
            let entry = self.revenue.entry((hour, fact.dimensions["currency"].clone())).or_default();
            entry.0 += 1;
            entry.1 += fact.value;
        }
        for result in results {
            *self.outcomes.entry(result.outcome.name().to_owned()).or_default() += 1;
        }
    }

    /// Facts and their sum.
    pub fn total(&self) -> (i64, Decimal) {
        (
            self.revenue.values().map(|(events, _)| events).sum(),
            self.revenue.values().map(|(_, sum)| sum).sum(),
        )
    }

    pub async fn check(&self, pool: &PgPool) {
        let rows: Vec<(i64, String, i64, Decimal)> = sqlx::query_as(
            "select extract(epoch from window_start)::bigint, currency, events, value from kpi_revenue_1h",
        )
        .fetch_all(pool)
        .await
        .expect("the view can be read");
        let found: BTreeMap<(i64, String), (i64, Decimal)> = rows
            .into_iter()
            .map(|(hour, currency, events, value)| ((hour, currency), (events, value)))
            .collect();
        assert_eq!(found, self.revenue);
        let totals: Vec<(String, i64, Decimal)> = sqlx::query_as(
            "select window_size, sum(events)::bigint, sum(value) from kpi_values group by 1 order by 1",
        )
        .fetch_all(pool)
        .await
        .expect("the view can be read");
        let (events, sum) = self.total();
        assert_eq!(totals.iter().map(|(_, n, s)| (*n, *s)).collect::<Vec<_>>(), vec![(events, sum); 3]);
        let rows: Vec<(String, i64)> = sqlx::query_as("select outcome, count(*) from executions group by 1")
            .fetch_all(pool)
            .await
            .expect("the table can be read");
        assert_eq!(rows.into_iter().collect::<BTreeMap<_, _>>(), self.outcomes);
    }
}
