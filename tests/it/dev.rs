//! `millrace dev` and `millrace quickstart` as an author meets them: nothing else runs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use chrono::Utc;
use millrace::connectors::sender::{Sender, Signing};
use millrace::secrets::Secret;
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::support::live::{self, Live, PATIENCE};
use crate::support::millrace::output;
use crate::support::{readback, servers};

const KEY: &str = "dev-key";
const KEY_SET: [(&str, &str); 1] = [("MILLRACE_TEST_SHOP_KEY", KEY)];

const PIPELINE: &str = "\
input: {topics: [events.shop], types: [\"order.*\"]}
stages:
  - id: paid
    filter: .kind == \"paid\"
  - id: shape
    map: |
      . = {\"id\": .id, \"amount\": int!(.amount)}
  - id: store
    emit: {topic: orders, key: .id}
  - id: count
    kpi: {fact: order, value: .amount, dimensions: {}}
tests:
  - name: a paid order is stored
    events: [{json: {id: a, kind: paid, amount: 5}, type: order.paid}]
    expect: {outcome: succeeded}
";

fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be written");
    // As editors do: a new file takes the old one's place.
    let beside = path.with_extension("tmp~");
    std::fs::write(&beside, text).expect("the folder can be written");
    std::fs::rename(&beside, &path).expect("the folder can be written");
}

fn shop() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |path: &str, text: &str| write(folder.path(), path, text);
    file(
        "connectors/shop.yaml",
        "source:\n  verify: {scheme: api-key, secrets: [{env: MILLRACE_TEST_SHOP_KEY}]}\n  \
         event: {id: .id, type: '\"order.\" + string!(.kind)', key: .id}\n  topic: events.shop\n",
    );
    file("topics/events.shop.yaml", "partitions: 3\nvalue: {format: json}\n");
    file("topics/orders.yaml", "partitions: 3\nvalue: {format: json}\n");
    file("pipelines/orders.yaml", PIPELINE);
    file("kpis/orders.yaml", "fact: order\naggregate: sum\nwindows: [1h]\n");
    folder
}

fn sender(started: &Value) -> Sender {
    Sender::new(started["endpoint"].as_str().expect("an address").to_owned()).expect("a client")
}

/// `millrace dev` on a database of the common server: to make a cluster takes a second of a core.
async fn dev_with_database(folder: &Path, environment: &[(&str, &str)]) -> Live {
    let database = servers::database(&servers::unique("dev")).await;
    live::dev(folder, &["--postgres", &database.url], environment)
}

/// Gives the shop's endpoint one order.
async fn post(sender: &Sender, key: &str, order: &Value) {
    let signing = Signing::Header { name: String::from("x-api-key"), secret: Secret::new(key) };
    let answer =
        sender.post("shop", &order.to_string(), &signing, Utc::now()).await.expect("the endpoint answers");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

fn order(id: &str, kind: &str) -> Value {
    json!({"id": id, "kind": kind, "amount": 5})
}

fn ended<'a>(id: &'a str, outcome: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |told| told["what"] == "ended" && told["id"] == id && told["outcome"] == outcome
}

/// The address of Postgres in `started`.
fn postgres_url(started: &Value) -> String {
    let place = started["postgres"].as_str().expect("an address");
    format!("postgres://millrace@{place}")
}

