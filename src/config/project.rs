//! A project's folder: `connectors/`, `topics/`, `pipelines/`, `kpis/`, one YAML file per thing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::connector::Connector;
use crate::config::kpi::KpiConfig;
use crate::config::pipeline::Pipeline;
use crate::config::topic::{TopicConfig, ValueFormat};
use crate::yaml::files;
use crate::yaml::lint::{Lints, SourceFile, Span};
use crate::yaml::node::{self, Node};

/// Most files of one folder.
const FILES_MAX: usize = 10_000;

/// A thing and the file that says it.
#[derive(Clone, Debug)]
pub struct Thing<T> {
    /// The file.
    pub file: Arc<SourceFile>,
    /// The file's root node.
    pub node: Node,
    /// What it says.
    pub value: T,
}

impl<T> Thing<T> {
    /// The begin of the file.
    pub fn begin(&self) -> Span {
        Span::begin_of(&self.file)
    }
}

/// Everything that a project's folder says.
#[derive(Clone, Debug)]
pub struct Project {
    /// The folder.
    pub root: PathBuf,
    /// Every file that was read, schemas included, sorted by path.
    pub files: Vec<Arc<SourceFile>>,
    /// Connectors by name.
    pub connectors: BTreeMap<String, Thing<Connector>>,
    /// Topics by name.
    pub topics: BTreeMap<String, Thing<TopicConfig>>,
    /// Pipelines by name.
    pub pipelines: BTreeMap<String, Thing<Pipeline>>,
    /// KPIs by name.
    pub kpis: BTreeMap<String, Thing<KpiConfig>>,
    /// Schemas that topics name, by path as written.
    pub schemas: BTreeMap<PathBuf, Arc<SourceFile>>,
    /// Names of things whose file is there but could not be read, as `topics/payments`: nothing that refers to them
    /// is reported as unknown.
    pub broken: BTreeSet<String>,
}

impl Project {
    /// Whether a thing's file is there but could not be read.
    pub fn is_broken(&self, folder: &str, name: &str) -> bool {
        self.broken.contains(&format!("{folder}/{name}"))
    }
}

/// Reads the folder `root`. Mistakes go to `lints`; what could not be read is left out.
///
/// # Errors
/// When `root` is no folder that can be read.
pub fn load(root: &Path, lints: &mut Lints) -> io::Result<Project> {
    fs::read_dir(root)?;
    let mut reader = Reader { root, files: Vec::new(), broken: BTreeSet::new(), lints };
    let connectors = reader.folder("connectors", check_word, Connector::decode);
    let topics = reader.folder("topics", any_name, TopicConfig::decode);
    let pipelines = reader.folder("pipelines", check_word, Pipeline::decode);
    let kpis = reader.folder("kpis", any_name, KpiConfig::decode);
    let is_empty = reader.files.is_empty() && reader.broken.is_empty();
    let schemas = reader.schemas(&topics);
    let Reader { mut files, broken, lints, .. } = reader;
    if is_empty {
        lints.error(
            "empty-project",
            &place(Path::new(".")),
            format!("{} holds no project", root.display()),
            "create topics/<topic>.yaml and pipelines/<pipeline>.yaml, or name the folder with --project",
        );
    }
    files.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(Project { root: root.to_owned(), files, connectors, topics, pipelines, kpis, schemas, broken })
}

/// Whether a name may be used, with a reason and what to write when it may not.
type NameRule = fn(&str) -> Result<(), (&'static str, &'static str)>;

struct Reader<'a> {
    root: &'a Path,
    files: Vec<Arc<SourceFile>>,
    broken: BTreeSet<String>,
    lints: &'a mut Lints,
}

