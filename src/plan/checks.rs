//! Checks that need more than one file: who writes what somebody else reads.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::step::{ActionConfig, RouteConfig, StepConfig};
use crate::stages::StageConfig;
use crate::yaml::lint::{Lints, Spanned, nearest};

/// What the stages of one pipeline name, with places.
#[derive(Clone, Debug, Default)]
pub struct Mentions {
    /// Topics that `emit` writes to.
    pub emits: Vec<Spanned<String>>,
    /// Facts that `kpi` states, with the names of their dimensions.
    pub facts: Vec<(Spanned<String>, BTreeSet<String>)>,
    /// Connectors that `http` calls.
    pub calls: BTreeSet<String>,
}

impl Mentions {
    /// Collects from a pipeline's stages, those within flow stages included.
    pub fn of(steps: &[StepConfig]) -> Self {
        let mut found = Self::default();
        found.collect(steps);
        found
    }

    fn collect(&mut self, steps: &[StepConfig]) {
        for step in steps {
            match &step.action {
                ActionConfig::Stage(StageConfig::Emit(emit)) => self.emits.push(emit.topic.clone()),
                ActionConfig::Stage(StageConfig::Kpi(kpi)) => {
                    let dimensions = kpi.dimension_names().map(|name| name.value.clone()).collect();
                    self.facts.push((kpi.fact.clone(), dimensions));
                }
                ActionConfig::Stage(StageConfig::Http(http)) => {
                    self.calls.insert(http.connector().to_owned());
                }
                ActionConfig::Stage(_) => {}
                ActionConfig::Route(RouteConfig { all: _, branches, otherwise }) => {
                    branches.iter().for_each(|branch| self.collect(&branch.steps));
                    self.collect(otherwise.as_ref().map_or(&[], |steps| &steps.value));
                }
                ActionConfig::ForEach(for_each) => self.collect(&for_each.steps),
            }
        }
    }
}

/// A pipeline's place in the flow of topics.
#[derive(Clone, Debug)]
pub struct Flow<'a> {
    /// The pipeline.
    pub pipeline: &'a str,
    /// Topics it reads.
    pub reads: BTreeSet<&'a str>,
    /// Whether it takes only some event types.
    pub is_typed: bool,
    /// Topics it writes to, with places.
    pub writes: &'a [Spanned<String>],
}

/// Reports pipelines that feed themselves: an error when a pipeline reads what it writes and takes every type, else a
/// warning, also for circles of several pipelines.
pub fn circles(flows: &[Flow<'_>], lints: &mut Lints) {
    for flow in flows {
        for topic in flow.writes {
            let name = topic.value.as_str();
            if flow.reads.contains(name) {
                let message = format!("this pipeline reads `{name}`, which it writes to");
                if flow.is_typed {
                    let help = "make sure that what it writes is of another type than what it takes";
                    lints.warning("loop", &topic.span, message, help);
                } else {
                    let help = "write to another topic, or take only some types: `input: {types: [...]}`";
                    lints.error("loop", &topic.span, message, help);
                }
            } else if let Some(way) = way_back(flows, name, flow) {
                let message = format!("what is written here comes back by way of {}", way.join(", "));
                lints.warning("loop", &topic.span, message, "make sure that the circle ends");
            }
        }
    }
}

/// The pipelines by which what is written to `topic` comes back to `home`, when it does.
fn way_back(flows: &[Flow<'_>], topic: &str, home: &Flow<'_>) -> Option<Vec<String>> {
    let mut ways: Vec<(String, Vec<String>)> = vec![(topic.to_owned(), Vec::new())];
    let mut seen = BTreeSet::from([topic.to_owned()]);
    while let Some((topic, way)) = ways.pop() {
        if home.reads.contains(topic.as_str()) {
            return Some(way);
        }
        for flow in flows.iter().filter(|flow| flow.reads.contains(topic.as_str())) {
            for next in flow
                .writes
                .iter()
                .filter(|next| flow.pipeline != home.pipeline && seen.insert(next.value.clone()))
            {
                let mut way = way.clone();
                way.push(format!("`{}`", flow.pipeline));
                ways.push((next.value.clone(), way));
            }
        }
    }
    None
}

/// What a KPI asks of the facts.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The fact.
    pub fact: &'a Spanned<String>,
    /// Dimensions, with places.
    pub dimensions: &'a [Spanned<String>],
}

/// Reports KPIs whose fact nobody states, or states without a dimension that they need.
pub fn facts(wanted: &[Wanted<'_>], stated: &BTreeMap<String, Vec<BTreeSet<String>>>, lints: &mut Lints) {
    for kpi in wanted {
        let name = kpi.fact.value.as_str();
        let Some(statements) = stated.get(name) else {
            let message = format!("no pipeline states the fact `{name}`");
            let help = match nearest(name, stated.keys().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("add a stage `kpi: {{fact: {name}, ...}}` to a pipeline"),
            };
            lints.warning("unknown-fact", &kpi.fact.span, message, help);
            continue;
        };
        for dimension in kpi.dimensions {
            if statements.iter().all(|given| given.contains(&dimension.value)) {
                continue;
            }
            let given: BTreeSet<&str> = statements.iter().flatten().map(String::as_str).collect();
            let message = format!("the fact `{name}` has no dimension `{}`", dimension.value);
            let help = match nearest(&dimension.value, given.iter().copied()) {
                Some(near) if near == dimension.value => {
                    String::from("not every `kpi` stage that states it gives this dimension")
                }
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it has: {}", given.into_iter().collect::<Vec<_>>().join(", ")),
            };
            lints.error("unknown-dimension", &dimension.span, message, help);
        }
    }
}
