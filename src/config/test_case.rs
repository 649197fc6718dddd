//! `tests:` of a pipeline, as they are written.

use rust_decimal::Decimal;

use crate::connectors::scripted::ScriptedCall;
use crate::ledger::Outcome;
use crate::stages::scripted_rows::ScriptedRows;
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Span, Spanned};
use crate::yaml::node::{Node, Yaml};

/// One test.
#[derive(Clone, Debug)]
pub struct TestCase {
    /// Its name.
    pub name: Spanned<String>,
    /// Events that the pipeline is given, in order.
    pub events: Vec<EventConfig>,
    /// What destinations answer.
    pub http: Vec<ScriptedCall>,
    /// What Postgres answers.
    pub sql: Vec<ScriptedRows>,
    /// What must come of it.
    pub expect: ExpectConfig,
}

/// An event of a test. What is left out is read from the body as the connector of the topic does.
#[derive(Clone, Debug)]
pub struct EventConfig {
    /// Where it stands.
    pub span: Span,
    /// Its value.
    pub body: BodyConfig,
    /// Values put into the body, by path.
    pub set: Vec<(Spanned<String>, serde_json::Value)>,
    /// Topic it comes from; the pipeline's first one when it is left out.
    pub topic: Option<Spanned<String>>,
    /// The record's key.
    pub key: Option<String>,
    /// `ce_id`
    pub id: Option<String>,
    /// `ce_source`
    pub source: Option<String>,
    /// `ce_type`
    pub kind: Option<String>,
    /// `ce_subject`
    pub subject: Option<String>,
    /// `ce_tenant`
    pub tenant: Option<String>,
    /// `ce_time`, RFC 3339.
    pub time: Option<String>,
    /// Other headers.
    pub headers: Vec<(String, String)>,
}

/// Where an event's value is from.
#[derive(Clone, Debug)]
pub enum BodyConfig {
    /// A file of the project.
    File(Spanned<String>),
    /// JSON, written in place.
    Json(serde_json::Value),
    /// Text, written in place.
    Text(String),
    /// No value.
    Tombstone,
}

/// What must come of the events. What is left out is not looked at.
#[derive(Clone, Debug)]
pub struct ExpectConfig {
    /// How each event ends: one word for all, or a list.
    pub outcomes: Vec<Spanned<Outcome>>,
    /// Stage at which the last event was filtered or failed.
    pub stage: Option<Spanned<String>>,
    /// Class of the last event's fault.
    pub error: Option<Spanned<String>>,
    /// Text that the last event's fault says.
    pub message: Option<Spanned<String>>,
    /// Records of these topics: all of them, in order.
    pub records: Vec<(Spanned<String>, Vec<ExpectedRecord>)>,
    /// KPI facts: all of them, in order.
    pub facts: Option<Spanned<Vec<ExpectedFact>>>,
}

/// A record that must have been written.
#[derive(Clone, Debug)]
pub struct ExpectedRecord {
    /// Where it stands.
    pub span: Span,
    /// Its key as text; null is no key.
    pub key: Option<Option<String>>,
    /// Its value, at least these fields.
    pub value: Option<serde_json::Value>,
    /// Its value, exactly.
    pub exactly: Option<serde_json::Value>,
    /// Some of its headers.
    pub headers: Vec<(String, String)>,
}

/// A fact that must have been stated.
#[derive(Clone, Debug)]
pub struct ExpectedFact {
    /// Where it stands.
    pub span: Span,
    /// Name.
    pub fact: Option<String>,
    /// Value.
    pub value: Option<Decimal>,
    /// Time, RFC 3339.
    pub time: Option<String>,
    /// Some of its dimensions.
    pub dimensions: Vec<(String, String)>,
}

/// Decodes the list of tests. Tests that fail are left out after their lints.
pub fn decode_cases(node: &Node, lints: &mut Lints) -> Vec<TestCase> {
    let cases = fields::list(node, lints, TestCase::decode).unwrap_or_default();
    for (at, case) in cases.iter().enumerate() {
        if cases[..at].iter().any(|earlier| earlier.name == case.name) {
            let message = format!("two tests are called `{}`", case.name.value);
            lints.error("duplicate", &case.name.span, message, "say what is different about this one");
        }
    }
    cases
}

