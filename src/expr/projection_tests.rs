//! A value that is decoded in part must look to every program like one that is decoded as a whole.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use proptest::prelude::*;

use super::*;
use crate::expr::program::{self, Program};
use crate::expr::scope::{Payload, Scope};
use crate::expr::types::Types;
use crate::fault::{Fault, FaultClass};
use crate::record::InRecord;
use crate::yaml::lint::{Lints, SourceFile};
use crate::yaml::node::{self, Node, Yaml};

fn node(text: &str) -> Node {
    let indented: String = text.lines().map(|line| format!("  {line}\n")).collect();
    let file =
        Arc::new(SourceFile { path: PathBuf::from("pipelines/a.yaml"), text: format!("map: |\n{indented}") });
    let root = node::parse(&file, &mut Lints::default()).expect("YAML");
    let Yaml::Map(mut entries) = root.value else { panic!("a mapping") };
    entries.remove(0).1
}

fn map(text: &str) -> Program {
    let mut lints = Lints::default();
    let program = program::compile_program(&node(text), &mut Types::default(), &mut lints);
    program.unwrap_or_else(|| panic!("{text}: {lints:?}"))
}

fn expression(text: &str) -> Program {
    let mut lints = Lints::default();
    let program = program::compile_expression(&node(text), &Types::default(), &mut lints);
    program.unwrap_or_else(|| panic!("{text}: {lints:?}"))
}

fn record(text: &[u8]) -> InRecord {
    InRecord {
        topic: "in".into(),
        partition: 0,
        offset: 0,
        timestamp_ms: None,
        key: None,
        value: Some(Bytes::copy_from_slice(text)),
        headers: Vec::new(),
    }
}

/// A filter or key, a `map`, and what is asked for after it.
#[derive(Debug)]
struct Programs {
    before: Program,
    map: Program,
    after: Program,
}

impl Programs {
    fn projection(&self) -> Option<Projection> {
        program::projection([&self.before, &self.map, &self.after].into_iter())
    }

    /// Whether [`Projection`] knows all that they touch.
    fn are_known(&self) -> bool {
        [&self.before, &self.map, &self.after].iter().all(|program| !program.decodes_whole())
    }
}

#[derive(PartialEq, Debug)]
struct Run {
    before: Result<Value, Fault>,
    map: Result<(), Fault>,
    after: Result<Value, Fault>,
    /// All of it at the end.
    value: Result<Value, Fault>,
    /// As it would be written.
    text: Option<Value>,
}

fn run(programs: &Programs, mut scope: Scope<'_>) -> Run {
    let before = programs.before.evaluate(&mut scope);
    let map = programs.map.transform(&mut scope);
    let after = programs.after.evaluate(&mut scope);
    let text = match scope.payload().expect("a JSON form") {
        Payload::Original(raw) => raw.cloned(),
        Payload::Spliced(text) => Some(text),
        Payload::New(value) => Some(values::to_json_bytes(value).expect("a JSON form")),
        Payload::Foreign { .. } => panic!("no codec has decoded it"),
    };
    let text = text.and_then(|text| values::from_json_bytes(&text).ok());
    let value = scope.value().cloned();
    Run { before, map, after, value, text }
}

/// Equal but for the last digits of floats, which the two ways read from different texts.
fn is_same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Float(left), Value::Float(right)) => {
            (**left - **right).abs() <= left.abs().max(right.abs()) * 1e-12
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|((name, left), (other, right))| name == other && is_same(left, right))
        }
        _ => left == right,
    }
}

fn check(programs: &Programs, text: &[u8]) {
    let record = record(text);
    let now = DateTime::<Utc>::UNIX_EPOCH;
    let whole = run(programs, Scope::new(&record, now));
    let Some(projection) = programs.projection() else { return };
    let mut part = run(programs, Scope::projected(&record, now, &projection));
    let shown = String::from_utf8_lossy(text);
    match (&whole.text, &part.text) {
        (Some(left), Some(right)) => assert!(is_same(left, right), "{shown}: {left} or {right}"),
        (left, right) => assert_eq!(left, right, "{shown}"),
    }
    part.text.clone_from(&whole.text);
    assert_eq!(whole, part, "{shown}");
}

const NAMES: [&str; 4] = ["a", "b", "c", "long_name"];

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(&NAMES[..]);
    let index = prop::bool::weighted(0.1).prop_map(|has| if has { "[0]" } else { "" });
    (prop::collection::vec(name, 1..4), index)
        .prop_map(|(names, index)| format!(".{}{index}", names.join(".")))
}

fn read() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => path(),
        1 => path().prop_map(|path| format!("exists({path})")),
        1 => path().prop_map(|path| format!("to_string({path}) ?? \"none\"")),
        1 => path().prop_map(|path| format!("length({path}) ?? -1")),
        1 => path().prop_map(|path| format!("upcase!({path})")),
        1 => (path(), path()).prop_map(|(left, right)| format!("{left} == {right}")),
        1 => (path(), path()).prop_map(|(left, right)| format!("[{left}, {right}, 1.5]")),
        1 => path().prop_map(|path| format!("get(., [\"{}\"]) ?? null", path.trim_start_matches('.'))),
        1 => Just(String::from(".")),
        1 => Just(String::from("keys(object(.) ?? {})")),
    ]
}

