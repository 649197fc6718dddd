//! Mistakes as people read them, with the line and a mark under the place, and as programs do.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

use crate::yaml::lint::{Lint, Severity};

/// A mistake as a program reads it.
#[derive(Serialize, Debug)]
pub struct LintRow<'a> {
    /// `error` or `warning`.
    pub severity: &'static str,
    /// Stable short name.
    pub code: &'static str,
    /// What is wrong.
    pub message: &'a str,
    /// File, from the project's folder.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What to write instead.
    pub help: &'a str,
}

/// Sorts by file and place, errors before warnings at one place, and removes what is said twice.
pub fn sort(lints: &mut Vec<Lint>) {
    lints.sort_by(|left, right| {
        let key = |lint: &Lint| (lint.span.start, std::cmp::Reverse(lint.severity));
        left.span.file.path.cmp(&right.span.file.path).then_with(|| key(left).cmp(&key(right)))
    });
    lints.dedup();
}

/// The mistakes as rows, in the order given.
pub fn rows(lints: &[Lint]) -> Vec<LintRow<'_>> {
    lints.iter().map(row).collect()
}

fn row(lint: &Lint) -> LintRow<'_> {
    let (line, column) = lint.span.line_column();
    LintRow {
        severity: match lint.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        code: lint.code,
        message: &lint.message,
        file: lint.span.file.path.display().to_string(),
        line,
        column,
        help: &lint.help,
    }
}

/// The mistakes as text, each with the line it stands in. Colours when `is_coloured`.
pub fn text(lints: &[Lint], is_coloured: bool) -> String {
    let renderer = if is_coloured { Renderer::styled() } else { Renderer::plain() };
    let mut out = String::new();
    for lint in lints {
        out.push_str(&one(lint, &renderer));
        out.push('\n');
    }
    out
}

fn one(lint: &Lint, renderer: &Renderer) -> String {
    let level = match lint.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let path = lint.span.file.path.display().to_string();
    let title = level.primary_title(lint.message.as_str()).id(lint.code);
    let text = &lint.span.file.text;
    let group = if text.is_empty() {
        let group = title.element(annotate_snippets::Origin::path(path.as_str()));
        if lint.help.is_empty() { group } else { group.element(Level::HELP.message(lint.help.as_str())) }
    } else {
        let mark = AnnotationKind::Primary.span(lint.span.marked());
        let mark = if lint.help.is_empty() { mark } else { mark.label(lint.help.as_str()) };
        title.element(Snippet::source(text.as_str()).path(path.as_str()).annotation(mark))
    };
    renderer.render(&[group])
}

/// The last line: `2 errors in 1 file, 14 files checked in 38 ms`.
pub fn summary(lints: &[Lint], files_checked: usize, took: Duration) -> String {
    let errors = lints.iter().filter(|lint| lint.severity == Severity::Error).count();
    let warnings = lints.len() - errors;
    let mut line = match (errors, warnings) {
        (0, 0) => String::from("no mistakes"),
        (_, 0) => count(errors, "error"),
        (0, _) => count(warnings, "warning"),
        (_, _) => format!("{} and {}", count(errors, "error"), count(warnings, "warning")),
    };
    if !lints.is_empty() {
        let files: BTreeSet<_> = lints.iter().map(|lint| &lint.span.file.path).collect();
        let _ = write!(line, " in {}", count(files.len(), "file"));
    }
    format!("{line}, {} checked in {} ms", count(files_checked, "file"), took.as_millis())
}

fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    use crate::yaml::lint::{Lints, SourceFile, Span};

    use super::{rows, sort, summary, text};

    fn lints() -> Lints {
        let file = Arc::new(SourceFile {
            path: PathBuf::from("pipelines/a.yaml"),
            text: String::from("description: añb\nstages:\n  - fliter: .x\n"),
        });
        let empty = Arc::new(SourceFile { path: PathBuf::from("."), text: String::new() });
        let mut lints = Lints::default();
        let span = |start, end| Span { file: Arc::clone(&file), start, end };
        let at = file.text.find("fliter").expect("written above");
        lints.error(
            "unknown-stage",
            &span(at, at + 6),
            "there is no stage `fliter`",
            "did you mean `filter`?",
        );
        lints.error(
            "unknown-stage",
            &span(at, at + 6),
            "there is no stage `fliter`",
            "did you mean `filter`?",
        );
        // A place inside a character, and one that runs over several lines.
        lints.warning("odd", &span(15, 30), "a mark over lines", "");
        lints.error("empty-project", &Span::begin_of(&empty), "nothing here", "create something");
        lints
    }

    #[test]
    fn mistakes_are_shown_at_their_places_once_each() {
        let mut lints = lints().0;
        sort(&mut lints);
        expect_test::expect![[r#"
            error[empty-project]: nothing here
            --> .
             = help: create something
            warning[odd]: a mark over lines
             --> pipelines/a.yaml:1:15
              |
            1 | description: añb
              |               ^^
            error[unknown-stage]: there is no stage `fliter`
             --> pipelines/a.yaml:3:5
              |
            3 |   - fliter: .x
              |     ^^^^^^ did you mean `filter`?
        "#]]
        .assert_eq(&text(&lints, false));
        assert_eq!(
            summary(&lints, 14, Duration::from_millis(38)),
            "2 errors and 1 warning in 2 files, 14 files checked in 38 ms"
        );
        let places: Vec<_> = rows(&lints).iter().map(|row| (row.severity, row.line, row.column)).collect();
        assert_eq!(places, [("error", 1, 1), ("warning", 1, 15), ("error", 3, 5)]);
    }
}
