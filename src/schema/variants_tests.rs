use serde_json::{Value, json};

use crate::schema::effort::Effort;
use crate::schema::error::SchemaError;
use crate::schema::json::Encoder;
use crate::schema::path::Path;
use crate::schema::value::ValueSchema;

/// Two types that hold one another, and differ in the last of their fields: `A` has `a_kind` there, `B` has `b_kind`.
fn two(a_kind: &str, b_kind: &str) -> ValueSchema {
    let text = format!(
        r#"["null",
        {{"type":"record","name":"A","fields":[
            {{"name":"next","type":["null","A",
                {{"type":"record","name":"B","fields":[
                    {{"name":"next","type":["null","A","B"]}}, {b_kind}]}}]}}, {a_kind}]}},
        "B"]"#
    );
    ValueSchema::parse(&text).expect("a schema")
}

/// `value` inside of `levels` objects with the member `more`.
fn nested(levels: usize, value: Value, more: &Value) -> Value {
    (0..levels).fold(value, |next, _| {
        let mut object = more.clone();
        object["next"] = next;
        object
    })
}

/// The outcome, and how many values were put for it.
fn put(schema: &ValueSchema, value: &Value) -> (Result<usize, SchemaError>, usize) {
    let (effort, mut out) = (Effort::new(0), Vec::new());
    let named = schema.named();
    let result =
        Encoder { names: named.names, effort: &effort }.put(&mut out, named.schema, value, Path::ROOT);
    (result.map(|()| out.len()), effort.cost().steps)
}

#[test]
fn a_value_that_fits_no_variant_deep_inside_costs_no_more_for_its_depth() {
    // Nothing on the surface tells A and B apart: both hold any `next`, and any text.
    let text = r#"{"name":"n","type":{"type":"map","values":"string"}}"#;
    let number = r#"{"name":"n","type":{"type":"map","values":"long"}}"#;
    let schema = two(text, number);
    let value = nested(50, json!({"next": null, "n": {"x": true}}), &json!({"n": {}}));
    let (result, steps) = put(&schema, &value);
    let Err(SchemaError::Mismatch { field, expected, found }) = result else { panic!("{result:?}") };
    assert!(field.starts_with("next.next"), "{field}");
    assert_eq!((&*expected, &*found), ("fields that tell the variants of a union apart", "an object"));
    assert!(steps < 50_000, "{steps}");
}

#[test]
fn tries_are_free_where_they_are_few() {
    let text = r#"{"name":"n","type":{"type":"map","values":"string"}}"#;
    let number = r#"{"name":"n","type":{"type":"map","values":"long"}}"#;
    let schema = two(text, number);
    let value = nested(8, json!({"next": null, "n": {"x": 1}}), &json!({"n": {"y": 2}}));
    let framed = schema.encode(&value).expect("a B of Bs");
    assert_eq!(schema.read(&framed[5..]), Ok(value));
    // In a long list, what each item costs in vain adds up, and the items pay for it.
    let list =
        ValueSchema::parse(&format!(r#"{{"type":"array","items":{}}}"#, schema.text())).expect("a schema");
    let value = json!(vec![nested(3, json!({"next": null, "n": {"x": 1}}), &json!({"n": {}})); 5_000]);
    let framed = list.encode(&value).expect("a list of Bs");
    assert_eq!(list.read(&framed[5..]), Ok(value));
}

#[test]
fn fields_tell_records_apart_before_they_are_written() {
    for (a, b) in [
        (r#"{"name":"a","type":"long"}"#, r#"{"name":"b","type":"long"}"#),
        (r#"{"name":"b","type":"string"}"#, r#"{"name":"b","type":"long"}"#),
        (
            r#"{"name":"b","type":{"type":"enum","name":"E","symbols":["x"]}}"#,
            r#"{"name":"b","type":["null","long"]}"#,
        ),
    ] {
        let schema = two(a, b);
        let value = nested(60, json!({"next": null, "b": 1}), &json!({"b": 2}));
        let (result, steps) = put(&schema, &value);
        assert!(result.is_ok(), "{a} {b}: {result:?}");
        assert!(steps < 1_000, "each value is put once: {steps}");
        assert_eq!(schema.read(&schema.encode(&value).expect("fits")[5..]), Ok(value));
    }
}

#[test]
fn the_one_record_that_has_the_fields_names_what_is_wrong_inside() {
    let schema = two(
        r#"{"name":"a","type":{"type":"array","items":"long"}}"#,
        r#"{"name":"b","type":{"type":"array","items":"long"}}"#,
    );
    let value = nested(50, json!({"next": null, "a": [1, "2"]}), &json!({"b": []}));
    let error = schema.encode(&value).expect_err("refused").to_string();
    let wanted = format!("field `{}a[1]`: expected a whole number, found the text \"2\"", "next.".repeat(50));
    assert_eq!(error, wanted);
    let error = schema.encode(&json!({"next": null, "c": 1})).expect_err("refused").to_string();
    assert_eq!(error, "field `.`: expected null or a record A or a record B, found an object");
}
