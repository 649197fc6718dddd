//! `millrace kpi rebuild`: folds KPIs anew beside the running projector.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::app::kpis::{self, Options};
use crate::cli::args::kpi::KpiRebuild;
use crate::cli::args::{Common, Output};
use crate::cli::{Exit, ask, check, ends, kpi, output, roles};
use crate::plan::Plan;
use crate::plan::kpis::KpiSpec;
use crate::project::rebuild::compare::{Changed, Comparison, Keep};
use crate::project::rebuild::{Progress, Report};
use crate::yaml::lint::suggestion;

/// Runs `kpi rebuild`.
///
/// # Errors
/// When the project has errors, a name is unknown, a server fails, or another rebuild is under way.
pub fn run(common: &Common, arguments: &KpiRebuild) -> anyhow::Result<Exit> {
    let KpiRebuild { names, all, dry_run, keep_older, accept_loss, yes } = arguments;
    let plan = check::plan(common)?;
    let wanted = if *all { plan.kpis.clone() } else { named(&plan, names)? };
    if wanted.is_empty() {
        return Err(ends(Exit::Usage, "the project has no KPIs"));
    }
    let mut servers = roles::servers(common, "kpi", roles::SESSION_TIMEOUT)?;
    servers.postgres = Some(kpi::postgres(common)?);
    let keep = match (keep_older, accept_loss) {
        (true, _) => Keep::Older,
        (_, true) => Keep::Nothing,
        (false, false) => Keep::Refuse,
    };
    let words: Vec<&str> = wanted.iter().map(|spec| &*spec.name).collect();
    let question =
        format!("rebuild {}? The old values stay until the new ones take their place.", words.join(", "));
    if !dry_run && !ask::confirmed(&question, *yes)? {
        output::print("nothing was rebuilt\n")?;
        return Ok(Exit::Done);
    }
    let is_text = common.output == Output::Text;
    let bar = bar(is_text);
    let options = Options { keep, is_dry_run: *dry_run };
    let tell = |Progress { done, total }| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let result = roles::block_on(kpis::rebuild(&plan, &servers, wanted, options, tell));
    bar.finish_and_clear();
    let (report, exit) = match result? {
        Ok(report) => (report, Exit::Done),
        Err(report) => (*report, Exit::Failed),
    };
    if is_text {
        output::print(&text(&report, *dry_run))?;
    } else {
        output::json(&report)?;
    }
    Ok(exit)
}

fn named(plan: &Plan, names: &[String]) -> anyhow::Result<Vec<KpiSpec>> {
    let mut wanted: Vec<KpiSpec> = Vec::new();
    for name in names {
        let Some(spec) = plan.kpis.iter().find(|spec| *spec.name == **name) else {
            let known: Vec<&str> = plan.kpis.iter().map(|spec| &*spec.name).collect();
            let help = suggestion(name, &known);
            return Err(ends(Exit::Usage, format!("the project has no KPI `{name}`; {help}")));
        };
        if !wanted.contains(spec) {
            wanted.push(spec.clone());
        }
    }
    Ok(wanted)
}

