//! Kafka into Postgres: `millrace project` as a child process on a topic of facts or of execution results, beside a
//! plain loop that copies the same rows into the same table.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use millrace::ledger::{ExecutionResult, KpiFact, Outcome as Ended};
use millrace::project::copy::{CopyText, EXECUTION_COLUMNS};
use millrace::schema::codec::Codec;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rust_decimal::Decimal;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::job::Job;
use crate::program::{Program, Project};
use crate::raw::Outcome;
use crate::report::Figures;
use crate::topics::{Topics, send};

/// Rows of one transaction of the plain loop.
const COPY_ROWS: u64 = 20_000;
const PATIENCE: Duration = Duration::from_secs(300);
const ASK_EVERY: Duration = Duration::from_millis(20);
const PARTITIONS: i32 = 12;
const CURRENCIES: [&str; 3] = ["EUR", "GBP", "USD"];

/// What is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rows {
    Facts,
    Executions,
    /// Execution rows by the plain loop, without Kafka.
    Copied,
}

/// Where a run writes.
#[derive(Clone, Debug)]
pub struct ProjectJob {
    pub kafka: String,
    /// URL of a role that may create databases.
    pub postgres: String,
    pub rows: Rows,
    pub records: u64,
}

pub fn run(job: &ProjectJob, topics: &Topics, unique: &str) -> Outcome<Figures> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let database = format!("bench_{}", unique.replace('-', "_"));
    runtime.block_on(admin(job, &format!("create database {database}")))?;
    let figures = runtime.block_on(measured(job, unique, &database));
    topics.delete_all(&format!("bench-{unique}"))?;
    runtime.block_on(admin(job, &format!("drop database {database} with (force)")))?;
    figures
}

async fn admin(job: &ProjectJob, statement: &str) -> Outcome<()> {
    let mut connection = PgConnection::connect(&job.postgres).await.map_err(|e| e.to_string())?;
    execute(&mut connection, statement).await
}

async fn execute(connection: &mut PgConnection, statement: &str) -> Outcome<()> {
    let done = sqlx::query(AssertSqlSafe(statement)).execute(connection).await;
    done.map(drop).map_err(|e| format!("{statement}: {e}"))
}

async fn measured(job: &ProjectJob, unique: &str, database: &str) -> Outcome<Figures> {
    let namespace = format!("bench-{unique}");
    let base = job.postgres.rsplit_once('/').map_or(&*job.postgres, |(base, _)| base);
    let url = format!("{base}/{database}");
    let project = project(&namespace)?;
    let names = ["--namespace", &namespace, "--kafka", &job.kafka, "--postgres", &url];
    project.run(&[&["apply", "--yes"], &names[..]].concat())?;
    let mut connection = PgConnection::connect(&url).await.map_err(|e| e.to_string())?;
    let figures = match job.rows {
        Rows::Copied => copied(job, &mut connection).await?,
        Rows::Facts | Rows::Executions => {
            fill(job, &namespace)?;
            let mut projector = Program::start(&project, &[&["project"], &names[..]].concat(), &[])?;
            let folded = folded(job, &mut projector, &mut connection).await;
            let figures = projector.explained(folded)?;
            projector.stop()?;
            figures
        }
    };
    check(job, &mut connection).await?;
    Ok(figures)
}