#[tokio::test]
async fn a_change_is_taken_over_and_a_bad_one_is_refused() {
    let folder = shop();
    let mut dev = dev_with_database(folder.path(), &[]).await;
    let started = dev.what("started");
    assert_eq!(started["made_up"], json!(["MILLRACE_TEST_SHOP_KEY"]));
    let example = started["examples"][0][1].as_str().expect("a command");
    let key = example.split("x-api-key: ").nth(1).and_then(|rest| rest.split('"').next()).expect("a key");
    post(&sender(&started), key, &order("a", "paid")).await;
    let accepted = dev.what("accepted");
    assert_eq!((&accepted["id"], &accepted["is_taken"]), (&"a".into(), &true.into()));
    dev.until("a is stored", ended("a", "succeeded"));
    let kpi = dev.what("kpi");
    assert_eq!((&kpi["kpi"], &kpi["value"]), (&"orders".into(), &"5".into()));
    post(&sender(&started), key, &order("b", "made")).await;
    dev.until("b is filtered", ended("b", "filtered"));

    write(folder.path(), "pipelines/orders.yaml", &PIPELINE.replace("filter:", "fliter:"));
    let mistakes = dev.what("mistakes");
    assert_eq!(mistakes["lints"][0]["code"], "unknown-stage");
    assert_eq!(mistakes["then"], "the former version goes on");
    post(&sender(&started), key, &order("c", "paid")).await;
    dev.until("c is stored", ended("c", "succeeded"));

    write(folder.path(), "pipelines/orders.yaml", &PIPELINE.replace("== \"paid\"", "!= \"made\""));
    let reloaded = dev.what("reloaded");
    assert_eq!(reloaded["is_mended"], true);
    post(&sender(&started), key, &order("d", "shipped")).await;
    dev.until("d is stored by the new version", ended("d", "succeeded"));

    write(folder.path(), "topics/events.shop.yaml", "partitions: 1\nvalue: {format: json}\n");
    let refused = dev.what("version_refused");
    let reason = refused["reason"].as_str().expect("a text");
    assert!(reason.contains("has 3 partitions") && reason.contains("start again"), "{reason}");
    write(folder.path(), "topics/events.shop.yaml", "partitions: 4\nvalue: {format: json}\n");
    let changes = dev.what("reloaded")["changes"].clone();
    let grown = |change: &Value| change["name"] == "events.shop" && change["action"] == "change";
    assert!(changes.as_array().is_some_and(|changes| changes.iter().any(grown)), "{changes}");

    write(
        folder.path(),
        "pipelines/late.yaml",
        "input: {topics: [orders]}\nstages: [{id: all, filter: true}]\n",
    );
    dev.what("reloaded");
    let late = |told: &Value| told["what"] == "ended" && told["pipeline"] == "late";
    dev.until("a new pipeline sees what is there", late);
    dev.stop();
}

#[tokio::test]
async fn reloads_lose_no_event_and_double_none() {
    let events = servers::amount(400, 200);
    let folder = shop();
    let mut dev = dev_with_database(folder.path(), &KEY_SET).await;
    let started = dev.what("started");
    let posting = {
        let sender = sender(&started);
        tokio::spawn(async move {
            for number in 0..events {
                post(&sender, KEY, &order(&format!("o{number}"), "paid")).await;
            }
        })
    };
    for round in 0..4 {
        let text = PIPELINE.replace("\"amount\": int", &format!("\"round\": {round}, \"amount\": int"));
        write(folder.path(), "pipelines/orders.yaml", &text);
        dev.what("reloaded");
        if posting.is_finished() {
            break;
        }
    }
    posting.await.expect("all are taken");
    let deadline = Instant::now() + PATIENCE;
    while dev.count("ended") < events {
        assert!(Instant::now() < deadline, "{} of {events} ended", dev.count("ended"));
        std::thread::sleep(Duration::from_millis(50));
    }
    let kafka = started["kafka"].as_str().expect("an address");
    let records = readback::read_all(kafka, "orders");
    let ids: BTreeSet<_> = records.iter().map(|record| record.key.clone()).collect();
    assert_eq!((records.len(), ids.len()), (events, events), "each order once");
    assert_eq!(readback::read_all(kafka, "millrace.executions").len(), events);
    dev.stop();
}

