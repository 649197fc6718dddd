use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, SourceFile, Span};
use crate::yaml::node::{Node, Yaml, parse};

fn read(text: &str) -> (Option<Node>, Lints) {
    let file = Arc::new(SourceFile { path: PathBuf::from("a.yaml"), text: text.to_owned() });
    let mut lints = Lints::default();
    let node = parse(&file, &mut lints);
    (node, lints)
}

fn slice(span: &Span) -> &str {
    &span.file.text[span.start..span.end]
}

#[test]
fn nodes_know_their_place_after_wide_characters() {
    let (node, lints) = read("título: {a: \"€\", b: [1, .x == true]}\n");
    assert!(lints.0.is_empty());
    let Yaml::Map(entries) = node.unwrap().value else { panic!("a mapping") };
    let Yaml::Map(inner) = &entries[0].1.value else { panic!("a mapping") };
    assert_eq!(slice(&inner[0].1.span), "\"€\"");
    let Yaml::List(items) = &inner[1].1.value else { panic!("a list") };
    assert_eq!(items[1].expression(), Some(".x == true"));
    assert_eq!(slice(&items[1].span), ".x == true");
}

#[test]
fn a_block_scalar_maps_offsets_to_the_file() {
    let text = "stages:\n  - map: |\n      a = 1\n      .b = wrong\n";
    let (node, _) = read(text);
    let Yaml::Map(entries) = node.unwrap().value else { panic!("a mapping") };
    let Yaml::List(items) = &entries[0].1.value else { panic!("a list") };
    let Yaml::Map(step) = &items[0].value else { panic!("a mapping") };
    let program = &step[0].1;
    let offset = program.expression().unwrap().find("wrong").unwrap();
    assert_eq!(program.place_in_text(offset), text.find("wrong").unwrap());
}

#[test]
fn every_mistake_is_reported_with_its_place() {
    let (node, mut lints) = read("rate: 100\nwait: 2\nname: a\nname: b\nburts: 3\n");
    let node = node.unwrap();
    let mut fields = Fields::of(&node, "a limit", &mut lints).unwrap();
    let rate = fields.required("rate", &mut lints).and_then(|node| fields::rate(node, &mut lints));
    let wait = fields.required("wait", &mut lints).and_then(|node| fields::duration(node, &mut lints));
    fields.optional("name");
    fields.optional("burst");
    fields.required("key", &mut lints);
    fields.finish(&mut lints);
    assert_eq!((rate, wait), (None, None));
    let found: Vec<(&str, usize)> =
        lints.0.iter().map(|lint| (lint.code, lint.span.line_column().0)).collect();
    assert_eq!(
        found,
        [("duplicate-key", 4), ("bad-unit", 1), ("bad-unit", 2), ("missing-key", 1), ("unknown-key", 5)]
    );
    assert_eq!(lints.0[4].help, "did you mean `burst`?");
}

#[test]
fn broken_text_anchors_and_second_documents_are_refused() {
    for text in ["a: [1, 2", "a: &x 1\nb: *x\n", "a: 1\n---\nb: 2\n", "a: !!str 1\n"] {
        let (_, lints) = read(text);
        assert_eq!(lints.0.first().map(|lint| lint.code), Some("not-yaml"), "{text:?}");
    }
}

#[test]
fn units_need_their_unit() {
    use crate::yaml::units::{duration, percent, rate, size};
    assert_eq!(duration("2s"), Some(Duration::from_secs(2)));
    assert_eq!(duration("30d"), Some(Duration::from_secs(2_592_000)));
    assert_eq!(size("1MiB"), Some(1_048_576));
    assert_eq!(rate("600/m").map(|rate| (rate.count.get(), rate.per)), Some((600, Duration::from_secs(60))));
    for text in ["2", "s", "-2s", "2 fortnights", "99999999999999999999s", "18446744073709551615d"] {
        assert_eq!(duration(text), None, "{text}");
    }
    assert_eq!(rate("0/s"), None);
    assert_eq!(size("10MB"), None);
    assert_eq!(percent("50%"), Some(50));
    for text in ["50", "0.5", "%", "-1%", "1.5%"] {
        assert_eq!(percent(text), None, "{text}");
    }
}

#[test]
fn scalars_follow_the_core_schema() {
    let kinds = |text: &str| read(&format!("a: {text}\n")).0.map(|node| format!("{:?}", value_of(&node)));
    for (text, expected) in [
        ("True", "Bool(true)"),
        ("NULL", "Null"),
        ("0x1F", "Int(31)"),
        ("0o17", "Int(15)"),
        ("-12", "Int(-12)"),
        ("1e3", "Float(1000.0)"),
    ] {
        assert_eq!(kinds(text).as_deref(), Some(expected), "{text}");
    }
    for text in ["yes", "1e999", "0x", "1.5.2", "2026-11-23", ".amount", "12 apples"] {
        assert!(kinds(text).is_some_and(|kind| kind.starts_with("Text")), "{text}");
    }
}

fn value_of(node: &Node) -> Yaml {
    match &node.value {
        Yaml::Map(entries) => entries[0].1.value.clone(),
        other => other.clone(),
    }
}

/// Every node, for checks of all places.
fn walk(node: &Node, see: &mut impl FnMut(&Node)) {
    see(node);
    match &node.value {
        Yaml::List(items) => items.iter().for_each(|item| walk(item, see)),
        Yaml::Map(entries) => entries.iter().for_each(|(_, value)| walk(value, see)),
        Yaml::Null | Yaml::Bool(_) | Yaml::Int(_) | Yaml::Float(_) | Yaml::Text(_) => {}
    }
}

/// Text that is often YAML, and often just not.
fn nearly_yaml() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("a: "),
        Just("- "),
        Just("\n"),
        Just("\n  "),
        Just("\n    "),
        Just("|\n"),
        Just(">-\n"),
        Just("\""),
        Just("'"),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(", "),
        Just("# c\n"),
        Just("&a "),
        Just("*a"),
        Just("!!str "),
        Just("---\n"),
        Just("é€😀"),
        Just("\u{feff}"),
        Just("\t"),
        Just("\r\n"),
        Just("x"),
        Just("1"),
        Just(": "),
        Just("? "),
        Just("\\u00e9"),
        Just("<<: "),
        Just("~"),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_is_too_odd(text in prop_oneof![nearly_yaml(), any::<String>()], offset in 0_usize..200) {
        let (node, lints) = read(&text);
        prop_assert!(node.is_some() || lints.has_errors(), "what is not read is said");
        for lint in &lints.0 {
            let marked = lint.span.marked();
            prop_assert!(text.get(marked).is_some_and(|marked| !marked.contains('\n')));
            lint.span.line_column();
        }
        if let Some(node) = node {
            walk(&node, &mut |node| {
                assert!(node.span.start <= node.span.end && node.span.end <= text.len(), "{:?}", node.span);
                assert!(text.get(node.span.marked()).is_some());
                assert!(node.place_in_text(offset) <= text.len());
                fields::json(node);
            });
        }
    }
}
