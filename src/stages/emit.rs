//! `emit: {topic, key?, value?, headers?}`: writes a record to a topic that the project declares.
//!
//! The value is `.` unless `value` gives another; a value that no stage changed is written with the bytes it came in.
//! A null value is a tombstone. The key is the source record's unless `key` gives another; a null key is no key. The
//! CloudEvents headers of the source go with it, then `headers`; the outbox adds where the record came from.

use std::sync::Arc;

use bytes::Bytes;

use crate::expr::program::{self, Program};
use crate::expr::scope::Payload;
use crate::expr::{Value, values};
use crate::fault::{Fault, FaultClass};
use crate::record::{Header, HeaderName, OutRecord};
use crate::stages::context::{CompileCx, Next, StageCx, ValueFormat};
use crate::stages::services::Services;
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Spanned, nearest};
use crate::yaml::node::{Node, Yaml};

/// As written.
#[derive(Clone, Debug)]
pub struct EmitConfig {
    /// Name of the topic.
    pub topic: Spanned<String>,
    key: Option<Node>,
    value: Option<Node>,
    headers: Vec<(String, Node)>,
}

/// Compiled.
#[derive(Debug)]
pub struct Emit {
    topic: Arc<str>,
    format: ValueFormat,
    key: Option<Program>,
    value: Option<Program>,
    headers: Vec<(HeaderName, Program)>,
}

impl EmitConfig {
    /// Decodes the mapping.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`emit`", lints)?;
        let topic = fields.required("topic", lints).and_then(|node| fields::text(node, lints));
        let key = fields.optional("key").cloned();
        let value = fields.optional("value").cloned();
        let headers = match fields.optional("headers").map(|node| (node, &node.value)) {
            None => Some(Vec::new()),
            Some((_, Yaml::Map(entries))) => {
                Some(entries.iter().map(|(key, value)| (key.name.clone(), value.clone())).collect())
            }
            Some((node, _)) => {
                let message = format!("headers are a mapping, not {}", node.kind());
                lints.error("wrong-type", &node.span, message, "write {name: .field}");
                None
            }
        };
        fields.finish(lints);
        Some(Self { topic: topic?, key, value, headers: headers? })
    }

    /// Finds the topic and compiles the expressions.
    pub fn compile(&self, cx: &mut CompileCx<'_>, lints: &mut Lints) -> Option<Emit> {
        let format = self.format(cx, lints);
        let count = lints.0.len();
        let mut program = |node: &Node| program::compile_expression(node, &cx.types, lints);
        let key = self.key.as_ref().map(&mut program);
        let value = self.value.as_ref().map(&mut program);
        let headers: Vec<_> =
            self.headers.iter().map(|(name, node)| (HeaderName::from(name.clone()), program(node))).collect();
        let is_whole = !matches!(key, Some(None)) && !matches!(value, Some(None));
        let headers: Option<Vec<_>> =
            headers.into_iter().map(|(name, program)| Some((name, program?))).collect();
        debug_assert!(is_whole || lints.0.len() > count, "what does not compile says why");
        if !is_whole {
            return None;
        }
        Some(Emit {
            topic: self.topic.value.as_str().into(),
            format: format?,
            key: key.flatten(),
            value: value.flatten(),
            headers: headers?,
        })
    }

    fn format(&self, cx: &CompileCx<'_>, lints: &mut Lints) -> Option<ValueFormat> {
        let Spanned { value: topic, span } = &self.topic;
        if let Some(format) = cx.declared.topics.get(topic) {
            return Some(format.clone());
        }
        let help = match nearest(topic, cx.declared.topics.keys().map(String::as_str)) {
            Some(near) => format!("`{near}` is declared in topics/{near}.yaml"),
            None => format!("declare it in topics/{topic}.yaml"),
        };
        lints.error(
            "undeclared-topic",
            span,
            format!("`emit` writes to topic `{topic}`, which no file in topics/ declares"),
            help,
        );
        None
    }
}

