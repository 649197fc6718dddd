//! Records that wait for a destination in retry tiers: nothing lost, nothing twice, in key order, whoever dies.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support::millrace::{Addresses, Millrace, Running};
use crate::support::readback::{self, Back};
use crate::support::servers;

const PATIENCE: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 3;

/// A call that a destination got.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Call {
    path: String,
    key: String,
    seq: u64,
    idempotency_key: String,
    is_taken: bool,
}

/// A destination that refuses some keys, or all, as long as it is told to.
#[derive(Clone)]
struct Crm {
    port: u16,
    state: Arc<Mutex<Health>>,
}

#[derive(Default)]
struct Health {
    sick: BTreeSet<String>,
    is_down: bool,
    calls: Vec<Call>,
}

impl Crm {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let crm = Self { port, state: Arc::default() };
        let state = Arc::clone(&crm.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        crm
    }

    fn sick(&self, keys: &[&str]) {
        self.state.lock().expect("whole").sick = keys.iter().map(|key| (*key).to_owned()).collect();
    }

    fn down(&self, is_down: bool) {
        self.state.lock().expect("whole").is_down = is_down;
    }

    fn calls(&self, path: &str) -> Vec<Call> {
        let state = self.state.lock().expect("whole");
        state.calls.iter().filter(|call| call.path == path).cloned().collect()
    }
}

