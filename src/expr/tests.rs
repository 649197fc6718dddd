use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde_json::json;

use crate::expr::program::{self, Program};
use crate::expr::scope::{Payload, Scope};
use crate::expr::types::Types;
use crate::expr::{Kind, Value, values};
use crate::fault::{Fault, FaultClass};
use crate::record::{Header, InRecord};
use crate::yaml::lint::{Lints, SourceFile};
use crate::yaml::node::{self, Node, Yaml};

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_764_000_000, 0).unwrap()
}

fn record(value: Option<&str>) -> InRecord {
    InRecord {
        topic: "events.shop".into(),
        partition: 3,
        offset: 42,
        timestamp_ms: Some(1_700_000_000_123),
        key: Some(Bytes::from_static(b"cus_1")),
        value: value.map(|text| Bytes::from(text.to_owned())),
        headers: vec![Header::of("ce_type", "order.paid"), Header::of("ce_source", "shop")],
    }
}

/// The value in a file of one mapping with one key.
fn program_node(text: &str) -> Node {
    parsed(text).expect("YAML")
}

fn parsed(text: &str) -> Option<Node> {
    let file = Arc::new(SourceFile { path: PathBuf::from("pipelines/a.yaml"), text: text.to_owned() });
    let root = node::parse(&file, &mut Lints::default())?;
    let Yaml::Map(mut entries) = root.value else { panic!("a mapping") };
    Some(entries.remove(0).1)
}

fn block(program: &str) -> Node {
    let indented: String = program.lines().map(|line| format!("  {line}\n")).collect();
    program_node(&format!("map: |\n{indented}"))
}

fn expression(text: &str) -> Result<Program, Lints> {
    let mut lints = Lints::default();
    program::compile_expression(&block(text), &Types::default(), &mut lints).ok_or(lints)
}

fn evaluate(text: &str, value: &str) -> Result<Value, Fault> {
    let record = record(Some(value));
    let mut scope = Scope::new(&record, now());
    expression(text).unwrap().evaluate(&mut scope)
}

/// The value after a program, as JSON.
fn transform(text: &str, value: &str) -> Result<serde_json::Value, Fault> {
    let record = record(Some(value));
    let mut scope = Scope::new(&record, now());
    let mut lints = Lints::default();
    let program = program::compile_program(&block(text), &mut Types::default(), &mut lints);
    program.unwrap_or_else(|| panic!("{lints:?}")).transform(&mut scope)?;
    Ok(values::to_json(scope.value().unwrap()))
}

