//! `millrace kpi list | show | rebuild`: KPIs.

mod rebuild;

use serde::Serialize;

use crate::app::kpis::{self, Kpi, State};
use crate::cli::args::kpi::{KpiShow, KpiVerb};
use crate::cli::args::{Common, Output};
use crate::cli::{Exit, check, ends, output, roles};
use crate::project::inspect::KpiValue;
use crate::secrets::Secret;
use crate::yaml::lint::suggestion;

/// Runs `kpi`.
///
/// # Errors
/// When the project has errors, a server cannot be reached, or what was named does not exist.
pub fn run(common: &Common, verb: &KpiVerb) -> anyhow::Result<Exit> {
    match verb {
        KpiVerb::List => list(common),
        KpiVerb::Show(arguments) => show(common, arguments),
        KpiVerb::Rebuild(arguments) => rebuild::run(common, arguments),
    }
}

/// The Postgres that was named.
fn postgres(common: &Common) -> anyhow::Result<Secret> {
    let url = common.postgres.clone().filter(|url| !url.is_empty());
    url.map(Secret::new)
        .ok_or_else(|| ends(Exit::Usage, "no Postgres is named; give --postgres URL or MILLRACE_POSTGRES"))
}

#[derive(Serialize)]
struct Row {
    kpi: String,
    state: State,
    fact: String,
    aggregate: String,
    windows: String,
    dimensions: String,
    rows: i64,
}

fn list(common: &Common) -> anyhow::Result<Exit> {
    let plan = check::plan(common)?;
    let all = roles::block_on(kpis::list(&plan, &postgres(common)?))?;
    match common.output {
        Output::Json => output::json(&all)?,
        Output::Text => {
            let rows: Vec<Row> = all.iter().map(row).collect();
            let columns = ["kpi", "state", "fact", "aggregate", "windows", "dimensions", "rows"];
            output::rows(common.output, &columns, &rows)?;
            for kpi in all.iter().filter(|kpi| kpi.state == State::Changed) {
                output::print(&changed(kpi))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn row(kpi: &Kpi) -> Row {
    let Kpi { kpi, state, definition, differences: _, windows } = kpi;
    let sizes = definition.windows.clone().unwrap_or_else(|| windows.keys().cloned().collect());
    Row {
        kpi: kpi.clone(),
        state: *state,
        fact: definition.fact.clone(),
        aggregate: definition.aggregate.clone(),
        windows: or_dash(&sizes),
        dimensions: or_dash(&definition.dimensions),
        rows: windows.values().map(|rows| rows.rows).sum(),
    }
}

fn or_dash(words: &[String]) -> String {
    if words.is_empty() { String::from("-") } else { words.join(" ") }
}

/// What the files say otherwise, and what to do.
fn changed(kpi: &Kpi) -> String {
    let mut text = String::new();
    for difference in &kpi.differences {
        let (what, existing, wanted) = (difference.what, &difference.existing, &difference.wanted);
        text.push_str(&format!("{}: {what} is {existing} here and {wanted} in the files\n", kpi.kpi));
    }
    let needs_rebuild = kpi.differences.iter().any(crate::project::definitions::Difference::needs_rebuild);
    let help = if needs_rebuild {
        format!("  `millrace kpi rebuild {}` folds it anew\n", kpi.kpi)
    } else {
        format!(
            "  `millrace apply` takes it up from now on, `millrace kpi rebuild {}` with its past\n",
            kpi.kpi
        )
    };
    text + &help
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    kpi: &'a Kpi,
    values: &'a [KpiValue],
}

fn show(common: &Common, arguments: &KpiShow) -> anyhow::Result<Exit> {
    let KpiShow { name, last } = arguments;
    let plan = check::plan(common)?;
    let postgres = postgres(common)?;
    let all = roles::block_on(kpis::list(&plan, &postgres))?;
    let Some(kpi) = all.iter().find(|kpi| kpi.kpi == *name) else {
        let known: Vec<&str> = all.iter().map(|kpi| kpi.kpi.as_str()).collect();
        let help = suggestion(name, &known);
        return Err(ends(Exit::Usage, format!("there is no KPI `{name}`; {help}")));
    };
    let values = roles::block_on(kpis::values(&postgres, name, *last))?;
    match common.output {
        Output::Json => output::json(&Shown { kpi, values: &values })?,
        Output::Text => output::print(&text(kpi, &values))?,
    }
    Ok(Exit::Done)
}

fn text(kpi: &Kpi, values: &[KpiValue]) -> String {
    let definition = &kpi.definition;
    let lateness = definition.lateness_ms.map_or_else(|| String::from("-"), |ms| format!("{} s", ms / 1000));
    let mut text = format!(
        "{}: {} of {}, by {}, days of {}, lateness {lateness}\n",
        kpi.kpi,
        definition.aggregate,
        definition.fact,
        or_dash(&definition.dimensions),
        definition.time_zone
    );
    if kpi.state == State::Changed {
        text.push_str(&changed(kpi));
    }
    let sizes: Vec<Vec<String>> = kpi
        .windows
        .iter()
        .map(|(window, rows)| {
            let (first, last) = (output::time(rows.first), output::time(rows.last));
            vec![window.clone(), rows.rows.to_string(), rows.events.to_string(), first, last]
        })
        .collect();
    text.push('\n');
    text.push_str(&output::table(&["window", "rows", "events", "first", "last"], &sizes));
    if !values.is_empty() {
        let cells: Vec<Vec<String>> = values
            .iter()
            .map(|value| {
                let KpiValue { window, window_start, dimensions, value, events, updated_at: _ } = value;
                let start = output::time(*window_start);
                vec![window.clone(), start, dimensions.to_string(), value.clone(), events.to_string()]
            })
            .collect();
        text.push('\n');
        text.push_str(&output::table(&["window", "window_start", "dimensions", "value", "events"], &cells));
    }
    text
}
