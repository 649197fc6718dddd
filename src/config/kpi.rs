//! `kpis/<name>.yaml`: a KPI as it is written.

use std::fmt;
use std::time::Duration;

use chrono_tz::Tz;

use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Span, Spanned, nearest};
use crate::yaml::node::Node;

/// Longest name of a view: Postgres cuts off what is longer.
const IDENTIFIER_BYTES_MAX: usize = 63;
/// Shortest time that rows are kept.
const RETENTION_MIN: Duration = Duration::from_secs(86_400);
/// Columns that every view of a KPI has, so that no dimension can be called so.
pub const VIEW_COLUMNS: [&str; 5] = ["window_start", "window_end", "value", "events", "updated_at"];

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
    const WORDS: [(&'static str, Self); 5] = [
        ("count", Self::Count),
        ("sum", Self::Sum),
        ("avg", Self::Avg),
        ("min", Self::Min),
        ("max", Self::Max),
    ];

    /// The one called `name`, if any.
    pub fn named(name: &str) -> Option<Self> {
        Self::WORDS.into_iter().find(|(word, _)| *word == name).map(|(_, aggregate)| aggregate)
    }

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
    /// An hour.
    Hour,
    /// A day from midnight to midnight: 23 or 25 hours when the clocks change.
    Day,
}

