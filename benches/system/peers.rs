//! The same work by other processors: commands with a configuration, described in `benches/peers/<name>/peer.json`.
//!
//! Words in braces are replaced in its commands and in its configuration: `{kafka}`, `{input}`, `{output}`, `{group}`,
//! `{url}` (the destination of `p3`), `{config}` (the configuration, written for the run), `{peers}` (the folder of all).
//! A peer commits the offsets of the input under `{group}` and ends at SIGTERM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::calls::{self, CallsJob};
use crate::destination::Destination;
use crate::events::Shape;
use crate::outcome;
use crate::program::{Program, Project};
use crate::raw::Outcome;
use crate::report::Figures;
use crate::topics::{InputHeaders, Topics};
use crate::worker::{self, Reading, Run, WorkerJob};

/// What `peer.json` says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Label of its runs.
    pub label: String,
    /// Sections that it takes part in: of `p1` and `p2` (filter and map), `p3` (calls).
    pub sections: Vec<String>,
    /// Makes it ready, once; empty for nothing.
    #[serde(default)]
    build: Vec<String>,
    run: Vec<String>,
    /// Configuration file beside `peer.json`.
    config: Option<String>,
    #[serde(skip)]
    folder: PathBuf,
}

/// What a peer does.
#[derive(Clone, Debug)]
pub enum Work {
    Copies(WorkerJob),
    Calls(CallsJob),
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers")
}

impl Peer {
    /// Reads the description of `name` and builds it.
    pub fn load(name: &str) -> Outcome<Peer> {
        let folder = peers().join(name);
        let path = folder.join("peer.json");
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let peer: Peer = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let peer = Peer { folder, ..peer };
        if !peer.build.is_empty() {
            let mut build = command(&peer.build, &[])?;
            let status = build.status().map_err(|e| format!("{build:?}: {e}"))?;
            if !status.success() {
                return Err(format!("{build:?} ended with {status}"));
            }
        }
        Ok(peer)
    }

    fn start(&self, project: &Project, words: &[(&str, &str)]) -> Outcome<Program> {
        let config = project.path("config");
        if let Some(name) = &self.config {
            let path = self.folder.join(name);
            let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            project.file("config", &replaced(&text, words))?;
        }
        let config = config.to_string_lossy();
        let words = [words, &[("config", &*config)]].concat();
        Program::foreign(project, command(&self.run, &words)?)
    }
}

fn replaced(text: &str, words: &[(&str, &str)]) -> String {
    let peers = peers();
    let peers = peers.to_string_lossy();
    let all = words.iter().copied().chain([("peers", &*peers)]);
    all.fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

fn command(words: &[String], values: &[(&str, &str)]) -> Outcome<Command> {
    let mut words = words.iter().map(|word| replaced(word, values));
    let mut command = Command::new(words.next().ok_or("a command has a name")?);
    command.args(words);
    Ok(command)
}

pub fn run(peer: &Peer, work: &Work, topics: &Topics, events: u64, unique: &str) -> Outcome<Figures> {
    match work {
        Work::Copies(job) => copies(peer, job, topics, events, unique),
        Work::Calls(job) => calls(peer, job, topics, unique),
    }
}

fn copies(peer: &Peer, job: &WorkerJob, topics: &Topics, events: u64, unique: &str) -> Outcome<Figures> {
    let worker::Scale { shape, partitions, .. } = job.scale;
    let input = topics.input(partitions, events, shape, InputHeaders::CloudEvents)?;
    let run = Run::new(&job.scale, input, events, unique);
    topics.create_with(&run.outputs[0], partitions, &[("message.timestamp.type", "LogAppendTime")])?;
    let project = Project::new()?;
    let words = [
        ("kafka", &*job.kafka),
        ("input", &*run.input),
        ("output", &*run.outputs[0]),
        ("group", &*run.namespace),
    ];
    let mut process = peer.start(&project, &words)?;
    let groups = [run.namespace.clone()];
    let reading = Reading { kafka: &job.kafka, groups: &groups, run: &run, partitions };
    let watched = worker::watch(&reading, &mut process);
    let watched = process.explained(watched)?;
    process.end()?;
    let appended = outcome::check_outputs(job, &run)?;
    topics.delete_all(&run.namespace)?;
    Ok(Figures::of_worker(events, shape.bytes, 1, &watched.measured(&appended)))
}

fn calls(peer: &Peer, job: &CallsJob, topics: &Topics, unique: &str) -> Outcome<Figures> {
    let group = format!("bench-{unique}");
    let shape = Shape { keys: job.keys, ..Shape::default() };
    let input = topics.input(job.partitions, job.events, shape, InputHeaders::CloudEvents)?;
    let destination = Destination::start(job.answers)?;
    let project = Project::new()?;
    let words = [("kafka", &*job.kafka), ("input", &*input), ("group", &*group), ("url", &*destination.url)];
    let mut process = peer.start(&project, &words)?;
    let done = calls::all_done(job, &mut process, &input, (&destination, &group));
    let figures = process.explained(done)?;
    process.end()?;
    Ok(figures)
}
