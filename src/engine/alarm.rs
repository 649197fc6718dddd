//! When too many of a pipeline's events become dead letters. A bad deployment, or a destination that refuses everything,
//! would drain the whole topic into the dead letters within minutes; above a ratio the pipeline stops instead, and what
//! it has not committed is worked on again when it is mended.
//!
//! | counted | not counted |
//! |---|---|
//! | succeeded, dead-lettered | filtered: of no interest to the pipeline, they would hide that all the others fail |
//! | poison, of whichever producer | replayed records: that an operator's replay fails again drains nothing |
//!
//! Pure: time is an argument, counted from whatever begin. The window slides in twelfths.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::plan::pipeline::StopAbove;

/// Parts of a window.
const STEPS: u64 = 12;
/// Different causes that one part of a window tells apart; others are counted and not named.
const CAUSES_MAX: usize = 8;

/// Counts the verdicts of one pipeline.
#[derive(Debug)]
pub struct Alarm {
    limit: StopAbove,
    step_ms: u64,
    /// Parts of the window in which something happened, the newest last; at most [`STEPS`].
    steps: VecDeque<Step>,
}

#[derive(Debug)]
struct Step {
    number: u64,
    passed: u64,
    dead: u64,
    causes: Vec<Cause>,
}

/// Why events became dead letters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cause {
    /// Class of the fault.
    pub class: &'static str,
    /// Step at which they failed; `None` when they did not get that far.
    pub stage: Option<Arc<str>>,
    /// What happened to the last of them.
    pub message: String,
    /// How many.
    pub count: u64,
}

/// That the pipeline is to stop, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alert {
    /// Dead letters in the window.
    pub dead: u64,
    /// Verdicts in the window that were not filtered.
    pub total: u64,
    /// Length of the window.
    pub within: Duration,
    /// The most frequent cause.
    pub cause: Option<Cause>,
}

impl Alarm {
    /// An alarm that has seen nothing.
    pub fn new(limit: StopAbove) -> Self {
        let within_ms = u64::try_from(limit.within.as_millis()).unwrap_or(u64::MAX);
        Self { limit, step_ms: (within_ms / STEPS).max(1), steps: VecDeque::new() }
    }

    /// An event succeeded at `now`.
    pub fn passed(&mut self, now: Duration) {
        self.step(now).passed += 1;
    }

    /// An event became a dead letter at `now`. Tells when that was one too many.
    pub fn dead(
        &mut self,
        now: Duration,
        class: &'static str,
        stage: Option<&Arc<str>>,
        message: &str,
    ) -> Option<Alert> {
        let step = self.step(now);
        step.dead += 1;
        let known =
            step.causes.iter_mut().find(|cause| cause.class == class && cause.stage.as_ref() == stage);
        if let Some(known) = known {
            known.count += 1;
            message.clone_into(&mut known.message);
        } else if step.causes.len() < CAUSES_MAX {
            step.causes.push(Cause { class, stage: stage.cloned(), message: message.to_owned(), count: 1 });
        }
        self.alert()
    }

    /// The part of the window that `now` falls into. Work on several threads may tell its end a little late: it counts
    /// for the newest part.
    fn step(&mut self, now: Duration) -> &mut Step {
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let number = now_ms / self.step_ms;
        if self.steps.back().is_none_or(|newest| newest.number < number) {
            while self.steps.front().is_some_and(|oldest| oldest.number + STEPS <= number) {
                self.steps.pop_front();
            }
            self.steps.push_back(Step { number, passed: 0, dead: 0, causes: Vec::new() });
        }
        self.steps.back_mut().expect("pushed when there was none")
    }

    fn alert(&self) -> Option<Alert> {
        let StopAbove { percent, of, within } = self.limit;
        let dead: u64 = self.steps.iter().map(|step| step.dead).sum();
        let total = dead + self.steps.iter().map(|step| step.passed).sum::<u64>();
        let is_too_many = total >= u64::from(of.get()) && dead * 100 > u64::from(percent) * total;
        is_too_many.then(|| Alert { dead, total, within, cause: self.most_frequent() })
    }

    fn most_frequent(&self) -> Option<Cause> {
        let mut sums: Vec<Cause> = Vec::new();
        for cause in self.steps.iter().flat_map(|step| &step.causes) {
            match sums.iter_mut().find(|sum| sum.class == cause.class && sum.stage == cause.stage) {
                Some(sum) => *sum = Cause { count: sum.count + cause.count, ..cause.clone() },
                None => sums.push(cause.clone()),
            }
        }
        sums.into_iter().max_by_key(|cause| cause.count)
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dead, total, within, cause } = self;
        let percent = dead * 100 / (*total).max(1);
        let seconds = within.as_secs_f64();
        write!(f, "{dead} of {total} events ({percent} %) within {seconds} s became dead letters")?;
        let Some(Cause { class, stage, message, count }) = cause else { return Ok(()) };
        let place = stage.as_ref().map(|stage| format!(" at `{stage}`")).unwrap_or_default();
        write!(f, "; {count} of them {class}{place}: {message}")
    }
}

#[cfg(test)]
#[path = "alarm_tests.rs"]
mod tests;
