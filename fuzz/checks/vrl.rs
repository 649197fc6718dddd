//! Whatever a program says, it is compiled or refused with reasons that stand in the file; a condition gives true or
//! false or a fault; a program that fails leaves the value as it was.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use chrono::DateTime;
use millrace::expr::Value;
use millrace::expr::program::{self, Program};
use millrace::expr::scope::{Payload, Scope};
use millrace::expr::types::Types;
use millrace::fault::FaultClass;
use millrace::record::{Header, InRecord};
use millrace::yaml::lint::{Lints, SourceFile};
use millrace::yaml::node;

use super::config::stands_in_its_file;

/// Values of the events that programs run on: as they should be, of other types, nothing, and no JSON.
const VALUES: [Option<&str>; 4] = [
    Some(
        r#"{"id":"evt_1","cents":4200,"ratio":0.5,"live":true,"note":null,"at":"2026-11-23T13:00:00Z","tags":["a","b"],"customer":{"email":"ada@example.com","name":"Ada"}}"#,
    ),
    Some(r#"{"id":7,"cents":"x","tags":{},"customer":[],"live":"é"}"#),
    None,
    Some("{"),
];

/// What the schema of a topic would tell of [`VALUES`]' first, and of nothing else.
static TYPED: LazyLock<Types> = LazyLock::new(|| {
    Types::of_avro_schema(&serde_json::json!({"type": "record", "name": "Event", "fields": [
        {"name": "id", "type": "string"},
        {"name": "cents", "type": "long"},
        {"name": "ratio", "type": "double"},
        {"name": "live", "type": "boolean"},
        {"name": "note", "type": ["null", "string"]},
        {"name": "at", "type": "string"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "customer", "type": {"type": "record", "name": "Customer", "fields": [
            {"name": "email", "type": "string"}, {"name": "name", "type": "string"}]}},
    ]}))
});

/// Input: a byte for what the program is (condition, expression, program; types known or not), and its text.
pub fn check(input: &[u8]) {
    let Some((choice, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let is_typed = choice & 1 == 1;
    let lines: String = text.lines().map(|line| format!("  {line}\n")).collect();
    let file = SourceFile { path: PathBuf::from("pipelines/a.yaml"), text: format!("|2\n{lines}") };
    let mut lints = Lints::default();
    let Some(node) = node::parse(&Arc::new(file), &mut lints) else {
        assert!(lints.has_errors(), "refused without a word");
        return;
    };
    let mut types = if is_typed { TYPED.clone() } else { Types::default() };
    types.add_stage("lookup");
    let kind = (choice >> 1) % 3;
    let program = match kind {
        0 => program::compile_condition(&node, &types, &mut lints),
        1 => program::compile_expression(&node, &types, &mut lints),
        _ => program::compile_program(&node, &mut types, &mut lints),
    };
    lints.0.iter().for_each(stands_in_its_file);
    assert_eq!(program.is_none(), lints.has_errors(), "refused without a word, or taken in spite of errors");
    let Some(program) = program else { return };
    // Where types are known, only values of these types occur.
    for value in if is_typed { &VALUES[..1] } else { &VALUES } {
        run(&program, kind, *value);
    }
}

fn run(program: &Program, kind: u8, value: Option<&'static str>) {
    let record = InRecord {
        topic: Arc::from("in"),
        partition: 3,
        offset: 7,
        timestamp_ms: Some(1_700_000_000_000),
        key: Some(Bytes::from_static(b"cus_1")),
        value: value.map(|text| Bytes::from_static(text.as_bytes())),
        headers: vec![Header::of("ce_id", "evt_1"), Header::of("ce_type", "order.paid")],
    };
    let mut scope = Scope::new(&record, DateTime::UNIX_EPOCH);
    let fault = match kind {
        0 => match program.evaluate(&mut scope) {
            Ok(value) => {
                assert!(matches!(value, Value::Boolean(_)), "a condition gives {value}");
                None
            }
            Err(fault) => Some(fault),
        },
        1 => program.evaluate(&mut scope).err(),
        _ => program.transform(&mut scope).err(),
    };
    let is_unchanged = matches!(scope.payload(), Ok(Payload::Original(raw)) if raw == record.value.as_ref());
    assert!(is_unchanged || (kind > 1 && fault.is_none()), "the value is changed");
    let Some(fault) = fault else { return };
    assert!(!fault.message.is_empty());
    let is_broken = value == Some("{");
    match fault.class {
        FaultClass::Poison => assert!(is_broken, "{}", fault.message),
        FaultClass::Bug | FaultClass::Permanent => {
            assert!(fault.message.starts_with("pipelines/a.yaml:"), "{}", fault.message);
        }
        class => panic!("a program cannot fail so: {class:?}"),
    }
}