/// Answers requests of one connection. `/charges` may be refused, everything else is taken.
fn serve(stream: TcpStream, state: &Mutex<Health>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut length, mut idempotency_key) = (0, String::new());
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) == 0 {
                return;
            }
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().expect("a length"),
                "idempotency-key" => idempotency_key = value.to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let key = body["key"].as_str().expect("a key").to_owned();
        let seq = body["seq"].as_u64().expect("a number");
        let is_taken = {
            let mut state = state.lock().expect("whole");
            let is_taken = path != "/charges" || !(state.is_down || state.sick.contains(&key));
            state.calls.push(Call { path, key, seq, idempotency_key, is_taken });
            is_taken
        };
        let (status, text) = if is_taken { ("200 OK", r#"{"id":1}"#) } else { ("500 Error", "{}") };
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

struct Scenario {
    name: String,
    millrace: Millrace,
    crm: Crm,
    folder: tempfile::TempDir,
}

impl Scenario {
    fn new(prefix: &str, policy: &str) -> Self {
        let name = servers::unique(prefix);
        let crm = Crm::start();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |path: &str, text: String| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        for topic in ["in", "out"] {
            file(
                &format!("topics/{name}.{topic}.yaml"),
                format!("partitions: {PARTITIONS}\nvalue: {{format: json}}\n"),
            );
        }
        let target = format!(
            "target:\n  base_url: http://127.0.0.1:{}\n  breaker: {{failures: 1000, cooldown: 1s}}\n  calls:\n    \
             note: {{method: POST, path: /notes}}\n    charge: {{method: POST, path: /charges}}\n",
            crm.port
        );
        file("connectors/crm.yaml", target);
        let pipeline = format!(
            "input: {{topics: [{name}.in]}}\nordering: key\nstages:\n  \
             - http: {{connector: crm, call: note, body: .}}\n  - id: charge\n    \
             http: {{connector: crm, call: charge, body: .}}\n  - emit: {{topic: {name}.out, key: .key}}\n\
             on_error: {policy}\n"
        );
        file(&format!("pipelines/{name}.yaml"), pipeline);
        let addresses = Addresses { kafka: servers::kafka(), registry: None, postgres: None };
        let millrace = Millrace::new(folder.path(), &name, &addresses);
        millrace.run_ok(&["apply", "--yes"]);
        Self { name, millrace, crm, folder }
    }

    /// A second pipeline takes the same input, and calls nobody.
    fn also_read_by_another(&self) {
        let Self { name, folder, .. } = self;
        let pipeline = format!(
            "input: {{topics: [{name}.in]}}\nstages:\n  - emit: {{topic: {name}.other, key: .key}}\n"
        );
        for (path, text) in [
            (
                format!("topics/{name}.other.yaml"),
                format!("partitions: {PARTITIONS}\nvalue: {{format: json}}\n"),
            ),
            (format!("pipelines/{name}-other.yaml"), pipeline),
        ] {
            std::fs::write(folder.path().join(path), text).expect("a file");
        }
        self.millrace.run_ok(&["apply", "--yes"]);
    }

    fn worker(&self, instance: &str) -> Running {
        self.millrace.start(
            &format!("worker-{instance}"),
            &["worker", "--instance", instance, "--metrics", "127.0.0.1:0", "--session-timeout", "6s"],
        )
    }

    /// Sends numbers `from..to` of each key in turn.
    fn send(&self, keys: &[&str], numbers: std::ops::Range<u64>) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", servers::kafka())
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .create()
            .expect("a producer");
        let topic = format!("{}.in", self.name);
        for seq in numbers {
            for key in keys {
                let body = format!(r#"{{"key":"{key}","seq":{seq}}}"#);
                producer.send(BaseRecord::to(&topic).key(*key).payload(&body)).expect("taken");
            }
            producer.poll(Duration::ZERO);
        }
        producer.flush(Duration::from_secs(20)).expect("acknowledged");
    }

    fn read(&self, topic: &str) -> Vec<Back> {
        readback::read_all(&servers::kafka(), &format!("{}.{topic}", self.name))
    }

    /// Numbers that came out, by key, in the order of the topic.
    fn out(&self) -> BTreeMap<String, Vec<u64>> {
        let mut out: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for record in self.read("out") {
            let value: serde_json::Value =
                serde_json::from_slice(record.value.as_deref().expect("a value")).expect("JSON");
            let key = value["key"].as_str().expect("a key").to_owned();
            out.entry(key).or_default().push(value["seq"].as_u64().expect("a number"));
        }
        out
    }

    /// Waits until so many records came out.
    async fn until_out(&self, wanted: usize, roles: &mut [&mut Running]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let count: usize = self.out().values().map(Vec::len).sum();
            if count >= wanted {
                return;
            }
            roles.iter_mut().for_each(|role| role.assert_alive());
            let logs: Vec<String> = roles.iter().map(|role| role.log_text()).collect();
            assert!(Instant::now() < deadline, "{count} of {wanted} came out\n{}", logs.join("\n---\n"));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Every number of every key once and in order, and one result for each.
    fn assert_all(&self, keys: &[&str], count: u64) {
        let out = self.out();
        for key in keys {
            let numbers: Vec<u64> = (0..count).collect();
            assert_eq!(out.get(*key), Some(&numbers), "{key}: once and in order");
        }
        let wanted = keys.len() * usize::try_from(count).expect("small");
        assert_eq!(self.read("executions").len(), wanted, "one result each");
        assert_eq!(readback::read_all(&servers::kafka(), &format!("{}.dlq", self.name)).len(), 0);
        // Where a rebalance aborts a transaction, its calls are made again, with the same idempotency keys.
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for call in self.crm.calls("/charges").into_iter().filter(|call| call.is_taken) {
            if seen.insert(call.idempotency_key.clone()) {
                let before = last.insert(call.key.clone(), call.seq);
                assert!(before.is_none_or(|before| before < call.seq), "{call:?} after {before:?}");
            }
        }
    }
}

const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const SICK: [&str; 3] = ["b", "e", "h"];
/// Long enough in all for what the scenarios do meanwhile.
const TIERS: &str = "{retry: {attempts: 1}, tiers: [1s, 2s, 4s, 30s], then: dead_letter}";

#[tokio::test(flavor = "multi_thread")]
async fn parked_keys_keep_their_order_while_others_go_on() {
    let scenario = Scenario::new("park", TIERS);
    scenario.crm.sick(&SICK);
    let mut worker = scenario.worker("a");
    scenario.send(&KEYS, 0..40);
    let well = KEYS.len() - SICK.len();
    scenario.until_out(well * 40, &mut [&mut worker]).await;
    let out = scenario.out();
    assert!(SICK.iter().all(|key| !out.contains_key(*key)), "{out:?}");
    scenario.send(&KEYS, 40..60);
    scenario.crm.sick(&[]);
    scenario.until_out(KEYS.len() * 60, &mut [&mut worker]).await;
    scenario.assert_all(&KEYS, 60);
    let notes = scenario.crm.calls("/notes");
    assert_eq!(notes.len(), KEYS.len() * 60, "what was answered is not asked for again");
    assert!(worker.terminate(Duration::from_secs(30)), "{}", worker.log_text());
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_records_outlive_their_worker_and_move_with_their_partition() {
    let scenario = Scenario::new("parkkill", TIERS);
    scenario.crm.sick(&SICK);
    let mut first = scenario.worker("a");
    scenario.send(&KEYS, 0..30);
    let well = KEYS.len() - SICK.len();
    scenario.until_out(well * 30, &mut [&mut first]).await;
    // A second one takes some partitions, with what waits in them.
    let mut second = scenario.worker("b");
    scenario.send(&KEYS, 30..40);
    scenario.until_out(well * 40, &mut [&mut first, &mut second]).await;
    first.kill();
    scenario.send(&KEYS, 40..50);
    scenario.crm.sick(&[]);
    let mut third = scenario.worker("c");
    scenario.until_out(KEYS.len() * 50, &mut [&mut second, &mut third]).await;
    scenario.assert_all(&KEYS, 50);
    assert!(second.terminate(Duration::from_secs(30)), "{}", second.log_text());
    assert!(third.terminate(Duration::from_secs(30)), "{}", third.log_text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_was_down_gets_everything_once_it_is_up() {
    let scenario = Scenario::new("parkdown", TIERS);
    scenario.crm.down(true);
    let mut worker = scenario.worker("a");
    scenario.send(&KEYS, 0..50);
    let deadline = Instant::now() + PATIENCE;
    while scenario.crm.calls("/charges").len() < KEYS.len() * 2 {
        assert!(Instant::now() < deadline, "{}", worker.log_text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    scenario.crm.down(false);
    scenario.until_out(KEYS.len() * 50, &mut [&mut worker]).await;
    scenario.assert_all(&KEYS, 50);
    assert!(worker.terminate(Duration::from_secs(30)), "{}", worker.log_text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_tier_mends_is_a_dead_letter_that_can_come_back() {
    let scenario =
        Scenario::new("parkdead", "{retry: {attempts: 2, backoff: 10ms}, tiers: [1s], then: dead_letter}");
    scenario.crm.sick(&["b"]);
    scenario.also_read_by_another();
    let mut worker = scenario.worker("a");
    scenario.send(&["a", "b"], 0..2);
    let dlq = format!("{}.dlq", scenario.name);
    let deadline = Instant::now() + PATIENCE;
    let letters = loop {
        let letters = readback::read_all(&servers::kafka(), &dlq);
        if letters.len() == 2 {
            break letters;
        }
        worker.assert_alive();
        assert!(Instant::now() < deadline, "{} dead letters\n{}", letters.len(), worker.log_text());
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let input = format!("{}.in", scenario.name);
    for letter in &letters {
        assert_eq!(letter.header("__connect.errors.topic"), Some(input.as_str()));
        // The second one followed the first into the last tier, and was tried there only.
        let attempts = if letter.value.as_deref() == Some(br#"{"key":"b","seq":0}"#) { "4" } else { "2" };
        assert_eq!(letter.header("millrace.dlq.attempts"), Some(attempts));
        assert_eq!(letter.header("millrace.dlq.stage"), Some("charge"));
    }
    assert_eq!(scenario.crm.calls("/notes").len(), 4);
    scenario.crm.sick(&[]);
    let name = |letter: &Back| format!("{}/{}/{}", scenario.name, letter.partition, letter.offset);
    let replay = |letter: &Back, from: &str| {
        let words = ["dlq", "replay", &name(letter), "--from", from, "--yes", "--output", "json"];
        let done = scenario.millrace.run_ok(&words);
        assert!(done.contains(r#""replayed": 1"#), "{done}");
    };
    replay(&letters[0], "failed-stage");
    scenario.until_out(3, &mut [&mut worker]).await;
    assert_eq!(scenario.crm.calls("/notes").len(), 4, "what was answered is not asked for again");
    replay(&letters[1], "start");
    scenario.until_out(4, &mut [&mut worker]).await;
    assert_eq!(scenario.crm.calls("/notes").len(), 5, "every call is made again");
    for (path, count) in [("/notes", 4), ("/charges", 4)] {
        let calls = scenario.crm.calls(path);
        let keys: BTreeSet<&str> = calls.iter().map(|call| call.idempotency_key.as_str()).collect();
        assert_eq!(keys.len(), count, "every call carries the key of the first attempt: {calls:?}");
    }
    assert_eq!(scenario.read("other").len(), 4, "another pipeline of this input does not get them again");
    assert_eq!(scenario.read("in").len(), 4, "nothing is written to the input");
    let results = scenario.read("executions");
    assert_eq!(results.len(), 4 + 2 + 4, "one of each run");
    for letter in &letters {
        let source = letter.header("millrace.source");
        let count = results.iter().filter(|result| result.header("millrace.source") == source).count();
        assert_eq!(count, 3, "of the other pipeline, the dead letter, and its replay");
    }
    assert!(worker.terminate(Duration::from_secs(30)), "{}", worker.log_text());
}
