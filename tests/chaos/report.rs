//! What is said of the runs: a line when one ends, the table at the end, or JSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::ground::Played;

/// How one run went.
#[derive(Clone, Debug)]
pub struct Run {
    /// Number of the case.
    pub case: u8,
    /// Its name.
    pub name: &'static str,
    /// Workload.
    pub workload: &'static str,
    /// Rules switched off.
    pub off: Vec<&'static str>,
    /// Seed.
    pub seed: u64,
    /// How it went.
    pub verdict: Verdict,
}

/// How a run went.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It ran to its end.
    Played(Played),
    /// It could not go on.
    Broken(String),
    /// It cannot run here.
    Skipped(String),
}

impl Run {
    /// Whether it is as it should be: everything held, or a switched-off rule was missed.
    pub fn is_good(&self) -> bool {
        let held = match &self.verdict {
            Verdict::Played(played) => played.violations.is_empty(),
            Verdict::Broken(_) => return false,
            Verdict::Skipped(_) => return true,
        };
        held == self.off.is_empty()
    }

    /// One word.
    fn word(&self) -> &'static str {
        match (&self.verdict, self.is_good(), self.off.is_empty()) {
            (Verdict::Skipped(_), ..) => "skipped",
            (Verdict::Broken(_), ..) => "BROKEN",
            (_, true, true) => "passed",
            (_, true, false) => "found out",
            (_, false, true) => "FAILED",
            (_, false, false) => "NOT FOUND OUT",
        }
    }

    fn title(&self) -> String {
        let off =
            if self.off.is_empty() { String::new() } else { format!(" without {}", self.off.join(", ")) };
        format!("{:>2} {} {}{off}", self.case, self.name, self.workload)
    }

    /// Says how it ended, with what did not hold.
    pub fn tell(&self) {
        // Others that run beside it do not come between.
        let _held = std::io::stderr().lock();
        eprintln!("{}: {} (seed {})", self.title(), self.word(), self.seed);
        match &self.verdict {
            Verdict::Played(played) => {
                eprintln!("    {}", self.row()[3..].join(", "));
                for violation in &played.violations {
                    eprintln!("    {} {}", violation.invariant, violation.text);
                }
            }
            Verdict::Broken(why) => eprintln!("    {why}"),
            Verdict::Skipped(why) => eprintln!("    cannot run here: {why}"),
        }
    }

    fn row(&self) -> [String; 9] {
        let head = [self.title(), self.seed.to_string(), self.word().to_owned()];
        let rest = match &self.verdict {
            Verdict::Played(played) => {
                let Played { violations, figures, took, recovery_max, heal, notes } = played;
                let mut broken: Vec<&str> = violations.iter().map(|violation| violation.invariant).collect();
                broken.dedup();
                let mut remarks = vec![broken.join(" ")];
                remarks.extend(notes.clone());
                [
                    figures.events.to_string(),
                    figures.aborted.to_string(),
                    figures.doubled.to_string(),
                    seconds(Some(*took)),
                    format!("{} / {}", seconds(*recovery_max), seconds(Some(*heal))),
                    remarks.into_iter().filter(|remark| !remark.is_empty()).collect::<Vec<_>>().join("; "),
                ]
            }
            Verdict::Broken(why) | Verdict::Skipped(why) => {
                let first = why.lines().next().unwrap_or_default().to_owned();
                [String::new(), String::new(), String::new(), String::new(), String::new(), first]
            }
        };
        let [case, seed, word] = head;
        let [events, aborted, doubled, took, recovery, remarks] = rest;
        [case, seed, word, events, aborted, doubled, took, recovery, remarks]
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let mut object = json!({
            "case": self.case, "name": self.name, "workload": self.workload, "rules_off": self.off,
            "seed": self.seed, "result": self.word(), "good": self.is_good(),
        });
        match &self.verdict {
            Verdict::Played(played) => {
                let Played { violations, figures, took, recovery_max, heal, notes } = played;
                let violations: Vec<Value> = violations
                    .iter()
                    .map(|violation| json!({"invariant": violation.invariant, "text": violation.text}))
                    .collect();
                object["violations"] = json!(violations);
                object["events"] = json!(figures.events);
                object["aborted_outputs"] = json!(figures.aborted);
                object["doubled"] = json!(figures.doubled);
                object["dead_letters"] = json!(figures.letters);
                object["seconds"] = json!(took.as_secs_f64());
                object["recovery_seconds_max"] = json!(recovery_max.map(|time| time.as_secs_f64()));
                object["heal_seconds"] = json!(heal.as_secs_f64());
                object["notes"] = json!(notes);
            }
            Verdict::Broken(why) | Verdict::Skipped(why) => object["reason"] = json!(why),
        }
        object
    }
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
}

/// Prints the table of all runs.
pub fn print_table(runs: &[Run]) {
    let head =
        ["case", "seed", "result", "events", "aborted", "doubled", "took", "recovery / heal", "remarks"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(runs.iter().map(Run::row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        println!("{}", cells.join("  ").trim_end());
    }
    let count = |word: &str| runs.iter().filter(|run| run.word() == word).count();
    let bad = runs.iter().filter(|run| !run.is_good()).count();
    println!("\n{} runs, {bad} not as they should be, {} skipped", runs.len(), count("skipped"));
}
