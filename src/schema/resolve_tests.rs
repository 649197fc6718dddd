use serde_json::{Value, json};

use crate::schema::error::SchemaError;
use crate::schema::value::ValueSchema;
use crate::schema::wire;

fn schema(text: &str) -> ValueSchema {
    ValueSchema::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn record(fields: &str) -> String {
    format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)
}

/// `value`, written with the schema `writer` and read with `reader`.
fn through(writer: &str, reader: &str, value: &Value) -> Result<Value, String> {
    let (writer, reader) = (schema(writer), schema(reader));
    let framed = writer.encode(value).expect("the writer's value fits the writer's schema");
    let datum = reader.resolve(&writer, &framed[5..]).map_err(|error| {
        assert!(matches!(error, SchemaError::Corrupt { .. }), "{error:?}");
        error.to_string().replace("the bytes do not hold what the schema says: ", "")
    })?;
    Ok(reader.read(&datum).expect("what was resolved is read"))
}

#[track_caller]
fn check(writer: &str, reader: &str, value: Value, expected: Value) {
    assert_eq!(through(writer, reader, &value), Ok(expected), "{writer} as {reader}");
}

#[track_caller]
fn check_refused(writer: &str, reader: &str, value: Value, expected: &str) {
    assert_eq!(through(writer, reader, &value), Err(expected.to_owned()), "{writer} as {reader}");
}

const LIST: &str = r#"{"type":"record","name":"List","fields":[
    {"name":"n","type":"int"},{"name":"next","type":["null","List"]}]}"#;
const LONGER_LIST: &str = r#"{"type":"record","name":"List","fields":[
    {"name":"next","type":["null","List"],"default":null},{"name":"n","type":["null","long"],"default":null},
    {"name":"others","type":{"type":"array","items":["null","List"]},"default":[]}]}"#;

#[test]
fn a_type_that_holds_itself_costs_no_more_for_its_depth() {
    let nest = |others: bool| {
        let one = |next: Value| {
            if others { json!({"n": 1, "next": next, "others": []}) } else { json!({"n": 1, "next": next}) }
        };
        (0..60).fold(Value::Null, |next, _| one(next))
    };
    check(LIST, LONGER_LIST, nest(false), nest(true));
    // The end is missing: found out once, not once for each way there.
    let (writer, reader) = (schema(LIST), schema(LONGER_LIST));
    let datum = [2, 2].repeat(60);
    assert!(matches!(reader.resolve(&writer, &datum), Err(SchemaError::Corrupt { .. })));
    let datum = [2, 2].repeat(70);
    assert_eq!(reader.resolve(&writer, &datum), Err(SchemaError::corrupt("more than 64 levels")));
}

