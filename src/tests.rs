//! Holds the shape of the source: the direction of imports (rank 0 is for everyone), one home for each external crate, and the size of files.

pub mod histories;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, in lines.
const FILE_LINES_MAX: usize = 500;

/// External crates that only the named files or folders may use. What is used everywhere (serde, tokio, bytes, ...)
/// is not listed.
const HOMES: &[(&str, &[&str])] = &[
    ("annotate_snippets", &["cli"]),
    ("apache_avro", &["schema"]),
    ("axum", &["ingest", "admin"]),
    ("clap", &["cli", "telemetry", "main.rs"]),
    ("crc32c", &["devbroker"]),
    ("governor", &["stages/limits.rs", "ingest/limits.rs"]),
    ("hyper", &["ingest", "admin"]),
    ("hyper_util", &["ingest", "admin"]),
    ("indicatif", &["cli"]),
    ("jsonschema", &["stages", "expr/tests.rs"]),
    ("kafka_protocol", &["devbroker"]),
    ("libc", &["postgres/private"]),
    ("metrics", &["telemetry"]),
    ("metrics_exporter_prometheus", &["telemetry"]),
    ("rdkafka", &["kafka"]),
    ("reqwest", &["connectors"]),
    ("rustls", &["tls.rs"]),
    ("saphyr_parser", &["yaml"]),
    ("schema_registry_converter", &["schema"]),
    ("sqlx", &["postgres", "project"]),
    ("vrl", &["expr"]),
];

struct SourceText {
    /// Path below `src`, with slashes.
    path: String,
    lines: Vec<String>,
}

fn sources() -> Vec<SourceText> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the sources are there") {
            let path: PathBuf = entry.expect("the sources are there").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                let path = path.strip_prefix(&root).expect("below src").to_string_lossy().replace('\\', "/");
                found.push(SourceText { path, lines: text.lines().map(str::to_owned).collect() });
            }
        }
    }
    found.sort_by(|left, right| left.path.cmp(&right.path));
    assert!(found.len() > 20, "the sources are found");
    found
}

impl SourceText {
    /// The top-level module: `kafka/txn.rs` is `kafka`, `event.rs` is `event`.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or(&self.path);
        first.trim_end_matches(".rs")
    }

    /// Lines that are code, with their numbers.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.lines.iter().enumerate();
        lines
            .map(|(at, line)| (at + 1, line.as_str()))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// Names that follow `prefix` in code, as `crate::NAME`, or stand before `::`, when `prefix` is empty.
    fn stands_before_path(line: &str, name: &str) -> bool {
        line.match_indices(name).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let is_word = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
            is_word && line[at + name.len()..].starts_with("::")
        })
    }
}

/// Ranks as `lib.rs` states them: `// Rank 3: ...` and the modules below it.
fn ranks(lib: &SourceText) -> BTreeMap<String, usize> {
    let mut ranks = BTreeMap::new();
    let mut rank = None;
    for line in &lib.lines {
        if let Some(rest) = line.strip_prefix("// Rank ") {
            rank = rest.split(':').next().and_then(|number| number.parse().ok());
        } else if let Some(module) = line.strip_prefix("pub mod ") {
            let rank = rank.expect("every module stands below its rank");
            ranks.insert(module.trim_end_matches(';').to_owned(), rank);
        }
    }
    assert!(ranks.len() > 10, "ranks are found");
    ranks
}

#[test]
fn files_import_lower_ranks_and_their_own_folder_only() {
    let sources = sources();
    let lib = sources.iter().find(|source| source.path == "lib.rs").expect("lib.rs");
    let ranks = ranks(lib);
    let mut wrong = Vec::new();
    for source in &sources {
        let Some(own) = ranks.get(source.module()) else { continue };
        for (number, line) in source.code() {
            for imported in line.split("crate::").skip(1) {
                let name: String =
                    imported.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let allowed =
                    name == source.module() || ranks.get(&name).is_none_or(|rank| rank < own || *rank == 0);
                if !allowed {
                    wrong.push(format!("src/{}:{number} imports `{name}`", source.path));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "against the direction of ranks:\n{}", wrong.join("\n"));
}

/// The development broker must stay small enough to be read in one sitting: all lines, blank ones and comments too.
const DEVBROKER_LINES_MAX: usize = 2_000;

#[test]
fn the_development_broker_stands_alone_and_is_small() {
    let sources = sources();
    let room: Vec<&SourceText> = sources.iter().filter(|source| source.module() == "devbroker").collect();
    assert!(room.len() > 1, "the room is found");
    let lines: usize = room.iter().map(|source| source.lines.len()).sum();
    assert!(lines <= DEVBROKER_LINES_MAX, "src/devbroker has {lines} lines, more than {DEVBROKER_LINES_MAX}");
    let reaching_out: Vec<String> = room
        .iter()
        .flat_map(|source| source.code().map(|(number, line)| (&source.path, number, line)))
        .filter(|(_, _, line)| line.split("crate::").skip(1).any(|name| !name.starts_with("devbroker")))
        .map(|(path, number, _)| format!("src/{path}:{number}"))
        .collect();
    assert!(reaching_out.is_empty(), "imports the rest of Millrace:\n{}", reaching_out.join("\n"));
}

#[test]
fn each_external_crate_has_one_home() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.path != "tests.rs") {
        for (krate, homes) in HOMES {
            let at_home =
                homes.iter().any(|home| source.path == *home || source.path.starts_with(&format!("{home}/")));
            let named = source
                .code()
                .find(|(_, line)| SourceText::stands_before_path(line, krate))
                .filter(|_| !at_home);
            if let Some((number, _)) = named {
                wrong.push(format!(
                    "src/{}:{number} names `{krate}`, whose home is {}",
                    source.path,
                    homes.join(", ")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "crates away from home:\n{}", wrong.join("\n"));
}

#[test]
fn files_are_short() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|source| source.lines.len() > FILE_LINES_MAX)
        .map(|source| format!("src/{}: {} lines", source.path, source.lines.len()))
        .collect();
    assert!(long.is_empty(), "longer than {FILE_LINES_MAX} lines:\n{}", long.join("\n"));
}