fn statement() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (path(), read()).prop_map(|(path, read)| format!("{path} = {read}")),
        1 => path().prop_map(|path| format!("del({path})")),
        1 => (path(), path()).prop_map(|(path, other)| format!("{path} = del({other})")),
        1 => read().prop_map(|read| format!(". = {{\"made\": {read}}}")),
        1 => (path(), path()).prop_map(|(test, path)| format!("if exists({test}) {{ {path} = 1 }}")),
        1 => (path(), path()).prop_map(|(test, path)| format!("if {test} == null {{ abort }}\n{path} = now() < now()")),
        1 => path().prop_map(|path| format!("{path}, err = {path} + 1")),
        1 => (path(), path()).prop_map(|(path, other)| format!("x = object({path}) ?? {{}}\n{other} = x.a")),
        1 => path().prop_map(|path| format!(". = merge(object(.) ?? {{}}, {{\"merged\": {path}}})")),
    ]
}

fn programs() -> impl Strategy<Value = Programs> {
    let map = prop::collection::vec(statement(), 1..4).prop_map(|lines| lines.join("\n"));
    (read(), map, read()).prop_filter_map("programs that compile", |(before, map, after)| {
        let mut lints = Lints::default();
        let types = &mut Types::default();
        let before = program::compile_expression(&node(&before), types, &mut lints)?;
        let map = program::compile_program(&node(&map), types, &mut lints)?;
        let after = program::compile_expression(&node(&after), types, &mut lints)?;
        Some(Programs { before, map, after })
    })
}

fn document() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => any::<i32>().prop_map(|number| number.to_string()),
        4 => "[a-z ]{0,20}".prop_map(|text| format!("\"{text}\"")),
        6 => prop::sample::select(&[
            "null", "true", "false", "1.25", "-0", "0.5", "12345678901234567890123", "1e3", "1E400", "1.10", "\"\"",
            "\"\\u00e9\\n\\\"\"", "\"\\ud83d\\ude00\"", "\"\\ud800\"", "\"é日本\"", "01", "-", "1.", "tru", "\"\t\"",
            "\"\\x\"", "{}", "[]", "[1,]", "\"a quite long text that takes more than one step of the scan\"",
        ][..]).prop_map(str::to_owned),
    ];
    let name = prop_oneof![
        12 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned),
        2 => "[d-z]{1,9}",
        1 => Just(String::from("\\u0061")),
    ];
    let space = || prop::sample::select(&["", "", "", "", " ", "\n\t"][..]);
    let value = leaf.prop_recursive(4, 24, 6, move |inner| {
        let field = (name.clone(), space(), inner.clone(), space());
        let field = field
            .prop_map(|(name, before, value, after)| format!("\"{name}\"{before}:{after}{value}{before}"));
        prop_oneof![
            4 => prop::collection::vec(field, 0..6).prop_map(|fields| format!("{{{}}}", fields.join(","))),
            1 => prop::collection::vec(inner, 0..4).prop_map(|items| format!("[ {}]", items.join(" , "))),
        ]
    });
    (space(), value, space()).prop_map(|(before, value, after)| format!("{before}{value}{after}"))
}

/// Mostly unharmed.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let harm = prop::option::weighted(0.15, (any::<prop::sample::Index>(), any::<u8>(), 0..3));
    (document(), harm).prop_map(|(text, harm)| {
        let mut text = text.into_bytes();
        if let Some((at, byte, how)) = harm
            && !text.is_empty()
        {
            let at = at.index(text.len());
            match how {
                0 => text[at] = byte,
                1 => text.truncate(at),
                _ => text.insert(at, b"{}[]\",:\\ 0"[usize::from(byte) % 10]),
            }
        }
        text
    })
}

proptest! {
    #[test]
    fn a_part_is_as_good_as_the_whole(
        programs in programs(),
        texts in prop::collection::vec(text(), 10),
    ) {
        texts.iter().for_each(|text| check(&programs, text));
    }
}

proptest! {
    #[test]
    fn plain_programs_come_to_what_the_runtime_says(
        path in path(),
        constant in prop::option::of(prop::sample::select(&["true", "false", "0", "7", "\"\"", "\"a b\""][..])),
        map in statement(),
        texts in prop::collection::vec(text(), 10),
    ) {
        let short = expression(&constant.map_or(path.clone(), |constant| format!("{path} == {constant}")));
        let Some(full) = short.under_the_runtime() else {
            prop_assert!(path.ends_with(']'), "{} is plain", path);
            return Ok(());
        };
        let Some(map) = program::compile_program(&node(&map), &mut Types::default(), &mut Lints::default()) else {
            return Ok(());
        };
        for text in texts {
            let record = record(&text);
            let projection = program::projection([&short, &map].into_iter());
            let ended = |program: &Program, is_changed: bool| {
                let now = DateTime::<Utc>::UNIX_EPOCH;
                let mut scope = match &projection {
                    Some(projection) => Scope::projected(&record, now, projection),
                    None => Scope::new(&record, now),
                };
                let mapped = is_changed.then(|| map.transform(&mut scope).is_ok());
                (mapped, program.evaluate(&mut scope), scope.is_part())
            };
            for is_changed in [false, true] {
                prop_assert_eq!(ended(&short, is_changed), ended(&full, is_changed));
            }
        }
    }
}

