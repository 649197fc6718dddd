//! Windows and the fold of facts into them. Pure: no clock, no I/O; `now` is an argument.
//!
//! Sums are exact: values are whole numbers of billionths (the scale of the facts on the wire) in 128 bits. Folding a
//! partition's facts in one batch or in many gives the same rows, lateness included, because all that is carried
//! from batch to batch is [`Folder::time_max`].

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Duration, NaiveDate, TimeZone, Timelike, Utc};
use chrono_tz::Tz;

use crate::config::kpi::Window;
use crate::ledger::KpiFact;
use crate::plan::kpis::KpiSpec;

/// How far ahead of the clock a fact may be. Later ones are refused: one of them would make all others late.
const AHEAD_MAX: Duration = Duration::days(1);
/// Values from here on are refused: sums of 10^10 such facts still fit.
const VALUE_LIMIT_BILLIONTHS: i128 = 10_i128.pow(28);
/// Decimals of a value.
const SCALE: u32 = 9;
/// Years that every client of Postgres can show.
const YEARS: std::ops::RangeInclusive<i32> = 1..=9_998;

/// A window's place in time, `start` within, `end` without.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Bounds {
    /// First instant.
    pub start: DateTime<Utc>,
    /// First instant of the next window.
    pub end: DateTime<Utc>,
}

/// The window that `time` falls into. Days begin at midnight of `zone`, or when the clocks jump over it, with the
/// first instant after; hours and minutes follow the zone's offset. `None` outside the years 1 to 9998.
pub fn bounds(window: Window, zone: Tz, time: DateTime<Utc>) -> Option<Bounds> {
    let local = time.with_timezone(&zone);
    if !is_storable(time) {
        return None;
    }
    let whole = time.with_nanosecond(0)?;
    match window {
        Window::Minute => {
            let start = whole - Duration::seconds(i64::from(local.second()));
            Some(Bounds { start, end: start + Duration::minutes(1) })
        }
        Window::Hour => {
            let start = whole - Duration::seconds(i64::from(local.minute()) * 60 + i64::from(local.second()));
            Some(Bounds { start, end: start + Duration::hours(1) })
        }
        Window::Day => {
            let date = local.date_naive();
            Some(Bounds { start: day_start(zone, date)?, end: day_start(zone, date.succ_opt()?)? })
        }
    }
}

/// Whether a time can be stored and shown.
pub fn is_storable(time: DateTime<Utc>) -> bool {
    YEARS.contains(&chrono::Datelike::year(&time))
}

/// The first instant of `date`: of a midnight that comes twice the first, of one that never comes the next quarter.
fn day_start(zone: Tz, date: NaiveDate) -> Option<DateTime<Utc>> {
    let midnight = date.and_hms_opt(0, 0, 0)?;
    // Samoa once left out a whole day.
    (0..=25 * 4)
        .find_map(|quarters| {
            zone.from_local_datetime(&(midnight + Duration::minutes(15 * quarters))).earliest()
        })
        .map(|start| start.with_timezone(&Utc))
}

/// An exact number with nine decimals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Billionths(pub i128);

impl fmt::Display for Billionths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, rest) = (self.0.unsigned_abs() / 1_000_000_000, self.0.unsigned_abs() % 1_000_000_000);
        if rest == 0 {
            return write!(f, "{sign}{whole}");
        }
        let decimals = format!("{rest:09}");
        write!(f, "{sign}{whole}.{}", decimals.trim_end_matches('0'))
    }
}

/// One row of a KPI, as far as one batch of one partition makes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KpiRow {
    /// The KPI.
    pub kpi: Arc<str>,
    /// Length of the window.
    pub window: Window,
    /// The window.
    pub bounds: Bounds,
    /// Dimensions as a JSON object with sorted keys; null for those that the fact lacks.
    pub dimensions: String,
    /// How many facts.
    pub events: i64,
    /// Their sum.
    pub sum: Billionths,
    /// The smallest.
    pub min: Billionths,
    /// The largest.
    pub max: Billionths,
    /// How many came after their window was closed.
    pub late_events: i64,
}