#[test]
fn expressions_read_value_and_metadata() {
    assert_eq!(evaluate(".a.b + 1 ?? 0", r#"{"a": {"b": 2}}"#), Ok(Value::Integer(3)));
    let metadata =
        r#"join!([%id, %source, %type, %key, %topic, to_string(%partition), to_string(%offset)], " ")"#;
    assert_eq!(
        evaluate(metadata, "no JSON at all").unwrap().to_string_lossy(),
        "events.shop/3/42 shop order.paid cus_1 events.shop 3 42"
    );
    assert_eq!(evaluate("to_unix_timestamp(%time)", "{}"), Ok(Value::Integer(1_700_000_000)));
    assert_eq!(evaluate(".tenant == %tenant", "{}"), Ok(Value::Boolean(true)));
    assert_eq!(evaluate("%headers.ce_type", "{}"), Ok(Value::from("order.paid")));
    let all = evaluate("%", "{}").unwrap();
    assert_eq!(all.as_object().unwrap().len(), 11);
}

#[test]
fn an_expression_that_only_reads_metadata_does_not_decode() {
    let record = record(Some("{broken"));
    let mut scope = Scope::new(&record, now());
    let program = expression(r#"%type == "order.paid""#).unwrap();
    assert!(!program.reads_value());
    assert_eq!(program.holds(&mut scope), Ok(true));
    assert!(matches!(scope.payload(), Ok(Payload::Original(Some(raw))) if raw == "{broken"));
}

#[test]
fn what_is_no_json_is_poison_without_its_content() {
    for text in ["{broken secret", "", "1e400", &"[".repeat(200)] {
        let fault = evaluate(".a", text).unwrap_err();
        assert_eq!(fault.class, FaultClass::Poison, "{text}");
        assert!(!fault.message.contains("secret"), "{}", fault.message);
    }
}

#[test]
fn untouched_values_keep_their_bytes() {
    let text = r#"{ "b": 1.10, "a": 12345678901234567890123 }"#;
    let record = record(Some(text));
    let mut scope = Scope::new(&record, now());
    expression(".b > 1 ?? false").unwrap().evaluate(&mut scope).unwrap();
    assert!(matches!(scope.payload(), Ok(Payload::Original(Some(raw))) if raw == text));
}

#[test]
fn a_tombstone_is_null() {
    let record = record(None);
    let mut scope = Scope::new(&record, now());
    assert_eq!(expression("is_null(.)").unwrap().evaluate(&mut scope), Ok(Value::Boolean(true)));
    assert!(matches!(scope.payload(), Ok(Payload::Original(None))));
}

#[test]
fn programs_change_the_value() {
    assert_eq!(transform(".total = 1", r#"{"a": 1}"#), Ok(json!({"a": 1, "total": 1})));
    assert_eq!(transform(". = {\"id\": .a}", r#"{"a": "x"}"#), Ok(json!({"id": "x"})));
    assert_eq!(transform("del(.a)", r#"{"a": 1, "b": 2}"#), Ok(json!({"b": 2})));
}

#[test]
fn a_failed_program_names_its_line_and_changes_nothing() {
    let record = record(Some(r#"{"a": "x"}"#));
    let mut scope = Scope::new(&record, now());
    let mut lints = Lints::default();
    let node = block(".b = 1\n.c = int!(.a)");
    let program = program::compile_program(&node, &mut Types::default(), &mut lints).unwrap();
    let fault = program.transform(&mut scope).unwrap_err();
    assert_eq!(fault.class, FaultClass::Bug);
    assert_eq!(fault.message, "pipelines/a.yaml:3: int: expected integer, got string");
    assert!(matches!(scope.payload(), Ok(Payload::Original(Some(raw))) if raw == r#"{"a": "x"}"#));

    let mut scope = Scope::new(&record, now());
    program::compile_program(&block(".b = 1"), &mut Types::default(), &mut lints)
        .unwrap()
        .transform(&mut scope)
        .unwrap();
    program.transform(&mut scope).unwrap_err();
    assert_eq!(values::to_json(scope.value().unwrap()), json!({"a": "x", "b": 1}));
}

#[test]
fn abort_is_the_authors_decision() {
    let fault = transform("if .a == 1 { abort \"no orders on Sunday\" }\n.b = 1", r#"{"a": 1}"#).unwrap_err();
    assert_eq!(fault.class, FaultClass::Permanent);
    assert_eq!(fault.message, "pipelines/a.yaml:2: aborted: no orders on Sunday");
}

#[test]
fn a_program_cannot_run_for_ever() {
    let list = serde_json::to_string(&vec![0; 3_000]).unwrap();
    let program =
        "n = 0\nfor_each(array!(.)) -> |_, _a| { for_each(array!(.)) -> |_, _b| { n = n + 1 } }\n.n = n";
    let fault = transform(program, &list).unwrap_err();
    assert_eq!(fault.class, FaultClass::Bug);
    assert!(fault.message.contains("steps"), "{}", fault.message);
}

#[track_caller]
fn refused(node: &Node, code: &str, line_column: (usize, usize), says: &str) {
    let mut lints = Lints::default();
    assert!(program::compile_expression(node, &Types::default(), &mut lints).is_none(), "compiles");
    let found = lints.0.iter().find(|lint| lint.code == code).unwrap_or_else(|| panic!("{lints:?}"));
    assert_eq!(found.span.line_column(), line_column, "{lints:?}");
    let whole = format!("{} | {}", found.message, found.help);
    assert!(whole.contains(says), "{whole}");
}

#[test]
fn mistakes_stand_where_they_were_made() {
    refused(&block(".a = 1"), "bad-expression", (2, 3), "only reads");
    refused(&block("x = 1\nupcasee(.a)"), "bad-expression", (3, 3), "upcase");
    refused(&block("upcase(.a)"), "bad-expression", (2, 10), "");
    refused(&block("int(.a) +"), "bad-expression", (2, 12), "");
    refused(&block("%ofset == 1"), "unknown-metadata", (2, 3), "did you mean `%offset`");
    refused(&block("%stages.a == 1"), "unknown-stage-id", (2, 3), "no stage `a` answers before this");
    refused(&program_node("filter: ''"), "wrong-type", (1, 9), "expression");
    refused(&program_node("filter: [1]"), "wrong-type", (1, 9), "expression");
    for function in ["get_env_var(\"HOME\")", "log(\"x\")", "dns_lookup(\"a\")", "http_request(\"http://a\")"]
    {
        refused(&block(function), "bad-expression", (2, 3), "undefined function");
    }
    for deep in
        ["(".repeat(5_000), format!("{}true", "!".repeat(5_000)), format!("\"{}\"", "x".repeat(40_000))]
    {
        refused(&block(&deep), "bad-expression", (2, 3), "at most");
    }
}

#[test]
fn a_condition_is_boolean() {
    let mut lints = Lints::default();
    assert!(program::compile_condition(&block(".live == true"), &Types::default(), &mut lints).is_some());
    assert!(program::compile_condition(&block(".live"), &Types::default(), &mut lints).is_none());
    assert_eq!(lints.0.last().unwrap().code, "not-a-condition");
}

#[test]
fn types_follow_the_programs() {
    let mut types = Types::default();
    let mut lints = Lints::default();
    program::compile_program(&block(". = {\"n\": int!(.n), \"s\": to_string!(.s)}"), &mut types, &mut lints)
        .unwrap();
    // Without the types both would have to be handled.
    assert!(
        program::compile_condition(&block(".n > 3 && upcase(.s) == \"A\""), &types, &mut lints).is_some()
    );
    let schema = json!({
        "type": "object", "required": ["name"],
        "properties": {"name": {"$ref": "#/$defs/word"}, "nick": {"type": "string"}},
        "$defs": {"word": {"type": "string"}}
    });
    let types = Types::of_json_schema(&schema);
    assert!(program::compile_expression(&block("upcase(.name)"), &types, &mut lints).is_some(), "{lints:?}");
    assert!(program::compile_expression(&block("upcase(.nick)"), &types, &mut lints).is_none());
    let schema = json!({"type": "record", "name": "a", "fields": [
        {"name": "id", "type": "string"}, {"name": "n", "type": ["null", "long"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ]});
    let mut lints = Lints::default();
    let types = Types::of_avro_schema(&schema);
    assert!(program::compile_expression(&block("upcase(.id)"), &types, &mut lints).is_some(), "{lints:?}");
    assert!(program::compile_expression(&block(".n + 1"), &types, &mut lints).is_none());
    assert!(program::compile_expression(&block("(int(.n) ?? 0) + 1"), &types, &mut lints).is_some());
}

#[test]
fn schemas_that_refer_to_themselves_end() {
    let schema =
        json!({"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"});
    assert!(Types::of_json_schema(&schema).value().contains_array());
    assert_eq!(*Types::of_json_schema(&json!({"$ref": "#"})).value(), Kind::json());
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        // Halves and quarters: the parser reads them exactly, and so can be asked for equality.
        any::<i32>().prop_map(|quarters| (f64::from(quarters) / 4.0).into()),
        ".{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            proptest::collection::btree_map("[a-d]{1,2}", inner, 0..5)
                .prop_map(|fields| fields.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

/// Whether a value is of a kind, field by field.
fn admits(kind: &Kind, value: &Value) -> bool {
    match value {
        Value::Null => kind.contains_null(),
        Value::Boolean(_) => kind.contains_boolean(),
        Value::Integer(_) => kind.contains_integer(),
        Value::Float(_) => kind.contains_float(),
        Value::Array(items) => {
            let known = kind.as_array();
            known.is_some_and(|known| items.iter().all(|item| admits(&known.unknown_kind(), item)))
        }
        Value::Object(fields) => kind.as_object().is_some_and(|known| {
            let unknown = known.unknown_kind();
            let of = |name: &str| known.known().get(&name.into()).unwrap_or(&unknown);
            let has = |name: &str| fields.contains_key(name);
            fields.iter().all(|(name, value)| admits(of(name.as_str()), value))
                && known.known().iter().all(|(name, kind)| kind.contains_undefined() || has(name.as_str()))
        }),
        _ => kind.contains_bytes(),
    }
}

proptest! {
    #[test]
    fn json_survives_the_language(json in any_json()) {
        prop_assert_eq!(values::to_json(&values::from_json(json.clone())), json.clone());
        let text = serde_json::to_vec(&json).unwrap();
        let value = values::from_json_bytes(&text).unwrap();
        let again = values::to_json_bytes(&value).unwrap();
        prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&again).unwrap(), values::to_json(&value));
    }

    #[test]
    fn no_bytes_break_a_program(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut record = record(None);
        record.value = Some(Bytes::from(text.clone()));
        record.key = Some(Bytes::from(text));
        let mut scope = Scope::new(&record, now());
        let _ = expression("[., %key, .a[0].b]").unwrap().evaluate(&mut scope);
    }

    #[test]
    fn no_text_breaks_the_compiler(text in "[a-z.%!(){}\\[\\]|&+*/<>=\"'#\\\\ 0-9\n,:;?éß-]{0,60}") {
        let mut lints = Lints::default();
        // A block that begins with blank lines, for one, is no YAML.
        let indented: String = text.lines().map(|line| format!("  {line}\n")).collect();
        let Some(node) = parsed(&format!("map: |\n{indented}")) else { return Ok(()) };
        let _ = program::compile_expression(&node, &Types::default(), &mut lints);
        let _ = program::compile_program(&node, &mut Types::default(), &mut lints);
        for lint in &lints.0 {
            prop_assert!(lint.span.start <= lint.span.end && lint.span.end <= lint.span.file.text.len());
            prop_assert!(lint.span.file.text.is_char_boundary(lint.span.start));
            prop_assert!(lint.span.file.text.is_char_boundary(lint.span.end));
        }
    }

    #[test]
    fn a_schema_claims_no_more_than_it_guarantees(json in any_json(), required in any::<bool>()) {
        let required: Vec<&str> = if required { vec!["a"] } else { vec![] };
        let schema = json!({
            "type": ["object", "array", "null", "integer"], "required": required,
            "properties": {"a": {"type": ["string", "integer", "array"], "items": {"type": "boolean"}},
                           "b": {"enum": [1, "x", null]}, "c": {"anyOf": [{"type": "object"}, {"const": 1}]}},
            "additionalProperties": {"type": ["number", "string"]},
            "items": {"type": ["string", "null"]},
        });
        let validator = jsonschema::validator_for(&schema).unwrap();
        if validator.is_valid(&json) {
            prop_assert!(admits(Types::of_json_schema(&schema).value(), &values::from_json(json.clone())), "{json}");
        }
    }
}
