//! `millrace plan` and `millrace apply`.

use serde::Serialize;

use crate::app::apply::{self, Found, Targets};
use crate::app::changes::{Action, Change};
use crate::cli::args::project::{ApplyArgs, PlanArgs};
use crate::cli::args::{Common, Output};
use crate::cli::{Exit, ask, check, ends, output, roles};
use crate::secrets::Secret;

/// What `--output json` prints.
#[derive(Serialize)]
struct Report<'a> {
    changes: &'a [Change],
    left_out: &'a [String],
    applied: bool,
}

/// `millrace plan`: prints what `apply` would change.
///
/// # Errors
/// When the project has errors or a server cannot be reached.
pub fn plan(common: &Common, arguments: &PlanArgs) -> anyhow::Result<Exit> {
    let plan = check::plan(common)?;
    let targets = targets(common, arguments.replication)?;
    let found = roles::block_on(apply::find(&plan, &targets))?;
    match common.output {
        Output::Json => print_json(&found, false)?,
        Output::Text => {
            output::print(&text(&found))?;
            if !found.is_empty() && found.refused().next().is_none() {
                output::print("nothing was changed; `millrace apply` does it\n")?;
            }
        }
    }
    Ok(exit(&found))
}

/// `millrace apply`: prints what is to be changed, asks, and changes it.
///
/// # Errors
/// When the project has errors, a server cannot be reached, or refuses.
pub fn run(common: &Common, arguments: &ApplyArgs) -> anyhow::Result<Exit> {
    let plan = check::plan(common)?;
    let targets = targets(common, arguments.plan.replication)?;
    let found = roles::block_on(apply::find(&plan, &targets))?;
    let is_text = common.output == Output::Text;
    if is_text {
        output::print(&text(&found))?;
    }
    let is_refused = found.refused().next().is_some();
    if found.is_empty() || is_refused {
        if !is_text {
            print_json(&found, false)?;
        } else if is_refused {
            output::print("nothing was changed: mend what is marked with `!` first\n")?;
        }
        return Ok(exit(&found));
    }
    let question = format!("change {}?", counted(&found));
    if !ask::confirmed(&question, arguments.yes)? {
        output::print("nothing was changed\n")?;
        return Ok(Exit::Done);
    }
    roles::block_on(apply::carry_out(&plan, &targets, &found))?;
    if is_text {
        output::print(&format!("done: {}\n", counted(&found)))?;
    } else {
        print_json(&found, true)?;
    }
    Ok(Exit::Done)
}

/// The servers that were named; one of them must be.
fn targets(common: &Common, replication: Option<i32>) -> anyhow::Result<Targets> {
    let targets = named(common, replication)?;
    if targets.kafka.is_none() && targets.registry.is_none() && targets.postgres.is_none() {
        let message = "no server is named; give --kafka HOST:PORT, --registry URL, --postgres URL, \
                       or MILLRACE_KAFKA, MILLRACE_REGISTRY, MILLRACE_POSTGRES";
        return Err(ends(Exit::Usage, message));
    }
    Ok(targets)
}

/// The servers that were named, if any.
///
/// # Errors
/// When Kafka's properties cannot be read.
pub fn named(common: &Common, replication: Option<i32>) -> anyhow::Result<Targets> {
    let kafka = common.kafka.as_ref().filter(|brokers| !brokers.is_empty());
    let kafka = kafka.map(|_| roles::connection(common)).transpose()?;
    let registry = common.registry.clone().filter(|url| !url.is_empty());
    let postgres = common.postgres.clone().filter(|url| !url.is_empty()).map(Secret::new);
    Ok(Targets { kafka, registry, postgres, replication })
}

fn exit(found: &Found) -> Exit {
    if found.refused().next().is_some() { Exit::Refused } else { Exit::Done }
}

fn print_json(found: &Found, applied: bool) -> anyhow::Result<()> {
    output::json(&Report { changes: &found.changes, left_out: &found.left_out, applied })
}

/// What was found, for people: a line for each difference, one sort after the other.
fn text(found: &Found) -> String {
    let mut text = lines(&found.changes);
    for left_out in &found.left_out {
        text.push_str(&format!("left out: {left_out}\n"));
    }
    if found.is_empty() {
        text.push_str("nothing to change\n");
    }
    text
}

/// A line for each change.
pub fn lines(changes: &[Change]) -> String {
    let width = changes.iter().map(|change| change.name.chars().count()).max().unwrap_or(0);
    let kind = changes.iter().map(|change| change.what.len()).max().unwrap_or(0);
    let line = |change: &Change| {
        let Change { what, name, action: _, detail } = change;
        format!("{} {what:<kind$}  {name:<width$}  {detail}\n", change.sign())
    };
    changes.iter().map(line).collect()
}

/// `12 topics, 3 schemas`.
fn counted(found: &Found) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for change in found.changes.iter().filter(|change| change.action != Action::Refuse) {
        match counts.iter_mut().find(|(what, _)| *what == change.what) {
            Some((_, count)) => *count += 1,
            None => counts.push((change.what, 1)),
        }
    }
    let words = counts.iter().map(|(what, count)| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(changes: Vec<Change>) -> Found {
        let mut found = Found::default();
        found.changes = changes;
        found
    }

    #[test]
    fn differences_stand_in_line_and_are_counted() {
        let found = found(vec![
            Change::new("topic", "leads", Action::Create, "3 partitions"),
            Change::new("topic", "payments.eu", Action::Change, "retention.ms: 1 -> 2"),
            Change::new("schema", "leads-value", Action::Refuse, "no"),
        ]);
        assert_eq!(
            text(&found),
            "+ topic   leads        3 partitions\n\
             ~ topic   payments.eu  retention.ms: 1 -> 2\n\
             ! schema  leads-value  no\n"
        );
        assert_eq!(counted(&found), "2 topics");
        assert_eq!(exit(&found), Exit::Refused);
    }

    #[test]
    fn what_was_not_looked_at_is_said() {
        let mut found = found(Vec::new());
        found.left_out.push(String::from("tables and views: no Postgres is named"));
        assert_eq!(text(&found), "left out: tables and views: no Postgres is named\nnothing to change\n");
        assert_eq!(exit(&found), Exit::Done);
    }
}
