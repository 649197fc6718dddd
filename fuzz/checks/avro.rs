//! What is written is read back the same, whatever it is; bytes from elsewhere are an error or a value that can be
//! written and read back; no prefix of a record is a record.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use chrono::{DateTime, Utc};
use millrace::ledger::{ExecutionResult, KpiFact, Outcome};
use millrace::schema::codec::Codec;
use millrace::schema::error::SchemaError;
use millrace::schema::framing;
use millrace::schema::value::ValueSchema;
use rust_decimal::Decimal;
use serde_json::Value;

/// Every type that Millrace reads, a recursive one among them.
pub const ALL_TYPES: &str = r#"{"type":"record","name":"All","fields":[
    {"name":"s","type":"string","default":"-"},
    {"name":"l","type":["null","long"],"default":null},
    {"name":"i","type":"int","default":7},
    {"name":"d","type":"double","default":0.5},
    {"name":"f","type":["null","float"],"default":null},
    {"name":"b","type":"boolean","default":true},
    {"name":"raw","type":"bytes","default":""},
    {"name":"fix","type":{"type":"fixed","name":"Three","size":3},"default":"AAAA"},
    {"name":"money","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2},"default":"0"},
    {"name":"big","type":["null",{"type":"fixed","name":"Big","size":17,"logicalType":"decimal","precision":38,"scale":9}],"default":null},
    {"name":"at","type":["null",{"type":"long","logicalType":"timestamp-micros"}],"default":null},
    {"name":"at_ms","type":["null",{"type":"long","logicalType":"timestamp-millis"}],"default":null},
    {"name":"at_ns","type":["null",{"type":"long","logicalType":"timestamp-nanos"}],"default":null},
    {"name":"there","type":["null",{"type":"long","logicalType":"local-timestamp-millis"}],"default":null},
    {"name":"day","type":["null",{"type":"int","logicalType":"date"}],"default":null},
    {"name":"tod","type":["null",{"type":"int","logicalType":"time-millis"}],"default":null},
    {"name":"tod_us","type":["null",{"type":"long","logicalType":"time-micros"}],"default":null},
    {"name":"id","type":["null",{"type":"string","logicalType":"uuid"}],"default":null},
    {"name":"tags","type":{"type":"array","items":"string"},"default":[]},
    {"name":"none","type":{"type":"array","items":"null"},"default":[]},
    {"name":"labels","type":{"type":"map","values":["null","long"]},"default":{}},
    {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["new","old"]},"default":"new"},
    {"name":"next","type":["null","All"],"default":null},
    {"name":"either","type":["string","long","boolean",{"type":"array","items":"All"}],"default":"x"}
]}"#;

/// An older writer of [`ALL_TYPES`].
const OLDER: &str = r#"{"type":"record","name":"All","fields":[
    {"name":"s","type":"string"},
    {"name":"l","type":"int"},
    {"name":"gone","type":{"type":"map","values":"bytes"}},
    {"name":"tags","type":{"type":"array","items":"string"}},
    {"name":"next","type":["null","All"]}
]}"#;

static SCHEMA: LazyLock<ValueSchema> =
    LazyLock::new(|| ValueSchema::parse(ALL_TYPES).expect("a schema of ours"));
static WRITER: LazyLock<ValueSchema> = LazyLock::new(|| ValueSchema::parse(OLDER).expect("a schema of ours"));
static CODEC: LazyLock<Codec> = LazyLock::new(Codec::embedded);

/// Input: a byte for the kind of input, and the input.
pub fn check(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 8 {
        0 => results(rest),
        1 => facts(rest),
        2 => values(&SCHEMA, rest),
        3 => {
            if let Ok(datum) = SCHEMA.resolve(&WRITER, rest) {
                assert!(SCHEMA.read(&datum).is_ok(), "a datum of our schema is not read");
            }
            resolved_to_itself(&SCHEMA, rest);
        }
        4 => {
            if let Ok(value) = serde_json::from_slice::<Value>(rest) {
                json(&SCHEMA, &value);
            }
        }
        5 => schemas(rest),
        6 => {
            // Too few bytes to choose with: nothing to check.
            let _ = chosen(&mut Unstructured::new(rest));
        }
        _ => framed(rest),
    }
}

/// A framed record is taken apart as it was put together.
fn framed(bytes: &[u8]) {
    let read = (CODEC.read_execution(bytes), CODEC.read_fact(bytes));
    match framing::split(bytes) {
        Ok((id, datum)) => {
            assert_eq!([&framing::header(id)[..], datum].concat(), bytes);
            if id != framing::EMBEDDED_ID {
                let unknown = SchemaError::UnknownSchema { id };
                assert_eq!(read, (Err(unknown.clone()), Err(unknown)));
            }
        }
        Err(error) => assert_eq!(read, (Err(error.clone()), Err(error))),
    }
}

fn with_header(datum: &[u8]) -> Vec<u8> {
    [&framing::header(framing::EMBEDDED_ID)[..], datum].concat()
}

fn results(datum: &[u8]) {
    if let Ok(result) = CODEC.read_execution(&with_header(datum)) {
        assert_eq!(CODEC.read_execution(&CODEC.execution(&result)), Ok(result));
    }
}

