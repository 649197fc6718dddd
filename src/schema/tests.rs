use std::collections::BTreeMap;
use std::sync::Arc;

use apache_avro::types::Value as Avro;
use chrono::{DateTime, Utc};
use proptest::prelude::*;
use rust_decimal::Decimal;
use serde_json::json;

use crate::ledger::{ExecutionResult, KpiFact, Outcome};
use crate::schema::codec::Codec;
use crate::schema::error::SchemaError;
use crate::schema::value::{ColumnType, ValueSchema};
use crate::schema::{framing, ledger};

fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).expect("the tests' times are in range")
}

fn execution() -> ExecutionResult {
    ExecutionResult {
        pipeline: String::from("stripe-payments"),
        outcome: Outcome::DeadLettered,
        stage: Some(String::from("store")),
        error_class: Some(String::from("permanent")),
        error: Some(String::from("400 größer")),
        attempts: 3,
        event_id: String::from("evt_1"),
        event_source: String::from("stripe"),
        event_type: String::from("payment_intent.succeeded"),
        tenant: None,
        topic: String::from("events.stripe"),
        partition: 11,
        offset: 1 << 40,
        event_time: time(1_790_000_000_123_456),
        started_at: time(-1),
        duration_us: 7_001,
        records_out: 2,
        config_hash: String::from("0123456789ab"),
    }
}

fn fact(value: Decimal) -> KpiFact {
    KpiFact {
        fact: String::from("payment"),
        value,
        time: time(1_790_000_000_000_001),
        dimensions: BTreeMap::from([
            (String::from("currency"), String::from("EUR")),
            (String::from("country"), String::new()),
        ]),
        pipeline: String::from("stripe-payments"),
        tenant: Some(String::from("acme")),
        topic: String::from("events.stripe"),
        partition: 0,
        offset: 0,
    }
}

/// What stock `apache-avro` reads of a datum.
fn stock(schema: &str, framed: &[u8]) -> BTreeMap<String, Avro> {
    let schema = apache_avro::Schema::parse_str(schema).expect("an embedded schema");
    let (_, mut datum) = framing::split(framed).expect("framed");
    let value = apache_avro::reader::datum::GenericDatumReader::builder(&schema)
        .build()
        .and_then(|reader| reader.read_value(&mut datum))
        .expect("stock Avro reads it");
    assert!(datum.is_empty(), "bytes left over");
    match value {
        Avro::Record(fields) => fields.into_iter().collect(),
        other => panic!("no record: {other:?}"),
    }
}

#[test]
fn stock_avro_reads_an_execution_result() {
    let fields = stock(ledger::EXECUTION_SCHEMA, &Codec::embedded().execution(&execution()));
    assert_eq!(fields["pipeline"], Avro::String(String::from("stripe-payments")));
    assert_eq!(fields["outcome"], Avro::Enum(2, String::from("dead_lettered")));
    assert_eq!(fields["stage"], Avro::Union(1, Box::new(Avro::String(String::from("store")))));
    assert_eq!(fields["error"], Avro::Union(1, Box::new(Avro::String(String::from("400 größer")))));
    assert_eq!(fields["tenant"], Avro::Union(0, Box::new(Avro::Null)));
    assert_eq!(fields["attempts"], Avro::Int(3));
    assert_eq!(fields["offset"], Avro::Long(1 << 40));
    assert_eq!(fields["event_time"], Avro::TimestampMicros(1_790_000_000_123_456));
    assert_eq!(fields["started_at"], Avro::TimestampMicros(-1));
    assert_eq!(fields["records_out"], Avro::Int(2));
    assert_eq!(fields.len(), 18);
}

#[test]
fn stock_avro_reads_a_fact() {
    let fields = stock(ledger::KPI_FACT_SCHEMA, &Codec::embedded().fact(&fact(Decimal::new(-4200, 2))));
    assert_eq!(
        fields["value"],
        Avro::Decimal(apache_avro::Decimal::from((-42_000_000_000_i64).to_be_bytes()))
    );
    let Avro::Map(dimensions) = &fields["dimensions"] else { panic!("no map") };
    assert_eq!(dimensions["currency"], Avro::String(String::from("EUR")));
    assert_eq!(dimensions.len(), 2);
}

