//! A KPI: a fact folded over windows of time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;

/// How facts become one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Aggregate {
    /// How many.
    Count,
    /// Their sum.
    Sum,
    /// Their mean.
    Avg,
    /// The smallest.
    Min,
    /// The largest.
    Max,
}

impl Aggregate {
    /// Name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
        }
    }
}

/// Length of a tumbling window, in the KPI's time zone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Window {
    /// A minute.
    Minute,
    /// An hour of the clock on the wall.
    Hour,
    /// A day from midnight to midnight: 23 or 25 hours when the clocks change.
    Day,
}

impl Window {
    /// Name in files, views and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::Hour => "1h",
            Self::Day => "1d",
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A KPI's definition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KpiSpec {
    /// Name: the file's name.
    pub name: Arc<str>,
    /// Name of the facts it is folded of.
    pub fact: Arc<str>,
    /// How.
    pub aggregate: Aggregate,
    /// Over which windows; at least one, none twice.
    pub windows: Vec<Window>,
    /// Dimensions that its rows are kept apart by; a fact that lacks one counts under null.
    pub dimensions: Vec<Arc<str>>,
    /// Where its days begin.
    pub time_zone: Tz,
    /// How long after its end a window still takes facts without counting them as late.
    pub lateness: Duration,
}

impl KpiSpec {
    /// Name of the view of one window: `kpi_revenue_1h`.
    pub fn view(&self, window: Window) -> String {
        format!("kpi_{}_{window}", self.name.replace(['-', '.'], "_"))
    }
}
