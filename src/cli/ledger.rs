//! `millrace ledger`: how every event ended, per pipeline, and whether that is all of them.

use crate::app::ledger::{self, Balance, Row};
use crate::cli::args::records::LedgerArgs;
use crate::cli::args::{Common, Output};
use crate::cli::{Exit, check, ends, output, roles};
use crate::secrets::Secret;

const COLUMNS: [&str; 8] =
    ["pipeline", "succeeded", "filtered", "dead_lettered", "ingested", "parked", "in_flight", "balance"];

/// Runs `ledger`.
///
/// # Errors
/// When the project has errors, no Postgres is named, or a server fails.
pub fn run(common: &Common, arguments: &LedgerArgs) -> anyhow::Result<Exit> {
    let plan = check::plan(common)?;
    let postgres =
        common.postgres.clone().filter(|url| !url.is_empty()).map(Secret::new).ok_or_else(|| {
            ends(Exit::Usage, "no Postgres is named; give --postgres URL or MILLRACE_POSTGRES")
        })?;
    let kafka = match (&common.kafka, arguments.quick) {
        (Some(_), false) => Some(roles::connection(common)?),
        _ => None,
    };
    let rows = roles::block_on(ledger::rows(&plan, &postgres, kafka.as_ref()))?;
    match common.output {
        Output::Json => output::json(&rows)?,
        Output::Text => output::print(&text(&rows))?,
    }
    let is_off = rows.iter().any(|row| matches!(row.balance, Some(Balance::Off { .. })));
    Ok(if is_off { Exit::Failed } else { Exit::Done })
}

fn text(rows: &[Row]) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    output::table(&COLUMNS, &cells)
}

fn cells(row: &Row) -> Vec<String> {
    let Row { pipeline, succeeded, filtered, dead_lettered, ingested, parked, in_flight, balance } = row;
    let number = |count: &Option<i64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    let balance = match balance {
        None => "-".to_owned(),
        Some(Balance::Balanced) => "yes".to_owned(),
        Some(Balance::FailuresOnly) => "- (results: failures)".to_owned(),
        Some(Balance::Behind { missing }) => format!("not yet: {missing} results wait for the projector"),
        Some(Balance::Off { missing }) if *missing < 0 => format!("no: {} results have no record", -missing),
        Some(Balance::Off { missing }) => format!("no: {missing} records have no result"),
    };
    vec![
        pipeline.clone(),
        succeeded.to_string(),
        filtered.to_string(),
        dead_lettered.to_string(),
        number(ingested),
        number(parked),
        number(in_flight),
        balance,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balance_is_said_in_words() {
        let row = |balance| Row {
            pipeline: "leads".to_owned(),
            succeeded: 7,
            filtered: 2,
            dead_lettered: 1,
            ingested: Some(12),
            parked: Some(1),
            in_flight: Some(1),
            balance,
        };
        let last = |balance| cells(&row(balance)).pop().unwrap_or_default();
        assert_eq!(last(Some(Balance::Balanced)), "yes");
        assert_eq!(last(Some(Balance::Off { missing: 1 })), "no: 1 records have no result");
        assert_eq!(last(None), "-");
        assert_eq!(cells(&row(None)).len(), COLUMNS.len());
    }
}