#[test]
fn results_of_an_older_writer_are_read_by_resolution() {
    let older = ledger::EXECUTION_SCHEMA.replace(
        r#"{"name": "tenant", "type": ["null", "string"], "default": null},"#,
        r#"{"name": "gone", "type": "string"},"#,
    );
    let older = ValueSchema::parse(&older).expect("a schema").with_id(7);
    let reader = ValueSchema::parse(ledger::EXECUTION_SCHEMA).expect("a schema");
    let mut value = reader.read(&Codec::embedded().execution(&execution())[5..]).expect("our own bytes");
    let fields = value.as_object_mut().expect("a record");
    fields.remove("tenant");
    fields.insert(String::from("gone"), json!("x"));
    let written = older.encode(&value).expect("fits");
    let resolved = reader.resolve(&older, &written[5..]).expect("compatible");
    assert_eq!(ledger::execution(&resolved), Ok(execution()));
}

#[test]
fn broken_bytes_are_refused_without_a_panic() {
    let codec = Codec::embedded();
    let whole = codec.execution(&execution());
    for length in 0..whole.len() {
        assert!(codec.read_execution(&whole[..length]).is_err(), "{length} bytes");
    }
    let mut longer = whole.to_vec();
    longer.push(0);
    assert!(matches!(codec.read_execution(&longer), Err(SchemaError::Corrupt { .. })));
    let mut other = whole.to_vec();
    other[4] = 9;
    assert_eq!(codec.read_execution(&other), Err(SchemaError::UnknownSchema { id: 9 }));
    assert!(matches!(codec.read_execution(b"{}"), Err(SchemaError::Corrupt { .. })));
}

proptest! {
    #[test]
    fn any_execution_comes_back(
        texts in proptest::collection::vec(".{0,40}", 6),
        optional in proptest::option::of(".{0,20}"),
        numbers in (any::<i32>(), any::<i64>(), any::<i64>(), any::<i32>(), 0..=i32::MAX),
        micros in -60_000_000_000_000_000_i64..250_000_000_000_000_000,
    ) {
        let (partition, offset, duration_us, records_out, attempts) = numbers;
        let mut texts = texts.into_iter();
        let mut text = || texts.next().unwrap_or_default();
        let result = ExecutionResult {
            pipeline: text(), outcome: Outcome::Filtered, stage: optional.clone(), error_class: None,
            error: optional.clone(), attempts: attempts.unsigned_abs(), event_id: text(), event_source: text(),
            event_type: text(), tenant: optional, topic: text(), partition, offset, event_time: time(micros),
            started_at: time(0), duration_us, records_out, config_hash: text(),
        };
        let codec = Codec::embedded();
        prop_assert_eq!(codec.read_execution(&codec.execution(&result)), Ok(result));
    }

    #[test]
    fn any_fact_value_comes_back(mantissa in -79_228_162_514_264_337_593_543_950_335_i128..=79_228_162_514_264_337_593_543_950_335, scale in 0_u32..=9) {
        let value = Decimal::from_i128_with_scale(mantissa, scale);
        let codec = Codec::embedded();
        let framed = codec.fact(&fact(value));
        prop_assert_eq!(codec.read_fact(&framed), Ok(fact(value)));
        stock(ledger::KPI_FACT_SCHEMA, &framed);
    }

    #[test]
    fn noise_is_an_error_or_a_record_never_a_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let codec = Codec::embedded();
        let mut framed = framing::header(0).to_vec();
        framed.extend(noise);
        let _either = (codec.read_execution(&framed), codec.read_fact(&framed), all_types().read(&framed[5..]));
    }
}

#[test]
fn more_than_nine_decimals_are_rounded_half_to_even() {
    let codec = Codec::embedded();
    let read = |digits: i64| {
        let framed = codec.fact(&fact(Decimal::new(digits, 10)));
        codec.read_fact(&framed).expect("our own bytes").value
    };
    assert_eq!(read(25), Decimal::new(2, 9));
    assert_eq!(read(35), Decimal::new(4, 9));
}

