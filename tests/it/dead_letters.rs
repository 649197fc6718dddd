//! Dead letters as an operator meets them: found, replayed once whatever happens meanwhile, discarded; and a pipeline
//! that stops instead of draining its topic into them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::{Value, json};

use crate::support::millrace::{Addresses, Millrace, Running};
use crate::support::readback;
use crate::support::servers;

const PATIENCE: Duration = Duration::from_secs(60);

/// Fails on every event: the class is `permanent`.
const REFUSES: &str = "abort \"no such contact\"";
const MENDED: &str = ".mended = true";

/// A project with one topic in, one out, and a pipeline between them.
struct Project {
    name: String,
    millrace: Millrace,
    folder: tempfile::TempDir,
}

impl Project {
    fn new(prefix: &str) -> Self {
        let name = servers::unique(prefix);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let addresses = Addresses { kafka: servers::kafka(), registry: None, postgres: None };
        let millrace = Millrace::new(folder.path(), &name, &addresses);
        let project = Self { name, millrace, folder };
        for topic in [project.input(), project.output()] {
            project.write(&format!("topics/{topic}.yaml"), "partitions: 3\nretention: 7d\n");
        }
        project.pipeline(REFUSES, "off");
        project.millrace.run_ok(&["apply", "--yes"]);
        project
    }

    fn input(&self) -> String {
        format!("{}.in", self.name)
    }

    fn output(&self) -> String {
        format!("{}.out", self.name)
    }

