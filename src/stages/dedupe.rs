//! `dedupe: {key, ttl, scope?}`: filters records whose key was seen within `ttl`.
//!
//! A key belongs to the record that brought it first, by topic, partition and offset: when that record is processed
//! again, after a crash or a retry, it is not its own duplicate, whatever came in between. The keys are in Postgres and
//! survive restarts; those of many records are asked for in one statement. While Postgres is down the stage fails and is
//! retried: nothing passes unchecked.
//!
//! A record whose first bringer failed later in the pipeline is a duplicate all the same: replay the first one.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::expr::program::{self, Program};
use crate::expr::values;
use crate::fault::{Fault, FaultClass};
use crate::postgres::dedupe::{Claim, Sighting};
use crate::record::Source;
use crate::stages::context::{CompileCx, Next, StageCx};
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::Lints;
use crate::yaml::node::Node;

/// Longest time that a key is kept.
const TTL_MAX: Duration = Duration::from_secs(400 * 86_400);

/// As written.
#[derive(Clone, Debug)]
pub struct DedupeConfig {
    key: Node,
    ttl: Duration,
    scope: Option<String>,
}

/// Compiled.
#[derive(Debug)]
pub struct Dedupe {
    key: Program,
    ttl: Duration,
    scope: Arc<str>,
}

impl DedupeConfig {
    /// Decodes the mapping.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`dedupe`", lints)?;
        let key = fields.required("key", lints).cloned();
        let ttl = fields.required("ttl", lints).and_then(|node| {
            let ttl = fields::duration(node, lints)?;
            let is_in_range = ttl >= Duration::from_secs(1) && ttl <= TTL_MAX;
            if !is_in_range {
                lints.error("out-of-range", &node.span, "this time is out of range", "from 1s to 400d");
            }
            is_in_range.then_some(ttl)
        });
        let scope = match fields.optional("scope") {
            Some(node) => Some(fields::text(node, lints)?.value),
            None => None,
        };
        fields.finish(lints);
        Some(Self { key: key?, ttl: ttl?, scope })
    }

    /// Compiles the key. Keys are told apart by pipeline and step, unless `scope` names a space that several share.
    pub fn compile(&self, cx: &mut CompileCx<'_>, lints: &mut Lints) -> Option<Dedupe> {
        let key = program::compile_expression(&self.key, &cx.types, lints)?;
        let scope = match &self.scope {
            Some(scope) => scope.as_str().into(),
            None => format!("{}/{}", cx.pipeline, cx.step).into(),
        };
        Some(Dedupe { key, ttl: self.ttl, scope })
    }
}

impl Dedupe {
    /// Its key.
    pub fn key(&self) -> &Program {
        &self.key
    }

    /// Filters the record when its key belongs to another.
    ///
    /// # Errors
    /// Permanent when the key is null; transient while Postgres does not answer.
    pub async fn apply(&self, cx: &mut StageCx<'_, '_>) -> Result<Next, Fault> {
        let key = values::bytes(self.key.evaluate(cx.scope)?)
            .ok_or_else(|| Fault::new(FaultClass::Permanent, "the key is null"))?;
        let Source { topic, partition, offset } = cx.origin.record.source();
        let element = cx.elements.iter().map(|element| format!("/{element}")).collect();
        let claim = Claim {
            scope: self.scope.to_string(),
            key_hash: Sha256::digest(&key).into(),
            sighting: Sighting { topic: topic.to_owned(), partition, offset, element },
            ttl: self.ttl,
        };
        let is_mine = cx.services.dedupe.claim(claim, &cx.services.clock).await?;
        Ok(if is_mine { Next::Continue } else { Next::Filtered })
    }
}

#[cfg(test)]
mod tests;
