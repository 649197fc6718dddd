//! The whole way: from a webhook's answer to the moment at which its execution result can be read, through `millrace
//! ingest` and `millrace worker`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace::schema::codec::Codec;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::events;
use crate::http::{self, Load, Times};
use crate::ingest::{self, CONNECTIONS};
use crate::latency::EVENTS_PER_S;
use crate::measure;
use crate::outcome::Seen;
use crate::program::{Program, Project};
use crate::raw::Outcome;
use crate::report::Figures;
use crate::topics::Topics;

/// Events of the first seconds are not counted.
const WARM_UP_EVENTS: u64 = 3 * EVENTS_PER_S;

/// A run of the two roles.
#[derive(Clone, Debug)]
pub struct PathJob {
    pub kafka: String,
    pub delivery: &'static str,
    pub requests: u64,
    pub partitions: i32,
}

pub fn run(job: &PathJob, topics: &Topics, unique: &str) -> Outcome<Figures> {
    let namespace = format!("bench-{unique}");
    let topic = format!("{namespace}.events");
    let project = project(job, &namespace, &topic)?;
    let names = ["--namespace", &namespace, "--kafka", &job.kafka];
    project.run(&[&["apply", "--yes"], &names[..]].concat())?;
    let (endpoint, address) = ingest::endpoint(&project, &namespace, &job.kafka)?;
    let mut worker =
        Program::start(&project, &[&["worker", "--instance", "bench"], &names[..]].concat(), &[])?;
    let ready = worker.ready();
    worker.explained(ready)?;
    let before_s = (endpoint.cpu_s()?, worker.cpu_s()?);
    let times = Arc::new(Times::new(job.requests));
    let load = Load { address, connections: CONNECTIONS, requests: job.requests, per_s: Some(EVENTS_PER_S) };
    let read_ns = std::thread::scope(|scope| {
        let reading = scope.spawn(|| read(job, &format!("{namespace}.executions")));
        let sent = http::runtime()?.block_on(http::send(load, Arc::clone(&times)));
        let read = reading.join().map_err(|_| "the reader panicked".to_owned())?;
        sent.and(read)
    });
    let read_ns = worker.explained(read_ns)?;
    let millions = job.requests as f64 / 1e6;
    let cpu = [(endpoint.cpu_s()? - before_s.0) / millions, (worker.cpu_s()? - before_s.1) / millions];
    let rss = endpoint.rss_mib().max(worker.rss_mib());
    worker.stop()?;
    endpoint.stop()?;
    topics.delete_all(&namespace)?;
    let since = |begin: &dyn Fn(u64) -> u64| -> Vec<f64> {
        let counted = WARM_UP_EVENTS..job.requests;
        counted.map(|seq| read_ns[seq as usize].saturating_sub(begin(seq)) as f64 / 1e6).collect()
    };
    let (accepted, sent) = (since(&|seq| times.answered_ns(seq)), since(&|seq| times.due_ns(seq)));
    Ok(Figures::new(&[
        ("p50", measure::quantile(&accepted, 0.5)),
        ("p99", measure::quantile(&accepted, 0.99)),
        ("sent_p50", measure::quantile(&sent, 0.5)),
        ("sent_p99", measure::quantile(&sent, 0.99)),
        ("cpu", cpu[1]),
        ("cpu_ingest", cpu[0]),
        ("rss", rss),
    ]))
}

fn project(job: &PathJob, namespace: &str, topic: &str) -> Outcome<Project> {
    let project = Project::new()?;
    project.topic(topic, job.partitions)?;
    let output = format!("{namespace}-out");
    project.topic(&output, job.partitions)?;
    ingest::connector(&project, topic)?;
    let text = format!(
        "description: What the benchmark measures\ninput:\n  topics: [{topic}]\ndelivery: {}\nstages:\n  - id: live\n    \
         filter: .livemode == true\n  - id: enrich\n    map: |\n      .customer = .data.object.customer\n      \
         .currency = upcase(string!(.data.object.currency))\n  - id: store\n    emit: {{topic: {output}, key: .customer}}\n",
        job.delivery
    );
    project.file(&format!("pipelines/{namespace}.yaml"), &text)?;
    Ok(project)
}

/// When the result of each event was read, in monotonic nanoseconds. Each event has one.
fn read(job: &PathJob, executions: &str) -> Outcome<Vec<u64>> {
    let by_id: HashMap<String, u64> = (0..job.requests).map(|seq| (events::id(seq), seq)).collect();
    let consumer = reader(&job.kafka, executions)?;
    let codec = Codec::embedded();
    let mut seen = Seen::new(job.requests);
    let mut read_ns = vec![0; job.requests as usize];
    let started = Instant::now();
    let patience = Duration::from_secs(60 + 2 * job.requests / EVENTS_PER_S);
    while seen.count < job.requests {
        if started.elapsed() > patience {
            return Err(format!("{} of {} execution results were read", seen.count, job.requests));
        }
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.map_err(|e| format!("{executions}: {e}"))?;
        let now = measure::monotonic_ns();
        let value = message.payload().ok_or("an execution result without a value")?;
        let result = codec.read_execution(value).map_err(|e| e.to_string())?;
        let seq = *by_id.get(&result.event_id).ok_or(format!("a result of {}", result.event_id))?;
        seen.add(seq).map_err(|seq| format!("two results of event {seq}"))?;
        read_ns[seq as usize] = now;
    }
    Ok(read_ns)
}

fn reader(kafka: &str, topic: &str) -> Outcome<BaseConsumer> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka)
        .set("group.id", "bench-reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed");
    let consumer: BaseConsumer = config.create().map_err(|e| e.to_string())?;
    let metadata =
        consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).map_err(|e| e.to_string())?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).map_err(|e| e.to_string())?;
    }
    consumer.assign(&list).map_err(|e| e.to_string())?;
    Ok(consumer)
}
