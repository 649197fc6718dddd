//! `validate: {schema: schemas/order.json}`: the value satisfies a JSON Schema, or the event is a permanent fault whose
//! message names the path and the rule, not the value.
//!
//! Drafts 4, 6, 7, 2019-09 and 2020-12, chosen by `$schema` (2020-12 when it is absent). Schemas are read at check time
//! and stand alone: a `$ref` to another file or host is refused.

use std::sync::Arc;

use jsonschema::Validator;

use crate::expr::scope::Payload;
use crate::expr::types::Types;
use crate::expr::values;
use crate::fault::{Fault, FaultClass};
use crate::stages::context::{CompileCx, Next, StageCx};
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Spanned};
use crate::yaml::node::Node;

/// Largest schema file, in bytes.
const SCHEMA_BYTES_MAX: u64 = 4 << 20;
/// How many violations a message names.
const VIOLATIONS_MAX: usize = 3;

/// As written.
#[derive(Clone, Debug)]
pub struct ValidateConfig {
    schema: Spanned<String>,
}

/// Compiled.
pub struct Validate {
    validator: Validator,
    schema: Arc<str>,
}

impl std::fmt::Debug for Validate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Validate").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl ValidateConfig {
    /// Decodes `{schema: PATH}`.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`validate`", lints)?;
        let schema = fields.required("schema", lints).and_then(|node| fields::text(node, lints));
        fields.finish(lints);
        Some(Self { schema: schema? })
    }

    /// Reads and compiles the schema; the stages after it know what it guarantees.
    pub fn compile(&self, cx: &mut CompileCx<'_>, lints: &mut Lints) -> Option<Validate> {
        let schema = self.read(cx, lints)?;
        match jsonschema::options().build(&schema) {
            Ok(validator) => {
                cx.types.set_value(Types::of_json_schema(&schema).value().clone());
                Some(Validate { validator, schema: self.schema.value.as_str().into() })
            }
            Err(error) => {
                lints.error(
                    "bad-schema",
                    &self.schema.span,
                    format!("this file is no JSON Schema that stands alone: {error}"),
                    "references go to #/$defs/... in the same file",
                );
                None
            }
        }
    }

    fn read(&self, cx: &CompileCx<'_>, lints: &mut Lints) -> Option<serde_json::Value> {
        let Spanned { value: name, span } = &self.schema;
        let path = std::path::Path::new(name);
        let is_inside = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !is_inside {
            lints.error(
                "bad-schema",
                span,
                "a schema is a file of the project",
                "write its path below the project's folder, such as schemas/order.json",
            );
            return None;
        }
        let path = cx.declared.root.join(path);
        let text = match std::fs::metadata(&path).and_then(|about| {
            if about.len() > SCHEMA_BYTES_MAX {
                return Err(std::io::Error::other(format!("it is larger than {SCHEMA_BYTES_MAX} bytes")));
            }
            std::fs::read(&path)
        }) {
            Ok(text) => text,
            Err(error) => {
                lints.error(
                    "missing-file",
                    span,
                    format!("`{name}` cannot be read: {error}"),
                    "is the path right?",
                );
                return None;
            }
        };
        match serde_json::from_slice(&text) {
            Ok(schema) => Some(schema),
            Err(error) => {
                lints.error("bad-schema", span, format!("`{name}` is no JSON: {error}"), "mend the file");
                None
            }
        }
    }
}

impl Validate {
    /// Checks the value.
    ///
    /// # Errors
    /// [`FaultClass::Permanent`] naming up to three violations; [`FaultClass::Poison`] when the value is no JSON.
    pub fn apply(&self, cx: &mut StageCx<'_, '_>) -> Result<Next, Fault> {
        // The bytes as they came in say more of numbers than a decoded value does.
        let parsed = match cx.scope.payload() {
            Ok(Payload::Original(Some(text))) => serde_json::from_slice(text).ok(),
            Ok(Payload::Original(None)) => Some(serde_json::Value::Null),
            Ok(Payload::Foreign { value, .. } | Payload::New(value)) => Some(values::to_json(value)),
            // What a program changed is a value of the language, in all its numbers.
            Ok(Payload::Spliced(_)) | Err(_) => None,
        };
        let value = match parsed {
            Some(value) => value,
            None => values::to_json(cx.scope.value()?),
        };
        if self.validator.is_valid(&value) {
            return Ok(Next::Continue);
        }
        Err(Fault::new(FaultClass::Permanent, self.violations(&value)))
    }

    fn violations(&self, value: &serde_json::Value) -> String {
        let mut parts = Vec::new();
        let mut more = 0;
        for error in self.validator.iter_errors(value) {
            if parts.len() == VIOLATIONS_MAX {
                more += 1;
                continue;
            }
            let path = error.instance_path().to_string();
            let path = if path.is_empty() { String::from("/") } else { path };
            parts.push(format!("{path}: {}", error.masked()));
        }
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("the value violates {}: {}{more}", self.schema, parts.join("; "))
    }
}
