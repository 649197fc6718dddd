//! Takes one record through one pipeline. Nothing is sent from here: the verdict holds what is to be written, and it is
//! released only with the record's offset.
//!
//! What a failed step wrote is forgotten. A step with an error policy of its own is tried again by it; a leaf stage
//! without one by the pipeline's. A flow stage without one hands the failure of its steps on: they have been tried
//! already. Where the pipeline has retry tiers, a failure that may pass sends the record there once its policy is used up;
//! what was answered until then goes with it, and is not asked for again ([`crate::engine::answers`]).
//!
//! A pipeline that never waits is done at the first poll of [`process`], and allocates nothing but its outputs; only
//! the recursion into flow stages is boxed.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::stream::{self, StreamExt as _};

use crate::engine::answers::{self, Answer, Answers};
use crate::engine::backoff::Attempts;
use crate::engine::comeback::Past;
use crate::engine::verdict::Verdict;
use crate::engine::watchdog;
use crate::expr::scope::Scope;
use crate::expr::{Value, values};
use crate::fault::{Fault, FaultClass};
use crate::ledger::Outcome;
use crate::plan::flow::{Action, ErrorPolicy, ForEach, Retry, Route, Step, Then};
use crate::plan::pipeline::Pipeline;
use crate::record::InRecord;
use crate::schema::error::SchemaError;
use crate::schema::value::SharedSchema;
use crate::stages::context::{Next, Origin, Outputs, StageCx};
use crate::stages::services::Services;
use crate::stages::{Applied, Stage};

/// Shortest wait for a retry that the budget has no room for.
const BUDGET_WAIT_MIN: Duration = Duration::from_secs(1);

/// Takes `record` through `pipeline`, which takes it ([`Pipeline::takes`]). `past` is what earlier runs left, `now` is
/// when this one begins.
pub async fn process(
    pipeline: &Pipeline,
    record: &InRecord,
    past: &Past,
    services: &Services,
    now: DateTime<Utc>,
) -> Verdict {
    let begun = services.clock.elapsed();
    let run = Run { origin: Origin { pipeline: &pipeline.name, record, now }, past, pipeline, services };
    let (end, state) = run.whole().await;
    let State { outputs: Outputs { records, facts }, attempts, answers, .. } = state;
    let duration = services.clock.elapsed().saturating_sub(begun);
    let ended = |outcome, stage| Verdict {
        outcome,
        parked: None,
        stage,
        fault: None,
        attempts,
        answers,
        started_at: now,
        duration,
        records,
        facts,
    };
    match end {
        Ok(End::Through) => ended(Outcome::Succeeded, None),
        Ok(End::Filtered(stage)) => ended(Outcome::Filtered, Some(stage)),
        Err(Failed { stage, fault, comes_back }) => Verdict {
            parked: comes_back.then_some(past.tier + 1),
            fault: Some(fault),
            records: Vec::new(),
            facts: Vec::new(),
            ..ended(Outcome::DeadLettered, stage)
        },
    }
}

#[derive(Clone, Copy)]
struct Run<'r> {
    origin: Origin<'r>,
    past: &'r Past,
    pipeline: &'r Pipeline,
    services: &'r Services,
}

/// What steps change: of the whole run, or of one element of a `for_each`.
struct State<'r> {
    scope: Scope<'r>,
    outputs: Outputs,
    attempts: u32,
    answers: Answers,
    /// Numbers of the elements this is within, outermost first.
    elements: Vec<usize>,
}

/// How steps ended that did not fail.
enum End {
    Through,
    Filtered(Arc<str>),
}

/// A step that failed for good. The stage is `None` when the record could not even be opened.
struct Failed {
    stage: Option<Arc<str>>,
    fault: Fault,
    /// Whether the record waits in the next retry tier: its last policy says so, and there is one.
    comes_back: bool,
}

type Ended<'a> = Pin<Box<dyn Future<Output = Result<End, Failed>> + Send + 'a>>;

