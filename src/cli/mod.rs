//! The command line: one subcommand, one match arm, one call.

pub mod apply;
pub mod args;
pub mod ask;
pub mod check;
pub mod dev;
pub mod dlq;
pub mod doctor;
pub mod health;
pub mod kpi;
pub mod lag;
pub mod ledger;
pub mod lint_output;
pub mod output;
pub mod quickstart;
pub mod roles;
pub mod send;
pub mod show;
pub mod tail;
pub mod test;
pub mod topics;

use std::fmt;

use crate::app::reach::Unreachable;
use crate::cli::args::{Cli, Verb};
use crate::postgres::private::PrivateError;

/// How a verb ended, as the exit code says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// A check or a test failed.
    Failed = 1,
    /// The call's words are off.
    Usage = 2,
    /// The configuration was refused.
    Refused = 3,
    /// A server could not be reached.
    Unreachable = 4,
}

/// Marks an error's exit code: `anyhow::Error::context(Ends(..))` would show in the text, so it is the root of one.
#[derive(Debug)]
pub struct Ends {
    /// The exit code.
    pub exit: Exit,
    /// What happened, where, and what to do.
    pub message: String,
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Ends {}

/// An error that ends the program with `exit`.
pub fn ends(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Ends { exit, message: message.into() })
}

/// The exit code of an error: what [`Ends`] says wherever it stands in the chain, else "failed"; a server that could
/// not be reached, or be started, has a code of its own.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    if error.chain().any(|cause| cause.is::<Unreachable>() || cause.is::<PrivateError>()) {
        return Exit::Unreachable;
    }
    error.chain().find_map(|cause| cause.downcast_ref::<Ends>()).map_or(Exit::Failed, |ends| ends.exit)
}

/// Runs what was typed.
///
/// # Errors
/// Whatever keeps the verb from its work; [`exit_of`] gives the exit code.
pub fn run(typed: Cli) -> anyhow::Result<Exit> {
    let Cli { verb, common } = typed;
    match verb {
        Verb::Check(arguments) => check::run(&common, arguments.secrets),
        Verb::Test(arguments) => test::run(&common, &arguments),
        Verb::Plan(arguments) => apply::plan(&common, &arguments),
        Verb::Apply(arguments) => apply::run(&common, &arguments),
        Verb::Ingest(arguments) => roles::ingest(&common, &arguments),
        Verb::Worker(arguments) => roles::worker(&common, &arguments),
        Verb::Project(arguments) => roles::project(&common, &arguments),
        Verb::Up(arguments) => roles::up(&common, &arguments),
        Verb::Send(arguments) => send::run(&common, &arguments),
        Verb::Tail(arguments) => tail::run(&common, &arguments),
        Verb::Dlq(verb) => dlq::run(&common, &verb),
        Verb::Kpi(verb) => kpi::run(&common, &verb),
        Verb::Lag(arguments) => lag::run(&common, &arguments),
        Verb::Ledger(arguments) => ledger::run(&common, &arguments),
        Verb::Doctor => doctor::run(&common),
        Verb::Dev(arguments) => dev::run(&common, &arguments),
        Verb::Quickstart(arguments) => quickstart::run(&common, &arguments),
        Verb::Health(arguments) => health::run(arguments.metrics.metrics),
        Verb::Completions(arguments) => completions(arguments.shell),
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut command = <Cli as clap::CommandFactory>::command();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "millrace", &mut text);
    output::print(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_server_that_cannot_be_started_has_a_code_of_its_own() {
        let error = anyhow::Error::new(super::PrivateError::NoPrograms).context("no Postgres");
        assert_eq!(super::exit_of(&error), super::Exit::Unreachable);
        let text = format!("{error:#}");
        assert!(text.contains("apt-get install postgresql") && text.contains("--postgres"), "{text}");
    }

    #[test]
    fn the_arguments_are_consistent() {
        <super::Cli as clap::CommandFactory>::command().debug_assert();
    }
}