    fn letters_topic(&self) -> String {
        format!("{}.dlq", self.name)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).expect("the folder can be written");
        std::fs::write(path, text).expect("the folder can be written");
    }

    /// The pipeline, with `program` as its first stage.
    fn pipeline(&self, program: &str, stop_above: &str) {
        let Self { name, .. } = self;
        let text = format!(
            "input: {{topics: [{name}.in]}}\nstages:\n  - id: upsert\n    map: |\n      {program}\n  - id: store\n    \
             emit: {{topic: {name}.out, key: .id}}\non_error: {{stop_above: {stop_above}}}\n"
        );
        self.write(&format!("pipelines/{name}.yaml"), &text);
    }

    fn worker(&self) -> Running {
        let words = ["worker", "--instance", "one", "--metrics", "127.0.0.1:0", "--session-timeout", "6s"];
        self.millrace.start("worker", &words)
    }

    /// Sends `{"id": "e<n>", "n": n}` for each number, keyed by one of ten keys.
    fn send(&self, numbers: std::ops::Range<usize>) {
        produce(&self.input(), numbers.map(|number| json!({"id": format!("e{number}"), "n": number})));
    }

    /// Lets a worker turn `count` events into dead letters, and ends it.
    fn fill(&self, count: usize) {
        self.send(0..count);
        let mut worker = self.worker();
        self.until(&mut worker, "the dead letters", || {
            readback::read_all(&servers::kafka(), &self.letters_topic()).len() >= count
        });
        assert!(worker.terminate(PATIENCE), "{}", worker.log_text());
    }

    fn until(&self, role: &mut Running, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            role.assert_alive();
            assert!(Instant::now() < deadline, "no sign of {what}\n{}", role.log_text());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn json(&self, words: &[&str]) -> Value {
        let words: Vec<&str> = words.iter().copied().chain(["--output", "json"]).collect();
        let output = self.millrace.run(&words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{words:?}: {error}\n{text}\n{}", stderr(&output)))
    }

    fn list(&self, words: &[&str]) -> Vec<Value> {
        let words: Vec<&str> =
            ["dlq", "list", "--pipeline", &self.name].into_iter().chain(words.iter().copied()).collect();
        self.json(&words).as_array().expect("a list").clone()
    }

    /// How often each event was replayed, by its id; and that each replay is the event as it was, with its place.
    fn replays(&self) -> BTreeMap<String, usize> {
        let replayed = readback::read_all(&servers::kafka(), &format!("{}.replay", self.name));
        let sent = readback::read_all(&servers::kafka(), &self.input());
        let mut counts = BTreeMap::new();
        for record in replayed {
            let id = record.header("ce_id").expect("an id").to_owned();
            let original = sent.iter().find(|sent| sent.header("ce_id") == Some(&id)).expect("it was sent");
            assert_eq!((&record.key, &record.value), (&original.key, &original.value));
            assert_eq!(record.headers[..original.headers.len()], original.headers[..]);
            assert_eq!(record.partition, original.partition);
            let place = format!("{}/{}/{}", self.input(), original.partition, original.offset);
            assert_eq!(record.header("millrace.origin"), Some(place.as_str()));
            *counts.entry(id).or_default() += 1;
        }
        counts
    }

    fn assert_each_replayed_once(&self, count: usize) {
        let replays = self.replays();
        let wrong: Vec<_> = replays.iter().filter(|(_, times)| **times != 1).collect();
        assert!(wrong.is_empty(), "replayed more than once: {wrong:?}");
        assert_eq!(replays.len(), count, "all are replayed");
        assert_eq!(self.list(&[]), Vec::<Value>::new(), "none is open");
    }
}

fn produce(topic: &str, values: impl Iterator<Item = Value>) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", servers::kafka())
        .set("partitioner", "murmur2_random")
        .create()
        .expect("a producer can be made");
    for value in values {
        let id = value["id"].as_str().expect("an id").to_owned();
        let headers = OwnedHeaders::new()
            .insert(Header { key: "ce_id", value: Some(&id) })
            .insert(Header { key: "ce_type", value: Some("said") })
            .insert(Header { key: "mine", value: None::<&str> });
        let (key, body) = (format!("k{}", value["n"].as_u64().unwrap_or(0) % 10), value.to_string());
        let record = BaseRecord::to(topic).key(&key).payload(&body).headers(headers);
        producer.send(record).map_err(|(error, _)| error).expect("the queue takes it");
    }
    producer.flush(PATIENCE).expect("all are acknowledged");
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ids of the events in a topic.
fn event_ids(topic: &str) -> Vec<String> {
    let records = readback::read_all(&servers::kafka(), topic);
    records
        .iter()
        .map(|record| {
            let value: Value =
                serde_json::from_slice(record.value.as_deref().expect("a value")).expect("JSON");
            value["id"].as_str().expect("an id").to_owned()
        })
        .collect()
}

#[test]
fn a_killed_replay_goes_on_without_doubles() {
    let project = Project::new("dlq-kill");
    project.fill(60);
    project.pipeline(MENDED, "off");
    // 20 a second are five in a transaction.
    let replay = ["dlq", "replay", "--pipeline", &project.name, "--rate", "20", "--yes"];
    for point in ["after_send:2", "in_commit:2", "after_commit:2"] {
        let mut dying = project.millrace.clone();
        dying.environment.push((String::from("MILLRACE_DIE_AT"), point.to_owned()));
        let output = dying.run(&replay);
        assert_eq!(output.status.code(), None, "{point}: it was to die\n{}", stdout(&output));
    }
    let before = project.replays().len();
    assert!((10..60).contains(&before), "they died in the middle: {before}");
    let mut killed = project.millrace.start("replay", &replay);
    std::thread::sleep(Duration::from_millis(1_000));
    killed.kill();
    let output = project.millrace.run(&replay);
    assert_eq!(code(&output), 0, "{}\n{}", stdout(&output), stderr(&output));
    project.assert_each_replayed_once(60);
    let again = project.json(&["dlq", "replay", "--pipeline", &project.name, "--yes"]);
    assert_eq!(again["replayed"], 0);

    let mut worker = project.worker();
    project.until(&mut worker, "the replayed events", || event_ids(&project.output()).len() >= 60);
    assert!(worker.terminate(PATIENCE), "{}", worker.log_text());
    let ids = event_ids(&project.output());
    assert_eq!((ids.len(), ids.iter().collect::<BTreeSet<_>>().len()), (60, 60));
}

#[test]
fn of_two_replays_at_once_the_earlier_one_stops() {
    let project = Project::new("dlq-two");
    project.fill(40);
    let words = |rate| ["dlq", "replay", "--pipeline", &project.name, "--yes", "--rate", rate];
    let mut first = project.millrace.start("first", &words("4"));
    let deadline = Instant::now() + PATIENCE;
    while project.replays().len() < 3 {
        first.assert_alive();
        assert!(Instant::now() < deadline, "the first does not begin");
        std::thread::sleep(Duration::from_millis(100));
    }
    let second = project.millrace.run(&words("1000"));
    assert_eq!(code(&second), 0, "{}", stdout(&second));
    assert!(!first.ends_within(PATIENCE), "it tells that it did not do all");
    assert!(first.log_text().contains("took over"), "{}", first.log_text());
    project.assert_each_replayed_once(40);
}

#[test]
fn letters_are_found_refused_discarded_and_opened_again() {
    let project = Project::new("dlq-life");
    let name = project.name.as_str();
    project.fill(20);
    assert_eq!(project.list(&[]).len(), 20);
    assert_eq!(project.list(&["--where", ".n == 7"]).len(), 1);
    assert_eq!(project.list(&["--where", "int!(.n) >= 15 && %key == \"k5\""]).len(), 1);
    assert_eq!(project.list(&["--class", "poison"]).len(), 0);
    assert_eq!(project.list(&["--stage", "upsert", "--key", "k3", "--since", "1h"]).len(), 2);
    assert_eq!(project.list(&["--until", "1h"]).len(), 0);
    let broken = project.millrace.run(&["dlq", "list", "--where", ".n > 3"]);
    assert_eq!(code(&broken), 2, "{}", stderr(&broken));
    assert!(stderr(&broken).contains("--where:1:"), "{}", stderr(&broken));
    let summary = project.list(&["--summary"]);
    assert_eq!(summary.len(), 1);
    assert_eq!(
        (&summary[0]["count"], &summary[0]["class"], &summary[0]["stage"], &summary[0]["state"]),
        (&json!(20), &json!("permanent"), &json!("upsert"), &json!("open"))
    );

    let dry = project.json(&["dlq", "replay", "--pipeline", name, "--dry-run"]);
    assert_eq!((&dry["selected"], &dry["replayed"], &dry["dry_run"]), (&json!(20), &json!(0), &json!(true)));
    assert!(project.replays().is_empty(), "nothing was changed");
    assert_eq!(project.list(&[]).len(), 20);

    let unasked = project.millrace.run(&["dlq", "discard", "--pipeline", name, "--reason", "x"]);
    assert_eq!(code(&unasked), 2, "there is nobody to ask");
    let discard =
        ["dlq", "discard", "--pipeline", name, "--where", "int!(.n) < 5", "--actor", "ada", "--yes"];
    let discard: Vec<&str> = discard.into_iter().chain(["--reason", "test contacts"]).collect();
    assert_eq!(project.json(&discard)["discarded"], 5);
    assert_eq!(project.list(&[]).len(), 15);
    let all = project.list(&["--all", "--where", ".n == 3"]);
    assert_eq!(
        (&all[0]["state"], &all[0]["decision"]["actor"], &all[0]["decision"]["reason"]),
        (&json!("discarded"), &json!("ada"), &json!("test contacts"))
    );
    let id = all[0]["id"].as_str().expect("a name").to_owned();
    let shown = project.millrace.run_ok(&["dlq", "show", &id]);
    assert!(shown.contains("discarded, ") && shown.contains("by ada: test contacts"), "{shown}");
    let named = project.json(&["dlq", "replay", &id, "--yes"]);
    assert_eq!(
        (&named["replayed"], named["refused"].as_array().map(Vec::len)),
        (&json!(0), Some(1)),
        "{named}"
    );
    assert!(named["refused"][0]["why"].as_str().is_some_and(|why| why.contains("by ada")), "{named}");
    let reopened = project.json(&["dlq", "reopen", &id, "--reason", "a mistake", "--yes"]);
    assert_eq!(reopened["reopened"], 1);
    assert_eq!(project.list(&[]).len(), 16);

    // The first replay of a permanent failure is allowed; the second, with nothing changed, is not.
    let replay = ["dlq", "replay", "--pipeline", name, "--where", "int!(.n) >= 18", "--yes"];
    assert_eq!(project.json(&replay)["replayed"], 2);
    let mut worker = project.worker();
    project.until(&mut worker, "the letters of the replayed", || project.list(&[]).len() == 16);
    let refused = project.json(&replay);
    assert_eq!((&refused["replayed"], refused["refused"].as_array().map(Vec::len)), (&json!(0), Some(2)));
    let text = stdout(&project.millrace.run(&replay));
    assert!(text.contains("2 refused: it was replayed with this same text of the pipeline"), "{text}");
    let forced: Vec<&str> = replay.into_iter().chain(["--force"]).collect();
    assert_eq!(project.json(&forced)["replayed"], 2);
    project.until(&mut worker, "the letters again", || project.list(&[]).len() == 16);
    assert!(worker.terminate(PATIENCE), "{}", worker.log_text());

    project.pipeline(MENDED, "off");
    assert_eq!(project.json(&["dlq", "replay", "--pipeline", name, "--yes"])["replayed"], 16);
    let mut worker = project.worker();
    project.until(&mut worker, "the mended", || event_ids(&project.output()).len() >= 16);
    assert!(worker.terminate(PATIENCE), "{}", worker.log_text());
    let ids: BTreeSet<String> = event_ids(&project.output()).into_iter().collect();
    assert_eq!(ids.len(), 16, "all but those that stayed discarded");
    assert!(!ids.contains("e1") && ids.contains("e3") && ids.contains("e19"));
}

#[test]
fn a_pipeline_that_keeps_failures_leaves_results_of_these_alone() {
    let project = Project::new("dlq-results");
    let results = || {
        let records = readback::read_all(&servers::kafka(), &format!("{}.executions", project.name));
        records
            .iter()
            .filter_map(|record| record.header("millrace.source").map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let keep_failures = |program| {
        project.pipeline(program, "off");
        let path = format!("pipelines/{}.yaml", project.name);
        let text = std::fs::read_to_string(project.folder.path().join(&path)).expect("it was written");
        project.write(&path, &format!("results: failures\n{text}"));
    };
    keep_failures("if int!(.n) < 5 { abort }");
    project.send(0..30);
    let mut worker = project.worker();
    project.until(&mut worker, "all outputs", || event_ids(&project.output()).len() >= 25);
    project.until(&mut worker, "the dead letters", || project.list(&[]).len() >= 5);
    assert!(worker.terminate(PATIENCE), "{}", worker.log_text());
    let failed: BTreeSet<String> = results().into_iter().collect();
    assert_eq!(
        (results().len(), failed.len()),
        (5, 5),
        "one result for each dead letter, none for the others"
    );

    keep_failures(MENDED);
    assert_eq!(project.json(&["dlq", "replay", "--pipeline", &project.name, "--yes"])["replayed"], 5);
    let mut worker = project.worker();
    project.until(&mut worker, "the mended", || event_ids(&project.output()).len() >= 30);
    assert!(worker.terminate(PATIENCE), "{}", worker.log_text());
    assert_eq!(results().len(), 10, "what became of the dead letters is told, too");
}

#[test]
fn a_pipeline_stops_instead_of_draining_its_topic_and_loses_nothing() {
    let project = Project::new("dlq-alarm");
    let Project { name, millrace, .. } = &project;
    for topic in ["other.in", "other.out"] {
        project.write(&format!("topics/{name}.{topic}.yaml"), "partitions: 1\nretention: 7d\n");
    }
    let other = format!(
        "input: {{topics: [{name}.other.in]}}\nstages:\n  - emit: {{topic: {name}.other.out, key: .id}}\n"
    );
    project.write(&format!("pipelines/{name}-other.yaml"), &other);
    project.pipeline(REFUSES, "{ratio: 50%, of: 50, within: 1m}");
    millrace.run_ok(&["apply", "--yes"]);
    project.send(0..3000);
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let metrics = port.to_string();
    let words = ["worker", "--instance", "one", "--metrics", &metrics, "--session-timeout", "6s"];
    let mut worker = millrace.start("worker", &words);
    project.until(&mut worker, "the alarm", || {
        let health = millrace.run(&["health", "--metrics", &metrics]);
        code(&health) != 0 && (stdout(&health) + &stderr(&health)).contains("is stopped")
    });
    let log = worker.log_text();
    assert!(log.contains("permanent at `upsert`") && log.contains("no such contact"), "{log}");
    let letters = readback::read_all(&servers::kafka(), &project.letters_topic()).len();
    assert!(letters < 1_500, "{letters} of 3000 became dead letters");
    // Other groups go on.
    produce(&format!("{name}.other.in"), [json!({"id": "o1", "n": 1})].into_iter());
    project.until(&mut worker, "the other pipeline's event", || {
        event_ids(&format!("{name}.other.out")).len() == 1
    });
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(
        readback::read_all(&servers::kafka(), &project.letters_topic()).len(),
        letters,
        "it stays stopped"
    );
    assert!(worker.terminate(PATIENCE), "{}", worker.log_text());

    project.pipeline(MENDED, "{ratio: 50%, of: 50, within: 1m}");
    let mut worker = project.worker();
    project.until(&mut worker, "the rest", || event_ids(&project.output()).len() + letters >= 3000);
    assert!(worker.terminate(PATIENCE), "{}", worker.log_text());
    let mut ids = event_ids(&project.output());
    ids.extend(event_ids(&project.letters_topic()));
    assert_eq!(ids.len(), 3000, "none twice");
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>().len(), 3000, "none lost");
}

#[test]
fn letters_that_the_project_does_not_know_are_refused_and_stay() {
    let project = Project::new("dlq-odd");
    let (name, letters) = (project.name.as_str(), project.letters_topic());
    project.fill(3);
    // One of the time before, when letters did not say more than Kafka Connect's do; and some that came from elsewhere.
    let place = |topic: &str, partition: &str| {
        let texts =
            [("topic", topic.to_owned()), ("partition", partition.to_owned()), ("offset", "0".to_owned())];
        texts.map(|(name, text)| (format!("__connect.errors.{name}"), text))
    };
    let producer: ThreadedProducer<DefaultProducerContext> =
        ClientConfig::new().set("bootstrap.servers", servers::kafka()).create().expect("a producer");
    for (topic, partition) in [(project.input().as_str(), "1"), ("removed", "0"), (&project.input(), "17")] {
        let headers = place(topic, partition).iter().fold(OwnedHeaders::new(), |headers, (name, text)| {
            headers.insert(Header { key: name, value: Some(text) })
        });
        let record = BaseRecord::to(&letters).key("k").payload("{\"id\": \"old\"}").headers(headers);
        producer.send(record).map_err(|(error, _)| error).expect("the queue takes it");
    }
    producer.flush(PATIENCE).expect("all are acknowledged");
    assert_eq!(project.list(&[]).len(), 6);
    project.pipeline(MENDED, "off");
    let done = project.json(&["dlq", "replay", "--pipeline", name, "--yes"]);
    assert_eq!(done["replayed"], 4, "{done:#}");
    let why: BTreeSet<&str> =
        done["refused"].as_array().expect("a list").iter().filter_map(|one| one["why"].as_str()).collect();
    assert_eq!(why.len(), 2, "{done:#}");
    assert!(why.iter().any(|why| why.contains("does not read topic `removed`")), "{why:?}");
    assert!(why.iter().any(|why| why.contains("partition 17")), "{why:?}");
    assert_eq!(project.list(&[]).len(), 2, "nothing was decided about them");
    let mut worker = project.worker();
    project.until(&mut worker, "the replayed", || event_ids(&project.output()).len() == 4);
    assert!(worker.terminate(PATIENCE), "{}", worker.log_text());

    // A pipeline whose topic of replays was not made yet.
    let topics = "partitions: 3\nretention: 7d\n";
    project.write(&format!("topics/{name}.second.yaml"), topics);
    let text = format!(
        "input: {{topics: [{name}.in, {name}.second]}}\nstages:\n  - id: upsert\n    map: .m = 1\n  - emit: {{topic: {name}.out, key: .id}}\n"
    );
    project.write(&format!("pipelines/{name}.yaml"), &text);
    let open = project.list(&["--all", "--where", ".n == 1"])[0]["id"].as_str().expect("a name").to_owned();
    project.json(&["dlq", "reopen", &open, "--reason", "again", "--yes"]);
    let refused = project.millrace.run(&["dlq", "replay", &open, "--yes"]);
    assert_eq!(code(&refused), 1, "{}", stdout(&refused));
    assert!(stderr(&refused).contains("millrace apply"), "{}", stderr(&refused));
    assert_eq!(project.list(&[]).len(), 3, "it is open");
}