/// The run of one element; gives back its state.
type Element<'a, 'r> = Pin<Box<dyn Future<Output = (Result<End, Failed>, State<'r>)> + Send + 'a>>;

impl<'r> Run<'r> {
    async fn whole(self) -> (Result<End, Failed>, State<'r>) {
        let mut attempts = Attempts::default();
        let opened = loop {
            match self.open().await {
                Ok(scope) => break Ok(scope),
                Err(fault) => match attempts.next(&fault, self.retry(), rand::random()) {
                    Some(wait) => self.services.clock.sleep(wait).await,
                    None => break Err(fault),
                },
            }
        };
        let state = |scope| State {
            scope,
            outputs: Outputs::default(),
            attempts: attempts.made,
            answers: Answers::default(),
            elements: Vec::new(),
        };
        match opened {
            Ok(scope) => {
                let mut state = state(scope);
                let end = self.steps(&self.pipeline.steps, &mut state).await;
                (end, state)
            }
            Err(fault) => {
                let scope = Scope::new(self.origin.record, self.origin.now);
                let comes_back = self.has_next_tier(&self.pipeline.on_error, &fault);
                (Err(Failed { stage: None, fault, comes_back }), state(scope))
            }
        }
    }

    /// Whether a record that failed so, under this policy, waits in a tier before the policy's end.
    fn has_next_tier(&self, policy: &ErrorPolicy, fault: &Fault) -> bool {
        let topic = &self.origin.record.topic;
        let tiers = self.pipeline.companions_of(topic).map_or(0, |companions| companions.tiers.len());
        policy.uses_tiers && fault.class.is_retryable() && self.past.tier < tiers
    }

    fn retry(&self) -> &'r Retry {
        &self.pipeline.on_error.retry
    }

    /// The scope of the record. A value in Avro is decoded here, because the registry may have to be asked; JSON waits
    /// until a program looks at it.
    async fn open(&self) -> Result<Scope<'r>, Fault> {
        let Origin { record, now, .. } = self.origin;
        let (Some(schema), Some(framed)) = (self.services.schemas.get(&*record.topic), &record.value) else {
            return Ok(match &self.pipeline.projection {
                Some(projection) => Scope::projected(record, now, projection),
                None => Scope::new(record, now),
            });
        };
        let value = match self.services.codec.read_value(schema, framed) {
            Err(SchemaError::UnknownSchema { id }) => Box::pin(self.learned(id, schema, framed)).await,
            other => other,
        };
        match value {
            Ok(value) => Ok(Scope::decoded(record, now, values::from_json(value))),
            Err(error) => {
                let class = if error.is_transient() { FaultClass::Transient } else { FaultClass::Poison };
                Err(Fault::new(class, format!("the value cannot be decoded: {error}")))
            }
        }
    }

    async fn learned(
        &self,
        id: u32,
        schema: &SharedSchema,
        framed: &[u8],
    ) -> Result<serde_json::Value, SchemaError> {
        self.services.codec.learn(id).await?;
        self.services.codec.read_value(schema, framed)
    }

    async fn steps(&self, steps: &[Step], state: &mut State<'r>) -> Result<End, Failed> {
        for step in steps {
            match self.step(step, state).await? {
                End::Through => {}
                filtered @ End::Filtered(_) => return Ok(filtered),
            }
        }
        Ok(End::Through)
    }

    /// As [`Run::steps`], for the steps within a flow stage.
    fn nested<'a>(&'a self, steps: &'a [Step], state: &'a mut State<'r>) -> Ended<'a> {
        Box::pin(self.steps(steps, state))
    }

    /// One step, until it succeeds or its policy ends.
    async fn step(&self, step: &Step, state: &mut State<'r>) -> Result<End, Failed> {
        let is_flow = !matches!(step.action, Action::Stage(_));
        let policy = match &step.on_error {
            None if !is_flow => Some(&self.pipeline.on_error),
            own => own.as_ref(),
        };
        // Leaf stages leave the value as it was when they fail; steps within a flow stage may have changed it before.
        let before = (is_flow && policy.is_some()).then(|| state.scope.remember());
        let written = (state.outputs.records.len(), state.outputs.facts.len());
        if matches!(&step.action, Action::Stage(stage) if stage.waits()) {
            let Services { budgets, clock, .. } = self.services;
            budgets.first(&self.pipeline.name, &step.id, clock.elapsed());
        }
        let mut attempts = Attempts::default();
        let mut before = before;
        loop {
            let failed = match self.once(step, state).await {
                Ok(end) => return Ok(end),
                Err(failed) => failed,
            };
            state.outputs.records.truncate(written.0);
            state.outputs.facts.truncate(written.1);
            let Some(policy) = policy else { return Err(failed) };
            if let Some(memory) = before.take() {
                state.scope.restore(memory);
                before = Some(state.scope.remember());
            }
            let wait = attempts.next(&failed.fault, &policy.retry, rand::random());
            state.attempts = state.attempts.max(attempts.made);
            let comes_back = self.has_next_tier(policy, &failed.fault);
            let wait = match wait {
                Some(wait) if failed.fault.class == FaultClass::Transient => {
                    self.afforded(step, policy, wait, comes_back).await
                }
                other => other,
            };
            match (wait, policy.then) {
                (Some(wait), _) => self.services.clock.sleep(wait).await,
                (None, Then::Ignore) if !comes_back => return Ok(End::Through),
                (None, Then::Ignore | Then::DeadLetter) => return Err(Failed { comes_back, ..failed }),
            }
        }
    }

    /// The wait before a retry, when there is one to be had: without, a record that can wait in a tier does so at once
    /// (`None`), another waits here until there is.
    async fn afforded(
        &self,
        step: &Step,
        policy: &ErrorPolicy,
        wait: Duration,
        comes_back: bool,
    ) -> Option<Duration> {
        let Services { budgets, clock, .. } = self.services;
        let name = &self.pipeline.name;
        while !budgets.take(name, &step.id, clock.elapsed(), policy.retry.budget_percent) {
            if comes_back {
                return None;
            }
            clock.sleep(policy.retry.max.max(BUDGET_WAIT_MIN)).await;
        }
        Some(wait)
    }

    /// One attempt of one step.
    async fn once(&self, step: &Step, state: &mut State<'r>) -> Result<End, Failed> {
        match &step.action {
            Action::Stage(stage) => self.stage(step, stage, state).await,
            Action::Route(route) => self.route(step, route, state).await,
            Action::ForEach(for_each) => self.for_each(step, for_each, state).await,
        }
    }

    async fn stage(&self, step: &Step, stage: &Stage, state: &mut State<'r>) -> Result<End, Failed> {
        if stage.waits() {
            return self.asking(step, stage, state).await;
        }
        self.applied(step, stage, state).await
    }

    /// A stage with outside effects: takes the answer of an earlier run, if there is one, and keeps it for later ones.
    async fn asking(&self, step: &Step, stage: &Stage, state: &mut State<'r>) -> Result<End, Failed> {
        let path = answers::path(&step.id, &state.elements);
        let config_hash = &self.pipeline.config_hash;
        let given = self.past.answers.get(&path, step.is_named, config_hash);
        let end = match &given {
            Some(Answer { next, value }) => {
                if let Some(value) = value {
                    state.scope.answer(&step.id, values::from_json(value.clone()));
                }
                match next {
                    Next::Continue => End::Through,
                    Next::Filtered => End::Filtered(Arc::clone(&step.id)),
                }
            }
            None => self.applied(step, stage, state).await?,
        };
        let answer = given.unwrap_or_else(|| Answer {
            next: if matches!(end, End::Through) { Next::Continue } else { Next::Filtered },
            value: stage.answers().then(|| state.scope.answer_of(&step.id).map(values::to_json)).flatten(),
        });
        if state.answers.is_empty() {
            state.answers = Answers::of(config_hash);
        }
        state.answers.add(path, &answer);
        Ok(end)
    }

    async fn applied(&self, step: &Step, stage: &Stage, state: &mut State<'r>) -> Result<End, Failed> {
        let State { scope, outputs, elements, .. } = state;
        let mut cx = StageCx {
            origin: self.origin,
            step: &step.id,
            elements,
            scope,
            outputs,
            services: self.services,
        };
        // What waits on purpose is not watched.
        let is_watched = stage.waits() && !matches!(stage, Stage::RateLimit(_));
        let _attempt = is_watched.then(|| watchdog::begin(&self.origin, &step.id));
        let done = match unpanicked(|| stage.apply(&mut cx)) {
            Ok(Applied::Now(done)) => done,
            Ok(Applied::Later(mut work)) => {
                let poll = |cx: &mut std::task::Context<'_>| match unpanicked(|| work.as_mut().poll(cx)) {
                    Ok(poll) => poll,
                    Err(fault) => Poll::Ready(Err(fault)),
                };
                std::future::poll_fn(poll).await
            }
            Err(fault) => Err(fault),
        };
        match done {
            Ok(Next::Continue) => Ok(End::Through),
            Ok(Next::Filtered) => Ok(End::Filtered(Arc::clone(&step.id))),
            Err(fault) => Err(failed(step, fault)),
        }
    }

    /// A filter within a branch ends the run of the record, as it does anywhere outside of `for_each`.
    async fn route(&self, step: &Step, route: &Route, state: &mut State<'r>) -> Result<End, Failed> {
        let mut has_matched = false;
        for branch in &route.branches {
            if !branch.when.holds(&mut state.scope).map_err(|fault| failed(step, fault))? {
                continue;
            }
            has_matched = true;
            let end = self.nested(&branch.steps, state).await?;
            if !route.all || matches!(end, End::Filtered(_)) {
                return Ok(end);
            }
        }
        if has_matched { Ok(End::Through) } else { self.nested(&route.otherwise, state).await }
    }

    /// Each element has a scope of its own, in which `.` is the element. What their steps write is kept in the order of
    /// the list, whatever order they end in. The values they end with are the stage's answer; a filtered element is
    /// left out of it. A list that is null has no elements.
    async fn for_each(&self, step: &Step, for_each: &ForEach, state: &mut State<'r>) -> Result<End, Failed> {
        let list = for_each.list.evaluate(&mut state.scope).map_err(|fault| failed(step, fault))?;
        let items = elements(list, for_each.items_max).map_err(|fault| failed(step, fault))?;
        let count = items.len();
        let mut results = Vec::with_capacity(count);
        let mut attempts = state.attempts;
        {
            let State { scope, elements: outer, answers: kept, attempts: made, outputs: _ } = &mut *state;
            let scope = &*scope;
            let runs = items.into_iter().enumerate().map(|(at, item)| {
                let mut within = outer.clone();
                within.push(at);
                let inner = State {
                    scope: scope.element(item),
                    outputs: Outputs::default(),
                    attempts: 1,
                    answers: Answers::default(),
                    elements: within,
                };
                self.element(&for_each.steps, inner)
            });
            let mut runs = stream::iter(runs).buffered(for_each.concurrency.get());
            while let Some((end, mut inner)) = runs.next().await {
                attempts = attempts.max(inner.attempts);
                kept.merge(std::mem::take(&mut inner.answers));
                match end {
                    Ok(End::Through) => results.push((true, inner)),
                    Ok(End::Filtered(_)) => results.push((false, inner)),
                    Err(failed) => {
                        *made = attempts;
                        return Err(failed);
                    }
                }
            }
        }
        state.attempts = attempts;
        let mut answers = Vec::with_capacity(count);
        for (is_through, inner) in results {
            let State { mut scope, outputs: Outputs { records, facts }, .. } = inner;
            state.outputs.records.extend(records);
            state.outputs.facts.extend(facts);
            if is_through {
                answers.push(scope.take_value().map_err(|fault| failed(step, fault))?);
            }
        }
        state.scope.answer(&step.id, Value::Array(answers));
        Ok(End::Through)
    }

    fn element<'a>(&'a self, steps: &'a [Step], mut inner: State<'r>) -> Element<'a, 'r>
    where
        'r: 'a,
    {
        Box::pin(async move {
            let end = self.steps(steps, &mut inner).await;
            (end, inner)
        })
    }
}

fn failed(step: &Step, fault: Fault) -> Failed {
    Failed { stage: Some(Arc::clone(&step.id)), fault, comes_back: false }
}

/// The elements of a list.
fn elements(list: Value, items_max: usize) -> Result<Vec<Value>, Fault> {
    match list {
        Value::Array(items) if items.len() > items_max => {
            let message = format!("the list has {} elements, at most {items_max} are taken", items.len());
            Err(Fault::new(FaultClass::Permanent, message))
        }
        Value::Array(items) => Ok(items),
        Value::Null => Ok(Vec::new()),
        other => {
            let message = format!("`in` gave {}, not a list", values::kind_name(&other));
            Err(Fault::new(FaultClass::Permanent, message))
        }
    }
}

/// Runs a stage; a panic in it is a bug of ours that costs this record a dead letter, not the process its life.
fn unpanicked<T>(stage: impl FnOnce() -> T) -> Result<T, Fault> {
    std::panic::catch_unwind(AssertUnwindSafe(stage)).map_err(|panic| {
        let what = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| String::from("no message"));
        Fault::new(FaultClass::Bug, format!("the stage panicked: {what}"))
    })
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
