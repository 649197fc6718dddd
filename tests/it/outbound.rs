//! `sql` and `dedupe` against a real Postgres: keys, rows, classes of faults.

use std::time::Duration;

use millrace::fault::FaultClass;
use millrace::postgres::dedupe::DedupeTable;
use millrace::postgres::{migrate, pool};
use millrace::stages::clock::Clock;
use millrace::stages::services::{Claim, DedupeStore, SqlService};
use serde_json::json;

use crate::support::servers;

async fn migrated(name: &str) -> servers::Database {
    let database = servers::database(&servers::unique(name)).await;
    migrate::run(&database.pool).await.expect("the migrations run");
    database
}

fn claim<'a>(key: &'a [u8], owner: &'a str, ttl: Duration) -> Claim<'a> {
    Claim { scope: "leads/once", key_hash: key, owner, ttl }
}

#[tokio::test]
async fn the_first_record_keeps_its_key_over_a_restart() {
    let database = migrated("dedupe").await;
    let clock = Clock::wall();
    let hour = Duration::from_secs(3600);
    let store = DedupeStore::Live(DedupeTable::new(database.pool.clone()));
    let mut said = Vec::new();
    for owner in ["events/0/1", "events/0/2", "events/0/1"] {
        said.push(store.claim(&claim(b"a", owner, hour), &clock).await.expect("known"));
    }
    drop(store);
    let again = pool::lazy(&database.url, "test", 2).expect("an address");
    let store = DedupeStore::Live(DedupeTable::new(again));
    for owner in ["events/0/1", "events/3/1"] {
        said.push(store.claim(&claim(b"a", owner, hour), &clock).await.expect("known"));
    }
    assert_eq!(said, [true, false, true, true, false]);
}

#[tokio::test]
async fn one_of_many_at_once_gets_the_key() {
    let database = migrated("dedupe_race").await;
    let url = &database.url;
    let pool = pool::lazy(url, "test", 8).expect("an address");
    let table = std::sync::Arc::new(DedupeTable::new(pool));
    let tasks: Vec<_> = (0..64)
        .map(|number| {
            let table = std::sync::Arc::clone(&table);
            tokio::spawn(async move {
                let owner = format!("events/0/{number}");
                table.claim("s", b"same", &owner, Duration::from_secs(60)).await.expect("known")
            })
        })
        .collect();
    let mut winners = 0;
    for task in tasks {
        winners += u32::from(task.await.expect("no panic"));
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn a_key_whose_time_is_over_is_free_and_swept() {
    let database = migrated("dedupe_ttl").await;
    let table = DedupeTable::new(database.pool.clone());
    let short = Duration::from_millis(50);
    for key in [b"a", b"b"] {
        assert!(table.claim("s", key, "events/0/1", short).await.expect("known"));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(table.claim("s", b"a", "events/0/2", Duration::from_secs(60)).await.expect("known"));
    assert!(!table.claim("s", b"a", "events/0/1", Duration::from_secs(60)).await.expect("known"));
    assert_eq!(table.sweep().await.expect("swept"), 1);
    let left: i64 = sqlx::query_scalar("select count(*) from dedupe_keys")
        .fetch_one(&database.pool)
        .await
        .expect("a count");
    assert_eq!(left, 1);
}

#[tokio::test]
async fn without_postgres_nothing_passes() {
    let nowhere = pool::lazy("postgres://nobody@127.0.0.1:19699/none", "test", 1).expect("an address");
    let clock = Clock::wall();
    let store = DedupeStore::Live(DedupeTable::new(nowhere.clone()));
    let fault = store
        .claim(&claim(b"a", "events/0/1", Duration::from_secs(1)), &clock)
        .await
        .expect_err("nobody there");
    assert_eq!(fault.class, FaultClass::Transient, "{fault}");
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
