//! One leaf step of a pipeline per file: what was written (`...Config`), how it is compiled, how it is applied.
//!
//! Flow stages (`route`, `for_each`) are not here: they hold lists of steps and belong to `plan/flow.rs` and
//! `engine/run.rs`.

#[cfg(test)]
pub(crate) mod bench;
pub mod budget;
pub mod clock;
pub mod context;
pub mod dedupe;
pub mod destinations;
pub mod emit;
pub mod filter;
pub mod http;
pub mod kpi;
pub mod limits;
pub mod map;
pub mod rate_limit;
pub mod scripted_rows;
pub mod services;
pub mod sql;
pub mod validate;

use std::pin::Pin;

use crate::expr::program::Program;
use crate::fault::Fault;
use crate::stages::context::{CompileCx, Next, StageCx};
use crate::yaml::lint::Lints;
use crate::yaml::node::Node;

/// Names of the leaf stages, as they are written.
pub const KINDS: [&str; 9] =
    ["filter", "map", "validate", "dedupe", "rate_limit", "http", "sql", "emit", "kpi"];

/// A leaf stage as written. Each variant is one file of this folder.
#[derive(Clone, Debug)]
pub enum StageConfig {
    /// `filter`
    Filter(filter::FilterConfig),
    /// `map`
    Map(map::MapConfig),
    /// `validate`
    Validate(validate::ValidateConfig),
    /// `dedupe`
    Dedupe(dedupe::DedupeConfig),
    /// `rate_limit`
    RateLimit(rate_limit::RateLimitConfig),
    /// `http`
    Http(http::HttpConfig),
    /// `sql`
    Sql(sql::SqlConfig),
    /// `emit`
    Emit(emit::EmitConfig),
    /// `kpi`
    Kpi(kpi::KpiConfig),
}

/// A compiled leaf stage.
#[derive(Debug)]
pub enum Stage {
    /// `filter`
    Filter(filter::Filter),
    /// `map`
    Map(map::Map),
    /// `validate`
    Validate(validate::Validate),
    /// `dedupe`
    Dedupe(dedupe::Dedupe),
    /// `rate_limit`
    RateLimit(rate_limit::RateLimit),
    /// `http`
    Http(http::Http),
    /// `sql`
    Sql(sql::Sql),
    /// `emit`
    Emit(emit::Emit),
    /// `kpi`
    Kpi(kpi::Kpi),
}

impl StageConfig {
    /// Decodes the stage called `kind`, one of [`KINDS`]. `None` after lints, or when there is no such stage.
    pub fn decode(kind: &str, node: &Node, lints: &mut Lints) -> Option<Self> {
        match kind {
            "filter" => filter::FilterConfig::decode(node, lints).map(Self::Filter),
            "map" => map::MapConfig::decode(node, lints).map(Self::Map),
            "validate" => validate::ValidateConfig::decode(node, lints).map(Self::Validate),
            "rate_limit" => rate_limit::RateLimitConfig::decode(node, lints).map(Self::RateLimit),
            "dedupe" => dedupe::DedupeConfig::decode(node, lints).map(Self::Dedupe),
            "sql" => sql::SqlConfig::decode(node, lints).map(Self::Sql),
            "http" => http::HttpConfig::decode(node, lints).map(Self::Http),
            "emit" => emit::EmitConfig::decode(node, lints).map(Self::Emit),
            "kpi" => kpi::KpiConfig::decode(node, lints).map(Self::Kpi),
            _ => None,
        }
    }

    /// The stage's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Filter(_) => "filter",
            Self::Map(_) => "map",
            Self::Validate(_) => "validate",
            Self::RateLimit(_) => "rate_limit",
            Self::Http(_) => "http",
            Self::Dedupe(_) => "dedupe",
            Self::Sql(_) => "sql",
            Self::Emit(_) => "emit",
            Self::Kpi(_) => "kpi",
        }
    }

    /// Compiles it; `cx.types` are those after it then. `None` after lints.
    pub fn compile(&self, cx: &mut CompileCx<'_>, lints: &mut Lints) -> Option<Stage> {
        match self {
            Self::Filter(config) => config.compile(cx, lints).map(Stage::Filter),
            Self::Map(config) => config.compile(cx, lints).map(Stage::Map),
            Self::Validate(config) => config.compile(cx, lints).map(Stage::Validate),
            Self::RateLimit(config) => config.compile(cx, lints).map(Stage::RateLimit),
            Self::Dedupe(config) => config.compile(cx, lints).map(Stage::Dedupe),
            Self::Http(config) => config.compile(cx, lints).map(Stage::Http),
            Self::Sql(config) => config.compile(cx, lints).map(Stage::Sql),
            Self::Emit(config) => config.compile(cx, lints).map(Stage::Emit),
            Self::Kpi(config) => config.compile(cx, lints).map(Stage::Kpi),
        }
    }
}