/// Why a KPI refuses a fact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Its time is more than a day ahead.
    Ahead,
    /// Its time is not in the years 1 to 9998.
    NoTime,
    /// Its value is 10^19 or more, or has more than nine decimals.
    TooLarge,
}

impl Refusal {
    /// Name in `kpi_rejected` and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ahead => "ahead_of_time",
            Self::NoTime => "no_time",
            Self::TooLarge => "value_too_large",
        }
    }
}

/// A fact that a KPI refused.
#[derive(Clone, PartialEq, Debug)]
pub struct Refused {
    /// The KPI.
    pub kpi: Arc<str>,
    /// Offset of the fact.
    pub offset: i64,
    /// Why.
    pub refusal: Refusal,
    /// The fact.
    pub fact: KpiFact,
}

/// Rows of one KPI: by dimensions, then by window and its start.
type Rows = HashMap<Vec<Option<String>>, HashMap<(Window, DateTime<Utc>), Sums>>;

#[derive(Clone, Copy, Debug)]
struct Sums {
    end: DateTime<Utc>,
    events: i64,
    sum: i128,
    min: i128,
    max: i128,
    late_events: i64,
}

impl Sums {
    fn none(end: DateTime<Utc>, value: i128) -> Self {
        Self { end, events: 0, sum: 0, min: value, max: value, late_events: 0 }
    }
}

/// Folds the facts of one partition, in the order of their offsets.
pub struct Folder<'a> {
    /// KPIs by the fact they are folded of, each with its rows.
    kpis: HashMap<&'a str, Vec<KpiFold<'a>>>,
    refused: Vec<Refused>,
    time_max: Option<DateTime<Utc>>,
}

struct KpiFold<'a> {
    spec: &'a KpiSpec,
    lateness: Duration,
    rows: Rows,
    /// The last window of each length: facts come mostly in the order of time, and zones are slow.
    last: Vec<Option<Bounds>>,
}

/// What a batch came to.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Folded {
    /// Rows, sorted by KPI, window, start and dimensions.
    pub rows: Vec<KpiRow>,
    /// Refused facts.
    pub refused: Vec<Refused>,
    /// The latest time of any fact of the partition, not ahead of the clock.
    pub time_max: Option<DateTime<Utc>>,
}

impl<'a> Folder<'a> {
    /// A fold for `specs` that goes on from a partition's `time_max`.
    pub fn new(specs: &'a [KpiSpec], time_max: Option<DateTime<Utc>>) -> Self {
        let mut kpis: HashMap<&str, Vec<KpiFold<'_>>> = HashMap::new();
        for spec in specs {
            let lateness = Duration::from_std(spec.lateness).unwrap_or(Duration::MAX);
            let last = vec![None; spec.windows.len()];
            kpis.entry(&spec.fact).or_default().push(KpiFold { spec, lateness, rows: HashMap::new(), last });
        }
        Self { kpis, refused: Vec::new(), time_max }
    }

    /// Folds one fact. Facts of which no KPI is made leave nothing.
    pub fn fold(&mut self, offset: i64, fact: &KpiFact, now: DateTime<Utc>) {
        let Some(kpis) = self.kpis.get_mut(fact.fact.as_str()) else { return };
        let value = match check(fact, now) {
            Ok(value) => value,
            Err(refusal) => {
                self.refused.extend(kpis.iter().map(|kpi| kpi.refused(offset, refusal, fact)));
                return;
            }
        };
        for kpi in kpis {
            if kpi.add(fact, value, self.time_max).is_none() {
                self.refused.push(kpi.refused(offset, Refusal::NoTime, fact));
            }
        }
        self.time_max = self.time_max.max(Some(fact.time.min(now)));
    }

