//! A mistake in a project file: what, where, and what to write instead.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// A project file as it was read.
#[derive(PartialEq, Eq, Debug)]
pub struct SourceFile {
    /// Path below the project's folder, as it is shown.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// A stretch of a file, in bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Span {
    /// The file.
    pub file: Arc<SourceFile>,
    /// First byte.
    pub start: usize,
    /// One past the last byte; equals `start` for a point.
    pub end: usize,
}

impl Span {
    /// Line and column, both from 1, columns in characters.
    pub fn line_column(&self) -> (usize, usize) {
        let before = &self.file.text[..self.file.text.floor_char_boundary(self.start)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }
}

impl Span {
    /// The stretch that is marked in a message: never past the end of its first line, on whole characters, and at
    /// least one character wide where the line has one.
    pub fn marked(&self) -> Range<usize> {
        let text = &self.file.text;
        let start = text.floor_char_boundary(self.start);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = text.floor_char_boundary(self.end).min(line_end);
        let end = end.max(text.ceil_char_boundary((start + 1).min(line_end)));
        start..start + text[start..end].trim_end().len().max(usize::from(end > start))
    }

    /// The whole of `file`, as a point at its begin: for mistakes that have no better place.
    pub fn begin_of(file: &Arc<SourceFile>) -> Self {
        Self { file: Arc::clone(file), start: 0, end: 0 }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_column();
        write!(f, "{}:{line}:{column}", self.file.path.display())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value and where it was written. Equality looks at the value alone.
#[derive(Clone, Debug)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// How bad a lint is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Starts all the same.
    Warning,
    /// Refused.
    Error,
}

/// One mistake.
#[derive(Clone, PartialEq, Debug)]
pub struct Lint {
    /// Error or warning.
    pub severity: Severity,
    /// Stable short name, such as `unknown-key`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What to write instead; stands beside the marked text.
    pub help: String,
}

/// Collects lints.
#[derive(Default, Debug)]
pub struct Lints(pub Vec<Lint>);

impl Lints {
    /// Adds an error.
    pub fn error(
        &mut self,
        code: &'static str,
        span: &Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.0.push(Lint {
            severity: Severity::Error,
            code,
            message: message.into(),
            span: span.clone(),
            help: help.into(),
        });
    }

    /// Adds a warning.
    pub fn warning(
        &mut self,
        code: &'static str,
        span: &Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.error(code, span, message, help);
        if let Some(last) = self.0.last_mut() {
            last.severity = Severity::Warning;
        }
    }

    /// Whether any lint is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|lint| lint.severity == Severity::Error)
    }
}

/// The known word nearest to `word`, when one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // In a short word one slip of the fingers (`cmr` for `crm`) is a large part of it.
    let one_slip = |candidate: &str| word.len() > 2 && strsim::osa_distance(word, candidate) <= 1;
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .map(|(score, candidate)| (if one_slip(candidate) { score.max(0.95) } else { score }, candidate))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}

/// Help for an unknown word: the nearest known one, else the whole list.
pub fn suggestion(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => String::from("nothing may stand here"),
        None => format!("known here: {}", known.join(", ")),
    }
}
