//! The workloads: a project folder each, made for one case.

use std::fmt;
use std::path::Path;

/// What the workers do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workload {
    /// W1: copies with a filter and a map, exactly once. Waits for nothing.
    Copy,
    /// W2: calls a destination that takes 0 to 200 ms and fails for one call in twenty, at least once.
    Http,
    /// W3: W1, and a KPI that a projector folds into Postgres.
    Kpi,
    /// W4: calls a faster destination, exactly once; a few keys have most of the events.
    Keys,
}

impl Workload {
    /// Its short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Copy => "W1",
            Self::Http => "W2",
            Self::Kpi => "W3",
            Self::Keys => "W4",
        }
    }

    /// Whether results may come twice.
    pub fn is_at_least_once(self) -> bool {
        self == Self::Http
    }

    /// Whether it calls a destination.
    pub fn has_calls(self) -> bool {
        matches!(self, Self::Http | Self::Keys)
    }

    /// Whether it has a KPI.
    pub fn has_kpi(self) -> bool {
        self == Self::Kpi
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names of one case's things.
#[derive(Clone, Debug)]
pub struct Names {
    /// Namespace and pipeline.
    pub word: String,
}

impl Names {
    /// Topic of the events.
    pub fn input(&self) -> String {
        format!("{}.in", self.word)
    }

    /// Topic of the outputs.
    pub fn output(&self) -> String {
        format!("{}.out", self.word)
    }

    /// Topic of the dead letters.
    pub fn dead_letters(&self) -> String {
        format!("{}.dlq", self.word)
    }

    /// Topic of the execution results.
    pub fn executions(&self) -> String {
        format!("{}.executions", self.word)
    }

    /// Topic of the KPI facts.
    pub fn facts(&self) -> String {
        format!("{}.kpi-facts", self.word)
    }

    /// How the `client.id` of every role ends.
    pub fn clients(&self) -> String {
        format!("@{}", self.word)
    }

    /// Consumer group of the pipeline.
    pub fn group(&self) -> String {
        format!("{}.{}", self.word, self.word)
    }
}

/// Partitions of input and output.
pub const PARTITIONS: i32 = 12;

/// What a case may want otherwise.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Port of the destination.
    pub destination: u16,
    /// The target's limits and breaker, as YAML lines below `target:`.
    pub target: String,
    /// The call's error policy.
    pub on_error: String,
    /// Settings of the input topic, as YAML lines.
    pub input_topic: String,
    /// Further settings of librdkafka, one `key=value` a line.
    pub properties: String,
    /// Variables of the roles' environment.
    pub environment: Vec<(String, String)>,
}

impl Shape {
    /// What most cases want of `workload`.
    pub fn of(workload: Workload, destination: u16) -> Self {
        let attempts = if workload.is_at_least_once() { 12 } else { 8 };
        Self {
            destination,
            target: String::from(
                "  limits: {concurrency: 256, timeout: 30s}\n  breaker: {failures: 50, cooldown: 500ms}\n",
            ),
            on_error: format!(
                "{{retry: {{attempts: {attempts}, backoff: 50ms, max: 2s}}, then: dead_letter}}"
            ),
            input_topic: String::new(),
            properties: String::new(),
            environment: Vec::new(),
        }
    }
}

/// Writes the project.
pub fn write(folder: &Path, names: &Names, workload: Workload, shape: &Shape) -> std::io::Result<()> {
    let file = |path: &str, text: String| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a path in the folder"))?;
        std::fs::write(path, text)
    };
    let topic = format!("partitions: {PARTITIONS}\nretention: 7d\nvalue: {{format: json}}\n");
    file(&format!("topics/{}.yaml", names.input()), format!("{topic}{}", shape.input_topic))?;
    file(&format!("topics/{}.yaml", names.output()), topic)?;
    if workload.has_calls() {
        file(
            "connectors/destination.yaml",
            format!(
                "description: The harness\ntarget:\n  base_url: http://127.0.0.1:{}\n{}  calls:\n    put: {{method: POST, path: /put, response: {{success: [200]}}}}\n",
                shape.destination, shape.target
            ),
        )?;
    }
    if workload.has_kpi() {
        file(
            "kpis/revenue.yaml",
            String::from(
                "fact: sale\naggregate: sum\nwindows: [1h]\ndimensions: [shop]\ntime_zone: UTC\nlateness: 2d\n",
            ),
        )?;
    }
    file(&format!("pipelines/{}.yaml", names.word), pipeline(names, workload, shape))
}

fn pipeline(names: &Names, workload: Workload, shape: &Shape) -> String {
    let delivery = if workload.is_at_least_once() { "at_least_once" } else { "exactly_once" };
    let mut text = format!(
        r#"description: What the harness counts
input: {{topics: [{}]}}
delivery: {delivery}
stages:
  - id: wanted
    filter: .kind != "skip"
  - id: shape
    map: |
      . = {{"key": string!(.key), "seq": int!(.seq), "amount": int!(.amount), "at": int!(.at), "shop": string!(.shop)}}
"#,
        names.input()
    );
    if workload.has_calls() {
        text += &format!(
            "  - id: call\n    http: {{connector: destination, call: put, body: ., store: false}}\n    on_error: {}\n",
            shape.on_error
        );
    }
    text += &format!("  - id: out\n    emit: {{topic: {}, key: .key}}\n", names.output());
    if workload.has_kpi() {
        text += "  - id: sale\n    kpi: {fact: sale, value: .amount, time: from_unix_timestamp!(int!(.at)), dimensions: {shop: .shop}}\n";
    }
    text
}