fn all_types() -> ValueSchema {
    ValueSchema::parse(
        r#"{"type":"record","name":"All","fields":[
        {"name":"s","type":"string"},
        {"name":"l","type":"long"},
        {"name":"i","type":"int","default":7},
        {"name":"d","type":"double"},
        {"name":"b","type":"boolean"},
        {"name":"raw","type":"bytes"},
        {"name":"money","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
        {"name":"fixed","type":{"type":"fixed","name":"F","size":5,"logicalType":"decimal","precision":10,"scale":2}},
        {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
        {"name":"at_ms","type":["null",{"type":"long","logicalType":"timestamp-millis"}],"default":null},
        {"name":"day","type":{"type":"int","logicalType":"date"}},
        {"name":"id","type":{"type":"string","logicalType":"uuid"}},
        {"name":"tags","type":{"type":"array","items":"string"}},
        {"name":"labels","type":{"type":"map","values":["null","long"]}},
        {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["new","old"]}},
        {"name":"next","type":["null","All"],"default":null},
        {"name":"either","type":["string","long","boolean"]}
        ]}"#,
    )
    .expect("a schema")
}

fn all_values() -> serde_json::Value {
    json!({
        "s": "a", "l": 9_007_199_254_740_993_i64, "i": -1, "d": 0.5, "b": true, "raw": "AAE=", "money": "-42.10",
        "fixed": "12345678.90", "at": "2026-11-23T13:00:00.000001Z", "at_ms": "2026-11-23T13:00:00.500Z",
        "day": "2026-11-23", "id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "tags": ["x", "y"],
        "labels": {"a": 1, "b": null}, "kind": "old", "next": null, "either": 5,
    })
}

#[test]
fn json_goes_through_avro_and_back() {
    let schema = all_types();
    let mut value = all_values();
    let mut inner = all_values();
    inner["either"] = json!("text");
    value["next"] = inner;
    let framed = schema.encode(&value).expect("fits");
    assert_eq!(framing::split(&framed).map(|(id, _)| id), Ok(framing::EMBEDDED_ID));
    assert_eq!(schema.read(&framed[5..]), Ok(value));
    let parsed = apache_avro::Schema::parse_str(schema.text()).expect("a schema");
    let mut datum = &framed[5..];
    apache_avro::reader::datum::GenericDatumReader::builder(&parsed)
        .build()
        .and_then(|reader| reader.read_value(&mut datum))
        .expect("stock Avro reads it");
    assert!(datum.is_empty());
}

