//! What KPIs are folded by. The database says it, not the files: rows and definition change together, and every
//! projector folds by the same one. `millrace apply` writes new definitions, `millrace kpi rebuild` changes those that
//! have rows.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::config::kpi::{Aggregate, Window};
use crate::plan::kpis::KpiSpec;

/// A KPI's definition as the database has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Definition {
    /// Name of the facts.
    pub fact: String,
    /// See [`Aggregate::name`].
    pub aggregate: String,
    /// Dimensions in order.
    pub dimensions: Vec<String>,
    /// Zone.
    pub time_zone: String,
    /// See [`Window::name`]; `None` in databases of earlier versions.
    pub windows: Option<Vec<String>>,
    /// In milliseconds; `None` in databases of earlier versions.
    pub lateness_ms: Option<i64>,
}

/// Something that two definitions say differently.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// What.
    pub what: &'static str,
    /// As the database has it.
    pub existing: String,
    /// As the files have it.
    pub wanted: String,
}

impl Difference {
    /// Whether rows that exist would mean something else.
    pub fn needs_rebuild(&self) -> bool {
        !matches!(self.what, WINDOWS | LATENESS)
    }
}

const WINDOWS: &str = "windows";
const LATENESS: &str = "lateness";

impl Definition {
    /// The definition of `spec`.
    pub fn of(spec: &KpiSpec) -> Self {
        let KpiSpec { name: _, fact, aggregate, windows, dimensions, time_zone, lateness, retention: _ } =
            spec;
        Self {
            fact: fact.to_string(),
            aggregate: aggregate.name().to_owned(),
            dimensions: dimensions.iter().map(ToString::to_string).collect(),
            time_zone: time_zone.name().to_owned(),
            windows: Some(windows.iter().map(|window| window.name().to_owned()).collect()),
            lateness_ms: Some(i64::try_from(lateness.as_millis()).unwrap_or(i64::MAX)),
        }
    }

    /// What is different in `wanted`.
    pub fn differences(&self, wanted: &Self) -> Vec<Difference> {
        let list = |items: &[String]| format!("[{}]", items.join(", "));
        let both = |what, existing: String, wanted: String| Difference { what, existing, wanted };
        let windows = |windows: &Option<Vec<String>>| windows.as_ref().map(|windows| list(windows));
        let lateness = |ms: Option<i64>| ms.map(|ms| format!("{} s", ms / 1000));
        let mut all = vec![
            both("fact", self.fact.clone(), wanted.fact.clone()),
            both("aggregate", self.aggregate.clone(), wanted.aggregate.clone()),
            both("dimensions", list(&self.dimensions), list(&wanted.dimensions)),
            both("time zone", self.time_zone.clone(), wanted.time_zone.clone()),
        ];
        if let (Some(existing), Some(wanted)) = (windows(&self.windows), windows(&wanted.windows)) {
            all.push(both(WINDOWS, existing, wanted));
        }
        if let (Some(existing), Some(wanted)) = (lateness(self.lateness_ms), lateness(wanted.lateness_ms)) {
            all.push(both(LATENESS, existing, wanted));
        }
        all.retain(|difference| difference.existing != difference.wanted);
        all
    }

    /// What to fold by; where the database says nothing, `files` do. `None` when a newer version wrote words into the
    /// database that this one does not know.
    pub fn spec(&self, files: &KpiSpec) -> Option<KpiSpec> {
        let windows = match &self.windows {
            Some(windows) => windows.iter().map(|name| Window::named(name)).collect::<Option<_>>()?,
            None => files.windows.clone(),
        };
        let lateness = match self.lateness_ms {
            Some(ms) => Duration::from_millis(ms.unsigned_abs()),
            None => files.lateness,
        };
        Some(KpiSpec {
            name: files.name.clone(),
            fact: self.fact.as_str().into(),
            aggregate: Aggregate::named(&self.aggregate)?,
            windows,
            dimensions: self.dimensions.iter().map(|name| name.as_str().into()).collect(),
            time_zone: self.time_zone.parse().ok()?,
            lateness,
            retention: files.retention,
        })
    }
}

/// Every definition, by KPI.
///
/// # Errors
/// When Postgres fails.
pub async fn load(connection: &mut PgConnection) -> Result<BTreeMap<String, Definition>, sqlx::Error> {
    let rows = sqlx::query(
        "select kpi, fact, aggregate, dimensions, time_zone, windows, lateness_ms from kpi_definitions",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, definition(row)?))).collect()
}