impl TestCase {
    fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "a test", lints)?;
        let name = fields.required("name", lints).and_then(|node| fields::text(node, lints));
        let events = fields
            .required("events", lints)
            .map(|node| (node, fields::list(node, lints, EventConfig::decode)));
        let http = fields.optional("http").and_then(|node| fields::list(node, lints, ScriptedCall::decode));
        let sql = fields.optional("sql").and_then(|node| fields::list(node, lints, ScriptedRows::decode));
        let expect = fields.required("expect", lints).and_then(|node| ExpectConfig::decode(node, lints));
        fields.finish(lints);
        let (at, events) = events?;
        let (events, expect) = (events?, expect?);
        if events.is_empty() {
            lints.error("empty", &at.span, "this test has no event", "write - file: fixtures/...");
            return None;
        }
        if expect.outcomes.len() > 1 && expect.outcomes.len() != events.len() {
            let message = format!("{} outcomes for {} events", expect.outcomes.len(), events.len());
            let span = &expect.outcomes[0].span;
            lints.error("out-of-range", span, message, "write one for each event, or one word for all");
        }
        let (http, sql) = (http.unwrap_or_default(), sql.unwrap_or_default());
        Some(Self { name: name?, events, http, sql, expect })
    }
}

impl EventConfig {
    fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "an event", lints)?;
        let mut bodies = Vec::new();
        if let Some(file) = fields.optional("file") {
            bodies.push(BodyConfig::File(fields::text(file, lints)?));
        }
        if let Some(json) = fields.optional("json") {
            bodies.push(BodyConfig::Json(fields::json(json)));
        }
        if let Some(text) = fields.optional("text") {
            bodies.push(BodyConfig::Text(text.expression().unwrap_or_default().to_owned()));
        }
        if let Some(tombstone) = fields.optional("tombstone") {
            fields::boolean(tombstone, lints)?;
            bodies.push(BodyConfig::Tombstone);
        }
        let topic = fields.optional("topic").and_then(|node| fields::text(node, lints));
        let mut text = |key| fields.optional(key).and_then(|node| scalar(node, lints));
        let (key, id, source, kind) = (text("key"), text("id"), text("source"), text("type"));
        let (subject, tenant, time) = (text("subject"), text("tenant"), text("time"));
        let headers = fields.optional("headers").map_or_else(Vec::new, |node| pairs(node, lints));
        let set = fields.optional("set").map_or_else(Vec::new, |node| set(node, lints));
        fields.finish(lints);
        let (Some(body), true) = (bodies.pop(), bodies.is_empty()) else {
            let help = "write one of file: fixtures/..., json: {...}, text: ..., tombstone: true";
            lints.error("missing-key", &node.span, "an event has one body", help);
            return None;
        };
        Some(Self {
            span: node.span.clone(),
            body,
            set,
            topic,
            key,
            id,
            source,
            kind,
            subject,
            tenant,
            time,
            headers,
        })
    }
}

/// Values by path; paths begin with a dot.
fn set(node: &Node, lints: &mut Lints) -> Vec<(Spanned<String>, serde_json::Value)> {
    let Yaml::Map(entries) = &node.value else {
        lints.error("wrong-type", &node.span, "`set` is a mapping", "write {.path.to.field: value}");
        return Vec::new();
    };
    let mut all = Vec::new();
    for (key, value) in entries {
        let mut probe = crate::expr::Value::Null;
        let is_path = key.name.starts_with('.')
            && crate::expr::values::set_path(&mut probe, &key.name, crate::expr::Value::Null);
        if is_path {
            let path = Spanned { value: key.name.clone(), span: key.span.clone() };
            all.push((path, fields::json(value)));
        } else {
            let message = format!("`{}` is no path", key.name);
            lints.error("bad-path", &key.span, message, "a path begins with a dot: .data.object.id");
        }
    }
    all
}

/// The text of a scalar, numbers and booleans as they are written.
fn scalar(node: &Node, lints: &mut Lints) -> Option<String> {
    let text = node.expression().map(str::to_owned);
    if text.is_none() {
        let message = format!("expected text, found {}", node.kind());
        lints.error("wrong-type", &node.span, message, "write one value");
    }
    text
}

fn pairs(node: &Node, lints: &mut Lints) -> Vec<(String, String)> {
    let Yaml::Map(entries) = &node.value else {
        let message = format!("expected a mapping, found {}", node.kind());
        lints.error("wrong-type", &node.span, message, "write {name: value}");
        return Vec::new();
    };
    entries.iter().filter_map(|(key, value)| Some((key.name.clone(), scalar(value, lints)?))).collect()
}