/// What a change of one field of a good value is answered with.
#[track_caller]
fn check_refused(field: &str, value: serde_json::Value, expected: &str) {
    let mut record = all_values();
    record[field] = value;
    let error = all_types().encode(&record).expect_err("refused");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_value_that_does_not_fit_is_named() {
    check_refused("s", json!(1), "field `s`: expected text, found the number 1");
    check_refused(
        "i",
        json!(3_000_000_000_i64),
        "field `i`: expected a whole number of 32 bits, found the number 3000000000",
    );
    check_refused("tags", json!(["x", 1]), "field `tags[1]`: expected text, found the number 1");
    check_refused(
        "labels",
        json!({"a": "x"}),
        "field `labels.a`: expected a whole number, found the text \"x\"",
    );
    check_refused("kind", json!("odd"), "field `kind`: expected one of new, old, found the text \"odd\"");
    check_refused(
        "money",
        json!("1.005"),
        "field `money`: expected a number of at most 10 digits, 2 of them decimals, found the text \"1.005\"",
    );
    check_refused(
        "at",
        json!("yesterday"),
        "field `at`: expected a time such as 2026-11-23T13:00:00Z, found the text \"yesterday\"",
    );
    check_refused(
        "at",
        json!("9999-12-31T23:59:59-23:00"),
        "field `at`: expected a time such as 2026-11-23T13:00:00Z, found the text \"9999-12-31T23:59:59-23:00\"",
    );
    check_refused(
        "either",
        json!(null),
        "field `either`: expected text or a whole number or a boolean, found null",
    );
    let mut record = all_values();
    record["amuont"] = json!(1);
    let error = all_types().encode(&record).expect_err("refused").to_string();
    assert!(error.starts_with("field `amuont` is not in the schema; known here: s, l, i"), "{error}");
}

#[test]
fn absent_fields_take_their_default_or_null() {
    let mut record = all_values();
    let fields = record.as_object_mut().expect("an object");
    fields.remove("i");
    fields.remove("at_ms");
    let schema = all_types();
    let back = schema.read(&schema.encode(&record).expect("fits")[5..]).expect("our own bytes");
    assert_eq!((&back["i"], &back["at_ms"]), (&json!(7), &json!(null)));
    record.as_object_mut().expect("an object").remove("l");
    let error = schema.encode(&record).expect_err("refused");
    assert_eq!(error.to_string(), "field `l`: expected a whole number, found nothing");
}

#[test]
fn columns_follow_the_fields() {
    let columns = all_types().columns().expect("a record");
    let kinds: Vec<(&str, ColumnType, bool)> =
        columns.iter().map(|column| (column.name.as_str(), column.kind, column.is_nullable)).collect();
    assert_eq!(
        kinds,
        [
            ("s", ColumnType::Text, false),
            ("l", ColumnType::BigInt, false),
            ("i", ColumnType::Integer, false),
            ("d", ColumnType::Double, false),
            ("b", ColumnType::Boolean, false),
            ("raw", ColumnType::Bytes, false),
            ("money", ColumnType::Numeric, false),
            ("fixed", ColumnType::Numeric, false),
            ("at", ColumnType::Timestamp, false),
            ("at_ms", ColumnType::Timestamp, true),
            ("day", ColumnType::Date, false),
            ("id", ColumnType::Uuid, false),
            ("tags", ColumnType::Json, false),
            ("labels", ColumnType::Json, false),
            ("kind", ColumnType::Text, false),
            ("next", ColumnType::Json, true),
            ("either", ColumnType::Json, false),
        ]
    );
}

#[tokio::test]
async fn a_codec_without_registry_reads_what_it_declared() {
    let codec = Codec::embedded();
    let schema = codec.declare("payments", all_types().text()).await.expect("a schema");
    let framed = schema.encode(&all_values()).expect("fits");
    assert_eq!(codec.read_value(&schema, &framed), Ok(all_values()));
    assert_eq!(codec.learn(3).await, Err(SchemaError::UnknownSchema { id: 3 }));
    assert_eq!(Arc::strong_count(&schema), 1);
}

#[test]
fn what_was_written_is_read_however_deep_it_nests() {
    let schema = ValueSchema::parse(
        r#"{"type":"record","name":"R","fields":[{"name":"next","type":["null","R"],"default":null}]}"#,
    )
    .expect("a schema");
    let mut value = json!({"next": null});
    for _ in 0..60 {
        value = json!({"next": value});
    }
    let framed = schema.encode(&value).expect("below the limit");
    assert_eq!(schema.read(&framed[5..]), Ok(value.clone()));
    for _ in 0..10 {
        value = json!({"next": value});
    }
    assert!(schema.encode(&value).is_err(), "a limit there is");
}

#[test]
fn a_leap_second_is_a_time_of_its_day() {
    let schema = ValueSchema::parse(
        r#"{"type":"record","name":"R","fields":[
        {"name":"ms","type":{"type":"int","logicalType":"time-millis"}},
        {"name":"us","type":{"type":"long","logicalType":"time-micros"}}]}"#,
    )
    .expect("a schema");
    let framed = schema.encode(&json!({"ms": "23:59:60", "us": "23:59:60.5"})).expect("times of day");
    let read = schema.read(&framed[5..]).expect("our own bytes");
    assert_eq!(read, json!({"ms": "23:59:59.999", "us": "23:59:59.999999"}));
    assert_eq!(schema.encode(&read), Ok(framed));
}

#[test]
fn few_bytes_do_not_become_many_nulls() {
    let schema = ValueSchema::parse(r#"{"type":"array","items":"null"}"#).expect("a schema");
    let nulls = |count: usize| json!(vec![serde_json::Value::Null; count]);
    // What may be written can be read, however few bytes it takes.
    let framed = schema.encode(&nulls(1_000)).expect("as many as may be");
    assert_eq!(schema.read(&framed[5..]), Ok(nulls(1_000)));
    let refused = schema.encode(&nulls(1_001)).expect_err("too many");
    assert_eq!(refused.to_string(), "field `.`: expected at most 1000 items without content, found a list");
    assert_eq!(schema.read(&[0x80, 0x40, 0]), Err(SchemaError::corrupt("a block of 4096 items in 1 bytes")));
    // Each block claims less than the limit.
    let blocks: Vec<u8> = [0x80, 0x04].repeat(1_000).into_iter().chain([0]).collect();
    assert!(matches!(schema.read(&blocks), Err(SchemaError::Corrupt { .. })));
}
