//! A pipeline's file.

use std::num::NonZeroUsize;

use crate::config::step::{self, ErrorPolicyConfig, StepConfig};
use crate::config::test_case::{self, TestCase};
use crate::ledger::Results;
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Spanned};
use crate::yaml::node::Node;

/// Most records at work at the same time.
const CONCURRENCY_MAX: i64 = 10_000;
/// Most topics of one pipeline, and most event types.
const LIST_MAX: usize = 100;

/// A pipeline as it is written.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// What it is for.
    pub description: Option<String>,
    /// What it takes.
    pub input: Input,
    /// What stays in order.
    pub ordering: Ordering,
    /// Records at work at the same time, where it is written.
    pub concurrency: Option<Spanned<NonZeroUsize>>,
    /// Delivery guarantee, where it is written.
    pub delivery: Option<Spanned<Delivery>>,
    /// Which events leave an execution result.
    pub results: Results,
    /// Consumer group, where it is written.
    pub group: Option<Spanned<String>>,
    /// Its stages in order.
    pub stages: Vec<StepConfig>,
    /// The error policy of stages without one of their own.
    pub on_error: Option<ErrorPolicyConfig>,
    /// Its tests.
    pub tests: Vec<TestCase>,
}

/// What a pipeline takes.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// Topics it reads.
    pub topics: Vec<Spanned<String>>,
    /// Event types, exact or with a `*` at the end; empty takes all.
    pub types: Vec<Spanned<String>>,
}

/// `ordering`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ordering {
    /// Records of one key.
    #[default]
    Key,
    /// Records of one partition.
    Partition,
    /// Nothing.
    None,
}

/// `delivery`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Delivery {
    /// One Kafka transaction for everything.
    #[default]
    ExactlyOnce,
    /// Offsets after the outputs are acknowledged.
    AtLeastOnce,
}

impl Delivery {
    /// The word in the file.
    pub fn word(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly_once",
            Self::AtLeastOnce => "at_least_once",
        }
    }
}

impl Pipeline {
    /// Decodes a pipeline's file.
    pub fn decode(_name: &str, node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "a pipeline", lints)?;
        let description = fields.optional("description").and_then(|node| fields::text(node, lints));
        let input = fields.required("input", lints).and_then(|node| Input::decode(node, lints));
        let ordering = fields.optional("ordering").and_then(|node| {
            let words =
                [("key", Ordering::Key), ("partition", Ordering::Partition), ("none", Ordering::None)];
            fields::choice(node, &words, lints)
        });
        let concurrency = fields.optional("concurrency").and_then(|node| concurrency(node, lints));
        let delivery = fields.optional("delivery").and_then(|node| delivery(node, lints));
        let results = fields.optional("results").and_then(|node| {
            fields::choice(node, &[("all", Results::All), ("failures", Results::Failures)], lints)
        });
        let group = fields.optional("group").and_then(|node| group(node, lints));
        let stages = fields.required("stages", lints).and_then(|node| step::decode_steps(node, lints));
        let on_error = fields.optional("on_error").and_then(|node| ErrorPolicyConfig::decode(node, lints));
        let tests =
            fields.optional("tests").map_or_else(Vec::new, |node| test_case::decode_cases(node, lints));
        fields.finish(lints);
        Some(Self {
            description: description.map(|text| text.value),
            input: input.unwrap_or_default(),
            ordering: ordering.unwrap_or_default(),
            concurrency,
            delivery,
            results: results.unwrap_or_default(),
            group,
            stages: stages?,
            on_error,
            tests,
        })
    }
}

impl Input {
    fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`input`", lints)?;
        if let Some((key, _)) = fields.entry("schedule") {
            let help = "read a topic: `topics: [...]`, and send events to it with a timer of your own";
            lints.error("not-available", &key.span, "schedules are not available yet", help);
            return None;
        }
        let topics = fields.required("topics", lints).and_then(|node| names(node, "topics", lints));
        let types = match fields.optional("types") {
            Some(node) => names(node, "types", lints),
            None => Some(Vec::new()),
        };
        fields.finish(lints);
        let types = types?;
        for pattern in &types {
            let stars = pattern.value.matches('*').count();
            if stars > 1 || (stars == 1 && !pattern.value.ends_with('*')) {
                let message = format!("`{}` has a `*` that is not at its end", pattern.value);
                lints.error("bad-type", &pattern.span, message, "write a whole type, or its begin and `*`");
            }
        }
        Some(Self { topics: topics?, types })
    }
}

/// A list of names that is not empty and says nothing twice.
fn names(node: &Node, what: &str, lints: &mut Lints) -> Option<Vec<Spanned<String>>> {
    let names = fields::list(node, lints, fields::text)?;
    if names.is_empty() || names.len() > LIST_MAX {
        let message = format!("`{what}` lists {} names", names.len());
        lints.error("out-of-range", &node.span, message, format!("name 1 to {LIST_MAX}"));
    }
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            let message = format!("`{}` is listed twice", name.value);
            lints.error("duplicate", &name.span, message, "remove one of them");
        }
    }
    Some(names)
}

fn concurrency(node: &Node, lints: &mut Lints) -> Option<Spanned<NonZeroUsize>> {
    let count = fields::integer(node, 1..=CONCURRENCY_MAX, lints)?;
    let value = usize::try_from(count).ok().and_then(NonZeroUsize::new)?;
    Some(Spanned { value, span: node.span.clone() })
}

fn delivery(node: &Node, lints: &mut Lints) -> Option<Spanned<Delivery>> {
    let words = [Delivery::ExactlyOnce, Delivery::AtLeastOnce].map(|delivery| (delivery.word(), delivery));
    let value = fields::choice(node, &words, lints)?;
    Some(Spanned { value, span: node.span.clone() })
}

fn group(node: &Node, lints: &mut Lints) -> Option<Spanned<String>> {
    let group = fields::text(node, lints)?;
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !group.value.chars().all(allowed) || group.value.len() > 100 {
        let message = format!("`{}` cannot be the name of a group", group.value);
        lints.error("bad-name", &group.span, message, "use lower-case letters, digits and hyphens");
        return None;
    }
    Some(group)
}
