//! The short way: a record through leaf stages that do not wait, each at its first attempt.
//!
//! This is how nearly every record of a pipeline that only computes goes, so it is a plain function, without a future.
//! Where anything else happens (a fault, a flow stage, a value that a codec has to
//! decode, a panic) it says nothing, and [`crate::engine::run::process`] takes the record from the start. That is the
//! same as if nothing had happened, as such stages do nothing but add to the verdict.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::engine::answers::Answers;
use crate::engine::backoff::Attempts;
use crate::engine::verdict::Verdict;
use crate::expr::scope::Scope;
use crate::ledger::Outcome;
use crate::plan::flow::Action;
use crate::plan::pipeline::Pipeline;
use crate::record::InRecord;
use crate::stages::Applied;
use crate::stages::context::{Next, Origin, Outputs, StageCx};
use crate::stages::services::Services;

/// The verdict on `record`, as [`crate::engine::run::process`] would give it; `None` when that is to be asked.
pub fn process(
    pipeline: &Pipeline,
    record: &InRecord,
    services: &Services,
    now: DateTime<Utc>,
) -> Option<Verdict> {
    if !pipeline.is_cpu_only || services.schemas.contains_key(&*record.topic) {
        return None;
    }
    let begun = services.clock.elapsed();
    let mut outputs = Outputs::default();
    let stages = AssertUnwindSafe(|| stages(pipeline, record, services, now, &mut outputs));
    let (outcome, stage) = std::panic::catch_unwind(stages).ok().flatten()?;
    let Outputs { records, facts } = outputs;
    Some(Verdict {
        outcome,
        parked: None,
        stage,
        fault: None,
        attempts: Attempts::default().made,
        answers: Answers::default(),
        started_at: now,
        duration: services.clock.elapsed().saturating_sub(begun),
        records,
        facts,
    })
}

/// How it ends, and the step at which it was filtered.
fn stages(
    pipeline: &Pipeline,
    record: &InRecord,
    services: &Services,
    now: DateTime<Utc>,
    outputs: &mut Outputs,
) -> Option<(Outcome, Option<Arc<str>>)> {
    let mut scope = match &pipeline.projection {
        Some(projection) => Scope::projected(record, now, projection),
        None => Scope::new(record, now),
    };
    for step in &pipeline.steps {
        let Action::Stage(stage) = &step.action else { return None };
        let mut cx = StageCx {
            origin: Origin { pipeline: &pipeline.name, record, now },
            step: &step.id,
            elements: &[],
            scope: &mut scope,
            outputs,
            services,
        };
        match stage.apply(&mut cx) {
            Applied::Now(Ok(Next::Continue)) => {}
            Applied::Now(Ok(Next::Filtered)) => return Some((Outcome::Filtered, Some(Arc::clone(&step.id)))),
            Applied::Now(Err(_)) | Applied::Later(_) => return None,
        }
    }
    Some((Outcome::Succeeded, None))
}
