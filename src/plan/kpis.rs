//! A KPI: a fact folded over windows of time.

use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;

use crate::config::kpi::{Aggregate, KpiConfig, Window};

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
    /// How long after its end a window is kept; `None` is for ever.
    pub retention: Option<Duration>,
}

impl KpiSpec {
    /// What the file means. Whether any pipeline states such a fact is for the compiler to say.
    pub fn compile(config: &KpiConfig) -> Self {
        let KpiConfig { name, span: _, fact, aggregate, windows, dimensions, time_zone, lateness, retention } =
            config;
        Self {
            name: name.as_str().into(),
            fact: fact.value.as_str().into(),
            aggregate: *aggregate,
            windows: windows.clone(),
            dimensions: dimensions.iter().map(|name| name.value.as_str().into()).collect(),
            time_zone: *time_zone,
            lateness: *lateness,
            retention: *retention,
        }
    }

    /// Name of the view of one window: `kpi_revenue_1h`.
    pub fn view(&self, window: Window) -> String {
        format!("kpi_{}_{window}", self.name.replace('-', "_"))
    }
}
