//! What an operator types, against real servers: from an empty cluster to dead letters that are replayed.

use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::millrace::{self, Running};
use crate::support::scenario::Scenario;
use crate::support::{events, readback, servers};

const PATIENCE: Duration = Duration::from_secs(90);
const SECRET: &str = "whsec_cli";

impl Scenario {
    fn json(&self, words: &[&str]) -> Value {
        let words: Vec<&str> = words.iter().copied().chain(["--output", "json"]).collect();
        let text = self.millrace.run_ok(&words);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}\n{text}"))
    }

    fn write(&self, path: &str, text: &str) {
        std::fs::write(self.folder.path().join(path), text).expect("the folder can be written");
    }

    /// Asks with `words` until `is_there`.
    fn until(&self, words: &[&str], roles: &mut [&mut Running], is_there: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.json(words);
            if is_there(&answer) {
                return answer;
            }
            roles.iter_mut().for_each(|role| role.assert_alive());
            assert!(Instant::now() < deadline, "{words:?}: {answer:#}");
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn role(&self, words: &[&str]) -> Running {
        let words: Vec<&str> =
            words.iter().copied().chain(["--metrics", "127.0.0.1:0", "--session-timeout", "6s"]).collect();
        self.millrace.start(words[0], &words)
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn actions(report: &Value) -> Vec<(String, String)> {
    let text = |change: &Value, field: &str| change[field].as_str().expect("a text").to_owned();
    let changes = report["changes"].as_array().expect("a list");
    changes.iter().map(|change| (text(change, "what"), text(change, "action"))).collect()
}

#[tokio::test]
async fn apply_brings_servers_to_what_the_project_says() {
    let scenario = Scenario::new("cli-apply", SECRET).await;
    let Scenario { name, millrace, .. } = &scenario;
    let plan = stdout(&millrace.run(&["plan"]));
    for wanted in [&format!("{name}.payments"), &format!("{name}.dlq"), "payments", "kpi_revenue_1h"] {
        assert!(plan.contains(wanted), "{wanted} is planned:\n{plan}");
    }
    let sick = millrace.run(&["doctor"]);
    assert_eq!(code(&sick), 1, "{}", stdout(&sick));
    assert!(stdout(&sick).contains("run `millrace apply`"), "{}", stdout(&sick));

    let unasked = millrace.run(&["apply"]);
    assert_eq!(code(&unasked), 2, "there is nobody to ask");
    assert!(stderr(&unasked).contains("--yes"), "{}", stderr(&unasked));
    millrace.run_ok(&["apply", "--yes"]);
    assert!(millrace.run_ok(&["plan"]).contains("nothing to change"));
    assert_eq!(scenario.json(&["apply", "--yes"])["applied"], false, "twice changes nothing");
    let well = millrace.run_ok(&["doctor"]);
    assert!(!well.contains("FAIL") && well.contains("topics are as the project says"), "{well}");

    let topic = format!("topics/{name}.events.yaml");
    scenario.write(&topic, "partitions: 14\nretention: 8d\nvalue: {format: json}\n");
    let changes = actions(&scenario.json(&["plan"]));
    let change = |what: &str| (what.to_owned(), "change".to_owned());
    // The dead letters and the topic of their replays get as many partitions as the input.
    assert_eq!(changes, vec![change("topic"); 4], "two of the input, one each of dlq and replay");
    millrace.run_ok(&["apply", "--yes"]);
    assert!(millrace.run_ok(&["plan"]).contains("nothing to change"));

    scenario.write(&topic, "partitions: 3\nretention: 8d\nvalue: {format: json}\n");
    let refused = millrace.run(&["apply", "--yes"]);
    assert_eq!(code(&refused), 3, "{}", stdout(&refused));
    assert!(stdout(&refused).contains("write `partitions: 14`"), "{}", stdout(&refused));
}

#[tokio::test]
async fn servers_that_are_not_there_are_named() {
    let scenario = Scenario::new("cli-away", SECRET).await;
    let closed = |flag: &str, address: &str| {
        let mut plan = std::process::Command::new(env!("CARGO_BIN_EXE_millrace"));
        plan.args(["plan", "--project"]).arg(scenario.folder.path()).args([flag, address]).env_clear();
        let output = millrace::output(&mut plan).expect("the binary starts");
        (code(&output), stderr(&output))
    };
    for (flag, address) in [
        ("--kafka", "127.0.0.1:1"),
        ("--registry", "http://127.0.0.1:1"),
        ("--postgres", "postgres://ada:hunter2@127.0.0.1:1/shop"),
    ] {
        let (code, text) = closed(flag, address);
        assert_eq!(code, 4, "{text}");
        assert!(text.contains(flag) && text.contains("127.0.0.1:1") && !text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn dead_letters_are_listed_shown_and_replayed_at_most_three_times() {
    let scenario = Scenario::new("cli-dlq", SECRET).await;
    let Scenario { name, millrace, .. } = &scenario;
    millrace.run_ok(&["apply", "--yes"]);
    let topic = format!("{name}.events");
    let unknown = millrace.run(&["send", &format!("{name}.event"), "--json", "1"]);
    assert_eq!(code(&unknown), 2);
    assert!(stderr(&unknown).contains(&format!("did you mean `{topic}`?")), "{}", stderr(&unknown));

    let mut worker = scenario.role(&["worker", "--instance", "cli"]);
    let mut projector = scenario.role(&["project"]);
    let good = events::generate(3, 1, 1).remove(0).body().replace("\"livemode\":false", "\"livemode\":true");
    let kind = ["--type", "payment_intent.succeeded"];
    let sent = scenario.json(&["send", &topic, "--key", "cus_1", "--json", &good, kind[0], kind[1]]);
    assert_eq!(sent["topic"], topic.as_str());
    let bad = r#"{"livemode":true,"data":{"object":{"id":"pi_bad","amount":"a lot"}}}"#;
    scenario.json(&["send", &topic, "--key", "cus_2", "--json", bad, kind[0], kind[1], "--id", "evt_bad"]);

    let pipeline = ["dlq", "list", "--pipeline", name];
    let is_one = |list: &Value| list.as_array().is_some_and(|list| list.len() == 1);
    let list = scenario.until(&pipeline, &mut [&mut worker, &mut projector], is_one);
    let letter = &list[0];
    assert_eq!(
        (&letter["key"], &letter["event_id"], &letter["replays"]),
        (&"cus_2".into(), &"evt_bad".into(), &0.into())
    );
    assert_eq!(letter["stage"], "payment");
    let id = letter["id"].as_str().expect("a name").to_owned();
    let shown = scenario.json(&["dlq", "show", &id]);
    assert_eq!(shown["value"]["data"]["object"]["id"], "pi_bad");
    assert_eq!(shown["headers"]["ce_id"], "evt_bad");
    assert!(millrace.run_ok(&["dlq", "show", &id]).contains("__connect.errors.topic"));
    assert_eq!(
        scenario.json(&["dlq", "list", "--pipeline", name, "--key", "nobody"]),
        Value::Array(Vec::new())
    );

    let dry = scenario.json(&["dlq", "replay", "--pipeline", name, "--dry-run"]);
    assert_eq!((&dry["replayed"], &dry["dry_run"]), (&0.into(), &true.into()));
    assert_eq!(
        code(&millrace.run(&["dlq", "replay", "--pipeline", name, "--force"])),
        2,
        "there is nobody to ask"
    );
    let unchanged = scenario.json(&["dlq", "replay", "--pipeline", name, "--yes"]);
    assert_eq!(unchanged["replayed"], 0, "a bug, and the pipeline is as it was: {unchanged:#}");
    assert!(
        unchanged["refused"][0]["why"].as_str().is_some_and(|why| why.contains("--force")),
        "{unchanged:#}"
    );
    for round in 1..=3 {
        let open = scenario.json(&pipeline);
        assert_eq!(open.as_array().map(Vec::len), Some(1), "those before were replayed: {open:#}");
        let newest = open[0]["id"].as_str().expect("a name").to_owned();
        let replayed = scenario.json(&["dlq", "replay", &newest, "--force", "--yes"]);
        assert_eq!(replayed["replayed"], 1, "{replayed:#}");
        // The worker cannot work on it this time either.
        let has = move |list: &Value| list[0]["replays"] == round;
        scenario.until(&pipeline, &mut [&mut worker, &mut projector], has);
    }
    let every = scenario.json(&["dlq", "list", "--pipeline", name, "--all"]);
    assert_eq!(every.as_array().map(Vec::len), Some(4), "{every:#}");
    let newest = scenario.json(&pipeline)[0]["id"].as_str().expect("a name").to_owned();
    let refused = scenario.json(&["dlq", "replay", &newest, "--force", "--yes"]);
    assert_eq!(refused["replayed"], 0);
    assert!(refused["refused"][0]["why"].as_str().is_some_and(|why| why.contains("3 times")), "{refused:#}");
    assert_replayed_as_it_was(&topic, &format!("{name}.replay"));

    let balanced = |ledger: &Value| ledger[0]["in_flight"] == 0 && ledger[0]["balance"]["is"] == "balanced";
    let ledger = scenario.until(&["ledger"], &mut [&mut worker, &mut projector], balanced);
    let row = &ledger[0];
    assert_eq!(
        (&row["ingested"], &row["succeeded"], &row["dead_lettered"]),
        (&2.into(), &1.into(), &1.into()),
        "a replay is another run of the same record"
    );
    let lag = scenario.json(&["lag", "--group", &format!("{name}.{name}")]);
    assert_eq!(
        lag.as_array().map(Vec::len),
        Some(24),
        "one row a partition of the input, and of its replays"
    );
    let behind = |of: &str| -> i64 {
        let rows = lag.as_array().into_iter().flatten().filter(|row| row["topic"] == of);
        rows.filter_map(|row| row["lag"].as_i64()).sum()
    };
    assert_eq!(behind(&topic), 0, "{lag:#}");
    assert!(behind(&format!("{name}.replay")) <= 1, "no more than the mark of the last transaction: {lag:#}");
    let payments = millrace.run_ok(&["tail", &format!("{name}.payments"), "--to-end"]);
    assert!(payments.contains("\"payment_id\""), "Avro is shown as JSON: {payments}");
    assert_eq!(payments.lines().count(), 1);
    assert!(worker.terminate(PATIENCE) && projector.terminate(PATIENCE));
}

/// The event is once in the input topic, and its three replays come back: same key, value and headers, its place, and the
/// count behind them.
fn assert_replayed_as_it_was(topic: &str, replays: &str) {
    let mut records = readback::read_all(&servers::kafka(), topic);
    records.retain(|record| record.header("ce_id") == Some("evt_bad"));
    assert_eq!(records.len(), 1);
    let first = &records[0];
    let replayed = readback::read_all(&servers::kafka(), replays);
    let counts: Vec<Option<&str>> =
        replayed.iter().map(|record| record.header("millrace.dlq.replay-count")).collect();
    assert_eq!(counts, [Some("1"), Some("2"), Some("3")]);
    let place = format!("{topic}/{}/{}", first.partition, first.offset);
    for replayed in &replayed {
        assert_eq!((&replayed.key, &replayed.value), (&first.key, &first.value));
        assert_eq!(replayed.headers[..first.headers.len()], first.headers[..], "byte for byte");
        assert_eq!(replayed.header("millrace.origin"), Some(place.as_str()));
        let added = &replayed.headers[first.headers.len()..];
        let errors = added.iter().filter(|(name, _)| name.starts_with("__connect.errors."));
        assert_eq!(errors.count(), 0, "nothing else of the dead letter is left");
    }
}
