//! Tables for people, JSON for programs: the same fields in both.

use std::io::{self, Write as _};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::cli::args::Output;

/// Prints rows as an aligned table with `columns` as its head, or as a JSON array of objects.
///
/// # Errors
/// When standard output is closed or the rows cannot be written as JSON.
pub fn rows<T: Serialize>(output: Output, columns: &[&str], rows: &[T]) -> anyhow::Result<()> {
    match output {
        Output::Json => json(&rows),
        Output::Text => {
            let cells = rows.iter().map(|row| cells(row, columns)).collect::<anyhow::Result<Vec<_>>>()?;
            print(&table(columns, &cells))
        }
    }
}

/// Prints one value as JSON.
///
/// # Errors
/// When standard output is closed or the value cannot be written as JSON.
pub fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Prints one value as JSON on a line of its own, for what has no end.
///
/// # Errors
/// As [`json`].
pub fn json_line<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string(value)?))
}

/// Prints text; a closed pipe is the end of the program, not a failure of it.
///
/// # Errors
/// When standard output cannot be written.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read has had enough, as in `millrace tail payments | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => Ok(written?),
    }
}

/// An instant, to the second where that is all.
pub fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

fn cells<T: Serialize>(row: &T, columns: &[&str]) -> anyhow::Result<Vec<String>> {
    let value = serde_json::to_value(row)?;
    Ok(columns
        .iter()
        .map(|column| match value.get(column) {
            None | Some(serde_json::Value::Null) => String::from("-"),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        })
        .collect())
}

/// An aligned table; the last column is not padded.
pub fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        rows.iter().map(|row| row[at].chars().count()).chain([columns[at].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(&format!("{cell:<width$}   "));
        }
        format!("{}\n", text.trim_end())
    };
    let mut text = line(&mut columns.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_stand_in_line() {
        let text =
            table(&["name", "n"], &[vec!["añb".into(), "1".into()], vec!["longer".into(), "22".into()]]);
        assert_eq!(text, "name     n\nañb      1\nlonger   22\n");
    }
}
