use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::check::load;
use crate::cli::lint_output;
use crate::engine::offline;
use crate::ledger::Namespace;
use crate::yaml::lint::Severity;

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What `millrace check` prints about a project, without the time it took.
fn printed(root: &Path) -> String {
    let loaded = load(root, &Namespace::default()).expect("the folder is there");
    let text = lint_output::text(&loaded.lints, false);
    let summary = lint_output::summary(&loaded.lints, loaded.project.files.len(), Duration::ZERO);
    format!("{text}{summary}\n").replace(" in 0 ms", "")
}

/// Every folder in `tests/broken` is a project with mistakes; `expected.txt` beside it says what is printed.
/// `UPDATE_EXPECT=1 cargo test broken` writes the files anew.
#[test]
fn broken_projects_get_the_right_messages() {
    let broken = folder("tests/broken");
    let names: BTreeSet<String> = fs::read_dir(&broken)
        .expect("the folder is there")
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        let root = broken.join(&name);
        let loaded = load(&root, &Namespace::default()).expect("the folder is there");
        assert!(loaded.plan.is_none(), "{name} is broken");
        assert!(loaded.lints.iter().any(|lint| lint.severity == Severity::Error), "{name} is broken");
        expect_test::expect_file![root.join("expected.txt")].assert_eq(&printed(&root));
    }
}

#[test]
fn the_shipped_project_has_no_mistakes() {
    let text = printed(&folder("."));
    assert!(text.starts_with("no mistakes"), "{text}");
}

#[tokio::test]
async fn the_tests_of_the_shipped_pipelines_pass() {
    let loaded = load(&folder("."), &Namespace::default()).expect("the folder is there");
    let plan = loaded.plan.expect("the shipped project has no mistakes");
    let now = chrono::DateTime::from_timestamp(1_795_500_000, 0).expect("a time");
    for pipeline in &plan.pipelines {
        let reports = offline::run_tests(&loaded.project, &plan, &pipeline.name, now).await;
        assert!(!reports.is_empty(), "{} has tests", pipeline.name);
        let failed: Vec<_> = reports.iter().filter(|report| !report.passed()).collect();
        assert!(failed.is_empty(), "{failed:#?}");
    }
}

#[test]
fn an_empty_folder_is_no_project() {
    let empty = tempfile::tempdir().expect("a temporary folder");
    let loaded = load(empty.path(), &Namespace::default()).expect("the folder is there");
    assert_eq!(loaded.lints.iter().map(|lint| lint.code).collect::<Vec<_>>(), ["empty-project"]);
    assert!(loaded.plan.is_none());
    let missing = load(&empty.path().join("missing"), &Namespace::default());
    assert!(missing.is_err_and(|error| error.to_string().contains("--project")));
}

#[cfg(unix)]
#[test]
fn nothing_is_read_from_outside_of_the_project() {
    let outside = tempfile::tempdir().expect("a temporary folder");
    let project = tempfile::tempdir().expect("a temporary folder");
    let topics = project.path().join("topics");
    fs::create_dir(&topics).expect("a new folder");
    fs::write(outside.path().join("secret"), "partitions: 3").expect("a new file");
    std::os::unix::fs::symlink(outside.path().join("secret"), topics.join("a.yaml")).expect("a link");
    fs::write(topics.join("latin1.yaml"), b"# caf\xe9\n").expect("a new file");
    fs::write(topics.join("long.yaml"), vec![b'#'; (1 << 20) + 1]).expect("a new file");
    // A link that stays within the project is how mounted configuration looks.
    fs::create_dir(project.path().join("..data")).expect("a new folder");
    let mounted = project.path().join("..data/b.yaml");
    fs::write(&mounted, "partitions: 3\nvalue: {format: json}\n").expect("a new file");
    std::os::unix::fs::symlink(&mounted, topics.join("b.yaml")).expect("a link");
    let loaded = load(project.path(), &Namespace::default()).expect("the folder is there");
    assert_eq!(loaded.project.topics.keys().collect::<Vec<_>>(), ["b"]);
    let found: Vec<(String, &str)> = loaded
        .lints
        .iter()
        .map(|lint| (lint.span.file.path.display().to_string(), lint.message.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (String::from("topics/a.yaml"), "the path leads out of the project's folder"),
            (String::from("topics/latin1.yaml"), "the file is not UTF-8 text"),
            (String::from("topics/long.yaml"), "the file is larger than 1024 KiB"),
        ]
    );
}
