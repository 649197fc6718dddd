//! From steps as they are written to steps that run: ids given, expressions compiled with the types that hold at each
//! place.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::config::step::{
    ActionConfig, ErrorPolicyConfig, ForEachConfig, RouteConfig, StepConfig, ThenConfig,
};
use crate::config::stop_above::StopAboveConfig;
use crate::expr::{Kind, Value, program};
use crate::plan::flow::{self, Action, Branch, ErrorPolicy, ForEach, Retry, Route, Step, Then};
use crate::plan::pipeline::StopAbove;
use crate::stages::Stage;
use crate::stages::context::CompileCx;
use crate::yaml::lint::{Lints, Span};

/// Compiles a pipeline's steps. What does not compile is left out after its lints.
pub fn compile_steps(steps: &[StepConfig], cx: &mut CompileCx<'_>, lints: &mut Lints) -> Vec<Step> {
    let mut ids = Ids::default();
    ids.collect(steps, lints);
    Compiler { ids, counts: BTreeMap::new(), lints }.steps(steps, cx)
}

/// The policy of a step. What it says with `then` follows at once; only where it says nothing, the record goes through
/// the pipeline's tiers first.
fn compile_own_policy(written: &ErrorPolicyConfig) -> ErrorPolicy {
    let policy = compile_policy(written, &ErrorPolicy::default());
    ErrorPolicy { uses_tiers: written.then.is_none(), ..policy }
}

/// The policy that `written` means; what it leaves out is as in `default`.
pub fn compile_policy(written: &ErrorPolicyConfig, default: &ErrorPolicy) -> ErrorPolicy {
    let ErrorPolicyConfig { attempts, backoff, max, budget_percent, tiers: _, then, stop_above: _ } = written;
    let (attempts, backoff, max, then) = (*attempts, *backoff, *max, *then);
    let backoff = backoff.unwrap_or(default.retry.backoff);
    ErrorPolicy {
        retry: Retry {
            attempts: attempts.unwrap_or(default.retry.attempts),
            backoff,
            max: max.unwrap_or(default.retry.max).max(backoff),
            budget_percent: budget_percent.unwrap_or(default.retry.budget_percent),
        },
        uses_tiers: true,
        then: match then {
            Some(ThenConfig::DeadLetter) => Then::DeadLetter,
            Some(ThenConfig::Ignore) => Then::Ignore,
            None => default.then,
        },
    }
}

/// The limit for dead letters that a pipeline's policy means; what it leaves out is as in the default. `None` never
/// stops.
pub fn compile_stop_above(written: Option<&ErrorPolicyConfig>) -> Option<StopAbove> {
    let default = StopAbove::default();
    match written.and_then(|policy| policy.stop_above.as_ref()).map(|limit| limit.value) {
        None => Some(default),
        Some(StopAboveConfig::Off) => None,
        Some(StopAboveConfig::Limit { percent, of, within }) => Some(StopAbove {
            percent: percent.unwrap_or(default.percent),
            of: of.unwrap_or(default.of),
            within: within.unwrap_or(default.within),
        }),
    }
}

/// Whether any of these steps may wait for something outside the process.
pub fn waits(steps: &[Step]) -> bool {
    flow::any_stage(steps, Stage::waits)
}

/// Ids that authors wrote, each once in a pipeline.
#[derive(Default)]
struct Ids(BTreeMap<String, Span>);

impl Ids {
    fn collect(&mut self, steps: &[StepConfig], lints: &mut Lints) {
        for step in steps {
            if let Some(id) = &step.id {
                if let Some(first) = self.0.get(&id.value) {
                    let (line, _) = first.line_column();
                    let message = format!("`{}` is the id of two steps", id.value);
                    let help = format!("it stands already in line {line}; choose another");
                    lints.error("duplicate-id", &id.span, message, help);
                } else {
                    self.0.insert(id.value.clone(), id.span.clone());
                }
            }
            match &step.action {
                ActionConfig::Stage(_) => {}
                ActionConfig::Route(RouteConfig { all: _, branches, otherwise }) => {
                    for branch in branches {
                        self.collect(&branch.steps, lints);
                    }
                    self.collect(otherwise.as_ref().map_or(&[], |steps| &steps.value), lints);
                }
                ActionConfig::ForEach(for_each) => self.collect(&for_each.steps, lints),
            }
        }
    }
}

struct Compiler<'l> {
    ids: Ids,
    counts: BTreeMap<&'static str, u32>,
    lints: &'l mut Lints,
}

