//! A pipeline compiled from text, as the worker compiles it.

use std::fs;
use std::sync::Arc;

use millrace::config::project;
use millrace::ledger::Namespace;
use millrace::plan::compile;
use millrace::plan::pipeline::Pipeline;
use millrace::yaml::lint::Lints;

/// Stages that are measured. The second writes two fields; the last does the same, but uses the value as a whole.
pub const PROGRAMS: [(&str, &str); 4] = [
    ("pass-through", "  - id: store\n    emit: {topic: out}\n"),
    (
        "filter and map",
        "  - id: live\n    filter: .livemode == true\n  - id: enrich\n    map: |\n      \
         .customer = .data.object.customer\n      .currency = upcase(string!(.data.object.currency))\n  - id: store\n    \
         emit: {topic: out, key: .customer}\n",
    ),
    (
        "filter by an attribute",
        "  - id: known\n    filter: starts_with(string!(%id), \"evt_\")\n  - id: store\n    emit: {topic: out}\n",
    ),
    (
        "filter and map of the whole value",
        "  - id: live\n    filter: .livemode == true\n  - id: enrich\n    map: |\n      \
         . = merge(object!(.), {\"customer\": .data.object.customer, \"currency\": upcase(string!(.data.object.currency))})\n  \
         - id: store\n    emit: {topic: out, key: .customer}\n",
    ),
];

/// The pipeline of these stages, from topic `in` to topic `out`, both of JSON.
pub fn pipeline(stages: &str) -> Arc<Pipeline> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("can be written");
        fs::write(path, text).expect("can be written");
    };
    for topic in ["in", "out"] {
        file(&format!("topics/{topic}.yaml"), "partitions: 12\nvalue: {format: json}\n");
    }
    let text = format!("description: Measured\ninput: {{topics: [in]}}\nstages:\n{stages}");
    file("pipelines/measured.yaml", &text);
    let mut lints = Lints::default();
    let project = project::load(folder.path(), &mut lints).expect("can be read");
    let plan = compile::compile(&project, &Namespace::default(), &mut lints);
    let plan = plan.unwrap_or_else(|| panic!("{:?}", lints.0));
    Arc::clone(plan.pipeline("measured").expect("it was written"))
}