    /// What was folded.
    pub fn finish(self) -> Folded {
        let Self { kpis, refused, time_max } = self;
        let mut rows: Vec<KpiRow> = kpis.into_values().flatten().flat_map(KpiFold::into_rows).collect();
        rows.sort_by(|left, right| {
            let key = |row: &KpiRow| (Arc::clone(&row.kpi), row.window.name(), row.bounds.start);
            key(left).cmp(&key(right)).then_with(|| left.dimensions.cmp(&right.dimensions))
        });
        Folded { rows, refused, time_max }
    }
}

impl KpiFold<'_> {
    /// `None`, and nothing is changed, when the zone has no such window.
    fn add(&mut self, fact: &KpiFact, value: i128, time_max: Option<DateTime<Utc>>) -> Option<()> {
        let Self { spec, lateness, rows, last } = self;
        for (window, last) in spec.windows.iter().zip(last.iter_mut()) {
            let fits = last.is_some_and(|last| last.start <= fact.time && fact.time < last.end);
            if !fits {
                *last = Some(bounds(*window, spec.time_zone, fact.time)?);
            }
        }
        let closed = time_max.and_then(|latest| latest.checked_sub_signed(*lateness));
        let dimensions: Vec<Option<String>> =
            spec.dimensions.iter().map(|name| fact.dimensions.get(&**name).cloned()).collect();
        let rows = match rows.get_mut(&dimensions) {
            Some(rows) => rows,
            None => rows.entry(dimensions).or_default(),
        };
        for (window, found) in spec.windows.iter().zip(last.iter().flatten()) {
            let sums = rows.entry((*window, found.start)).or_insert(Sums::none(found.end, value));
            sums.events += 1;
            sums.sum += value;
            sums.min = sums.min.min(value);
            sums.max = sums.max.max(value);
            sums.late_events += i64::from(closed.is_some_and(|closed| found.end <= closed));
        }
        Some(())
    }

    fn refused(&self, offset: i64, refusal: Refusal, fact: &KpiFact) -> Refused {
        Refused { kpi: Arc::clone(&self.spec.name), offset, refusal, fact: fact.clone() }
    }

    fn into_rows(self) -> impl Iterator<Item = KpiRow> {
        let spec = self.spec;
        self.rows.into_iter().flat_map(move |(dimensions, rows)| {
            let dimensions = dimensions_text(&spec.dimensions, dimensions);
            rows.into_iter().map(move |((window, start), sums)| KpiRow {
                kpi: Arc::clone(&spec.name),
                window,
                bounds: Bounds { start, end: sums.end },
                dimensions: dimensions.clone(),
                events: sums.events,
                sum: Billionths(sums.sum),
                min: Billionths(sums.min),
                max: Billionths(sums.max),
                late_events: sums.late_events,
            })
        })
    }
}

/// The value in billionths, if the fact can be folded.
fn check(fact: &KpiFact, now: DateTime<Utc>) -> Result<i128, Refusal> {
    if !is_storable(fact.time) {
        return Err(Refusal::NoTime);
    }
    if fact.time > now + AHEAD_MAX {
        return Err(Refusal::Ahead);
    }
    let value = fact.value.normalize();
    let factor = SCALE.checked_sub(value.scale()).ok_or(Refusal::TooLarge)?;
    let billionths = value.mantissa().checked_mul(10_i128.pow(factor)).ok_or(Refusal::TooLarge)?;
    if billionths.abs() >= VALUE_LIMIT_BILLIONTHS { Err(Refusal::TooLarge) } else { Ok(billionths) }
}

fn dimensions_text(names: &[Arc<str>], values: Vec<Option<String>>) -> String {
    let object: BTreeMap<&str, Option<String>> = names
        .iter()
        .map(|name| &**name)
        // Postgres has no NUL in text and JSON.
        .zip(values.into_iter().map(|value| value.map(|text| text.replace('\0', "\u{fffd}"))))
        .collect();
    serde_json::to_string(&object).expect("text keys and text values are JSON")
}

#[cfg(test)]
mod tests;
