//! `millrace doctor`: what is wrong, and how to mend it.

use crate::app::doctor::{self, Check, Status};
use crate::cli::args::{Common, Output};
use crate::cli::check::{self, Loaded};
use crate::cli::{Exit, apply, output, roles};

/// Runs `doctor`.
///
/// # Errors
/// When the project's folder cannot be read or the output not be written; what is wrong is no error here.
pub fn run(common: &Common) -> anyhow::Result<Exit> {
    let loaded = check::load(&common.project, &check::namespace(common)?)?;
    let mut checks = vec![project(&loaded), secrets(&loaded)];
    let is_text = common.output == Output::Text;
    if is_text {
        checks.iter().try_for_each(print)?;
    }
    if let Some(plan) = &loaded.plan {
        let targets = apply::named(common, None)?;
        let mut unprinted = Ok(());
        roles::block_on(async {
            let mut tell = |check: Check| {
                if is_text && unprinted.is_ok() {
                    unprinted = print(&check);
                }
                checks.push(check);
            };
            doctor::run(plan, &targets, &mut tell).await;
            Ok(())
        })?;
        unprinted?;
    }
    if !is_text {
        output::json(&checks)?;
    }
    Ok(exit(&checks))
}

fn exit(checks: &[Check]) -> Exit {
    if checks.iter().any(|check| check.unreachable) {
        Exit::Unreachable
    } else if checks.iter().any(|check| check.status == Status::Fail) {
        Exit::Failed
    } else {
        Exit::Done
    }
}

fn print(check: &Check) -> anyhow::Result<()> {
    output::print(&text(check))
}

fn text(check: &Check) -> String {
    let Check { name, status, detail, help, unreachable: _ } = check;
    let word = match status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    };
    let mut text = format!("{word:<4}  {name}: {detail}\n");
    if !help.is_empty() {
        text.push_str(&format!("      {help}\n"));
    }
    text
}

fn project(loaded: &Loaded) -> Check {
    let files = loaded.project.files.len();
    let count = loaded.lints.len();
    if check::has_errors(&loaded.lints) {
        let detail = format!("{count} mistakes in {files} files; servers were not looked at");
        return Check::new("project", Status::Fail, detail, "`millrace check` shows each and what to write");
    }
    if count > 0 {
        return Check::new(
            "project",
            Status::Warn,
            format!("{count} warnings in {files} files"),
            "`millrace check`",
        );
    }
    let detail = match &loaded.plan {
        Some(plan) => format!("{} pipelines, {} topics", plan.pipelines.len(), plan.topics.len()),
        None => format!("{files} files"),
    };
    Check::new("project", Status::Ok, detail, "")
}

fn secrets(loaded: &Loaded) -> Check {
    let unset = check::unset_secrets(&loaded.project);
    if unset.is_empty() {
        return Check::new("secrets", Status::Ok, "all have a value here", "");
    }
    let mut names: Vec<String> = unset.into_iter().map(|lint| lint.message).collect();
    names.sort_unstable();
    names.dedup();
    let help = "set them where `millrace ingest` and `millrace worker` run";
    Check::new("secrets", Status::Warn, names.join("; "), help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_says_what_to_do() {
        let check = Check::new("topics", Status::Fail, "missing: topic leads", "run `millrace apply`");
        assert_eq!(text(&check), "FAIL  topics: missing: topic leads\n      run `millrace apply`\n");
        assert_eq!(exit(std::slice::from_ref(&check)), Exit::Failed);
        let lost = Check { unreachable: true, ..check };
        assert_eq!(exit(&[lost]), Exit::Unreachable);
        assert_eq!(exit(&[Check::new("clock", Status::Warn, "", "")]), Exit::Done);
    }
}