fn bar(is_text: bool) -> ProgressBar {
    let is_shown = is_text && std::io::stderr().is_terminal();
    let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    match ProgressStyle::with_template("{bar:40} {pos}/{len} offsets {per_sec} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn text(report: &Report, is_dry_run: bool) -> String {
    let Report { swapped, resumed, facts, unreadable, kpis, deleted } = report;
    let mut text = String::new();
    if *resumed {
        text.push_str("went on with the rebuild that was begun\n");
    }
    let cells: Vec<Vec<String>> = kpis.iter().map(cells).collect();
    text.push_str(&output::table(&COLUMNS, &cells));
    for comparison in kpis {
        for difference in &comparison.definition {
            let (what, existing, wanted) = (difference.what, &difference.existing, &difference.wanted);
            text.push_str(&format!("{}: {what} {existing} -> {wanted}\n", comparison.kpi));
        }
        for example in comparison.examples.iter().take(EXAMPLES_MAX) {
            text.push_str(&format!("  {}\n", said(&comparison.kpi, example)));
        }
        let left_out = comparison.examples.len().saturating_sub(EXAMPLES_MAX);
        if left_out > 0 {
            text.push_str(&format!("  and more; --output json shows {}\n", comparison.examples.len()));
        }
    }
    text.push_str(&format!("{facts} facts folded"));
    if *unreadable > 0 {
        text.push_str(&format!(", {unreadable} records are no facts"));
    }
    text.push('\n');
    let short: i64 = kpis.iter().map(|comparison| comparison.windows_short).sum();
    if *deleted > 0 && short > 0 {
        text.push_str(&format!(
            "Kafka has deleted {deleted} of the facts' offsets, and {short} windows had more events than can be read\n"
        ));
    }
    text.push_str(match (swapped, is_dry_run) {
        (true, _) => "the new values are in place\n",
        (false, true) => "nothing was changed: --dry-run\n",
        (false, false) => {
            "nothing was changed; --keep-older leaves those windows as they are, --accept-loss takes what can be read. \
             What was read is kept for the next run\n"
        }
    });
    text
}

/// Rows shown to people.
const EXAMPLES_MAX: usize = 5;

const COLUMNS: [&str; 9] =
    ["kpi", "events before", "after", "rows same", "changed", "gone", "new", "short", "kept"];

fn cells(comparison: &Comparison) -> Vec<String> {
    let Comparison {
        kpi,
        definition: _,
        events_before,
        events_after,
        rows_same,
        rows_changed,
        rows_gone,
        rows_new,
        windows_short,
        windows_kept,
        examples: _,
    } = comparison;
    let counts = [
        events_before,
        events_after,
        rows_same,
        rows_changed,
        rows_gone,
        rows_new,
        windows_short,
        windows_kept,
    ];
    std::iter::once(kpi.clone()).chain(counts.iter().map(ToString::to_string)).collect()
}

fn said(kpi: &str, example: &Changed) -> String {
    let Changed { window, window_start, dimensions, events_before, events_after, sum_before, sum_after } =
        example;
    let side = |events: &Option<i64>, sum: &Option<String>| match (events, sum) {
        (Some(events), Some(sum)) => format!("{events} events, sum {sum}"),
        _ => String::from("nothing"),
    };
    let (before, after) = (side(events_before, sum_before), side(events_after, sum_after));
    let dimensions = if dimensions.is_empty() { String::new() } else { format!(" {dimensions}") };
    format!("{kpi} {window} {}{dimensions}: {before} -> {after}", output::time(*window_start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_said_with_what_to_do() {
        let comparison = Comparison {
            kpi: String::from("revenue"),
            definition: Vec::new(),
            events_before: 10,
            events_after: 7,
            rows_same: 2,
            rows_changed: 1,
            rows_gone: 0,
            rows_new: 0,
            windows_short: 1,
            windows_kept: 0,
            examples: vec![Changed {
                window: String::from("1h"),
                window_start: chrono::DateTime::UNIX_EPOCH,
                dimensions: String::from(r#"{"currency":"EUR"}"#),
                events_before: Some(5),
                events_after: None,
                sum_before: Some(String::from("12.5")),
                sum_after: None,
            }],
        };
        let report = Report {
            swapped: false,
            resumed: false,
            facts: 7,
            unreadable: 0,
            kpis: vec![comparison],
            deleted: 3,
        };
        expect_test::expect![[r#"
            kpi       events before   after   rows same   changed   gone   new   short   kept
            revenue   10              7       2           1         0      0     1       0
              revenue 1h 1970-01-01T00:00:00Z {"currency":"EUR"}: 5 events, sum 12.5 -> nothing
            7 facts folded
            Kafka has deleted 3 of the facts' offsets, and 1 windows had more events than can be read
            nothing was changed; --keep-older leaves those windows as they are, --accept-loss takes what can be read. What was read is kept for the next run
        "#]]
        .assert_eq(&text(&report, false));
    }
}
