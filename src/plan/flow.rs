//! A pipeline's stages as a tree: leaf stages, and the flow stages that hold lists of stages.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use crate::expr::program::{self, Program};
use crate::expr::projection::Projection;
use crate::stages::Stage;

/// One step.
#[derive(Debug)]
pub struct Step {
    /// The step's id: as written, else its kind and number (`filter-1`).
    pub id: Arc<str>,
    /// Whether the id is written: then it is the same step still when others come or go around it.
    pub is_named: bool,
    /// Where it stands: `pipelines/a.yaml:12`.
    pub place: Arc<str>,
    /// What it does.
    pub action: Action,
    /// Its own error policy; `None` takes the pipeline's.
    pub on_error: Option<ErrorPolicy>,
}

/// What a step does.
#[derive(Debug)]
pub enum Action {
    /// A leaf stage.
    Stage(Stage),
    /// The first branch whose condition holds.
    Route(Route),
    /// The same steps for each element of a list.
    ForEach(ForEach),
}

/// Whether any leaf stage of these steps is one that `is` means.
pub fn any_stage(steps: &[Step], is: fn(&Stage) -> bool) -> bool {
    steps.iter().any(|step| match &step.action {
        Action::Stage(stage) => is(stage),
        Action::Route(Route { all: _, branches, otherwise }) => {
            any_stage(otherwise, is) || branches.iter().any(|branch| any_stage(&branch.steps, is))
        }
        Action::ForEach(for_each) => any_stage(&for_each.steps, is),
    })
}

/// The parts of the value that are enough to decode for these steps, mostly. `None` when they are many, or all of it is
/// needed before a filter or a new value may have made that unnecessary.
pub fn projection(steps: &[Step]) -> Option<Projection> {
    let mut touched = Touched::default();
    touched.steps(steps);
    let Touched { programs, is_decided: _, is_whole } = touched;
    if is_whole { None } else { program::projection(programs.into_iter()) }
}

/// What steps do to the value of their event.
#[derive(Default)]
struct Touched<'s> {
    programs: Vec<&'s Program>,
    /// Whether not every event, or not with this value, goes on from here.
    is_decided: bool,
    /// Whether all of it was needed before that.
    is_whole: bool,
}

impl<'s> Touched<'s> {
    fn steps(&mut self, steps: &'s [Step]) {
        for step in steps {
            match &step.action {
                Action::Stage(stage) => {
                    stage.programs().into_iter().for_each(|program| self.program(program));
                    self.is_whole |= stage.decodes_whole() && !self.is_decided;
                    self.is_decided |= matches!(stage, Stage::Filter(_)) && !self.is_whole;
                }
                Action::Route(Route { all: _, branches, otherwise }) => {
                    branches.iter().for_each(|branch| self.program(&branch.when));
                    branches.iter().for_each(|branch| self.steps(&branch.steps));
                    self.steps(otherwise);
                }
                // Its steps see the elements.
                Action::ForEach(for_each) => self.program(&for_each.list),
            }
        }
    }

    fn program(&mut self, program: &'s Program) {
        self.programs.push(program);
        self.is_whole |= program.decodes_whole() && !self.is_decided;
        self.is_decided |= program.replaces() && !self.is_whole;
    }
}

/// Branches; the first whose condition holds runs, or each that does.
#[derive(Debug)]
pub struct Route {
    /// Whether every branch that matches runs, not only the first.
    pub all: bool,
    /// Branches in order.
    pub branches: Vec<Branch>,
    /// Steps when no branch matched; empty goes on.
    pub otherwise: Vec<Step>,
}

/// One branch.
#[derive(Debug)]
pub struct Branch {
    /// Condition.
    pub when: Program,
    /// Steps.
    pub steps: Vec<Step>,
}

/// The same steps for each element; within them `.` is the element.
#[derive(Debug)]
pub struct ForEach {
    /// Gives the list.
    pub list: Program,
    /// How many elements at the same time.
    pub concurrency: NonZeroUsize,
    /// Most elements of one event; more is a permanent fault.
    pub items_max: usize,
    /// Steps.
    pub steps: Vec<Step>,
}

/// What to do when a step fails.
#[derive(Clone, PartialEq, Debug)]
pub struct ErrorPolicy {
    /// Retries in place.
    pub retry: Retry,
    /// Whether the record goes on to the pipeline's retry tiers when these are used up. `then` follows the last tier.
    pub uses_tiers: bool,
    /// What follows when retries are used up, or at once for faults that retrying cannot mend.
    pub then: Then,
}

/// Retries in place, with exponential back-off and full jitter.
#[derive(Clone, PartialEq, Debug)]
pub struct Retry {
    /// Attempts in all; 1 means no retry.
    pub attempts: NonZeroU32,
    /// Wait before the second attempt; doubles each time.
    pub backoff: Duration,
    /// Longest wait.
    pub max: Duration,
    /// Retries of all records may be so many percent of first attempts ([`crate::stages::budget`]).
    pub budget_percent: u32,
}

/// The end of an error policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// The record becomes a dead letter.
    DeadLetter,
    /// The step is skipped, the run goes on.
    Ignore,
}

impl Default for ErrorPolicy {
    /// Three attempts, 500 ms doubling to 5 s, retries up to a fifth of first attempts, then dead letter.
    fn default() -> Self {
        Self {
            retry: Retry {
                attempts: NonZeroU32::MIN.saturating_add(2),
                backoff: Duration::from_millis(500),
                max: Duration::from_secs(5),
                budget_percent: 20,
            },
            uses_tiers: true,
            then: Then::DeadLetter,
        }
    }
}