impl Stage {
    /// Whether it may wait for something outside the process.
    pub fn waits(&self) -> bool {
        match self {
            Self::Filter(_) | Self::Map(_) | Self::Validate(_) | Self::Emit(_) | Self::Kpi(_) => false,
            Self::Dedupe(_) | Self::RateLimit(_) | Self::Http(_) | Self::Sql(_) => true,
        }
    }

    /// Whether it cannot work without Postgres.
    pub fn needs_postgres(&self) -> bool {
        match self {
            Self::Filter(_) | Self::Map(_) | Self::Validate(_) | Self::Emit(_) | Self::Kpi(_) => false,
            Self::RateLimit(_) | Self::Http(_) => false,
            Self::Dedupe(_) | Self::Sql(_) => true,
        }
    }

    /// Whether it leaves an answer in `%stages.<id>`.
    pub fn answers(&self) -> bool {
        match self {
            Self::Filter(_) | Self::Map(_) | Self::Validate(_) | Self::Emit(_) | Self::Kpi(_) => false,
            Self::Dedupe(_) | Self::RateLimit(_) => false,
            Self::Http(http) => http.stores(),
            Self::Sql(_) => true,
        }
    }

    /// Its expressions.
    pub fn programs(&self) -> Vec<&Program> {
        match self {
            Self::Filter(filter) => vec![filter.condition()],
            Self::Map(map) => vec![map.program()],
            Self::Validate(_) => Vec::new(),
            Self::RateLimit(rate_limit) => rate_limit.key().into_iter().collect(),
            Self::Dedupe(dedupe) => vec![dedupe.key()],
            Self::Http(http) => http.programs(),
            Self::Sql(sql) => sql.programs(),
            Self::Emit(emit) => emit.programs(),
            Self::Kpi(kpi) => kpi.programs(),
        }
    }

    /// Whether it needs all of the value, decoded, beside what its expressions touch.
    pub fn decodes_whole(&self) -> bool {
        match self {
            Self::Validate(_) => true,
            Self::Emit(emit) => emit.decodes_whole(),
            Self::Filter(_) | Self::Map(_) | Self::Kpi(_) => false,
            Self::Dedupe(_) | Self::RateLimit(_) | Self::Http(_) | Self::Sql(_) => false,
        }
    }

    /// Does it once; one that waits gives a future that does. Only those are boxed, so that the run of a record that never
    /// waits stays small. After a fault nothing is added to the outputs.
    pub fn apply<'s>(&'s self, cx: &'s mut StageCx<'_, '_>) -> Applied<'s> {
        match self {
            Self::Filter(filter) => Applied::Now(filter.apply(cx)),
            Self::Map(map) => Applied::Now(map.apply(cx)),
            Self::Validate(validate) => Applied::Now(validate.apply(cx)),
            Self::Emit(emit) => Applied::Now(emit.apply(cx)),
            Self::Kpi(kpi) => Applied::Now(kpi.apply(cx)),
            Self::RateLimit(rate_limit) => Applied::Later(Box::pin(rate_limit.apply(cx))),
            Self::Dedupe(dedupe) => Applied::Later(Box::pin(dedupe.apply(cx))),
            Self::Http(http) => Applied::Later(Box::pin(http.apply(cx))),
            Self::Sql(sql) => Applied::Later(Box::pin(sql.apply(cx))),
        }
    }
}

/// What applying a stage comes to.
pub enum Applied<'s> {
    /// It is done, or has failed.
    Now(Result<Next, Fault>),
    /// It waits for something outside the process.
    Later(Pin<Box<dyn Future<Output = Result<Next, Fault>> + Send + 's>>),
}