fn facts(datum: &[u8]) {
    if let Ok(fact) = CODEC.read_fact(&with_header(datum)) {
        assert_eq!(CODEC.read_fact(&CODEC.fact(&fact)), Ok(fact));
    }
}

/// Values that no JSON stands for (a NaN, more digits than the schema says, a year above 9999) are read as what comes
/// nearest and are then refused at writing, with their field.
fn values(schema: &ValueSchema, datum: &[u8]) {
    let Ok(value) = schema.read(datum) else { return };
    match schema.encode(&value) {
        Ok(bytes) => assert_eq!(schema.read(&bytes[framing::HEADER_BYTES..]), Ok(value)),
        Err(SchemaError::Mismatch { field, .. }) => assert!(!field.is_empty()),
        Err(error) => panic!("what was read is refused: {error}"),
    }
}

/// What one schema makes of its own datum is the same value.
fn resolved_to_itself(schema: &ValueSchema, datum: &[u8]) {
    if let Ok(resolved) = schema.resolve(schema, datum) {
        assert_eq!(schema.read(&resolved).ok(), schema.read(datum).ok());
    }
}

/// What was written once is a form that stays.
fn json(schema: &ValueSchema, value: &Value) {
    let Ok(bytes) = schema.encode(value) else { return };
    let read = schema.read(&bytes[framing::HEADER_BYTES..]).expect("what was written is read");
    assert_eq!(schema.encode(&read), Ok(bytes), "{value} becomes {read}");
}

/// Input: a schema's text, a zero byte, a datum.
fn schemas(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let Ok(text) = std::str::from_utf8(&input[..end]) else { return };
    let Ok(schema) = ValueSchema::parse(text) else { return };
    assert_eq!(schema.text(), text);
    if let Ok(columns) = schema.columns() {
        assert!(columns.iter().all(|column| !column.name.is_empty()));
    }
    let datum = input.get(end + 1..).unwrap_or(b"");
    values(&schema, datum);
    resolved_to_itself(&schema, datum);
    // As somebody else's schema, on either side: it ends, with a datum or a reason.
    let _either = (SCHEMA.resolve(&schema, datum), schema.resolve(&SCHEMA, datum));
}

/// Records of the ledger made of choices: what is written is read, and no part of it is taken for the whole.
fn chosen(choices: &mut Unstructured<'_>) -> Result<()> {
    let cut = usize::from(choices.arbitrary::<u16>()?);
    let is_fact = choices.arbitrary::<bool>()?;
    let bytes = if is_fact {
        let fact = fact(choices)?;
        let bytes = CODEC.fact(&fact);
        assert_eq!(CODEC.read_fact(&bytes), Ok(fact));
        bytes
    } else {
        let result = result(choices)?;
        let bytes = CODEC.execution(&result);
        assert_eq!(CODEC.read_execution(&bytes), Ok(result));
        bytes
    };
    let part = &bytes[..cut % bytes.len()];
    assert!(if is_fact { CODEC.read_fact(part).is_err() } else { CODEC.read_execution(part).is_err() });
    Ok(())
}

fn time(choices: &mut Unstructured<'_>) -> Result<DateTime<Utc>> {
    Ok(DateTime::from_timestamp_micros(choices.arbitrary()?).unwrap_or(DateTime::UNIX_EPOCH))
}

fn result(choices: &mut Unstructured<'_>) -> Result<ExecutionResult> {
    Ok(ExecutionResult {
        pipeline: choices.arbitrary()?,
        outcome: *choices.choose(&[Outcome::Succeeded, Outcome::Filtered, Outcome::DeadLettered])?,
        stage: choices.arbitrary()?,
        error_class: choices.arbitrary()?,
        error: choices.arbitrary()?,
        attempts: choices.int_in_range(0..=i32::MAX.unsigned_abs())?,
        event_id: choices.arbitrary()?,
        event_source: choices.arbitrary()?,
        event_type: choices.arbitrary()?,
        tenant: choices.arbitrary()?,
        topic: choices.arbitrary()?,
        partition: choices.arbitrary()?,
        offset: choices.arbitrary()?,
        event_time: time(choices)?,
        started_at: time(choices)?,
        duration_us: choices.arbitrary()?,
        records_out: choices.arbitrary()?,
        config_hash: choices.arbitrary()?,
    })
}

fn fact(choices: &mut Unstructured<'_>) -> Result<KpiFact> {
    let mantissa =
        i128::from(choices.arbitrary::<i64>()?) * i128::from(choices.int_in_range(1..=4_000_000_000_u32)?);
    let scale = choices.int_in_range(0..=9)?;
    Ok(KpiFact {
        fact: choices.arbitrary()?,
        value: Decimal::try_from_i128_with_scale(mantissa, scale).unwrap_or_default().normalize(),
        time: time(choices)?,
        dimensions: choices.arbitrary::<BTreeMap<String, String>>()?,
        pipeline: choices.arbitrary()?,
        tenant: choices.arbitrary()?,
        topic: choices.arbitrary()?,
        partition: choices.arbitrary()?,
        offset: choices.arbitrary()?,
    })
}
