//! `sql` and `dedupe` against a real Postgres: keys, rows, classes of faults.

use std::time::Duration;

use millrace::fault::FaultClass;
use millrace::postgres::dedupe::{self, Claim, DedupeTable, Sighting};
use millrace::postgres::{migrate, pool};
use millrace::stages::clock::Clock;
use millrace::stages::services::{DedupeStore, SqlService};
use serde_json::json;

use crate::support::servers;

async fn migrated(name: &str) -> servers::Database {
    let database = servers::database(&servers::unique(name)).await;
    migrate::run(&database.pool).await.expect("the migrations run");
    database
}

const HOUR: Duration = Duration::from_secs(3600);

fn sighting(partition: i32, offset: i64) -> Sighting {
    Sighting { topic: String::from("events"), partition, offset, element: String::new() }
}

fn claim(key: u8, (partition, offset): (i32, i64), ttl: Duration) -> Claim {
    let scope = String::from("leads/once");
    Claim { scope, key_hash: [key; 32], sighting: sighting(partition, offset), ttl }
}

/// The first bringer has its key: after a restart, and after another record has brought it too.
#[tokio::test]
async fn the_first_record_keeps_its_key_over_a_restart() {
    let database = migrated("dedupe").await;
    let clock = Clock::wall();
    let store = DedupeStore::Live(DedupeTable::new(database.pool.clone()));
    let mut said = Vec::new();
    for record in [(0, 1), (0, 2), (0, 1)] {
        said.push(store.claim(claim(7, record, HOUR), &clock).await.expect("known"));
    }
    drop(store);
    let again = pool::lazy(&database.url, "test", 2).expect("an address");
    let store = DedupeStore::Live(DedupeTable::new(again));
    for record in [(0, 1), (3, 1), (0, 2), (0, 1)] {
        said.push(store.claim(claim(7, record, HOUR), &clock).await.expect("known"));
    }
    assert_eq!(said, [true, false, true, true, false, false, true]);
    let element = Claim {
        sighting: Sighting { element: String::from("/1"), ..sighting(0, 1) },
        ..claim(7, (0, 1), HOUR)
    };
    assert!(!store.claim(element, &clock).await.expect("known"), "another element of the same record");
    let stored: (String, i32, i64) = sqlx::query_as("select topic, partition, \"offset\" from dedupe_keys")
        .fetch_one(&database.pool)
        .await
        .expect("one row");
    assert_eq!(stored, (String::from("events"), 0, 1));
}

/// Of many at once, in several processes, whose claims end in different partitions of the table, one gets the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_at_once_gets_the_key() {
    let database = migrated("dedupe_race").await;
    for key in 0..8 {
        let tables: Vec<DedupeTable> = (0..4)
            .map(|_| DedupeTable::new(pool::lazy(&database.url, "test", 2).expect("an address")))
            .collect();
        let claims = (0..64_u8).map(|number| {
            let ttl = Duration::from_secs(60 + u64::from(number % 5) * 86_400 * 7);
            tables[usize::from(number % 4)].claim(claim(key, (i32::from(number), 0), ttl))
        });
        let answers = futures_util::future::join_all(claims).await;
        let winners = answers.into_iter().filter(|answer| *answer.as_ref().expect("known")).count();
        assert_eq!(winners, 1, "key {key}");
    }
}

/// Thousands of claims, in the order of a partition, are answered as a map in memory does it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_claims_are_answered_as_the_model_says() {
    let database = migrated("dedupe_model").await;
    let live = DedupeStore::Live(DedupeTable::new(database.pool.clone()));
    let (model, clock) = (DedupeStore::memory(), Clock::wall());
    // A reprocessed stretch begins again in the middle of what was done.
    let mut offsets: Vec<i64> = (0..1_500).collect();
    offsets.extend(700..3_000);
    let claims: Vec<Claim> =
        offsets.iter().map(|offset| claim((offset * 7_919 % 211) as u8, (0, *offset), HOUR)).collect();
    let mut wanted = Vec::new();
    for claim in &claims {
        wanted.push(model.claim(claim.clone(), &clock).await.expect("known"));
    }
    let mut found = Vec::new();
    // Few enough that the runtime polls all of them in their order before it lets others have a turn.
    for poll in claims.chunks(50) {
        let asked = poll.iter().map(|claim| live.claim(claim.clone(), &clock));
        found
            .extend(futures_util::future::join_all(asked).await.into_iter().map(|told| told.expect("known")));
    }
    assert_eq!(found, wanted);
    let keys: i64 = sqlx::query_scalar("select count(*) from dedupe_keys")
        .fetch_one(&database.pool)
        .await
        .expect("a count");
    assert_eq!(keys, 211);
}