impl Compiler<'_> {
    fn steps(&mut self, steps: &[StepConfig], cx: &mut CompileCx<'_>) -> Vec<Step> {
        steps.iter().filter_map(|step| self.step(step, cx)).collect()
    }

    fn step(&mut self, written: &StepConfig, cx: &mut CompileCx<'_>) -> Option<Step> {
        let id = self.id(written);
        cx.step = Arc::clone(&id);
        let action = match &written.action {
            ActionConfig::Stage(stage) => {
                let stage = stage.compile(cx, self.lints);
                match stage {
                    Some(stage) => {
                        if stage.answers() {
                            cx.types.add_stage(&id);
                        }
                        Some(Action::Stage(stage))
                    }
                    None => {
                        // What follows a broken stage is not reported for its sake.
                        cx.types.set_value(Kind::json());
                        cx.types.add_stage(&id);
                        None
                    }
                }
            }
            ActionConfig::Route(route) => Some(Action::Route(self.route(route, cx))),
            ActionConfig::ForEach(for_each) => {
                let for_each = self.for_each(for_each, cx);
                cx.types.add_stage(&id);
                for_each.map(Action::ForEach)
            }
        };
        let (line, _) = written.span.line_column();
        Some(Step {
            place: format!("{}:{line}", written.span.file.path.display()).into(),
            action: action?,
            on_error: written.on_error.as_ref().map(compile_own_policy),
            is_named: written.id.is_some(),
            id,
        })
    }

    /// The id as written, else the kind and a number that no written id has.
    fn id(&mut self, step: &StepConfig) -> Arc<str> {
        if let Some(id) = &step.id {
            return id.value.as_str().into();
        }
        let kind = step.action.kind();
        let count = self.counts.entry(kind).or_default();
        loop {
            *count += 1;
            let id = format!("{kind}-{count}");
            if !self.ids.0.contains_key(&id) {
                return id.into();
            }
        }
    }

    fn route(&mut self, written: &RouteConfig, cx: &mut CompileCx<'_>) -> Route {
        let before = cx.types.clone();
        let mut after = None;
        let mut branches = Vec::with_capacity(written.branches.len());
        let mut certain: Option<Span> = None;
        for branch in &written.branches {
            if let (Some(certain), false) = (&certain, written.all) {
                self.unreachable(&branch.when.span, certain);
            }
            if !written.all {
                cx.types = before.clone();
            }
            let entered = cx.types.clone();
            let when = program::compile_condition(&branch.when, &cx.types, self.lints);
            if when.as_ref().and_then(program::Program::constant) == Some(Value::Boolean(true)) {
                certain.get_or_insert_with(|| branch.when.span.clone());
            }
            let steps = self.steps(&branch.steps, cx);
            if written.all {
                // The next branch runs whether this one did or not.
                cx.types.join(entered);
            } else {
                join(&mut after, cx.types.clone());
            }
            if let Some(when) = when {
                branches.push(Branch { when, steps });
            }
        }
        if !written.all {
            cx.types = before.clone();
        }
        let entered = cx.types.clone();
        let otherwise = match &written.otherwise {
            Some(steps) => {
                if let Some(certain) = &certain {
                    self.unreachable(&steps.span, certain);
                }
                self.steps(&steps.value, cx)
            }
            None => Vec::new(),
        };
        if written.all {
            cx.types.join(entered);
        } else {
            join(&mut after, cx.types.clone());
            cx.types = after.unwrap_or(before);
        }
        Route { all: written.all, branches, otherwise }
    }

    fn unreachable(&mut self, span: &Span, certain: &Span) {
        let (line, _) = certain.line_column();
        let message = format!("this is never reached: the branch in line {line} always matches");
        self.lints.warning("unreachable-branch", span, message, "remove it, or put it first");
    }

    fn for_each(&mut self, written: &ForEachConfig, cx: &mut CompileCx<'_>) -> Option<ForEach> {
        let list = program::compile_expression(&written.list, &cx.types, self.lints);
        let kind = list.as_ref().map_or_else(Kind::json, |list| list.result().clone());
        if !kind.contains_array() {
            let message = format!("`in` gives a list, this is {kind}");
            self.lints.error("not-a-list", &written.list.span, message, "give an array, as in .items");
        }
        let outside = cx.types.clone();
        cx.types = outside.of_element(&kind);
        let steps = self.steps(&written.steps, cx);
        cx.types = outside;
        Some(ForEach {
            list: list?,
            concurrency: NonZeroUsize::new(written.concurrency)?,
            items_max: written.items_max,
            steps,
        })
    }
}

fn join(after: &mut Option<crate::expr::types::Types>, types: crate::expr::types::Types) {
    match after {
        Some(after) => after.join(types),
        None => *after = Some(types),
    }
}
