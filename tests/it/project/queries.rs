//! Parameterised queries, whose rows become JSON.

use millrace::fault::FaultClass;
use millrace::postgres::{pool, rows};
use serde_json::{Value, json};

use crate::support::servers;

#[tokio::test]
async fn parameters_take_the_statements_types_and_rows_become_objects() {
    let database = servers::database(&servers::unique("queries")).await;
    let pool = pool::lazy(&database.url, "tests", 2).expect("an address");
    let sql = "select $1::int + 1 as whole, $2::numeric as money, $3::timestamptz as at, $4::jsonb as doc, $5::text as word,
                      $6::date as day, $7::bool as yes, $8::text[] as list, $9::uuid as id, null::text as nothing";
    let params = [
        json!(41),
        json!("12.340"),
        json!("2026-11-23T13:00:00Z"),
        json!({"a": [1, null]}),
        json!("x\u{0}y"),
        json!("2026-11-23"),
        json!(true),
        json!(["a", null]),
        json!("6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
    ];
    let found = rows::query(&pool, sql, &params).await.expect("it runs");
    let wanted = json!({
        "whole": 42, "money": "12.340", "at": "2026-11-23T13:00:00Z", "doc": {"a": [1, null]}, "word": "x\u{fffd}y",
        "day": "2026-11-23", "yes": true, "list": ["a", null], "id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        "nothing": null,
    });
    assert_eq!(Value::Object(found.into_iter().next().expect("one row")), wanted);
    rows::query(&pool, "create table t (id int primary key, name text)", &[]).await.expect("it runs");
    let insert = "insert into t values ($1, $2) returning id";
    assert_eq!(rows::query(&pool, insert, &[json!(1), Value::Null]).await.expect("it runs").len(), 1);

    let fault = rows::query(&pool, insert, &[json!(1), Value::Null]).await.expect_err("the key is there");
    assert_eq!((fault.class, fault.code.as_deref()), (FaultClass::Permanent, Some("23505")));
    let fault = rows::query(&pool, insert, &[json!("one"), Value::Null]).await.expect_err("no number");
    assert_eq!(fault.to_string(), "parameter $1: a text is no int4");
    let fault = rows::query(&pool, insert, &[json!(1)]).await.expect_err("one too few");
    assert_eq!(fault.to_string(), "the statement has 2 parameters, 1 values were given");
}

#[tokio::test]
async fn a_server_that_is_away_is_a_transient_fault() {
    let pool = pool::lazy("postgres://nobody@127.0.0.1:1/none", "tests", 1).expect("an address");
    let fault = rows::query(&pool, "select 1", &[]).await.expect_err("nobody is there");
    assert_eq!(fault.class, FaultClass::Transient);
}
