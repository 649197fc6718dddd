//! `millrace lag`: how far each consumer group is behind.

use serde::Serialize;

use crate::app::lag::{self, Reading};
use crate::app::reach;
use crate::cli::args::records::LagArgs;
use crate::cli::args::{Common, Output};
use crate::cli::{Exit, check, ends, output, roles};
use crate::kafka::admin::GroupPosition;
use crate::yaml::lint::suggestion;

#[derive(Serialize)]
struct Row {
    group: String,
    topic: String,
    partition: i32,
    committed: Option<i64>,
    end: i64,
    lag: i64,
}

/// Runs `lag`.
///
/// # Errors
/// When the project has errors, or Kafka cannot be reached.
pub fn run(common: &Common, arguments: &LagArgs) -> anyhow::Result<Exit> {
    let plan = check::plan(common)?;
    let connection = roles::connection(common)?;
    let groups = wanted(lag::groups(&plan), arguments.group.as_deref())?;
    let rows = roles::block_on(async {
        reach::kafka(&connection).await?;
        let mut rows = Vec::new();
        for reading in &groups {
            let positions = lag::positions(&connection, reading).await?;
            rows.extend(positions.iter().map(|position| row(&reading.group, position)));
        }
        Ok(rows)
    })?;
    output::rows(common.output, &["group", "topic", "partition", "committed", "end", "lag"], &rows)?;
    if common.output == Output::Text {
        let total: i64 = rows.iter().map(|row| row.lag).sum();
        output::print(&format!("{total} behind in {} partitions\n", rows.len()))?;
    }
    Ok(Exit::Done)
}

fn wanted(groups: Vec<Reading>, only: Option<&str>) -> anyhow::Result<Vec<Reading>> {
    let Some(only) = only else { return Ok(groups) };
    let known: Vec<&str> = groups.iter().map(|reading| reading.group.as_str()).collect();
    if !known.contains(&only) {
        let help = suggestion(only, &known);
        return Err(ends(Exit::Usage, format!("the project has no consumer group `{only}`; {help}")));
    }
    Ok(groups.into_iter().filter(|reading| reading.group == only).collect())
}

fn row(group: &str, position: &GroupPosition) -> Row {
    Row {
        group: group.to_owned(),
        topic: position.partition.topic.to_string(),
        partition: position.partition.number,
        committed: position.committed.map(|next| next.0),
        end: position.end.0,
        lag: position.lag(),
    }
}