/// Waits until the positions in Postgres stand at the end; the clock runs from the first that moved.
async fn folded(
    job: &ProjectJob,
    projector: &mut Program,
    connection: &mut PgConnection,
) -> Outcome<Figures> {
    let started = Instant::now();
    let mut first: Option<(Instant, f64, u64)> = None;
    loop {
        projector.expect_alive()?;
        let done: i64 =
            sqlx::query_scalar("select coalesce(sum(next_offset), 0)::bigint from projector_positions")
                .fetch_one(&mut *connection)
                .await
                .map_err(|e| e.to_string())?;
        let done = done as u64;
        if done > 0 && first.is_none() {
            first = Some((Instant::now(), projector.cpu_s()?, done));
        }
        if let Some((since, before_s, before)) = first
            && done >= job.records
        {
            let counted = (done - before) as f64;
            return Ok(Figures::new(&[
                ("rate", counted / since.elapsed().as_secs_f64()),
                ("cpu", (projector.cpu_s()? - before_s) / (counted / 1e6)),
                ("cpu_librdkafka", projector.librdkafka_cpu_s() / (counted / 1e6)),
                ("rss", projector.rss_mib()),
            ]));
        }
        if started.elapsed() > PATIENCE {
            return Err(format!("the projector has folded {done} of {} records", job.records));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// The yardstick: one connection, one COPY after the other, each in a transaction.
async fn copied(job: &ProjectJob, connection: &mut PgConnection) -> Outcome<Figures> {
    let mut batches = Vec::new();
    for begin in (0..job.records).step_by(COPY_ROWS as usize) {
        let mut copy = CopyText::default();
        (begin..(begin + COPY_ROWS).min(job.records)).for_each(|number| copy.execution(&result(number)));
        batches.push(copy);
    }
    let started = Instant::now();
    for batch in &batches {
        let statement = format!("copy executions ({EXECUTION_COLUMNS}) from stdin");
        let mut sink = connection.copy_in_raw(&statement).await.map_err(|e| e.to_string())?;
        sink.send(batch.as_bytes()).await.map_err(|e| e.to_string())?;
        sink.finish().await.map_err(|e| e.to_string())?;
    }
    Ok(Figures::new(&[("rate", job.records as f64 / started.elapsed().as_secs_f64())]))
}

fn fill(job: &ProjectJob, namespace: &str) -> Outcome<()> {
    let codec = Codec::embedded();
    let producer: BaseProducer = Job::new(&job.kafka, "fill")
        .producer("fill")
        .set("delivery.report.only.error", "true")
        .create()
        .map_err(|e| e.to_string())?;
    let topic = match job.rows {
        Rows::Facts => format!("{namespace}.kpi-facts"),
        Rows::Executions | Rows::Copied => format!("{namespace}.executions"),
    };
    for number in 0..job.records {
        let (key, value) = (
            format!("cus_{:014}", number % 10_007),
            match job.rows {
                Rows::Facts => codec.fact(&fact(number)),
                Rows::Executions | Rows::Copied => codec.execution(&result(number)),
            },
        );
        send(&producer, BaseRecord::to(&topic).key(key.as_bytes()).payload(&value[..]))?;
    }
    producer.flush(Duration::from_secs(60)).map_err(|e| e.to_string())
}

/// Everything is there once: the rows by their number, the facts by their sum.
async fn check(job: &ProjectJob, connection: &mut PgConnection) -> Outcome<()> {
    let (statement, wanted) = match job.rows {
        Rows::Executions | Rows::Copied => {
            ("select count(*)::text from executions".to_owned(), job.records.to_string())
        }
        Rows::Facts => {
            let sum: u64 = (0..job.records).map(|number| number % 1_000).sum();
            (
                "select sum(value)::text from kpi_values where kpi = 'revenue' and window_size = '1h'"
                    .to_owned(),
                sum.to_string(),
            )
        }
    };
    let found: Option<String> = sqlx::query_scalar(AssertSqlSafe(statement))
        .fetch_one(connection)
        .await
        .map_err(|e| e.to_string())?;
    if found.as_deref() == Some(&wanted) {
        Ok(())
    } else {
        Err(format!("Postgres has {found:?}, expected {wanted}"))
    }
}

fn began() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).unwrap_or_default()
}

fn fact(number: u64) -> KpiFact {
    let currency = CURRENCIES[(number % 3) as usize];
    KpiFact {
        fact: "payment".to_owned(),
        value: Decimal::from(number % 1_000),
        time: began() + TimeDelta::milliseconds(number as i64 * 10),
        dimensions: BTreeMap::from([("currency".to_owned(), currency.to_owned())]),
        pipeline: "bench".to_owned(),
        tenant: None,
        topic: "events.stripe".to_owned(),
        partition: (number % 12) as i32,
        offset: (number / 12) as i64,
    }
}

fn result(number: u64) -> ExecutionResult {
    let began = began() + TimeDelta::milliseconds(number as i64);
    ExecutionResult {
        pipeline: "stripe-payments".to_owned(),
        outcome: if number.is_multiple_of(5) { Ended::Filtered } else { Ended::Succeeded },
        stage: number.is_multiple_of(5).then(|| "live".to_owned()),
        error_class: None,
        error: None,
        attempts: 1,
        event_id: format!("evt_{number:020}"),
        event_source: "stripe".to_owned(),
        event_type: "charge.succeeded".to_owned(),
        tenant: None,
        topic: "events.stripe".to_owned(),
        partition: (number % 12) as i32,
        offset: (number / 12) as i64,
        event_time: began,
        started_at: began,
        duration_us: 35,
        records_out: 1,
        config_hash: "0123456789abcdef".to_owned(),
    }
}

fn project(namespace: &str) -> Outcome<Project> {
    let project = Project::new()?;
    let input = format!("{namespace}-in");
    project.topic(&input, PARTITIONS)?;
    let pipeline = format!(
        "description: States the facts that the benchmark writes\ninput:\n  topics: [{input}]\nstages:\n  - id: count\n    \
         kpi: {{fact: payment, value: .amount, time: .paid_at, dimensions: {{currency: .currency}}}}\n"
    );
    project.file(&format!("pipelines/{namespace}.yaml"), &pipeline)?;
    let kpi = "fact: payment\naggregate: sum\nwindows: [1m, 1h, 1d]\ndimensions: [currency]\n\
               time_zone: Europe/Madrid\nlateness: 2d\n";
    project.file("kpis/revenue.yaml", kpi)?;
    Ok(project)
}
