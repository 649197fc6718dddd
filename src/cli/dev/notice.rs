//! What `dev` says of itself, beside what happens to events: text for people, a JSON object a line for programs.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::app::changes::Change;
use crate::cli::args::Output;
use crate::cli::lint_output::LintRow;
use crate::cli::{apply, output, show};

/// Most files that are named in one line.
const NAMED_MAX: usize = 3;

/// Something to tell.
#[derive(Debug, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Notice<'a> {
    /// Everything runs.
    Started {
        /// Name, what and where, how long it took.
        #[serde(skip)]
        addresses: Vec<[String; 3]>,
        /// Address of the endpoint.
        endpoint: String,
        /// Kafka's address.
        kafka: String,
        /// Address of Postgres, without password.
        postgres: String,
        /// Address of the metrics.
        metrics: String,
        /// Secrets that were made up.
        made_up: Vec<String>,
        /// A command for each source.
        examples: Vec<(String, String)>,
        /// From the start of the process.
        seconds: f64,
    },
    /// Files have changed.
    Changed {
        /// Which.
        files: &'a [PathBuf],
    },
    /// The project has mistakes.
    Mistakes {
        /// As `check` shows them.
        #[serde(skip)]
        text: String,
        /// As `check` shows them to programs.
        lints: Vec<LintRow<'a>>,
        /// What follows; nothing does when there are only warnings.
        then: Option<&'static str>,
    },
    /// It has none, but cannot be used.
    #[serde(rename = "version_refused")]
    Refused {
        /// Why, and what to do.
        reason: String,
        /// What follows.
        then: &'static str,
    },
    /// The new version runs.
    Reloaded {
        /// Whether the version before was refused.
        is_mended: bool,
        /// Secrets that were made up now.
        made_up: Vec<String>,
        /// What was changed on the servers.
        changes: &'a [Change],
        /// How long it took.
        seconds: f64,
    },
    /// Files have changed, the project has not.
    Unchanged {
        /// Whether the version before was refused.
        is_mended: bool,
    },
    /// The tests in the pipelines were run.
    Tests {
        /// So many passed.
        passed: usize,
        /// Those that did not, with what is wrong and where.
        failed: Vec<String>,
    },
    /// A role has ended by itself.
    Failed {
        /// Why.
        error: String,
    },
}

impl Notice<'_> {
    /// Prints it.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn print(&self, output: Output) -> anyhow::Result<()> {
        match output {
            Output::Json => output::json_line(self),
            Output::Text => output::print(&self.text()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Started { addresses, made_up, examples, seconds, .. } => {
                let mut text = format!("{}\n{}", show::addresses(addresses), made_up_line(made_up));
                for (connector, command) in examples {
                    text.push_str(&format!("to {connector}:\n  {command}\n"));
                }
                text.push_str(&format!("\nready after {seconds:.1} s; files are watched, Ctrl-C ends\n\n"));
                text
            }
            Self::Changed { files } => format!("\n{} changed\n", named(files)),
            Self::Mistakes { text, then: Some(then), .. } => format!("{text}refused: {then}\n\n"),
            Self::Mistakes { text, then: None, .. } => text.clone(),
            Self::Refused { reason, then } => format!("refused: {reason}\n{then}\n\n"),
            Self::Reloaded { is_mended, made_up, changes, seconds } => {
                let mended = if *is_mended { "mended: " } else { "" };
                let changes = apply::lines(changes);
                format!(
                    "{changes}{}{mended}the new version runs, after {seconds:.1} s\n\n",
                    made_up_line(made_up)
                )
            }
            Self::Unchanged { is_mended: true } => String::from("mended: it is the version that runs\n\n"),
            Self::Unchanged { is_mended: false } => String::from("nothing else is to be done\n\n"),
            Self::Tests { passed, failed } => {
                let mut text = format!("tests: {passed} passed");
                if !failed.is_empty() {
                    text.push_str(&format!(", {} failed", failed.len()));
                }
                text.push('\n');
                failed.iter().for_each(|failure| text.push_str(&format!("  FAIL  {failure}\n")));
                text
            }
            Self::Failed { error } => {
                format!("\nerror: {error}\nthe roles have ended; they start again when a file is saved\n\n")
            }
        }
    }
}

fn made_up_line(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    format!("not set, so made up for this process: {}\n", names.join(", "))
}

fn named(files: &[PathBuf]) -> String {
    let mut names: Vec<String> =
        files.iter().take(NAMED_MAX).map(|file| file.display().to_string()).collect();
    if files.len() > NAMED_MAX {
        names.push(format!("{} more", files.len() - NAMED_MAX));
    }
    names.join(", ")
}

/// A duration as it is told.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::changes::Action;

    #[test]
    fn what_dev_says() {
        let files: Vec<PathBuf> =
            ["a", "b", "c", "d"].map(|name| PathBuf::from(format!("pipelines/{name}.yaml"))).to_vec();
        let changes = [Change::new("topic", "leads.cold", Action::Create, "3 partitions")];
        let all = [
            Notice::Changed { files: &files[..1] },
            Notice::Changed { files: &files },
            Notice::Refused { reason: String::from("no"), then: "the former version goes on" },
            Notice::Reloaded {
                is_mended: true,
                made_up: vec![String::from("CRM_TOKEN")],
                changes: &changes,
                seconds: 0.42,
            },
            Notice::Unchanged { is_mended: true },
            Notice::Tests {
                passed: 3,
                failed: vec![String::from("leads: a lead (pipelines/leads.yaml:9): no")],
            },
        ];
        let text: String = all.iter().map(Notice::text).collect();
        expect_test::expect![[r#"

            pipelines/a.yaml changed

            pipelines/a.yaml, pipelines/b.yaml, pipelines/c.yaml, 1 more changed
            refused: no
            the former version goes on

            + topic  leads.cold  3 partitions
            not set, so made up for this process: CRM_TOKEN
            mended: the new version runs, after 0.4 s

            mended: it is the version that runs

            tests: 3 passed, 1 failed
              FAIL  leads: a lead (pipelines/leads.yaml:9): no
        "#]]
        .assert_eq(&text);
        let json = serde_json::to_value(&all[3]).expect("JSON");
        assert_eq!((&json["what"], &json["is_mended"]), (&"reloaded".into(), &true.into()));
    }
}