impl Window {
    const WORDS: [(&'static str, Self); 3] = [("1m", Self::Minute), ("1h", Self::Hour), ("1d", Self::Day)];

    /// The one called `name`, if any.
    pub fn named(name: &str) -> Option<Self> {
        Self::WORDS.into_iter().find(|(word, _)| *word == name).map(|(_, window)| window)
    }

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

/// A KPI file.
#[derive(Clone, PartialEq, Debug)]
pub struct KpiConfig {
    /// Name: the file's name.
    pub name: String,
    /// The file as a whole, for messages.
    pub span: Span,
    /// Name of the facts it is folded of.
    pub fact: Spanned<String>,
    /// How.
    pub aggregate: Aggregate,
    /// Over which windows; at least one, none twice.
    pub windows: Vec<Window>,
    /// Dimensions that its rows are kept apart by; none twice.
    pub dimensions: Vec<Spanned<String>>,
    /// Where its days begin.
    pub time_zone: Tz,
    /// How long after its end a window takes facts without counting them as late.
    pub lateness: Duration,
    /// How long after its end a window is kept; `None` is for ever.
    pub retention: Option<Duration>,
}

impl KpiConfig {
    /// Decodes the file `kpis/<name>.yaml`.
    pub fn decode(name: &str, node: &Node, lints: &mut Lints) -> Option<Self> {
        let named = check_name(name, &node.span, lints);
        let mut fields = Fields::of(node, "a KPI", lints)?;
        let fact = fields.required("fact", lints).and_then(|node| fields::text(node, lints));
        let aggregate = fields
            .required("aggregate", lints)
            .and_then(|node| fields::choice(node, &Aggregate::WORDS, lints));
        let windows = fields.required("windows", lints).and_then(|node| decode_windows(node, lints));
        let dimensions = match fields.optional("dimensions") {
            Some(node) => decode_dimensions(node, lints),
            None => Some(Vec::new()),
        };
        let time_zone = match fields.optional("time_zone") {
            Some(node) => decode_zone(node, lints),
            None => Some(Tz::UTC),
        };
        let lateness = match fields.optional("lateness") {
            Some(node) => fields::duration(node, lints),
            None => Some(Duration::ZERO),
        };
        let retention = match fields.optional("retention") {
            Some(node) => decode_retention(node, lints).map(Some),
            None => Some(None),
        };
        fields.finish(lints);
        named?;
        Some(Self {
            name: name.to_owned(),
            span: node.span.clone(),
            fact: fact?,
            aggregate: aggregate?,
            windows: windows?,
            dimensions: dimensions?,
            time_zone: time_zone?,
            lateness: lateness?,
            retention: retention?,
        })
    }
}

/// A KPI's name becomes part of a view's: `kpi_<name>_1h`.
fn check_name(name: &str, span: &Span, lints: &mut Lints) -> Option<()> {
    let fits = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
        && name.len() + "kpi__1m".len() <= IDENTIFIER_BYTES_MAX;
    if !fits {
        lints.error(
            "bad-name",
            span,
            format!("`{name}` cannot name a KPI"),
            "lower-case letters, digits, - and _, beginning with a letter, at most 56: its views are called kpi_<name>_1h",
        );
    }
    fits.then_some(())
}

fn decode_windows(node: &Node, lints: &mut Lints) -> Option<Vec<Window>> {
    let mut windows: Vec<Window> = Vec::new();
    fields::list(node, lints, |item, lints| {
        let window = fields::choice(item, &Window::WORDS, lints)?;
        if windows.contains(&window) {
            lints.error("twice", &item.span, format!("`{window}` is written twice"), "remove one");
        } else {
            windows.push(window);
        }
        Some(())
    })?;
    if windows.is_empty() && !lints.has_errors() {
        lints.error("empty", &node.span, "a KPI has at least one window", "write some of 1m, 1h, 1d");
    }
    (!windows.is_empty()).then_some(windows)
}

fn decode_dimensions(node: &Node, lints: &mut Lints) -> Option<Vec<Spanned<String>>> {
    let mut dimensions: Vec<Spanned<String>> = Vec::new();
    fields::list(node, lints, |item, lints| {
        let name = fields::text(item, lints)?;
        let first = name.value.chars().next();
        let fits = first.is_some_and(|c| c.is_ascii_lowercase())
            && name.value.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && name.value.len() <= IDENTIFIER_BYTES_MAX;
        if !fits {
            lints.error(
                "bad-name",
                &item.span,
                format!("`{}` cannot name a dimension", name.value),
                "it becomes a column: lower-case letters, digits and _, beginning with a letter, at most 63",
            );
        } else if VIEW_COLUMNS.contains(&name.value.as_str()) {
            lints.error(
                "bad-name",
                &item.span,
                format!("`{}` is a column that every KPI has", name.value),
                "give the dimension another name",
            );
        } else if dimensions.iter().any(|known| known.value == name.value) {
            lints.error("twice", &item.span, format!("`{}` is written twice", name.value), "remove one");
        } else {
            dimensions.push(name);
        }
        Some(())
    })?;
    Some(dimensions)
}

fn decode_retention(node: &Node, lints: &mut Lints) -> Option<Duration> {
    let retention = fields::duration(node, lints)?;
    let is_in_range = retention >= RETENTION_MIN;
    if !is_in_range {
        let help = "at least 1d: a day's window must outlive the day";
        lints.error("out-of-range", &node.span, "rows would be deleted while they are looked at", help);
    }
    is_in_range.then_some(retention)
}

fn decode_zone(node: &Node, lints: &mut Lints) -> Option<Tz> {
    let written = fields::text(node, lints)?;
    let found = written.value.parse::<Tz>().ok();
    if found.is_none() {
        let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        let help = nearest(&written.value, known).map_or_else(
            || String::from("write a name such as Europe/Madrid"),
            |near| format!("did you mean `{near}`?"),
        );
        lints.error(
            "unknown-time-zone",
            &node.span,
            format!("there is no time zone `{}`", written.value),
            help,
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::yaml::lint::SourceFile;
    use crate::yaml::node;

    fn decode(name: &str, text: &str) -> Result<KpiConfig, Vec<String>> {
        let file = Arc::new(SourceFile { path: format!("kpis/{name}.yaml").into(), text: text.to_owned() });
        let mut lints = Lints::default();
        let config =
            node::parse(&file, &mut lints).and_then(|node| KpiConfig::decode(name, &node, &mut lints));
        let messages: Vec<String> =
            lints.0.iter().map(|lint| format!("{}: {}", lint.span, lint.message)).collect();
        if messages.is_empty() { Ok(config.expect("no lint, so a config")) } else { Err(messages) }
    }

    #[test]
    fn a_kpi_is_read() {
        let kpi = decode(
            "revenue",
            "fact: payment\naggregate: sum\nwindows: [1m, 1h, 1d]\ndimensions: [currency]\ntime_zone: Europe/Madrid\nlateness: 2d\nretention: 400d\n",
        )
        .expect("no lint");
        assert_eq!(kpi.windows, [Window::Minute, Window::Hour, Window::Day]);
        assert_eq!(kpi.time_zone, chrono_tz::Europe::Madrid);
        assert_eq!(kpi.lateness, Duration::from_secs(172_800));
        assert_eq!(kpi.retention, Some(Duration::from_secs(400 * 86_400)));
        assert_eq!(kpi.dimensions[0].value, "currency");
    }

    #[test]
    fn defaults_are_utc_no_dimension_no_lateness() {
        let kpi = decode("leads-today", "fact: lead\naggregate: count\nwindows: [1d]\n").expect("no lint");
        assert_eq!((kpi.time_zone, kpi.lateness, kpi.dimensions.len()), (Tz::UTC, Duration::ZERO, 0));
    }

    #[test]
    fn every_mistake_is_reported_with_its_place() {
        let lints = decode(
            "Revenue",
            "fact: payment\naggregate: median\nwindows: [1h, 1h, 7d]\ndimensions: [value, Currency]\ntime_zone: Europe/Madird\nlateness: 2\nretention: 1h\n",
        )
        .expect_err("mistakes");
        assert_eq!(
            lints,
            [
                "kpis/Revenue.yaml:1:1: `Revenue` cannot name a KPI",
                "kpis/Revenue.yaml:2:12: `median` is not one of count, sum, avg, min, max",
                "kpis/Revenue.yaml:3:15: `1h` is written twice",
                "kpis/Revenue.yaml:3:19: `7d` is not one of 1m, 1h, 1d",
                "kpis/Revenue.yaml:4:14: `value` is a column that every KPI has",
                "kpis/Revenue.yaml:4:21: `Currency` cannot name a dimension",
                "kpis/Revenue.yaml:5:12: there is no time zone `Europe/Madird`",
                "kpis/Revenue.yaml:6:11: `2` is not a duration",
                "kpis/Revenue.yaml:7:12: rows would be deleted while they are looked at",
            ]
        );
    }
}