impl Reader<'_> {
    fn folder<T>(
        &mut self,
        folder: &'static str,
        rule: NameRule,
        decode: fn(&str, &Node, &mut Lints) -> Option<T>,
    ) -> BTreeMap<String, Thing<T>> {
        let mut things = BTreeMap::new();
        for path in self.paths(folder) {
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned) else {
                let help = "use letters, digits and hyphens";
                self.lints.error("bad-name", &place(&path), "the file's name is not UTF-8", help);
                continue;
            };
            if let Err((reason, help)) = rule(&name) {
                let message = format!("`{name}` cannot be a name: {reason}");
                self.lints.error("bad-name", &place(&path), message, help);
            }
            match self.thing(&name, &path, decode) {
                Some(thing) => {
                    things.insert(name, thing);
                }
                None => {
                    self.broken.insert(format!("{folder}/{name}"));
                }
            }
        }
        things
    }

    fn thing<T>(
        &mut self,
        name: &str,
        path: &Path,
        decode: fn(&str, &Node, &mut Lints) -> Option<T>,
    ) -> Option<Thing<T>> {
        let file = match files::read(self.root, path) {
            Ok(file) => file,
            Err(error) => {
                self.lints.error("unreadable", &place(path), error.to_string(), error.help());
                return None;
            }
        };
        self.files.push(Arc::clone(&file));
        let node = node::parse(&file, self.lints)?;
        let value = decode(name, &node, self.lints)?;
        Some(Thing { file, node, value })
    }

    /// The schemas that topics name.
    fn schemas(
        &mut self,
        topics: &BTreeMap<String, Thing<TopicConfig>>,
    ) -> BTreeMap<PathBuf, Arc<SourceFile>> {
        let mut schemas: BTreeMap<PathBuf, Arc<SourceFile>> = BTreeMap::new();
        for thing in topics.values() {
            let path = match &thing.value.value {
                ValueFormat::Avro { schema } | ValueFormat::Json { schema: Some(schema) } => schema,
                ValueFormat::Json { schema: None } | ValueFormat::Bytes => continue,
            };
            if schemas.contains_key(&path.value) {
                continue;
            }
            if let Some(file) = files::named(self.root, &path.value, &path.span, self.lints) {
                self.files.push(Arc::clone(&file));
                schemas.insert(path.value.clone(), file);
            }
        }
        schemas
    }

    /// The YAML files of a folder, sorted. Hidden files and files of other kinds are not ours.
    fn paths(&mut self, folder: &'static str) -> Vec<PathBuf> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                let message = format!("the folder cannot be read: {error}");
                self.lints.error("unreadable", &place(Path::new(folder)), message, "look at its permissions");
                return Vec::new();
            }
        };
        let mut paths: Vec<PathBuf> = entries
            .filter_map(Result::ok)
            .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
            .map(|entry| Path::new(folder).join(entry.file_name()))
            .filter(|path| self.is_ours(path))
            .collect();
        paths.sort();
        if paths.len() > FILES_MAX {
            let message = format!("{} files in one folder", paths.len());
            let help = format!("at most {FILES_MAX} are read");
            self.lints.error("too-many-files", &place(Path::new(folder)), message, help);
            paths.truncate(FILES_MAX);
        }
        paths
    }

    fn is_ours(&mut self, path: &Path) -> bool {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
        if extension == "yaml" {
            return true;
        }
        if extension.eq_ignore_ascii_case("yml") || extension.eq_ignore_ascii_case("yaml") {
            let help = "project files end in .yaml";
            self.lints.error("bad-extension", &place(path), format!("`.{extension}` is not read"), help);
        } else if self.root.join(path).is_dir() {
            let help = "put the files into the folder above";
            self.lints.warning("nested-folder", &place(path), "folders in here are not searched", help);
        }
        false
    }
}

/// The place of a file or folder that has no text to point at.
fn place(path: &Path) -> Span {
    Span::begin_of(&Arc::new(SourceFile { path: path.to_owned(), text: String::new() }))
}

/// Names of pipelines and connectors: they become parts of topics, groups and URLs.
fn check_word(name: &str) -> Result<(), (&'static str, &'static str)> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let starts_well = name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
    if !starts_well || !name.chars().all(allowed) {
        return Err((
            "only lower-case letters, digits and hyphens",
            "rename the file, such as stripe-payments.yaml",
        ));
    }
    if name.len() > 100 {
        return Err(("it is longer than 100 characters", "rename the file"));
    }
    Ok(())
}

/// The decoder has a rule of its own.
fn any_name(_: &str) -> Result<(), (&'static str, &'static str)> {
    Ok(())
}
