//! From the start of the process to `/health/ready`.

use std::time::Duration;

use crate::program::{Program, Project};
use crate::raw::Outcome;
use crate::report::Figures;
use crate::topics::Topics;

/// `group.initial.rebalance.delay.ms` is 0 on the broker that the scripts start, so nothing has to be taken off.
pub fn run(kafka: &str, topics: &Topics, unique: &str) -> Outcome<Figures> {
    let namespace = format!("bench-{unique}");
    let input = format!("{namespace}-in");
    let output = format!("{namespace}-out");
    let project = Project::new()?;
    project.topic(&input, 12)?;
    project.topic(&output, 12)?;
    let pipeline = format!(
        "description: What the benchmark measures\ninput:\n  topics: [{input}]\nstages:\n  - id: live\n    \
         filter: .livemode == true\n  - id: store\n    emit: {{topic: {output}}}\n"
    );
    project.file(&format!("pipelines/{namespace}.yaml"), &pipeline)?;
    let names = ["--namespace", &namespace, "--kafka", kafka];
    project.run(&[&["apply", "--yes"], &names[..]].concat())?;
    let words = [&["worker", "--instance", "bench"], &names[..]].concat();
    let first = start(&project, &words)?;
    let again = start(&project, &words)?;
    topics.delete_all(&namespace)?;
    Ok(Figures::new(&[("ready_ms", first.as_secs_f64() * 1e3), ("again_ms", again.as_secs_f64() * 1e3)]))
}

fn start(project: &Project, words: &[&str]) -> Outcome<Duration> {
    let mut worker = Program::start(project, words, &[])?;
    let ready = worker.ready();
    let ready = worker.explained(ready)?;
    worker.stop()?;
    Ok(ready)
}
