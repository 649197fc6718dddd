//! Decoders of nodes: each reports what is wrong and gives `None`, so that its caller can go on.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::yaml::lint::{Lints, Spanned, suggestion};
use crate::yaml::node::{Key, Node, Yaml};
use crate::yaml::units::{self, Rate};

/// The fields of one mapping, taken one by one; what is left at the end is unknown.
pub struct Fields<'a> {
    /// The mapping itself.
    pub node: &'a Node,
    entries: &'a [(Key, Node)],
    taken: Vec<bool>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The fields of `node`, which must be a mapping; `what` names it in the message, with its article ("a route").
    pub fn of(node: &'a Node, what: &str, lints: &mut Lints) -> Option<Self> {
        match &node.value {
            Yaml::Map(entries) => {
                Some(Self { node, entries, taken: vec![false; entries.len()], known: Vec::new() })
            }
            _ => {
                lints.error(
                    "wrong-type",
                    &node.span,
                    format!("{what} is a mapping, not {}", node.kind()),
                    "write `key: value` pairs",
                );
                None
            }
        }
    }

    /// The value of `key`, when it is written.
    pub fn optional(&mut self, key: &'static str) -> Option<&'a Node> {
        self.entry(key).map(|(_, value)| value)
    }

    /// The key and value of `key`, when it is written.
    pub fn entry(&mut self, key: &'static str) -> Option<(&'a Key, &'a Node)> {
        self.known.push(key);
        let at = self.entries.iter().position(|(name, _)| name.name == key)?;
        self.taken[at] = true;
        let (name, value) = &self.entries[at];
        Some((name, value))
    }

    /// The value of `key`; a lint when it is missing.
    pub fn required(&mut self, key: &'static str, lints: &mut Lints) -> Option<&'a Node> {
        let found = self.optional(key);
        if found.is_none() {
            lints.error(
                "missing-key",
                &self.node.span,
                format!("`{key}` is missing"),
                format!("add `{key}: ...`"),
            );
        }
        found
    }

    /// Every entry not taken yet, marked as taken: for mappings whose keys are the author's own words.
    pub fn rest(&mut self) -> Vec<(&'a Key, &'a Node)> {
        let mut rest = Vec::new();
        for (at, (key, value)) in self.entries.iter().enumerate() {
            if !self.taken[at] {
                self.taken[at] = true;
                rest.push((key, value));
            }
        }
        rest
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self, lints: &mut Lints) {
        for ((key, _), taken) in self.entries.iter().zip(&self.taken) {
            if !taken {
                lints.error(
                    "unknown-key",
                    &key.span,
                    format!("there is no key `{}` here", key.name),
                    suggestion(&key.name, &self.known),
                );
            }
        }
    }
}

fn wrong_type(node: &Node, wanted: &str, help: &str, lints: &mut Lints) {
    lints.error("wrong-type", &node.span, format!("expected {wanted}, found {}", node.kind()), help);
}

/// Text that is not empty. Numbers and booleans are refused: quote them.
pub fn text(node: &Node, lints: &mut Lints) -> Option<Spanned<String>> {
    match &node.value {
        Yaml::Text(text) if !text.text.is_empty() => {
            Some(Spanned { value: text.text.clone(), span: node.span.clone() })
        }
        Yaml::Text(_) => {
            lints.error("empty", &node.span, "the text is empty", "write something, or remove the key");
            None
        }
        _ => {
            wrong_type(node, "text", "put it in quotes if text is meant", lints);
            None
        }
    }
}

/// An expression's text: any scalar, as written.
pub fn expression(node: &Node, lints: &mut Lints) -> Option<Spanned<String>> {
    match node.expression() {
        Some(text) if !text.trim().is_empty() => {
            Some(Spanned { value: text.to_owned(), span: node.span.clone() })
        }
        _ => {
            wrong_type(node, "an expression", "write a VRL expression such as .amount > 100", lints);
            None
        }
    }
}

/// `true` or `false`.
pub fn boolean(node: &Node, lints: &mut Lints) -> Option<bool> {
    match node.value {
        Yaml::Bool(value) => Some(value),
        _ => {
            wrong_type(node, "true or false", "write true or false", lints);
            None
        }
    }
}

/// A whole number within `range`.
pub fn integer(node: &Node, range: RangeInclusive<i64>, lints: &mut Lints) -> Option<i64> {
    let help = format!("a whole number from {} to {}", range.start(), range.end());
    match node.value {
        Yaml::Int(value) if range.contains(&value) => Some(value),
        Yaml::Int(value) => {
            lints.error("out-of-range", &node.span, format!("{value} is out of range"), help);
            None
        }
        _ => {
            wrong_type(node, "a whole number", &help, lints);
            None
        }
    }
}

/// One of a closed list of words.
pub fn choice<T: Clone>(node: &Node, words: &[(&'static str, T)], lints: &mut Lints) -> Option<T> {
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let written = node.expression().unwrap_or_default();
    let found = words.iter().find(|(word, _)| *word == written);
    if found.is_none() {
        lints.error(
            "unknown-word",
            &node.span,
            format!("`{written}` is not one of {}", known.join(", ")),
            suggestion(written, &known),
        );
    }
    found.map(|(_, value)| value.clone())
}

/// A list; items that fail are left out after their lint.
pub fn list<T>(
    node: &Node,
    lints: &mut Lints,
    mut item: impl FnMut(&Node, &mut Lints) -> Option<T>,
) -> Option<Vec<T>> {
    match &node.value {
        Yaml::List(items) => Some(items.iter().filter_map(|node| item(node, lints)).collect()),
        _ => {
            wrong_type(node, "a list", "write [a, b] or lines that begin with `- `", lints);
            None
        }
    }
}

fn with_unit<T>(
    node: &Node,
    wanted: &str,
    help: &str,
    read: fn(&str) -> Option<T>,
    lints: &mut Lints,
) -> Option<T> {
    let written = node.expression().unwrap_or_default();
    let found = read(written);
    if found.is_none() {
        lints.error("bad-unit", &node.span, format!("`{written}` is not {wanted}"), help);
    }
    found
}

/// A duration such as `2s`.
pub fn duration(node: &Node, lints: &mut Lints) -> Option<Duration> {
    with_unit(node, "a duration", units::DURATION_HELP, units::duration, lints)
}

/// A size in bytes such as `1MiB`.
pub fn size(node: &Node, lints: &mut Lints) -> Option<u64> {
    with_unit(node, "a size", units::SIZE_HELP, units::size, lints)
}

/// A rate such as `100/s`.
pub fn rate(node: &Node, lints: &mut Lints) -> Option<Rate> {
    with_unit(node, "a rate", units::RATE_HELP, units::rate, lints)
}

/// A ratio such as `50%`, as whole percent.
pub fn percent(node: &Node, lints: &mut Lints) -> Option<u32> {
    with_unit(node, "a ratio", units::PERCENT_HELP, units::percent, lints)
}

/// The node as JSON, for fixtures and mock answers.
pub fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Yaml::Null => serde_json::Value::Null,
        Yaml::Bool(value) => (*value).into(),
        Yaml::Int(value) => (*value).into(),
        // Whole numbers above i64 are floats in the tree; JSON can hold some of them as they are.
        Yaml::Float(value) => {
            node.expression().and_then(|text| text.parse::<u64>().ok()).map_or((*value).into(), Into::into)
        }
        Yaml::Text(text) => text.text.clone().into(),
        Yaml::List(items) => items.iter().map(json).collect(),
        Yaml::Map(entries) => entries
            .iter()
            .map(|(key, value)| (key.name.clone(), json(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}
