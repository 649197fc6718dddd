//! What the sections P0 to P9 are to reach, and whether they do.

use crate::plan::{self, Planned};
use crate::report::{Figures, median, number};

/// A bound on a figure, or on its ratio to another run's in the same round.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// Section that it belongs to.
    section: &'static str,
    /// Label of the run; a begin that ends with `*` stands for all such runs, each of which has to reach it.
    run: &'static str,
    pub figure: &'static str,
    /// Label of the run that the ratio is to.
    of: Option<&'static str>,
    bound: Bound,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

use Bound::{AtLeast, AtMost};

const fn goal(section: &'static str, run: &'static str, figure: &'static str, bound: Bound) -> Goal {
    Goal { section, run, figure, of: None, bound }
}

impl Goal {
    const fn to(self, of: &'static str) -> Goal {
        Goal { of: Some(of), ..self }
    }
}

const YARDSTICK: &str = plan::YARDSTICK;

const GOALS: &[Goal] = &[
    goal("p0", plan::PASS_THROUGH_BARE, "cpu", AtMost(1.3)).to(YARDSTICK),
    goal("p1", plan::AT_LEAST_ONCE_BARE, "cpu", AtMost(2.1)).to(YARDSTICK),
    goal("p1", plan::WHOLE, "cpu", AtMost(3.0)).to(YARDSTICK),
    goal("p2", plan::EXACTLY_ONCE, "cpu", AtMost(5.0)),
    goal("p2", plan::EXACTLY_ONCE, "rate", AtLeast(0.85)).to(plan::AT_LEAST_ONCE),
    goal("p3", plan::CALLS, "seconds", AtMost(0.2)),
    goal("p3", plan::WIDE, "in_flight", AtLeast(10_000.0)),
    goal("p4", plan::SATURATED, "cpu", AtMost(28.0)),
    goal("p4", plan::SATURATED, "rss", AtMost(40.0)),
    goal("p4", plan::STEADY, "p99", AtMost(5.0)),
    goal("p5", plan::FACTS, "rate", AtLeast(250_000.0)),
    goal("p5", plan::EXECUTIONS, "rate", AtLeast(90_000.0)),
    goal("p6", plan::PATH_EXACTLY_ONCE, "p50", AtMost(10.0)),
    goal("p6", plan::PATH_EXACTLY_ONCE, "p99", AtMost(28.0)),
    goal("p6", plan::PATH_AT_LEAST_ONCE, "p50", AtMost(6.0)),
    goal("p6", plan::PATH_AT_LEAST_ONCE, "p99", AtMost(15.0)),
    goal("p7", plan::EXACTLY_ONCE, "rss", AtMost(90.0)),
    goal("p7", plan::DEAD_SINK, "rss", AtMost(192.0)),
    goal("p8", plan::START_UP, "ready_ms", AtMost(1_000.0)),
    goal("p9-partitions", "partitions *", "cpu", AtMost(1.3)).to("partitions 12"),
    goal("p9-pipelines", "pipelines *", "cpu", AtMost(1.3)).to("pipelines 1"),
    goal("p9-keys", "keys *", "cpu", AtMost(1.3)).to("keys 10000"),
    goal("p9-bytes", "bytes *", "cpu_gb", AtMost(1.3)).to("bytes 600"),
];

/// Whether a goal was reached by a run.
pub struct Judged {
    pub label: String,
    pub goal: Goal,
    /// Median of the rounds, the lowest and the highest.
    pub value: f64,
    low: f64,
    high: f64,
}

impl Judged {
    pub fn is_reached(&self) -> bool {
        match self.goal.bound {
            AtMost(most) => self.value <= most,
            AtLeast(least) => self.value >= least,
        }
    }

    /// The bound in the figure's own unit; `None` for a ratio.
    pub fn limit(&self) -> Option<f64> {
        let (AtMost(bound) | AtLeast(bound)) = self.goal.bound;
        self.goal.of.is_none().then_some(bound)
    }

    pub fn line(&self) -> String {
        let Judged { label, goal, value, low, high } = self;
        let of = goal.of.map(|of| format!(" to {of}")).unwrap_or_default();
        let bound = match goal.bound {
            AtMost(most) => format!("at most {most}"),
            AtLeast(least) => format!("at least {least}"),
        };
        let end = if self.is_reached() { "reached" } else { "missed" };
        let [value, low, high] =
            [*value, *low, *high].map(|value| number(value, if value < 100.0 { 2 } else { 0 }));
        format!("{label}: {}{of} {value} ({low} to {high}), wanted {bound}: {end}", goal.figure)
    }
}

/// Holds the runs of a section against its goals.
pub fn judge(section: &str, runs: &[Planned], figures: &[Vec<Figures>]) -> Vec<Judged> {
    let rounds_of = |label: &str| runs.iter().position(|run| run.label == label).map(|at| &figures[at]);
    let mut judged = Vec::new();
    for goal in GOALS.iter().filter(|goal| goal.section == section) {
        for (run, rounds) in runs.iter().zip(figures) {
            let is_meant = match goal.run.strip_suffix('*') {
                Some(begin) => run.label.starts_with(begin),
                None => run.label == goal.run,
            };
            let base = goal.of.map(rounds_of);
            if !is_meant || base == Some(None) || goal.of == Some(&run.label) {
                continue;
            }
            let value = |(round, figures): (usize, &Figures)| match base.flatten() {
                Some(base) => {
                    figures.get(goal.figure) / base.get(round).map_or(f64::NAN, |base| base.get(goal.figure))
                }
                None => figures.get(goal.figure),
            };
            let values: Vec<f64> = rounds.iter().enumerate().map(value).filter(|v| v.is_finite()).collect();
            if values.is_empty() {
                continue;
            }
            judged.push(Judged {
                label: run.label.clone(),
                goal: *goal,
                value: median(values.iter().copied()),
                low: values.iter().copied().fold(f64::INFINITY, f64::min),
                high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            });
        }
    }
    judged
}
