//! `millrace test`: runs the tests that stand in the pipeline files, without network.

use chrono::Utc;
use serde::Serialize;

use crate::cli::args::project::TestArgs;
use crate::cli::args::{Common, Output};
use crate::cli::{Exit, check, ends, output};
use crate::engine::offline::{self, TestReport};

/// Width of a test's name in the table.
const NAME_WIDTH: usize = 56;

/// One test, for programs.
#[derive(Debug, Serialize)]
struct Row {
    pipeline: String,
    name: String,
    passed: bool,
    duration_ms: f64,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct Problem {
    message: String,
    place: String,
}

/// Runs the tests of all pipelines, or of those whose name holds the text that was typed.
///
/// # Errors
/// When the project has mistakes, or no pipeline is meant.
pub fn run(common: &Common, arguments: &TestArgs) -> anyhow::Result<Exit> {
    let (project, plan) = check::accepted(check::load(&common.project, &check::namespace(common)?)?)?;
    let wanted = arguments.pipeline.as_deref().unwrap_or_default();
    let names: Vec<&str> =
        plan.pipelines.iter().map(|pipeline| &*pipeline.name).filter(|name| name.contains(wanted)).collect();
    if names.is_empty() {
        return Err(ends(Exit::Usage, format!("no pipeline's name holds `{wanted}`")));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut rows = Vec::new();
    for name in names {
        let reports = runtime.block_on(offline::run_tests(&project, &plan, name, Utc::now()));
        if common.output == Output::Text {
            output::print(&text(name, &reports))?;
        }
        rows.extend(reports.into_iter().map(row));
    }
    let failed = rows.iter().filter(|row| !row.passed).count();
    match common.output {
        Output::Json => output::json(&rows)?,
        Output::Text => output::print(&format!("{} passed, {failed} failed\n", rows.len() - failed))?,
    }
    Ok(if failed == 0 { Exit::Done } else { Exit::Failed })
}

fn row(report: TestReport) -> Row {
    Row {
        passed: report.passed(),
        pipeline: report.pipeline,
        name: report.name,
        duration_ms: report.duration.as_secs_f64() * 1000.0,
        problems: report
            .problems
            .into_iter()
            .map(|problem| Problem { message: problem.message, place: problem.place })
            .collect(),
    }
}

fn text(pipeline: &str, reports: &[TestReport]) -> String {
    let mut text = format!("{pipeline}\n");
    if reports.is_empty() {
        text.push_str("  no tests\n");
    }
    for report in reports {
        let verdict = if report.passed() { "ok  " } else { "FAIL" };
        let milliseconds = report.duration.as_secs_f64() * 1000.0;
        text.push_str(&format!("  {verdict}  {:<NAME_WIDTH$} {milliseconds:>6.1} ms\n", report.name));
        for problem in &report.problems {
            text.push_str(&format!("        {}\n        {}\n", problem.message, problem.place));
        }
    }
    text
}