impl ExpectConfig {
    fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`expect`", lints)?;
        let outcomes = match fields.optional("outcome").map(|node| (node, &node.value)) {
            None => Vec::new(),
            Some((node, Yaml::List(_))) => fields::list(node, lints, outcome)?,
            Some((node, _)) => vec![outcome(node, lints)?],
        };
        let stage = fields.optional("stage").and_then(|node| fields::text(node, lints));
        let error = fields.optional("error").and_then(|node| error_class(node, lints));
        let message = fields.optional("message").and_then(|node| fields::text(node, lints));
        let records = match fields.optional("records") {
            None => Vec::new(),
            Some(node) => records(node, lints)?,
        };
        let facts = fields.optional("facts").and_then(|node| {
            let value = fields::list(node, lints, ExpectedFact::decode)?;
            Some(Spanned { value, span: node.span.clone() })
        });
        fields.finish(lints);
        let expect = Self { outcomes, stage, error, message, records, facts };
        if expect.is_empty() {
            lints.error("empty", &node.span, "this expects nothing", "write outcome: succeeded");
        }
        Some(expect)
    }

    fn is_empty(&self) -> bool {
        let Self { outcomes, stage, error, message, records, facts } = self;
        outcomes.is_empty()
            && stage.is_none()
            && error.is_none()
            && message.is_none()
            && records.is_empty()
            && facts.is_none()
    }
}

fn outcome(node: &Node, lints: &mut Lints) -> Option<Spanned<Outcome>> {
    let words = [Outcome::Succeeded, Outcome::Filtered, Outcome::DeadLettered].map(|it| (it.name(), it));
    let value = fields::choice(node, &words, lints)?;
    Some(Spanned { value, span: node.span.clone() })
}

fn error_class(node: &Node, lints: &mut Lints) -> Option<Spanned<String>> {
    let words = ["transient", "rate_limited", "permanent", "poison", "bug"].map(|word| (word, word));
    let value = fields::choice(node, &words, lints)?.to_owned();
    Some(Spanned { value, span: node.span.clone() })
}

fn records(node: &Node, lints: &mut Lints) -> Option<Vec<(Spanned<String>, Vec<ExpectedRecord>)>> {
    let Yaml::Map(entries) = &node.value else {
        let message = format!("`records` is a mapping of topics, not {}", node.kind());
        lints.error("wrong-type", &node.span, message, "write {topic: [{key: ..., value: {...}}]}");
        return None;
    };
    let mut all = Vec::new();
    for (topic, list) in entries {
        let records = fields::list(list, lints, ExpectedRecord::decode)?;
        all.push((Spanned { value: topic.name.clone(), span: topic.span.clone() }, records));
    }
    Some(all)
}

impl ExpectedRecord {
    fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "a record", lints)?;
        let key = fields.optional("key").map(|node| match node.value {
            Yaml::Null => None,
            _ => scalar(node, lints),
        });
        let value = fields.optional("value").map(fields::json);
        let exactly = fields.optional("exactly").map(fields::json);
        let headers = fields.optional("headers").map_or_else(Vec::new, |node| pairs(node, lints));
        fields.finish(lints);
        Some(Self { span: node.span.clone(), key, value, exactly, headers })
    }
}

impl ExpectedFact {
    fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "a fact", lints)?;
        let fact = fields.optional("fact").and_then(|node| fields::text(node, lints));
        let value = match fields.optional("value") {
            None => None,
            Some(node) => Some(decimal(node, lints)?),
        };
        let time = fields.optional("time").and_then(|node| scalar(node, lints));
        let dimensions = fields.optional("dimensions").map_or_else(Vec::new, |node| pairs(node, lints));
        fields.finish(lints);
        Some(Self { span: node.span.clone(), fact: fact.map(|fact| fact.value), value, time, dimensions })
    }
}

fn decimal(node: &Node, lints: &mut Lints) -> Option<Decimal> {
    let number = node.expression().and_then(|text| Decimal::from_str_exact(text).ok());
    if number.is_none() {
        lints.error("wrong-type", &node.span, "a fact's value is a number", "write 4200 or 19.99");
    }
    number
}
