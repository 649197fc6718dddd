//! Records nobody expects, transactions of others, and logs that have lost their begin.

use std::time::{Duration, Instant};

use millrace::failpoint::Rule;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use super::{CASE, Case, Mutation};
use crate::events::Maker;
use crate::ground::Ground;
use crate::observe;
use crate::project::Workload;

const PATIENCE: Duration = Duration::from_secs(90);

pub const POISON: Case = Case {
    number: 20,
    name: "poison",
    what: "bytes that are no JSON, cut-off JSON, no value, empty values and records of nearly 1 MB among the events",
    play: |ground| {
        let large_good = format!(
            r#"{{"key":"large","seq":0,"amount":1,"at":1795132800,"shop":"shop-0","kind":"good","note":"{}"}}"#,
            "x".repeat(980_000)
        );
        let mut large_poison = vec![0xff; 980_000];
        large_poison[0] = b'{';
        let odd: [Option<&[u8]>; 7] = [
            Some(b"\xff\xfe\x00"),
            Some(br#"{"key":"cut","seq":"#),
            Some(b"[1,2,3]"),
            Some(b""),
            None,
            Some(large_good.as_bytes()),
            Some(&large_poison),
        ];
        let rounds = ground.rounds(4);
        for _ in 0..rounds {
            for (number, value) in odd.into_iter().enumerate() {
                // The large good one has a key of its own: its number stays the same.
                ground.generator.send_one(&format!("odd-{number}"), value)?;
            }
            ground.backlog(rounds)?;
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::DeadLetterBytes], on: Workload::Copy }],
    ..CASE
};

fn transactional(ground: &Ground<'_>) -> anyhow::Result<BaseProducer> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &ground.cluster.kafka)
        .set("transactional.id", format!("{}.writer", ground.names.word))
        .set("partitioner", "murmur2_random")
        .create()?;
    producer.init_transactions(PATIENCE)?;
    Ok(producer)
}

pub const ABORTED_INPUT: Case = Case {
    number: 23,
    name: "aborted-input",
    what: "the events come in transactions, and every second one is aborted: gaps in the log, and events that are none",
    play: |ground| {
        let producer = transactional(ground)?;
        let topic = ground.names.input();
        let mut maker = Maker::new(ground.workload, 77).with_keys("txn");
        let rounds = ground.rounds(6);
        for _ in 0..rounds {
            for number in 0..4 {
                producer.begin_transaction()?;
                for _ in 0..50 {
                    let (key, value) = maker.event();
                    let record: BaseRecord<'_, str, [u8]> =
                        BaseRecord::to(&topic).key(key.as_str()).payload(value.as_slice());
                    producer.send(record).map_err(|(error, _)| error)?;
                }
                if number % 2 == 0 {
                    producer.flush(PATIENCE)?;
                    producer.abort_transaction(PATIENCE)?;
                } else {
                    producer.commit_transaction(PATIENCE)?;
                }
            }
            ground.backlog(rounds)?;
        }
        Ok(())
    },
    mutations: &[Mutation { off: &[Rule::ReadsCommitted], on: Workload::Copy }],
    ..CASE
};

/// Deletes everything that partition 0 of the input holds; returns its new begin.
fn delete_partition_0(ground: &Ground<'_>) -> anyhow::Result<i64> {
    let topic = ground.names.input();
    let (_, end) = observe::ends(&ground.cluster.kafka, &topic)?[&(topic.clone(), 0)];
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &ground.cluster.kafka).create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, Offset::Offset(end))?;
    ground.runtime.block_on(admin.delete_records(&list, &AdminOptions::new()))?;
    Ok(end)
}