/// What was decoded in part stays so.
fn spliced(map_text: &str, text: &str) -> String {
    let map = map(map_text);
    let programs = Programs { before: expression("true"), map, after: expression("true") };
    assert!(programs.are_known());
    check(&programs, text.as_bytes());
    let record = record(text.as_bytes());
    let projection = programs.projection().expect("few paths");
    let mut scope = Scope::projected(&record, DateTime::UNIX_EPOCH, &projection);
    programs.map.transform(&mut scope).expect("a program that runs");
    match scope.payload().expect("a JSON form") {
        Payload::Spliced(text) => String::from_utf8(text.to_vec()).expect("UTF-8"),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn new_fields_stand_behind_the_others_and_new_values_in_their_places() {
    let text = "{ \"z\": 1.10, \"id\": 12345678901234567890123,\"a\" : {\"b\":\"x\"} }\n";
    assert_eq!(
        spliced(".c = .a.b", text),
        "{ \"z\": 1.10, \"id\": 12345678901234567890123,\"a\" : {\"b\":\"x\"} ,\"c\":\"x\"}"
    );
    assert_eq!(
        spliced(".z = .a.b\n.n = null\n.\"q\\\"\" = 1", text),
        "{ \"z\": \"x\", \"id\": 12345678901234567890123,\"a\" : {\"b\":\"x\"} ,\"n\":null,\"q\\\"\":1}"
    );
    assert_eq!(
        spliced(".a.b = 1\n.a.c = .z", "{\"a\":{\"b\":0}, \"z\":[]}"),
        "{\"a\":{\"b\":1,\"c\":[]}, \"z\":[]}"
    );
    assert_eq!(spliced(".a = 1\n.b = 2", "{}"), "{\"a\":1,\"b\":2}");
    assert_eq!(spliced(".a = 1\n.b = 2", "{ }"), "{ \"a\":1,\"b\":2}");
}

#[test]
fn a_text_that_is_no_json_is_poison_even_where_nobody_looks() {
    let programs = Programs { before: expression(".a"), map: map(".b = 1"), after: expression(".a") };
    for text in [
        "{\"a\":1,\"x\":01}",
        "{\"a\":1,\"x\":[1 2]}",
        "{\"a\":1}x",
        "{\"a\":1",
        "{\"a\":1,}",
        "{\"a\":1,\"x\":\"\\ud800\"}",
        "{\"a\":1,\"x\":1e400}",
        "",
    ] {
        let record = record(text.as_bytes());
        let projection = programs.projection().expect("few paths");
        let mut scope = Scope::projected(&record, DateTime::UNIX_EPOCH, &projection);
        let fault = programs.before.evaluate(&mut scope).expect_err(text);
        assert_eq!(fault.class, FaultClass::Poison, "{text}");
        check(&programs, text.as_bytes());
    }
    let deep = format!("{{\"a\":1,\"x\":{}{}}}", "[".repeat(200), "]".repeat(200));
    check(&programs, deep.as_bytes());
    let deep = format!("{{\"a\":1,\"x\":{}{}}}", "[".repeat(100), "]".repeat(100));
    check(&programs, deep.as_bytes());
    check(&programs, b"{\"a\":1,\"x\":\"\xff\"}");
}

#[test]
fn of_fields_that_stand_twice_the_last_counts() {
    let programs = Programs { before: expression(".a.b"), map: map(".c = .d"), after: expression(".c") };
    for text in [
        r#"{"a":{"b":1},"a":5}"#,
        r#"{"a":{"b":1},"a":{}}"#,
        r#"{"a":{"b":1,"b":2}}"#,
        r#"{"c":1,"c":2,"d":3}"#,
        r#"{"c":1,"d":3,"d":4}"#,
        r#"{"\u0063":1,"d":3}"#,
        r#"{"x":1,"x":2}"#,
    ] {
        check(&programs, text.as_bytes());
    }
}

#[test]
fn programs_that_may_touch_anything_are_known_to() {
    for text in [
        "del(.a)",
        ".x = keys(object!(.))",
        ".x = get!(., [\"a\"])",
        ". = merge(object!(.), {\"a\": 1})",
        ".[0] = 1",
    ] {
        assert!(map(text).decodes_whole(), "{text}");
    }
    for text in [".x = .a[0]", ".a.b = 1", ". = {\"a\": .b}", ".x = exists(.a)"] {
        assert!(!map(text).decodes_whole(), "{text}");
    }
    let many: Vec<String> = (0..40).map(|number| format!(".f{number}")).collect();
    let all = expression(&format!("[{}]", many.join(", ")));
    assert!(program::projection([&all].into_iter()).is_none());
}
