//! Records that cannot be folded: kept with their reason, never a stop, never silent.

use chrono::Utc;
use millrace::schema::registry::Registry;
use millrace::schema::value::ValueSchema;
use rust_decimal::Decimal;
use sqlx::Row as _;

use crate::project::fixture::{Fixture, PAYMENT_SCHEMA, fact, payment_json, result};
use crate::support::servers;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_cannot_be_folded_are_kept_with_their_reason() {
    let fixture = Fixture::new("project-rejects").await;
    let running = fixture.start();
    let now = Utc::now();
    let executions = fixture.namespace.executions_topic();
    fixture.write_bytes(&executions, "k", Some(b"{\"not\": \"avro\"}"), None).await;
    fixture.write_bytes(&executions, "k", Some(&[0, 0x7f, 0xff, 0xff, 0xff, 1]), None).await;
    fixture.write_bytes(&executions, "k", None, None).await;
    fixture.write_results(&[result(1)], true).await;
    let mut far = payment_json("pay_1", 1);
    far["paid_at"] = serde_json::json!(6_249_000_000_000_000_000_i64);
    for number in 0..5 {
        fixture.write_payment("k", payment_json(&format!("good_{number}"), 1), now).await;
    }
    fixture.write_payment("k", far, now).await;
    fixture.write_payment("k", payment_json("pay_2", 2), now).await;
    let mut ahead = fact(0, 1, "EUR", now + chrono::Duration::days(2));
    ahead.value = Decimal::ONE;
    fixture.write_facts(&[ahead, fact(1, 250, "EUR", now)], true).await;
    fixture.caught_up(&running).await;
    running.stop().await;

    let rows =
        sqlx::query("select topic, reason, value_bytes from projector_rejects order by topic, \"offset\"")
            .fetch_all(&fixture.pool)
            .await
            .expect("the table can be read");
    let rows: Vec<(bool, String, Option<i64>)> =
        rows.iter().map(|row| (row.get::<String, _>(0) == *executions, row.get(1), row.get(2))).collect();
    assert_eq!(
        rows.iter().filter(|(is_execution, ..)| *is_execution).cloned().collect::<Vec<_>>(),
        [
            (true, String::from("undecodable"), Some(15)),
            (true, String::from("unknown_schema"), Some(6)),
            (true, String::from("tombstone"), None),
        ]
    );
    let others: Vec<&String> =
        rows.iter().filter(|(is_execution, ..)| !is_execution).map(|(_, reason, _)| reason).collect();
    assert_eq!(others, ["refused_by_postgres"], "a time in the year 200000 is none of Postgres'");
    let counts: (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from payments), (select count(*) from executions), (select count(*) from kpi_rejected)",
    )
    .fetch_one(&fixture.pool)
    .await
    .expect("the tables can be read");
    assert_eq!(counts, (6, 1, 1));
    let revenue: (Decimal, i64) = sqlx::query_as("select value, events from kpi_revenue_1d")
        .fetch_one(&fixture.pool)
        .await
        .expect("one row");
    assert_eq!(revenue, (Decimal::new(250, 2), 1));
}

/// A record of an earlier version of the schema is read by the registry's word, with defaults for what it lacks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_an_earlier_schema_is_read() {
    let reason = "earlier schemas are found through the registry";
    if servers::only_on_real_servers("a_record_of_an_earlier_schema_is_read", reason) {
        return;
    }
    let fixture = Fixture::new("project-evolution").await;
    let earlier = PAYMENT_SCHEMA
        .replace(",\n  {\"name\":\"note\",\"type\":[\"null\",\"string\"],\"default\":null}", "");
    assert_ne!(earlier, PAYMENT_SCHEMA);
    let registry = Registry::new(&servers::registry().expect("a registry is named")).expect("a client");
    let id = registry.register(&format!("{}-value", fixture.payments), &earlier).await.expect("registers");
    let writer = ValueSchema::parse(&earlier).expect("a schema").with_id(id);
    let mut value = payment_json("old_1", 5);
    value.as_object_mut().expect("an object").remove("note");
    let framed = writer.encode(&value).expect("fits");
    fixture.write_bytes(&fixture.payments, "k", Some(&framed), None).await;
    let running = fixture.start();
    fixture.caught_up(&running).await;
    running.stop().await;
    let row: (String, i64, Option<String>) = sqlx::query_as("select payment_id, amount, note from payments")
        .fetch_one(&fixture.pool)
        .await
        .expect("one row");
    assert_eq!(row, (String::from("old_1"), 5, None));
}
