//! A KPI's file.

use std::time::Duration;

use chrono_tz::Tz;

use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Spanned, suggestion};
use crate::yaml::node::Node;

/// Most dimensions of one KPI.
const DIMENSIONS_MAX: usize = 10;
/// How late facts may come when nothing is said.
const LATENESS: Duration = Duration::from_secs(86_400);

/// A KPI as it is written.
#[derive(Clone, Debug)]
pub struct Kpi {
    /// The fact it is folded of.
    pub fact: Spanned<String>,
    /// How facts become one number.
    pub aggregate: Aggregate,
    /// Over which windows; none twice.
    pub windows: Vec<Window>,
    /// Dimensions that its rows are kept apart by.
    pub dimensions: Vec<Spanned<String>>,
    /// Where its days begin.
    pub time_zone: Tz,
    /// How long after its end a window takes facts without counting them as late.
    pub lateness: Duration,
}

/// `aggregate`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

/// One of `windows`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Window {
    /// `1m`
    Minute,
    /// `1h`
    Hour,
    /// `1d`
    Day,
}

impl Kpi {
    /// Decodes a KPI's file.
    pub fn decode(_name: &str, node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "a KPI", lints)?;
        fields.optional("description").and_then(|node| fields::text(node, lints));
        let fact = fields.required("fact", lints).and_then(|node| fields::text(node, lints));
        let aggregate = fields.required("aggregate", lints).and_then(|node| aggregate(node, lints));
        let windows = fields.required("windows", lints).and_then(|node| windows(node, lints));
        let dimensions = match fields.optional("dimensions") {
            Some(node) => dimensions(node, lints),
            None => Some(Vec::new()),
        };
        let time_zone = match fields.optional("time_zone") {
            Some(node) => time_zone(node, lints),
            None => Some(Tz::UTC),
        };
        let lateness = match fields.optional("lateness") {
            Some(node) => fields::duration(node, lints),
            None => Some(LATENESS),
        };
        fields.finish(lints);
        Some(Self {
            fact: fact?,
            aggregate: aggregate?,
            windows: windows?,
            dimensions: dimensions?,
            time_zone: time_zone?,
            lateness: lateness?,
        })
    }
}

fn aggregate(node: &Node, lints: &mut Lints) -> Option<Aggregate> {
    let words = [
        ("count", Aggregate::Count),
        ("sum", Aggregate::Sum),
        ("avg", Aggregate::Avg),
        ("min", Aggregate::Min),
        ("max", Aggregate::Max),
    ];
    fields::choice(node, &words, lints)
}

fn windows(node: &Node, lints: &mut Lints) -> Option<Vec<Window>> {
    let words = [("1m", Window::Minute), ("1h", Window::Hour), ("1d", Window::Day)];
    let mut seen: Vec<Window> = Vec::new();
    fields::list(node, lints, |node, lints| {
        let window = fields::choice(node, &words, lints)?;
        if seen.contains(&window) {
            lints.error("duplicate", &node.span, "this window is listed twice", "remove one of them");
        } else {
            seen.push(window);
        }
        Some(())
    })?;
    if seen.is_empty() {
        lints.error(
            "empty",
            &node.span,
            "a KPI has at least one window",
            "write [1h], or more of 1m, 1h, 1d",
        );
        return None;
    }
    Some(seen)
}

fn dimensions(node: &Node, lints: &mut Lints) -> Option<Vec<Spanned<String>>> {
    let names = fields::list(node, lints, fields::text)?;
    if names.len() > DIMENSIONS_MAX {
        let message = format!("{} dimensions", names.len());
        let help = format!("at most {DIMENSIONS_MAX}: every combination of values is a row per window");
        lints.error("out-of-range", &node.span, message, help);
    }
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            let message = format!("`{}` is listed twice", name.value);
            lints.error("duplicate", &name.span, message, "remove one of them");
        }
    }
    Some(names)
}

fn time_zone(node: &Node, lints: &mut Lints) -> Option<Tz> {
    let name = fields::text(node, lints)?;
    match name.value.parse() {
        Ok(zone) => Some(zone),
        Err(_) => {
            let known: Vec<&str> = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()).collect();
            let help = match suggestion(&name.value, &known) {
                near if near.starts_with("did you mean") => near,
                _ => String::from("write a name of the IANA database, such as Europe/Madrid or UTC"),
            };
            lints.error("unknown-word", &name.span, format!("there is no time zone `{}`", name.value), help);
            None
        }
    }
}