fn definition(row: &PgRow) -> Result<Definition, sqlx::Error> {
    Ok(Definition {
        fact: row.try_get(1)?,
        aggregate: row.try_get(2)?,
        dimensions: row.try_get(3)?,
        time_zone: row.try_get(4)?,
        windows: row.try_get(5)?,
        lateness_ms: row.try_get(6)?,
    })
}

/// Writes the definition of `kpi`, whatever it was.
///
/// # Errors
/// When Postgres fails.
pub async fn put(
    connection: &mut PgConnection,
    kpi: &str,
    definition: &Definition,
) -> Result<(), sqlx::Error> {
    let Definition { fact, aggregate, dimensions, time_zone, windows, lateness_ms } = definition;
    sqlx::query(
        "insert into kpi_definitions (kpi, fact, aggregate, dimensions, time_zone, windows, lateness_ms)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (kpi) do update
         set fact = excluded.fact, aggregate = excluded.aggregate, dimensions = excluded.dimensions,
             time_zone = excluded.time_zone, windows = excluded.windows, lateness_ms = excluded.lateness_ms",
    )
    .bind(kpi)
    .bind(fact)
    .bind(aggregate)
    .bind(dimensions)
    .bind(time_zone)
    .bind(windows)
    .bind(lateness_ms)
    .execute(connection)
    .await
    .map(drop)
}

/// Makes every projector read the definitions again before it writes another KPI row. Waits for the transactions in
/// which they write now; until the caller's transaction ends none begins another.
///
/// # Errors
/// When Postgres fails.
pub async fn announce(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("lock table projector_positions in share row exclusive mode")
        .execute(&mut *connection)
        .await?;
    sqlx::query("update projector_positions set definitions = definitions + 1")
        .execute(connection)
        .await
        .map(drop)
}

/// What to fold by.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Active {
    /// KPIs of the files, as the database defines them.
    pub kpis: Vec<KpiSpec>,
    /// Where the two differ, in words.
    pub notes: Vec<String>,
}

/// What to fold by: for each KPI of the files its definition in the database. One that has none gets it here.
///
/// # Errors
/// When Postgres fails.
pub async fn active(connection: &mut PgConnection, files: &[KpiSpec]) -> Result<Active, sqlx::Error> {
    let mut known = load(connection).await?;
    let mut active = Active::default();
    for files in files {
        let name = &files.name;
        let wanted = Definition::of(files);
        let Some(definition) = known.remove(&**name) else {
            put(connection, name, &wanted).await?;
            active.kpis.push(files.clone());
            continue;
        };
        for Difference { what, existing, wanted } in definition.differences(&wanted) {
            active.notes.push(format!(
                "KPI {name}: {what} is {existing} in the database and {wanted} in the files that this projector was \
                 started with; the database counts"
            ));
        }
        match definition.spec(files) {
            Some(spec) => active.kpis.push(spec),
            None => active.notes.push(format!(
                "KPI {name} is not folded: a newer version of Millrace has defined it; `millrace kpi rebuild {name}` folds \
                 it anew"
            )),
        }
    }
    Ok(active)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> KpiSpec {
        KpiSpec {
            name: "revenue".into(),
            fact: "payment".into(),
            aggregate: Aggregate::Sum,
            windows: vec![Window::Hour, Window::Day],
            dimensions: vec!["currency".into()],
            time_zone: chrono_tz::Europe::Madrid,
            lateness: Duration::from_secs(3_600),
            retention: None,
        }
    }

    #[test]
    fn a_definition_is_read_as_it_was_written() {
        let definition = Definition::of(&spec());
        assert_eq!(definition.spec(&spec()), Some(spec()));
        let earlier = Definition { windows: None, lateness_ms: None, ..definition.clone() };
        assert_eq!(earlier.spec(&spec()), Some(spec()), "where it says nothing the files do");
        assert_eq!(earlier.differences(&definition), []);
        let newer = Definition { aggregate: String::from("median"), ..definition };
        assert_eq!(newer.spec(&spec()), None);
    }

    #[test]
    fn windows_and_lateness_may_change_the_rest_needs_a_rebuild() {
        let wanted =
            KpiSpec { windows: vec![Window::Minute], dimensions: vec![], lateness: Duration::ZERO, ..spec() };
        let differences = Definition::of(&spec()).differences(&Definition::of(&wanted));
        let said: Vec<_> = differences
            .iter()
            .map(|difference| {
                let Difference { what, existing, wanted } = difference;
                (format!("{what}: {existing} -> {wanted}"), difference.needs_rebuild())
            })
            .collect();
        assert_eq!(
            said,
            [
                (String::from("dimensions: [currency] -> []"), true),
                (String::from("windows: [1h, 1d] -> [1m]"), false),
                (String::from("lateness: 3600 s -> 0 s"), false),
            ]
        );
    }
}
