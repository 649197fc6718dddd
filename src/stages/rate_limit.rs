//! `rate_limit: {rate, burst?, key?}`: lets records pass at a rate; the others wait in their lanes.
//!
//! A token bucket for each value of `key`, or one for all. It holds for one process; see [`crate::stages::limits`].

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::expr::program::{self, Program};
use crate::expr::values;
use crate::fault::Fault;
use crate::stages::context::{CompileCx, Next, StageCx};
use crate::stages::limits::Limit;
use crate::telemetry::{self, names};
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::Lints;
use crate::yaml::node::Node;

/// Without `burst`, as much may come at once as the rate gives in this time.
const BURST_SHARE: Duration = Duration::from_secs(1);

/// As written.
#[derive(Clone, Debug)]
pub struct RateLimitConfig {
    limit: Limit,
    key: Option<Node>,
}

/// Compiled.
#[derive(Debug)]
pub struct RateLimit {
    /// Name of its table of buckets: `<pipeline>/<step>`.
    name: String,
    pipeline: Arc<str>,
    step: Arc<str>,
    limit: Limit,
    key: Option<Program>,
}

impl RateLimitConfig {
    /// Decodes the mapping.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`rate_limit`", lints)?;
        let rate = fields.required("rate", lints).and_then(|node| fields::rate(node, lints));
        let burst = fields.optional("burst").and_then(|node| fields::integer(node, 1..=1_000_000, lints));
        let key = fields.optional("key").cloned();
        fields.finish(lints);
        let mut limit = Limit::with_share(rate?, BURST_SHARE);
        let burst = burst.and_then(|burst| u32::try_from(burst).ok()).and_then(NonZeroU32::new);
        if let Some(burst) = burst {
            limit.burst = burst;
        }
        Some(Self { limit, key })
    }

    /// Compiles the key.
    pub fn compile(&self, cx: &mut CompileCx<'_>, lints: &mut Lints) -> Option<RateLimit> {
        let key = match &self.key {
            Some(node) => Some(program::compile_expression(node, &cx.types, lints)?),
            None => None,
        };
        let (pipeline, step) = (Arc::clone(&cx.pipeline), Arc::clone(&cx.step));
        Some(RateLimit { name: format!("{pipeline}/{step}"), pipeline, step, limit: self.limit, key })
    }
}

impl RateLimit {
    /// Its key.
    pub fn key(&self) -> Option<&Program> {
        self.key.as_ref()
    }

    /// Waits for this record's turn. Records with a null key share one bucket.
    ///
    /// # Errors
    /// Those of the key.
    pub async fn apply(&self, cx: &mut StageCx<'_, '_>) -> Result<Next, Fault> {
        let key = match &self.key {
            Some(program) => values::text(&program.evaluate(cx.scope)?).unwrap_or_default(),
            None => String::new(),
        };
        let services = cx.services;
        let bucket = services.limits.bucket(&self.name, &key, self.limit);
        if bucket.wait(&services.clock).await {
            telemetry::count(names::RATE_LIMITED, &[&self.pipeline, &self.step], 1);
        }
        Ok(Next::Continue)
    }
}