#[tokio::test]
async fn a_key_whose_time_is_over_is_free() {
    let database = migrated("dedupe_ttl").await;
    let table = DedupeTable::new(database.pool.clone());
    let short = Duration::from_millis(50);
    assert!(table.claim(claim(1, (0, 1), short)).await.expect("known"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(table.claim(claim(1, (0, 2), HOUR)).await.expect("known"));
    assert!(!table.claim(claim(1, (0, 1), HOUR)).await.expect("known"), "it is the other's now");
}

/// Keys that are over go with their partitions, and a look-up reads no partition that is over.
#[tokio::test]
async fn partitions_that_are_over_are_dropped_and_not_looked_at() {
    let database = migrated("dedupe_partitions").await;
    let table = DedupeTable::new(database.pool.clone());
    let day = Duration::from_secs(86_400);
    for (number, ttl) in [HOUR, 3 * day, 10 * day, 30 * day, 390 * day].into_iter().enumerate() {
        let key = u8::try_from(number).expect("few");
        assert!(table.claim(claim(key, (0, 1), ttl)).await.expect("known"));
    }
    let partitions = "select count(*) from pg_inherits where inhparent in ('dedupe_keys_short'::regclass,
                                                                           'dedupe_keys_long'::regclass)";
    let count = async |statement: &'static str| -> i64 {
        sqlx::query_scalar(statement).fetch_one(&database.pool).await.expect("a count")
    };
    assert_eq!(count(partitions).await, 5);
    let plan: Vec<String> = sqlx::query_scalar(
        "explain (costs off) select * from dedupe_keys where key_hash = 'x' and scope = 's'
         and expires_at > now() + interval '8 days'",
    )
    .fetch_all(&database.pool)
    .await
    .expect("a plan");
    let looked_at = plan.iter().filter(|line| line.contains("Index Scan")).count();
    assert_eq!(looked_at, 3, "two of five partitions are left out:\n{}", plan.join("\n"));

    assert_eq!(dedupe::sweep(&database.pool).await.expect("swept"), 0, "nothing is over yet");
    let swept: i32 = sqlx::query_scalar("select dedupe_sweep(now() + interval '12 days')")
        .fetch_one(&database.pool)
        .await
        .expect("swept");
    assert_eq!((swept, count(partitions).await), (3, 2));
    assert_eq!(count("select count(*) from dedupe_keys").await, 2);
}

/// Keys of a database of the version before are taken along.
#[tokio::test]
async fn keys_of_the_version_before_are_taken_along() {
    let database = servers::database(&servers::unique("dedupe_before")).await;
    let before = include_str!("../../migrations/0100_dedupe.sql");
    let after = include_str!("../../migrations/0111_dedupe_partitions.sql");
    let insert = "insert into dedupe_keys values
        ('leads/once', decode(repeat('07', 32), 'hex'), 'events/2/41', now() + interval '1 hour'),
        ('leads/once', decode(repeat('08', 32), 'hex'), 'events/2/42/0/3', now() + interval '90 days'),
        ('leads/once', decode(repeat('09', 32), 'hex'), 'events/2/43', now() - interval '1 hour')";
    for statements in [before, insert, after] {
        sqlx::raw_sql(statements).execute(&database.pool).await.expect("it runs");
    }
    let table = DedupeTable::new(database.pool.clone());
    assert!(table.claim(claim(7, (2, 41), HOUR)).await.expect("known"));
    assert!(!table.claim(claim(7, (2, 44), HOUR)).await.expect("known"));
    let sighting = Sighting { element: String::from("/0/3"), ..sighting(2, 42) };
    assert!(table.claim(Claim { sighting, ..claim(8, (0, 0), HOUR) }).await.expect("known"));
    assert!(table.claim(claim(9, (2, 44), HOUR)).await.expect("known"), "its time was over");
}

#[tokio::test]
async fn without_postgres_nothing_passes() {
    let nowhere = pool::lazy("postgres://nobody@127.0.0.1:19699/none", "test", 1).expect("an address");
    let clock = Clock::wall();
    let store = DedupeStore::Live(DedupeTable::new(nowhere.clone()));
    let both = futures_util::future::join(
        store.claim(claim(1, (0, 1), HOUR), &clock),
        store.claim(claim(2, (0, 2), HOUR), &clock),
    );
    let (one, two) = both.await;
    for fault in [one.expect_err("nobody there"), two.expect_err("nobody there")] {
        assert_eq!(fault.class, FaultClass::Transient, "{fault}");
    }
    let sql = SqlService::Live(nowhere);
    let fault = sql.query("store", "select 1", &[]).await.expect_err("nobody there");
    assert_eq!(fault.class, FaultClass::Transient, "{fault}");
    let fault = SqlService::Absent.query("store", "select 1", &[]).await.expect_err("none named");
    assert_eq!(fault.class, FaultClass::Transient);
}

#[tokio::test]
async fn statements_give_rows_and_faults_by_class() {
    let database = migrated("sql").await;
    sqlx::query("create table contacts (id text primary key, score int check (score >= 0), at timestamptz)")
        .execute(&database.pool)
        .await
        .expect("a table");
    let sql = SqlService::Live(database.pool.clone());
    let insert = "insert into contacts values ($1, $2, $3) on conflict (id) do update set score = excluded.score returning id, score";
    let time = json!("2026-01-02T03:04:05Z");
    for score in [1, 2] {
        let rows = sql.query("store", insert, &[json!("a"), json!(score), time.clone()]).await.expect("rows");
        assert_eq!(json!(rows), json!([{ "id": "a", "score": score }]));
    }
    // A value is a value, whatever it says.
    let odd = json!("'; drop table contacts; --");
    sql.query("store", insert, &[odd.clone(), json!(3), json!(null)]).await.expect("rows");
    let rows = sql
        .query("store", "select id from contacts where id = $1", std::slice::from_ref(&odd))
        .await
        .expect("rows");
    assert_eq!(json!(rows), json!([{ "id": odd }]));

    for (statement, params) in [
        (insert, vec![json!("b"), json!(-1), json!(null)]),
        ("insert into contacts values ($1)", vec![json!("a")]),
        ("select * from nowhere", vec![]),
        ("select $1::int", vec![json!("no number")]),
    ] {
        let fault = sql.query("store", statement, &params).await.expect_err("refused");
        assert_eq!(fault.class, FaultClass::Permanent, "{statement}: {fault}");
        assert!(!fault.message.contains("no number"), "{fault}");
    }
}