pub const DELETED: Case = Case {
    number: 24,
    name: "deleted-input",
    what: "retention deletes events that were not read yet: the group stops and says so, and goes on when it is told where",
    play: |ground| {
        ground.backlog(3)?;
        ground.wait(Duration::from_secs(3));
        ground.fleet.freeze("worker");
        ground.generator.send(ground.events / 3)?;
        ground.generator.settle()?;
        let begin = delete_partition_0(ground)?;
        ground.terms.deleted_below.insert(0, begin);
        // Sessions end meanwhile; who comes next finds its position gone.
        ground.fleet.thaw();
        ground.until("a worker stops and says what is gone", PATIENCE, |ground| {
            let said = |log| crate::fleet::tail(log, 50).contains("the records between are gone");
            ground.fleet.exits.iter().any(|exit| said(&exit.log))
        })?;
        for name in ground.fleet.names("worker") {
            ground.fleet.get(&name).kill();
        }
        reset_partition_0(ground, begin)?;
        ground.terms.exits_max = ground.fleet.exits.len();
        for name in ground.fleet.names("worker") {
            ground.fleet.get(&name).start();
        }
        ground.backlog(3)
    },
    mutations: &[Mutation { off: &[Rule::StopsAtLoss], on: Workload::Copy }],
    ..CASE
};

/// What an operator does then; it works when the group's sessions are over.
fn reset_partition_0(ground: &mut Ground<'_>, begin: i64) -> anyhow::Result<()> {
    let consumer = observe::consumer(&ground.cluster.kafka, &ground.names.group(), "read_committed")?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&ground.names.input(), 0, Offset::Offset(begin))?;
    ground.until("the offsets can be reset", PATIENCE, |_| consumer.commit(&list, CommitMode::Sync).is_ok())
}

/// A rebuild takes no longer, on a slow machine too.
const REBUILD_PATIENCE: Duration = Duration::from_secs(60);

/// Rebuilds the KPI while events go on coming in. With `kill`, it is killed so long after it was begun. One that ends
/// must find what the projector has folded.
fn rebuild(ground: &mut Ground<'_>, name: &str, kill: Option<Duration>) -> anyhow::Result<()> {
    let words = ["kpi", "rebuild", "revenue", "--yes", "--output", "json"];
    let mut running = ground.millrace.start(name, &words);
    let begun = Instant::now();
    while running.ended().is_none() {
        if kill.is_some_and(|kill| begun.elapsed() >= kill) {
            running.kill();
            return Ok(());
        }
        ground.demand(begun.elapsed() < REBUILD_PATIENCE, || format!("{name} does not end"))?;
        ground.generator.send(5)?;
        ground.wait(Duration::from_millis(20));
    }
    let log = running.log_text();
    let json = log.find("{\n").map(|at| serde_json::Deserializer::from_str(&log[at..]).into_iter::<Value>());
    let report = json.and_then(|mut values| values.next()).and_then(Result::ok).unwrap_or_default();
    ground.demand(report["swapped"] == true, || format!("{name} did not take place: {log}"))?;
    let kpi = &report["kpis"][0];
    let is_same = ["rows_changed", "rows_gone", "rows_new"].iter().all(|rows| kpi[rows] == 0);
    ground.demand(is_same, || format!("{name} found other rows than the projector's: {kpi}"))?;
    ground.notes.push(format!("{name}: {} facts, {} rows", report["facts"], kpi["rows_same"]));
    Ok(())
}

pub const REBUILD: Case = Case {
    number: 25,
    name: "kpi-rebuild",
    what: "a KPI is rebuilt again and again while its facts come in; some rebuilds are killed, and a projector with one",
    workloads: &[Workload::Kpi],
    play: |ground| {
        let rounds = ground.rounds(6);
        for round in 0..rounds {
            ground.backlog(rounds)?;
            let kill = ground.between_ms(100, 2_000);
            rebuild(ground, &format!("killed-{round}"), Some(kill))?;
            if round % 2 == 1 {
                ground.fleet.get("project-0").kill();
            }
            rebuild(ground, &format!("rebuild-{round}"), None)?;
            if round % 2 == 1 {
                ground.fleet.get("project-0").start();
            }
        }
        // What the last swap may have hurt, a further one would find.
        rebuild(ground, "rebuild-last", None)
    },
    mutations: &[Mutation { off: &[Rule::SwapHoldsProjector], on: Workload::Kpi }],
    ..CASE
};
