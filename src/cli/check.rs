//! `millrace check`, and the one way by which every verb reads the project.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::args::{Common, Output};
use crate::cli::{Exit, ends, lint_output, output};
use crate::config::project::{self, Project};
use crate::ledger::Namespace;
use crate::plan::Plan;
use crate::plan::compile::compile;
use crate::secrets::SecretRef;
use crate::yaml::lint::{Lint, Lints, Severity};

/// A project as it was read.
#[derive(Debug)]
pub struct Loaded {
    /// What the files say.
    pub project: Project,
    /// What they mean; none when there are errors.
    pub plan: Option<Plan>,
    /// Mistakes, sorted by file and place.
    pub lints: Vec<Lint>,
    /// How long reading and compiling took.
    pub took: Duration,
}

/// Reads and compiles the project in `root`.
///
/// # Errors
/// When `root` is no folder that can be read. Mistakes in the project are no error here.
pub fn load(root: &Path, namespace: &Namespace) -> anyhow::Result<Loaded> {
    let begun = Instant::now();
    let mut lints = Lints::default();
    let project = project::load(root, &mut lints).map_err(|error| {
        let message =
            format!("the project folder {} cannot be read: {error}; name it with --project", root.display());
        ends(Exit::Refused, message)
    })?;
    let plan = compile(&project, namespace, &mut lints);
    lint_output::sort(&mut lints.0);
    Ok(Loaded { project, plan, lints: lints.0, took: begun.elapsed() })
}

/// Runs `check`: prints every mistake. With `with_secrets` also those secrets that have no value here.
///
/// # Errors
/// When the project's folder cannot be read or the output not be written.
pub fn run(common: &Common, with_secrets: bool) -> anyhow::Result<Exit> {
    let mut loaded = load(&common.project, &namespace(common)?)?;
    if with_secrets {
        loaded.lints.extend(unset_secrets(&loaded.project));
        lint_output::sort(&mut loaded.lints);
    }
    match common.output {
        Output::Json => output::json(&lint_output::rows(&loaded.lints))?,
        Output::Text => output::print(&report(&loaded, is_coloured(std::io::stdout().is_terminal())))?,
    }
    Ok(if has_errors(&loaded.lints) { Exit::Failed } else { Exit::Done })
}

/// The plan of the project, for verbs that work with it. Mistakes are printed to standard error, and errors among
/// them end the program.
///
/// # Errors
/// When the folder cannot be read, or the project has errors.
pub fn plan(common: &Common) -> anyhow::Result<Plan> {
    accepted(load(&common.project, &namespace(common)?)?).map(|(_, plan)| plan)
}

/// What was read, for verbs that work with it; else as [`plan`].
///
/// # Errors
/// When the project has errors.
pub fn accepted(loaded: Loaded) -> anyhow::Result<(Project, Plan)> {
    if !loaded.lints.is_empty() {
        eprint!("{}", report(&loaded, is_coloured(std::io::stderr().is_terminal())));
    }
    let Loaded { project, plan, .. } = loaded;
    let plan = plan.ok_or_else(|| ends(Exit::Refused, "the project has errors; nothing was started"))?;
    Ok((project, plan))
}

/// The namespace that was typed.
///
/// # Errors
/// When it cannot be one.
pub fn namespace(common: &Common) -> anyhow::Result<Namespace> {
    Namespace::new(&common.namespace).ok_or_else(|| {
        let help = "use lower-case letters, digits, dots and hyphens, at most 64";
        ends(Exit::Usage, format!("`{}` cannot be a namespace: {help}", common.namespace))
    })
}

/// Every mistake, and the count.
pub fn report(loaded: &Loaded, is_coloured: bool) -> String {
    let text = lint_output::text(&loaded.lints, is_coloured);
    let summary = lint_output::summary(&loaded.lints, loaded.project.files.len(), loaded.took);
    format!("{text}{summary}\n")
}

/// Whether there is an error among `lints`.
pub fn has_errors(lints: &[Lint]) -> bool {
    lints.iter().any(|lint| lint.severity == Severity::Error)
}

/// Colours are for people at a terminal who have not asked to be spared (<https://no-color.org>).
fn is_coloured(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether standard output gets colours.
pub fn is_coloured_output() -> bool {
    is_coloured(std::io::stdout().is_terminal())
}

/// A warning for each secret that has no value in this environment.
pub fn unset_secrets(project: &Project) -> Vec<Lint> {
    let mut lints = Lints::default();
    for thing in project.connectors.values() {
        for (secret, span) in SecretRef::all_in(&thing.node) {
            if let Err(error) = secret.resolve() {
                let help = "set it where Millrace runs; its value never stands in a file of the project";
                lints.warning("unset-secret", &span, error.to_string(), help);
            }
        }
    }
    lints.0
}

#[cfg(test)]
mod tests;