#[test]
fn fields_are_found_by_name_in_any_order_and_others_are_dropped() {
    let writer = record(
        r#"{"name":"a","type":"string"},{"name":"gone","type":{"type":"map","values":["null","bytes"]}},
        {"name":"b","type":"long"},{"name":"c","type":{"type":"array","items":"int"}}"#,
    );
    let value = json!({"a": "x", "gone": {"k": "AAE=", "l": null}, "b": 5, "c": [1, 2]});
    let reader = record(
        r#"{"name":"c","type":{"type":"array","items":"long"}},{"name":"new","type":"string","default":"-"},
        {"name":"b","type":"long"},{"name":"maybe","type":["null","string"]},{"name":"a","type":"string"}"#,
    );
    check(&writer, &reader, value, json!({"c": [1, 2], "new": "-", "b": 5, "maybe": null, "a": "x"}));
    let reader =
        record(r#"{"name":"a","type":"string"},{"name":"must","type":{"type":"array","items":"R"}}"#);
    let value = json!({"a": "x", "gone": {}, "b": 5, "c": []});
    check_refused(&writer, &reader, value, "field `must`: expected a list, found nothing");
}

#[test]
fn an_alias_of_the_reader_finds_what_its_name_does_not() {
    let writer = record(r#"{"name":"old","type":"int"},{"name":"older","type":"int"}"#);
    let value = json!({"old": 1, "older": 2});
    let field = |name: &str, aliases: &str| {
        format!(r#"{{"name":"{name}","type":"long","aliases":{aliases},"default":0}}"#)
    };
    check(&writer, &record(&field("new", r#"["older","old"]"#)), value.clone(), json!({"new": 2}));
    check(&writer, &record(&field("old", r#"["older"]"#)), value.clone(), json!({"old": 1}));
    check(&writer, &record(&field("new", r#"["never"]"#)), value.clone(), json!({"new": 0}));
    // An alias that is another field's name: the name goes first.
    let both = format!("{},{}", field("old", "[]"), field("new", r#"["old"]"#));
    check(&writer, &record(&both), value.clone(), json!({"old": 1, "new": 0}));
    // One written field becomes two wanted ones in no case.
    let both = format!("{},{}", field("x", r#"["old"]"#), field("y", r#"["old"]"#));
    check(&writer, &record(&both), value, json!({"x": 1, "y": 0}));
}

#[test]
fn numbers_and_texts_become_wider_types() {
    for (writer, readers) in [("int", &["long", "float", "double"][..]), ("long", &["float", "double"])] {
        for reader in readers {
            let expected = if *reader == "long" { json!(-7) } else { json!(-7.0) };
            check(&format!("\"{writer}\""), &format!("\"{reader}\""), json!(-7), expected);
        }
    }
    check(r#""float""#, r#""double""#, json!(0.5), json!(0.5));
    check(r#""string""#, r#""bytes""#, json!("aé"), json!("YcOp"));
    check(r#""bytes""#, r#""string""#, json!("YcOp"), json!("aé"));
    check_refused(
        r#""bytes""#,
        r#""string""#,
        json!("/w=="),
        "field `.`: expected text, the writer has 1 bytes",
    );
    check_refused(
        r#""boolean""#,
        r#""long""#,
        json!(true),
        "field `.`: expected a whole number, the writer has a boolean",
    );
    check_refused(
        &record(r#"{"name":"a","type":{"type":"array","items":"string"}}"#),
        &record(r#"{"name":"a","type":{"type":"array","items":"long"}}"#),
        json!({"a": ["x"]}),
        "field `a[0]`: expected a whole number, the writer has text",
    );
}

#[test]
fn a_number_becomes_a_narrower_type_where_it_fits() {
    check(r#""long""#, r#""int""#, json!(2_147_483_647), json!(2_147_483_647));
    check_refused(
        r#""long""#,
        r#""int""#,
        json!(2_147_483_648_i64),
        "field `.`: expected a whole number of 32 bits, the writer has the number 2147483648",
    );
    check(r#""double""#, r#""float""#, json!(0.5), json!(0.5));
    let fixed = r#"{"type":"fixed","name":"F","size":3}"#;
    check(r#""bytes""#, fixed, json!("AAAA"), json!("AAAA"));
    check_refused(
        r#""bytes""#,
        fixed,
        json!("AA=="),
        "field `.`: expected 3 bytes in base64, the writer has 1 bytes",
    );
}

#[test]
fn no_number_is_lost_on_the_way() {
    for (writer, bytes) in
        [("float", f32::NAN.to_le_bytes().to_vec()), ("double", f64::INFINITY.to_le_bytes().to_vec())]
    {
        let reader = schema(r#"["null","double"]"#);
        let datum = reader.resolve(&schema(&format!("\"{writer}\"")), &bytes).expect("a double");
        let double = f64::from_le_bytes(datum[1..].try_into().expect("eight bytes"));
        assert!(!double.is_finite(), "{writer} becomes {double}");
    }
    // A time far outside of what text can say.
    let micros = r#"{"type":"long","logicalType":"timestamp-micros"}"#;
    let mut datum = Vec::new();
    wire::put_long(&mut datum, i64::MIN);
    assert_eq!(schema(micros).resolve(&schema(micros), &datum), Ok(datum.clone()));
}

#[test]
fn symbols_are_found_by_name_else_the_default_stands_for_them() {
    let symbols = |list: &str, rest: &str| format!(r#"{{"type":"enum","name":"E","symbols":{list}{rest}}}"#);
    let writer = symbols(r#"["a","b","c"]"#, "");
    check(&writer, &symbols(r#"["c","b"]"#, ""), json!("c"), json!("c"));
    check(&writer, &symbols(r#"["c","b"]"#, r#","default":"b""#), json!("a"), json!("b"));
    check_refused(
        &writer,
        &symbols(r#"["c","b"]"#, ""),
        json!("a"),
        "field `.`: expected one of c, b, the writer has the symbol a",
    );
    check(r#""string""#, &symbols(r#"["x","y"]"#, ""), json!("y"), json!("y"));
    let error = schema(&writer).resolve(&schema(&writer), &[6]).expect_err("no such symbol");
    assert!(error.to_string().ends_with("an enum has no symbol 3"), "{error}");
}

#[test]
fn fixed_bytes_keep_their_size() {
    let fixed = |name: &str, size: usize| format!(r#"{{"type":"fixed","name":"{name}","size":{size}}}"#);
    check(&fixed("F", 3), &fixed("G", 3), json!("AAAA"), json!("AAAA"));
    check_refused(
        &fixed("F", 3),
        &fixed("F", 6),
        json!("AAAA"),
        "field `.`: expected 6 bytes in base64, the writer has 3 bytes in base64",
    );
}

/// The variant that a value goes into, and the value.
#[track_caller]
fn check_variant(writer: &str, reader: &str, value: Value, at: u8, expected: Value) {
    let (writer, reader) = (schema(writer), schema(reader));
    let framed = writer.encode(&value).expect("the writer's value fits the writer's schema");
    let datum = reader.resolve(&writer, &framed[5..]).expect("there is a variant");
    assert_eq!((datum[0], reader.read(&datum)), (2 * at, Ok(expected)));
}

#[test]
fn the_writers_schema_decides_about_the_variant() {
    check_variant(r#""bytes""#, r#"["string","bytes"]"#, json!("YQ=="), 1, json!("YQ=="));
    check_variant(r#""bytes""#, r#"["null","string"]"#, json!("YQ=="), 1, json!("a"));
    check_variant(r#""int""#, r#"["string","double","long"]"#, json!(1), 1, json!(1.0));
    check_variant(r#""long""#, r#"["int","double"]"#, json!(1), 1, json!(1.0));
    check_variant(r#""long""#, r#"["null","int"]"#, json!(1), 1, json!(1));
    check_variant(r#"["string","null"]"#, r#"["null","string"]"#, json!("a"), 1, json!("a"));
    check_variant(r#"["string","null"]"#, r#"["null","string"]"#, Value::Null, 0, Value::Null);
    let micros = r#"{"type":"long","logicalType":"timestamp-micros"}"#;
    check_variant(
        r#""long""#,
        &format!(r#"["double",{micros}]"#),
        json!(0),
        1,
        json!("1970-01-01T00:00:00Z"),
    );
    check(r#"["null","string"]"#, r#""string""#, json!("a"), json!("a"));
    check_refused(
        r#"["null","string"]"#,
        r#""string""#,
        Value::Null,
        "field `.`: expected text, the writer has null",
    );
    check_refused(
        r#"["string","boolean"]"#,
        r#"["null","string"]"#,
        json!(true),
        "field `.`: expected null or text, the writer has a boolean",
    );
}

#[test]
fn a_record_goes_into_the_variant_of_its_name_else_of_its_shape() {
    let of = |name: &str, rest: &str| format!(r#"{{"type":"record","name":"{name}",{rest}}}"#);
    let x = r#""fields":[{"name":"x","type":"int"}]"#;
    let y = r#""fields":[{"name":"y","type":"int"}]"#;
    let (ax, bx, value) = (of("A", x), of("B", x), json!({"x": 1}));
    check_variant(&bx, &format!("[{ax},{bx}]"), value.clone(), 1, value.clone());
    check_variant(&of("n.B", x), &format!("[{ax},{bx}]"), value.clone(), 1, value.clone());
    check_variant(&of("n.B", x), &format!("[{bx},{}]", of("n.B", x)), value.clone(), 1, value.clone());
    let aliased = of("B", &format!(r#""aliases":["m.Old"],{x}"#));
    check_variant(&of("m.Old", x), &format!("[{ax},{aliased}]"), value.clone(), 1, value.clone());
    check_variant(&of("C", x), &format!("[\"null\",{},{bx}]", of("A", y)), value.clone(), 2, value.clone());
    check_refused(
        &of("C", x),
        &format!("[\"null\",{}]", of("A", y)),
        value.clone(),
        "field `y`: expected a whole number of 32 bits, found nothing",
    );
    // Without a union nobody asks for the name: it was always so.
    check(&of("C", x), &bx, value.clone(), value);
    let symbols = |name: &str, list: &str| format!(r#"{{"type":"enum","name":"{name}","symbols":{list}}}"#);
    let reader = format!("[{},{}]", symbols("E", r#"["a"]"#), symbols("F", r#"["a","b"]"#));
    check_variant(&symbols("G", r#"["b","a"]"#), &reader, json!("a"), 1, json!("a"));
    check_variant(&symbols("E", r#"["b","a"]"#), &reader, json!("a"), 0, json!("a"));
}

fn logical(base: &str, name: &str) -> String {
    format!(r#"{{"type":"{base}","logicalType":"{name}"}}"#)
}

#[test]
fn a_plain_type_and_a_logical_one_share_their_bytes() {
    let micros = logical("long", "timestamp-micros");
    check(r#""long""#, &micros, json!(1_500_000), json!("1970-01-01T00:00:01.500Z"));
    check(r#""int""#, &micros, json!(1_500_000), json!("1970-01-01T00:00:01.500Z"));
    check(&micros, r#""long""#, json!("1970-01-01T00:00:01.500Z"), json!(1_500_000));
    check(r#""int""#, &logical("int", "date"), json!(1), json!("1970-01-02"));
    let id = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    check(r#""string""#, &logical("string", "uuid"), json!(id), json!(id));
    check(&logical("string", "uuid"), r#""string""#, json!(id), json!(id));
    check_refused(
        r#""string""#,
        &logical("string", "uuid"),
        json!("6ba7"),
        "field `.`: expected a UUID, the writer has text",
    );
    let decimal = r#"{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}"#;
    check(r#""bytes""#, decimal, json!("AQA="), json!("2.56"));
    check(decimal, r#""bytes""#, json!("2.56"), json!("AQA="));
}

#[test]
fn two_logical_types_share_their_meaning() {
    let (millis, micros) = (logical("long", "timestamp-millis"), logical("long", "timestamp-micros"));
    let time = json!("2026-11-23T13:00:00.500Z");
    check(&millis, &micros, time.clone(), time.clone());
    check(&micros, &millis, json!("2026-11-23T13:00:00.500999Z"), time.clone());
    check(
        &logical("int", "time-millis"),
        &logical("long", "time-micros"),
        json!("13:00:00.5"),
        json!("13:00:00.500"),
    );
    check_refused(
        &millis,
        &logical("long", "local-timestamp-millis"),
        time,
        "field `.`: expected a local time such as 2026-11-23T13:00:00, found the text \"2026-11-23T13:00:00.500Z\"",
    );
    let fixed = r#"{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}"#;
    let id = json!("6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    check(&logical("string", "uuid"), fixed, id.clone(), id);
}

#[test]
fn a_decimal_keeps_its_value() {
    let decimal = |precision: usize, scale: usize| {
        format!(r#"{{"type":"bytes","logicalType":"decimal","precision":{precision},"scale":{scale}}}"#)
    };
    check(&decimal(10, 2), &decimal(12, 4), json!("-42.10"), json!("-42.1000"));
    check(&decimal(12, 4), &decimal(10, 2), json!("-42.1000"), json!("-42.10"));
    check_refused(
        &decimal(12, 4),
        &decimal(10, 2),
        json!("1.0050"),
        "field `.`: expected a number of at most 10 digits, 2 of them decimals, the writer has 1.0050",
    );
    check_refused(
        &decimal(12, 2),
        &decimal(4, 2),
        json!("123.45"),
        "field `.`: expected a number of at most 4 digits, 2 of them decimals, the writer has 123.45",
    );
    let fixed = r#"{"type":"fixed","name":"F","size":17,"logicalType":"decimal","precision":38,"scale":2}"#;
    check(&decimal(38, 2), fixed, json!("-0.01"), json!("-0.01"));
    // More digits than JSON's encoder takes.
    let mut datum = Vec::new();
    wire::put_unscaled(&mut datum, 10_i128.pow(37));
    let resolved = schema(fixed).resolve(&schema(&decimal(38, 2)), &datum).expect("has room");
    assert_eq!(schema(fixed).read(&resolved), Ok(json!(format!("1{}.00", "0".repeat(35)))));
}

#[test]
fn what_is_dropped_is_checked_like_what_is_kept() {
    let reader = schema(&record(r#"{"name":"x","type":"int","default":7}"#));
    let dropping = |gone: &str, datum: &[u8]| {
        let writer = schema(&record(&format!(r#"{{"name":"gone","type":{gone}}}"#)));
        reader.resolve(&writer, datum).map_err(|error| error.to_string())
    };
    assert_eq!(dropping(r#"["null","R"]"#, &[2, 2, 2, 0]), Ok(vec![14]));
    assert_eq!(dropping(r#"{"type":"array","items":"string"}"#, &[3, 4, 2, b'a', 0, 0]), Ok(vec![14]));
    for (gone, datum, expected) in [
        (r#"["null","R"]"#, vec![2; 70], "more than 64 levels"),
        (r#"["null","R"]"#, vec![4], "a union has no branch 2"),
        (r#"{"type":"array","items":"null"}"#, vec![0x80, 0x40, 0], "a block of 4096 items in 1 bytes"),
        (r#"{"type":"map","values":"null"}"#, vec![2, 9, b'a'], "-5 is no length"),
        (r#""string""#, vec![2, 0xff], "text is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0"),
        (r#""bytes""#, vec![10, 1], "5 bytes wanted, 1 are left"),
        (r#""boolean""#, vec![2], "[2] is no boolean"),
        (r#"{"type":"enum","name":"E","symbols":["a"]}"#, vec![2], "an enum has no symbol 1"),
        (r#""int""#, vec![0x80, 0x80, 0x80, 0x80, 0x40], "8589934592 is no int"),
        (r#""null""#, vec![0], "1 bytes are left over"),
    ] {
        let error = dropping(gone, &datum).expect_err(gone);
        assert!(error.ends_with(expected), "{gone}: {error}");
    }
}

#[test]
fn a_reason_names_the_place_in_few_words() {
    let texts = record(r#"{"name":"m","type":{"type":"map","values":{"type":"array","items":"string"}}}"#);
    let numbers = texts.replace(r#""items":"string""#, r#""items":["null","long"]"#);
    let key = "k".repeat(100_000);
    let expected =
        format!("field `m.{}…[0]`: expected null or a whole number, the writer has text", "k".repeat(64));
    check_refused(&texts, &numbers, json!({"m": {key: ["x"]}}), &expected);
    // What is dropped has its place as well, blocks of lists included.
    let writer = schema(&record(r#"{"name":"gone","type":{"type":"array","items":"boolean"}}"#));
    let error = schema(&record("")).resolve(&writer, &[2, 0, 2, 3, 0]).expect_err("no boolean").to_string();
    assert!(error.ends_with("field `gone[1]`: [3] is no boolean"), "{error}");
}

/// A type that holds `levels` types, each of which holds the next one twice: 2^`levels` values in no byte.
fn doubling(levels: usize) -> String {
    (1..=levels).fold(String::from(r#"{"type":"record","name":"T0","fields":[]}"#), |inner, level| {
        let below = level - 1;
        format!(
            r#"{{"type":"record","name":"T{level}","fields":[{{"name":"a","type":{inner}}},{{"name":"b","type":"T{below}"}}]}}"#
        )
    })
}

#[test]
fn no_bytes_do_not_become_any_number_of_values() {
    let bomb = schema(&doubling(40));
    assert_eq!(bomb.read(&[]), Err(SchemaError::corrupt("too many values without content")));
    let kept = bomb.resolve(&bomb, &[]).expect_err("kept").to_string();
    assert!(kept.ends_with("values without content"), "{kept}");
    let none = schema(r#"{"type":"record","name":"T","fields":[]}"#);
    let dropped = none.resolve(&bomb, &[]).expect_err("dropped").to_string();
    assert!(dropped.ends_with("too many values without content"), "{dropped}");
    let few = schema(&doubling(6));
    let value = few.read(&[]).expect("127 values");
    assert_eq!(few.encode(&value).map(|framed| framed.len()), Ok(5));
    assert_eq!(few.resolve(&few, &[]), Ok(Vec::new()));
}

#[test]
fn a_few_bytes_do_not_become_very_many() {
    let default = "x".repeat(100_000);
    let reader = schema(&format!(
        r#"{{"type":"array","items":{}}}"#,
        record(&format!(r#"{{"name":"x","type":"string","default":"{default}"}}"#))
    ));
    let writer = schema(&format!(r#"{{"type":"array","items":{}}}"#, record("")));
    let items = |count: i64| {
        let mut datum = Vec::new();
        wire::put_long(&mut datum, count);
        datum.push(0);
        reader.resolve(&writer, &datum).map(|resolved| resolved.len())
    };
    assert!(items(100).is_ok_and(|bytes| bytes > 100 * 100_000));
    assert!(matches!(items(1_000), Err(SchemaError::Corrupt { .. })));
}

#[test]
fn a_type_may_be_referred_to_by_its_alias_and_whatever_it_is() {
    let text = record(
        r#"{"name":"a","type":{"type":"fixed","name":"F","aliases":["G"],"size":2,"logicalType":"decimal","precision":4,"scale":2}},
        {"name":"b","type":"F"},{"name":"c","type":"G"}"#,
    );
    let value = json!({"a": "1.00", "b": "2.00", "c": "3.00"});
    check(&text, &text, value.clone(), value);
}
