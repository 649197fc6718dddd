//! KPIs in the database held against those of the project, and folding them anew.

use std::collections::BTreeMap;

use crate::postgres::pool::Pool;
use anyhow::Context as _;
use serde::Serialize;

use crate::app::reach;
use crate::app::servers::Servers;
use crate::config::kpi::Window;
use crate::plan::Plan;
use crate::plan::kpis::KpiSpec;
use crate::postgres::pool;
use crate::project::definitions::{Definition, Difference};
use crate::project::inspect::{self, KpiRows, KpiValue};
use crate::project::rebuild::compare::Keep;
use crate::project::rebuild::{Progress, Rebuild, RebuildError, Report};
use crate::secrets::Secret;

/// Connections to Postgres that a rebuild uses: one holds its lock, one writes, one is asked.
const CONNECTIONS_MAX: u32 = 3;

/// How a KPI stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The database has it as the files say.
    Ok,
    /// The database has it otherwise, and folds it otherwise.
    Changed,
    /// The database does not have it.
    Missing,
    /// The files do not have it any more: it is not folded, its rows stay.
    LeftOver,
}

/// A KPI.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Kpi {
    /// Name.
    pub kpi: String,
    /// How it stands.
    pub state: State,
    /// Definition in the database, else of the files.
    pub definition: Definition,
    /// What the files say otherwise.
    pub differences: Vec<Difference>,
    /// Its rows, by length of window.
    pub windows: BTreeMap<String, KpiRows>,
}

/// All KPIs, by name.
///
/// # Errors
/// When Postgres cannot be reached, or has no KPI tables yet.
pub async fn list(plan: &Plan, postgres: &Secret) -> anyhow::Result<Vec<Kpi>> {
    let pool = open(postgres, 1).await?;
    let known = inspect::definitions(&pool).await.context(NO_TABLES)?;
    let mut rows = inspect::kpi_rows(&pool).await.context(NO_TABLES)?;
    pool.close().await;
    let mut all = BTreeMap::new();
    for spec in &plan.kpis {
        let wanted = Definition::of(spec);
        let (state, definition, differences) = match known.get(&*spec.name) {
            None => (State::Missing, wanted, Vec::new()),
            Some(existing) => {
                let differences = existing.differences(&wanted);
                let state = if differences.is_empty() { State::Ok } else { State::Changed };
                (state, existing.clone(), differences)
            }
        };
        all.insert(spec.name.to_string(), (state, definition, differences));
    }
    for (name, definition) in known {
        all.entry(name).or_insert((State::LeftOver, definition, Vec::new()));
    }
    let kpi = |(kpi, (state, definition, differences)): (String, (State, Definition, Vec<Difference>))| {
        let windows = rows.remove(&kpi).unwrap_or_default();
        Kpi { kpi, state, definition, differences, windows }
    };
    Ok(all.into_iter().map(kpi).collect())
}

const NO_TABLES: &str = "the KPIs cannot be read; `millrace apply` makes their tables";

/// The latest values of one KPI: `last` of each window.
///
/// # Errors
/// When Postgres fails.
pub async fn values(postgres: &Secret, kpi: &str, last: i64) -> anyhow::Result<Vec<KpiValue>> {
    let pool = open(postgres, 1).await?;
    let mut values = Vec::new();
    for window in [Window::Minute, Window::Hour, Window::Day] {
        values.extend(inspect::kpi_values(&pool, kpi, window, last).await.context(NO_TABLES)?);
    }
    pool.close().await;
    Ok(values)
}

async fn open(postgres: &Secret, connections: u32) -> anyhow::Result<Pool> {
    reach::postgres(postgres).await?;
    Ok(pool::lazy(reach::address(postgres)?, "kpi", connections)?)
}

/// How to rebuild.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// What happens to windows whose facts are not kept any more.
    pub keep: Keep,
    /// Change nothing.
    pub is_dry_run: bool,
}

/// Folds `kpis` anew, telling how far it is. The inner error says why nothing was changed, and keeps what was found.
///
/// # Errors
/// When a server cannot be reached, or fails.
pub async fn rebuild(
    plan: &Plan,
    servers: &Servers,
    kpis: Vec<KpiSpec>,
    options: Options,
    tell: impl FnMut(Progress) + Send,
) -> anyhow::Result<Result<Report, Box<Report>>> {
    let Options { keep, is_dry_run } = options;
    let postgres = servers.postgres.as_ref().context("no Postgres is named")?;
    let pool = open(postgres, CONNECTIONS_MAX).await?;
    reach::kafka(&servers.kafka).await?;
    let missing = inspect::missing_tables(&pool).await?;
    anyhow::ensure!(
        missing.is_empty(),
        "the database has no {}; run `millrace apply` first",
        missing.join(", ")
    );
    let rebuild = Rebuild {
        pool: pool.clone(),
        connection: servers.kafka.clone(),
        namespace: plan.namespace.clone(),
        codec: servers.codec(&plan.namespace).await?,
        kpis,
        keep,
        is_dry_run,
    };
    let result = rebuild.run(tell).await;
    pool.close().await;
    match result {
        Ok(report) => Ok(Ok(report)),
        Err(RebuildError::Loss(report)) => Ok(Err(report)),
        Err(error) => Err(error.into()),
    }
}