#[tokio::test]
async fn a_killed_millrace_leaves_no_server() {
    let folder = shop();
    let mut dev = live::dev(folder.path(), &[], &[]);
    let started = dev.what("started");
    let url = postgres_url(&started);
    let mut connection = sqlx::PgConnection::connect(&url).await.expect("Postgres answers");
    sqlx::query("select 1").execute(&mut connection).await.expect("Postgres answers");
    dev.signal(libc::SIGKILL);
    dev.ended();
    let deadline = Instant::now() + Duration::from_secs(20);
    while sqlx::PgConnection::connect(&url).await.is_ok() {
        assert!(Instant::now() < deadline, "Postgres still runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn kept_tables_stay_and_what_was_made_of_topics_does_not() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = shop();
    // The server runs as another user where the tests run as root.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).expect("it is ours");
    let state = folder.path().join("state").display().to_string();
    let count = |url: String, table: &'static str| async move {
        let mut connection = sqlx::PgConnection::connect(&url).await.expect("Postgres answers");
        let question = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        sqlx::query_scalar::<_, i64>(question).fetch_one(&mut connection).await.ok()
    };
    let mut dev = live::dev(folder.path(), &["--state", &state], &KEY_SET);
    let started = dev.what("started");
    post(&sender(&started), KEY, &order("a", "paid")).await;
    assert_eq!(dev.what("kpi")["value"], "5");
    let mut connection = sqlx::PgConnection::connect(&postgres_url(&started)).await.expect("it answers");
    sqlx::query("create table prices as select 1 as id").execute(&mut connection).await.expect("allowed");
    drop(connection);
    dev.stop();

    let mut dev = live::dev(folder.path(), &["--state", &state], &KEY_SET);
    let started = dev.what("started");
    post(&sender(&started), KEY, &order("a", "paid")).await;
    assert_eq!(dev.what("kpi")["value"], "5", "of the new topics alone");
    assert_eq!(count(postgres_url(&started), "prices").await, Some(1));
    dev.stop();

    let mut dev = live::dev(folder.path(), &["--state", &state, "--reset"], &KEY_SET);
    let started = dev.what("started");
    assert_eq!(count(postgres_url(&started), "prices").await, None, "all is forgotten");
    dev.stop();
}

/// Runs `dev` to its end.
fn refused(folder: &Path, words: &[&str]) -> (i32, String) {
    let folder = folder.display().to_string();
    let words: Vec<&str> = ["dev", "--project", &folder].into_iter().chain(words.iter().copied()).collect();
    let Output { status, stderr, .. } = output(&mut live::command(&words)).expect("the binary starts");
    (status.code().expect("it ended by itself"), String::from_utf8_lossy(&stderr).into_owned())
}

#[tokio::test]
async fn what_stands_in_the_way_is_said_before_anything_starts() {
    let empty = tempfile::tempdir().expect("a temporary folder");
    let (code, text) = refused(empty.path(), &[]);
    assert!(code == 3 && text.contains("holds no project"), "{code}: {text}");

    let folder = shop();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let (code, text) = refused(folder.path(), &["--listen", &address]);
    assert!(code == 1 && text.contains(&address) && text.contains("--listen"), "{code}: {text}");
    let (code, text) = refused(folder.path(), &["--reset", "--kafka", "127.0.0.1:1"]);
    assert!(code == 2 && text.contains("never"), "{code}: {text}");

    let mut broken = PIPELINE.to_owned();
    broken.push_str("nonsense: true\n");
    write(folder.path(), "pipelines/orders.yaml", &broken);
    let mut dev = dev_with_database(folder.path(), &[]).await;
    let then = dev.what("mistakes")["then"].clone();
    assert!(then.as_str().is_some_and(|then| then.contains("nothing is started yet")), "{then}");
    write(folder.path(), "pipelines/orders.yaml", PIPELINE);
    dev.what("started");
    dev.stop();
}

#[tokio::test]
async fn a_database_that_follows_another_kafka_is_not_touched_unless_it_is_asked_for() {
    let folder = shop();
    let database = servers::database(&servers::unique("dev_other")).await;
    let mut dev = live::dev(folder.path(), &["--postgres", &database.url], &[]);
    dev.what("started");
    dev.stop();
    let words = ["--postgres", &database.url, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    let (code, text) = refused(folder.path(), &words);
    assert!(code == 3 && text.contains("another Kafka") && text.contains("--reset"), "{code}: {text}");
    let positions = "select count(*) from projector_positions";
    let count: i64 = sqlx::query_scalar(positions).fetch_one(&database.pool).await.expect("an answer");
    assert!(count > 0, "nothing was touched");
    let mut dev = live::dev(folder.path(), &["--postgres", &database.url, "--reset"], &[]);
    dev.what("started");
    dev.stop();
}

/// Nothing else on the machine: no Java, no PATH, no servers.
#[tokio::test]
async fn the_quickstart_needs_nothing_that_runs() {
    let nothing = tempfile::tempdir().expect("a temporary folder");
    let words = ["quickstart", "--once", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    let mut command = live::command(&[&words[..], &["--output", "json"]].concat());
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("PATH", nothing.path());
    let mut quickstart = Live::start(command);
    let status = quickstart.ended();
    assert!(status.success(), "{status}\n{}", quickstart.all());
    let verdict = quickstart.what("verdict");
    assert_eq!((&verdict["all_arrived"], &verdict["missing"]), (&true.into(), &json!([])));
    // Five seconds on a machine with nothing else to do; here others run beside it.
    let patience = PATIENCE.as_secs_f64();
    assert!(verdict["seconds"].as_f64().is_some_and(|seconds| seconds < patience), "{verdict}");
}