impl Emit {
    /// Topic it writes to.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Its expressions.
    pub fn programs(&self) -> Vec<&Program> {
        let Self { topic: _, format: _, key, value, headers } = self;
        key.iter().chain(value).chain(headers.iter().map(|(_, program)| program)).collect()
    }

    /// Whether it needs all of the value, decoded.
    pub fn decodes_whole(&self) -> bool {
        self.value.is_none() && matches!(self.format, ValueFormat::Avro { .. })
    }

    /// Writes the record.
    ///
    /// # Errors
    /// Those of its expressions; [`FaultClass::Permanent`] when the value does not fit the topic's schema.
    pub fn apply(&self, cx: &mut StageCx<'_, '_>) -> Result<Next, Fault> {
        let key = match &self.key {
            Some(program) => values::bytes(program.evaluate(cx.scope)?),
            None => cx.origin.record.key.clone(),
        };
        let value = match &self.value {
            Some(program) => {
                let value = program.evaluate(cx.scope)?;
                self.encode(&value, cx.services)?
            }
            None => self.whole(cx)?,
        };
        let headers = self.headers(cx)?;
        let topic = Arc::clone(&self.topic);
        let record = OutRecord { topic, partition: None, timestamp_ms: None, key, value, headers };
        let records = &mut cx.outputs.records;
        if records.capacity() == 0 {
            // Mostly this is the only one, and an execution result follows.
            records.reserve_exact(2);
        }
        records.push(record);
        Ok(Next::Continue)
    }

    /// `.` as it is to be written.
    fn whole(&self, cx: &mut StageCx<'_, '_>) -> Result<Option<Bytes>, Fault> {
        let payload = cx.scope.payload().map_err(|error| self.refuse(&error.to_string()))?;
        match (payload, &self.format) {
            (Payload::Original(raw), ValueFormat::Json | ValueFormat::Bytes) => return Ok(raw.cloned()),
            (Payload::Original(None), ValueFormat::Avro { .. }) => return Ok(None),
            (Payload::Spliced(text), ValueFormat::Json) => return Ok(Some(text)),
            (Payload::Foreign { raw, .. }, ValueFormat::Bytes) => return Ok(Some(raw.clone())),
            (Payload::New(value) | Payload::Foreign { value, .. }, _) => {
                return self.encode(value, cx.services);
            }
            (Payload::Original(Some(_)) | Payload::Spliced(_), _) => {}
        }
        let services = cx.services;
        let value = cx.scope.value()?;
        self.encode(value, services)
    }

    /// A value in the topic's format; null is a tombstone.
    fn encode(&self, value: &Value, services: &Services) -> Result<Option<Bytes>, Fault> {
        if value.is_null() {
            return Ok(None);
        }
        let bytes = match &self.format {
            ValueFormat::Json => {
                values::to_json_bytes(value).map_err(|error| self.refuse(&error.to_string()))?
            }
            ValueFormat::Bytes => values::bytes(value.clone()).unwrap_or_default(),
            ValueFormat::Avro { .. } => services
                .encode_avro(&self.topic, &values::to_json(value))
                .map_err(|why| self.refuse(&why.to_string()))?,
        };
        Ok(Some(bytes))
    }

    fn headers(&self, cx: &mut StageCx<'_, '_>) -> Result<Vec<Header>, Fault> {
        let record = cx.origin.record;
        let mut headers = Vec::with_capacity(record.headers.len() + self.headers.len() + 1);
        headers.extend(
            record.headers.iter().filter(|header| header.name.as_bytes().starts_with(b"ce_")).cloned(),
        );
        for (name, program) in &self.headers {
            let value = values::bytes(program.evaluate(cx.scope)?);
            headers.retain(|header| header.name != *name);
            headers.push(Header { name: name.clone(), value });
        }
        Ok(headers)
    }

    fn refuse(&self, why: &str) -> Fault {
        Fault::new(FaultClass::Permanent, format!("the value does not fit topic {}: {why}", self.topic))
    }
}
