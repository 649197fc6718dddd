//! Whatever the files of a project say, it is compiled or refused with reasons, never both; every reason stands at a
//! place inside its file and can be shown; and the same files are judged the same again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace::cli::lint_output;
use millrace::config::connector::Connector;
use millrace::config::kpi::KpiConfig;
use millrace::config::pipeline::Pipeline;
use millrace::config::project::{Project, Thing};
use millrace::config::topic::{TopicConfig, ValueFormat};
use millrace::ledger::Namespace;
use millrace::plan::Plan;
use millrace::plan::compile::compile;
use millrace::yaml::lint::{Lint, Lints, SourceFile};
use millrace::yaml::node::{self, Node};

/// What stands before the name of a file in an input that is a whole project.
const FILE_MARK: &str = "%%% ";

/// A project that one file of the input joins.
const BASE: [(&str, &str); 7] = [
    ("topics/in.yaml", "partitions: 6\nretention: 7d\nvalue: {format: json}\n"),
    ("topics/out.yaml", "partitions: 6\nretention: 7d\nvalue: {format: json}\n"),
    ("topics/paid.yaml", "partitions: 6\nretention: 7d\nvalue: {format: avro, schema: schemas/paid.avsc}\n"),
    ("schemas/paid.avsc", PAID_SCHEMA),
    (
        "connectors/crm.yaml",
        "target: {base_url: 'https://api.example.com', auth: {type: bearer, token: {env: T}}}\n",
    ),
    ("pipelines/other.yaml", "input: {topics: [in]}\nstages:\n  - emit: {topic: out, key: .id}\n"),
    ("kpis/sales.yaml", "fact: payment\naggregate: sum\nwindows: [1h]\ndimensions: [currency]\n"),
];

const PAID_SCHEMA: &str = r#"{"type":"record","name":"Paid","fields":[
    {"name":"id","type":"string"},{"name":"cents","type":"long"},{"name":"note","type":["null","string"],"default":null}]}"#;

/// Input: a byte for the kind of file, and its text; or, from 4 on, the files of a project, each after a line
/// `%%% pipelines/a.yaml`.
pub fn check(input: &[u8]) {
    let Some((kind, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let own = match kind {
        0 => "connectors/a.yaml",
        1 => "topics/a.yaml",
        2 => "pipelines/a.yaml",
        3 => "kpis/a.yaml",
        _ => return judge(&files_of(text)),
    };
    let base = BASE.iter().map(|(path, text)| (*path, *text));
    judge(&base.chain([(own, text)]).collect::<Vec<_>>());
}

/// The files of an input that is a whole project.
fn files_of(text: &str) -> Vec<(&str, &str)> {
    text.split(FILE_MARK).filter_map(|part| part.split_once('\n')).collect()
}

fn judge(files: &[(&str, &str)]) {
    let judged = compiled(files);
    for lint in &judged.lints {
        stands_in_its_file(lint);
    }
    // Shown as `millrace check` shows them, in both ways.
    let shown = lint_output::text(&judged.lints, false);
    assert_eq!(shown.is_empty(), judged.lints.is_empty());
    assert_eq!(lint_output::rows(&judged.lints).len(), judged.lints.len());
    let again = compiled(files);
    assert_eq!(judged.lints, again.lints, "the same files are judged differently");
    let hash = |plan: &Option<Plan>| plan.as_ref().map(|plan| Arc::clone(&plan.config_hash));
    assert_eq!(hash(&judged.plan), hash(&again.plan));
}

/// A project as it was judged.
pub struct Judged {
    pub plan: Option<Plan>,
    pub lints: Vec<Lint>,
}

/// Compiles a project of these files, without a folder.
pub fn compiled(files: &[(&str, &str)]) -> Judged {
    let mut lints = Lints::default();
    let project = project(files, &mut lints);
    let plan = compile(&project, &Namespace::default(), &mut lints);
    assert_eq!(
        plan.is_none(),
        lints.has_errors(),
        "refused without a word, or taken in spite of errors: {lints:?}"
    );
    lint_output::sort(&mut lints.0);
    Judged { plan, lints: lints.0 }
}

fn project(files: &[(&str, &str)], lints: &mut Lints) -> Project {
    let mut reader = Reader { files: Vec::new(), broken: BTreeSet::new(), lints };
    let connectors = reader.folder(files, "connectors", Connector::decode);
    let topics = reader.folder(files, "topics", TopicConfig::decode);
    let pipelines = reader.folder(files, "pipelines", Pipeline::decode);
    let kpis = reader.folder(files, "kpis", KpiConfig::decode);
    let mut schemas = BTreeMap::new();
    for topic in topics.values() {
        if let ValueFormat::Avro { schema } | ValueFormat::Json { schema: Some(schema) } = &topic.value.value
        {
            match files.iter().find(|(path, _)| Path::new(path) == schema.value) {
                Some((_, text)) => {
                    schemas.insert(schema.value.clone(), file(&schema.value, text));
                }
                None => reader.lints.error("bad-path", &schema.span, "there is no such file", "write it"),
            }
        }
    }
    let Reader { files, broken, .. } = reader;
    // No file stands below this: stages that read files of their own find nothing.
    let root = PathBuf::from("/nonexistent");
    Project { root, files, connectors, topics, pipelines, kpis, schemas, broken }
}

struct Reader<'l> {
    files: Vec<Arc<SourceFile>>,
    broken: BTreeSet<String>,
    lints: &'l mut Lints,
}

impl Reader<'_> {
    fn folder<T>(
        &mut self,
        files: &[(&str, &str)],
        folder: &str,
        decode: fn(&str, &Node, &mut Lints) -> Option<T>,
    ) -> BTreeMap<String, Thing<T>> {
        let mut things = BTreeMap::new();
        for (path, text) in files {
            let name = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
            let Some(name) = name.and_then(|name| name.strip_suffix(".yaml")) else { continue };
            let file = file(Path::new(path), text);
            self.files.push(Arc::clone(&file));
            let node = node::parse(&file, self.lints);
            let value = node.as_ref().and_then(|node| decode(name, node, self.lints));
            match (node, value) {
                (Some(node), Some(value)) => {
                    things.insert(name.to_owned(), Thing { file, node, value });
                }
                _ => {
                    assert!(self.lints.has_errors(), "{path} is refused without a word");
                    self.broken.insert(format!("{folder}/{name}"));
                }
            }
        }
        things
    }
}

fn file(path: &Path, text: &str) -> Arc<SourceFile> {
    Arc::new(SourceFile { path: path.to_owned(), text: text.to_owned() })
}

/// A mistake has a place in its file, a name and words.
pub fn stands_in_its_file(lint: &Lint) {
    let Lint { severity: _, code, message, span, help: _ } = lint;
    let text = &span.file.text;
    assert!(span.start <= span.end && span.end <= text.len(), "{lint:?}");
    let marked = span.marked();
    assert!(text.get(marked).is_some_and(|marked| !marked.contains('\n')), "{lint:?}");
    let (line, column) = span.line_column();
    assert!(line >= 1 && column >= 1 && line <= text.matches('\n').count() + 1, "{lint:?}");
    assert!(
        !message.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
        "{lint:?}"
    );
}
