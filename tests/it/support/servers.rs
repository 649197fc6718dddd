//! The servers that the scenarios run against: real ones, named by the environment, or the development broker in this
//! process and a real Postgres.

use std::io::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use millrace::devbroker::{Broker, Settings};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sqlx::Connection as _;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};

fn required(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} names no server; run ./scripts/test, which starts what the scenarios need")
    })
}

/// The broker of this process, when the scenarios run on the development broker.
static DEVELOPMENT: LazyLock<Option<Broker>> = LazyLock::new(|| {
    let wanted = std::env::var("MILLRACE_TEST_BROKER").is_ok_and(|broker| broker == "development");
    wanted.then(|| Broker::start(Settings::default()).expect("a development broker starts"))
});

/// Bootstrap servers: of the development broker if `MILLRACE_TEST_BROKER` is `development`, else of a real Kafka.
pub fn kafka() -> String {
    DEVELOPMENT
        .as_ref()
        .map_or_else(|| required("MILLRACE_TEST_KAFKA"), |broker| broker.address().to_string())
}

/// Address of a real schema registry; on the development broker there is none, and the schemas are embedded.
pub fn registry() -> Option<String> {
    DEVELOPMENT.is_none().then(|| required("MILLRACE_TEST_REGISTRY"))
}

/// How many events a large scenario takes: `proof` on real Kafka, `edit` on the development broker, where the
/// scenarios are for every edit and prove no guarantee.
pub fn amount<N>(proof: N, edit: N) -> N {
    if DEVELOPMENT.is_some() { edit } else { proof }
}

/// Whether a scenario can only run on real servers, and does not run now. Says so past the test runner, which
/// swallows what tests print; `scripts/test` counts these lines.
pub fn only_on_real_servers(scenario: &str, reason: &str) -> bool {
    let skipped = DEVELOPMENT.is_some();
    if skipped {
        let line = format!("not on the development broker: {scenario}: {reason}\n");
        std::io::stderr().write_all(line.as_bytes()).expect("standard error is open");
    }
    skipped
}

/// Address of a real Postgres whose role may create databases.
pub fn postgres() -> String {
    required("MILLRACE_TEST_POSTGRES")
}

/// A word that no other test and no earlier run uses.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8])
}

/// A database of this test's own.
pub struct Database {
    /// Its address.
    pub url: String,
    /// Connections to it.
    pub pool: PgPool,
}

/// Creates a database named after `name`.
pub async fn database(name: &str) -> Database {
    let base = postgres();
    let name = name.replace('-', "_");
    let mut admin = PgConnection::connect(&base).await.expect("Postgres answers");
    sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}")))
        .execute(&mut admin)
        .await
        .expect("the role may create databases");
    let (address, _) = base.rsplit_once('/').expect("the address names a database");
    let url = format!("{address}/{name}");
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(Duration::from_secs(20))
        .connect(&url)
        .await
        .expect("the new database answers");
    Database { url, pool }
}

/// Creates topics directly, for scenarios that do not use `millrace apply`.
pub async fn create_topics(topics: &[(&str, i32)]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka()).create().expect("an admin client can be made");
    let specs: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|(name, partitions)| NewTopic::new(name, *partitions, TopicReplication::Fixed(1)))
        .collect();
    let results = admin.create_topics(&specs, &AdminOptions::new()).await.expect("Kafka answers");
    for result in results {
        result.unwrap_or_else(|(topic, code)| panic!("topic {topic} could not be created: {code}"));
    }
}

/// Deletes the records of the partitions of `topic` before `offset`, as retention does; of those that end before it,
/// all.
pub async fn delete_records(topic: &str, partitions: i32, offset: i64) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka()).create().expect("an admin client can be made");
    let mut offsets = TopicPartitionList::new();
    for partition in 0..partitions {
        let (_, end) =
            admin.inner().fetch_watermarks(topic, partition, Duration::from_secs(10)).expect("Kafka answers");
        offsets.add_partition_offset(topic, partition, Offset::Offset(offset.min(end))).expect("an offset");
    }
    let deleted = admin.delete_records(&offsets, &AdminOptions::new()).await.expect("Kafka answers");
    for element in deleted.elements() {
        element.error().expect("the records are deleted");
    }
}
