//! How many retries may be made beside first attempts. Retries help against a fault that hits few; when most attempts
//! fail, they are more load on a destination that has too much already.
//!
//! Over the last ten seconds, retries may be a part of the first attempts, and ten each second in any case, so that a
//! quiet pipeline may retry too. Counted per stage and per pipeline, in one process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Seconds that count.
const WINDOW: u64 = 10;
/// Retries that are allowed each second whatever is attempted.
const FLOOR: u64 = 10;

/// Attempts of one stage, or of one pipeline, in the last seconds. Pure: time is an argument.
#[derive(Debug, Default)]
pub struct Window {
    /// Second, first attempts, retries; the oldest first.
    seconds: VecDeque<(u64, u64, u64)>,
}

impl Window {
    fn at(&mut self, now: Duration) -> &mut (u64, u64, u64) {
        let now = now.as_secs();
        while self.seconds.pop_front_if(|(second, _, _)| *second + WINDOW <= now).is_some() {}
        if self.seconds.back().is_none_or(|(second, _, _)| *second < now) {
            self.seconds.push_back((now, 0, 0));
        }
        self.seconds.back_mut().expect("just pushed, if there was none")
    }

    /// A first attempt is made.
    pub fn first(&mut self, now: Duration) {
        self.at(now).1 += 1;
    }

    /// Whether a retry may be made, when they may be so many percent of the first attempts.
    pub fn allows(&mut self, now: Duration, percent: u32) -> bool {
        self.at(now);
        let firsts: u64 = self.seconds.iter().map(|(_, firsts, _)| firsts).sum();
        let retries: u64 = self.seconds.iter().map(|(_, _, retries)| retries).sum();
        retries < FLOOR * WINDOW + firsts * u64::from(percent) / 100
    }

    /// A retry is made.
    pub fn retry(&mut self, now: Duration) {
        self.at(now).2 += 1;
    }
}

/// The windows of all stages and pipelines of this process.
#[derive(Debug, Default)]
pub struct Budgets(Mutex<HashMap<String, Window>>);

impl Budgets {
    /// A stage makes its first attempt for a record.
    pub fn first(&self, pipeline: &str, step: &str, now: Duration) {
        self.with(pipeline, step, |window| window.first(now));
    }

    /// Takes a retry from the budgets of stage and pipeline. `false` when one of them is used up.
    pub fn take(&self, pipeline: &str, step: &str, now: Duration, percent: u32) -> bool {
        let mut allowed = true;
        self.with(pipeline, step, |window| allowed &= window.allows(now, percent));
        if allowed {
            self.with(pipeline, step, |window| window.retry(now));
        }
        allowed
    }

    /// The windows of the pipeline and of its stage. There are as many as the project has stages.
    fn with(&self, pipeline: &str, step: &str, mut each: impl FnMut(&mut Window)) {
        // Every change of a window is complete before it can panic.
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for name in [pipeline.to_owned(), format!("{pipeline}/{step}")] {
            each(windows.entry(name).or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budgets: &Budgets, step: &str, now: Duration, most: u64) -> u64 {
        (0..most).take_while(|_| budgets.take("p", step, now, 20)).count() as u64
    }

    #[test]
    fn retries_are_a_part_of_first_attempts_and_a_few_more() {
        let budgets = Budgets::default();
        let now = Duration::from_secs(100);
        (0..1_000).for_each(|_| budgets.first("p", "charge", now));
        assert_eq!(taken(&budgets, "charge", now, 10_000), FLOOR * WINDOW + 200);
        assert_eq!(taken(&budgets, "note", now, 10_000), 0, "the pipeline's are used up");
        let later = now + Duration::from_secs(WINDOW);
        assert_eq!(taken(&budgets, "note", later, 10_000), FLOOR * WINDOW, "what is long ago does not count");
    }

    #[test]
    fn a_stage_cannot_use_up_what_another_one_earned() {
        let budgets = Budgets::default();
        let now = Duration::from_secs(5);
        (0..10_000).for_each(|_| budgets.first("p", "note", now));
        assert_eq!(taken(&budgets, "charge", now, 10_000), FLOOR * WINDOW);
        assert!(budgets.take("p", "note", now, 20));
    }
}
