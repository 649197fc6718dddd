//! Single parts of the engine in memory, by Criterion, so that a regression shows where it is: the verdict on an event
//! by kind of program, the records made of it, the bookkeeping of offsets, JSON, Avro, a webhook's signature.
//!
//! `scripts/bench parts`, or `scripts/bench parts verdict` for some; `--save-baseline` and `--baseline` compare builds.

#[expect(dead_code, reason = "the other benchmark reads events back")]
#[path = "../system/events.rs"]
mod events;
mod project;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use millrace::connectors::request::Unverified;
use millrace::connectors::scripted::Script;
use millrace::connectors::signature::{Algorithm, MacKey};
use millrace::connectors::stripe;
use millrace::engine::comeback::Past;
use millrace::engine::completed::Completed;
use millrace::engine::outbox::{Outbox, Sizes};
use millrace::engine::run;
use millrace::engine::tracker::Tracker;
use millrace::engine::verdict::Verdict;
use millrace::expr::values;
use millrace::kafka::settings::{Connection, ProducerSettings};
use millrace::ledger::{ExecutionResult, Namespace, Outcome};
use millrace::plan::pipeline::Pipeline;
use millrace::position::{Epoch, NextOffset};
use millrace::record::{Header, InRecord};
use millrace::schema::codec::Codec;
use millrace::secrets::Secret;
use millrace::stages::scripted_rows::RowScript;
use millrace::stages::services::Services;

/// Records of one turn of the tracker.
const RECORDS: i64 = 1_000;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_132_800, 0).unwrap_or_default()
}

/// An event as the worker reads it; number 1 is live.
fn record() -> InRecord {
    let (mut key, mut value) = (Vec::new(), Vec::new());
    events::write(1, 0, &mut key, &mut value);
    InRecord {
        topic: "in".into(),
        partition: 3,
        offset: 42,
        timestamp_ms: Some(1_795_132_800_000),
        key: Some(Bytes::from(key)),
        value: Some(Bytes::from(value)),
        headers: vec![
            Header::of("ce_id", events::id(1)),
            Header::of("ce_source", "stripe"),
            Header::of("ce_type", events::Shape::default().kind(1)),
            Header::of("content-type", "application/json"),
        ],
    }
}

fn services() -> Services {
    Services::offline(BTreeMap::new(), Script::default(), RowScript::default())
}

/// Takes a record through a pipeline that never waits.
fn verdict(pipeline: &Pipeline, record: &InRecord, past: &Past, services: &Services) -> Verdict {
    let mut running = pin!(run::process(pipeline, record, past, services, now()));
    match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(verdict) => verdict,
        Poll::Pending => panic!("nothing here waits"),
    }
}

fn verdicts(criterion: &mut Criterion) {
    let (record, past, services) = (record(), Past::default(), services());
    let mut group = criterion.benchmark_group("verdict");
    group.throughput(Throughput::Elements(1));
    for (name, stages) in project::PROGRAMS {
        let pipeline = project::pipeline(stages);
        let first = verdict(&pipeline, &record, &past, &services);
        assert_eq!(
            (first.outcome, first.records.len()),
            (Outcome::Succeeded, 1),
            "{name}: {:?}",
            first.fault
        );
        group.bench_function(name, |bencher| bencher.iter(|| verdict(&pipeline, &record, &past, &services)));
    }
    group.finish();
}

fn outbox(criterion: &mut Criterion) {
    let (record, past, services) = (record(), Past::default(), services());
    let pipeline = project::pipeline(project::PROGRAMS[1].1);
    let sizes = Sizes::of(&ProducerSettings::new(Connection::plain("127.0.0.1:1", "bench")));
    let outbox = Outbox::new(Arc::new(Codec::embedded()), &Namespace::default(), sizes);
    let verdict = verdict(&pipeline, &record, &past, &services);
    criterion.bench_function("outbox: one output and the result", |bencher| {
        bencher.iter_batched(
            || verdict.clone(),
            |verdict| outbox.records(&pipeline, &record, &past, verdict),
            BatchSize::SmallInput,
        );
    });
}

fn tracker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tracker");
    group.throughput(Throughput::Elements(RECORDS as u64));
    let began = Instant::now();
    // The order in which records end: as they came, or every tenth much later.
    let in_order: Vec<i64> = (0..RECORDS).collect();
    let late = in_order.iter().filter(|offset| *offset % 10 == 0);
    let out_of_order: Vec<i64> =
        in_order.iter().filter(|offset| *offset % 10 != 0).chain(late).copied().collect();
    for (name, order) in [("in order", &in_order), ("every tenth last", &out_of_order)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut tracker = Tracker::new(Epoch(1), Some(NextOffset(0)), Completed::default());
                for offset in 0..RECORDS {
                    tracker.admit(offset, 700, began);
                }
                for offset in order {
                    tracker.complete(Epoch(1), *offset, Vec::new());
                }
                let mut outputs = Vec::new();
                let next = tracker.take_prefix(RECORDS as usize, &mut outputs);
                assert_eq!(next, Some(NextOffset(RECORDS)));
                tracker.settle(Epoch(1), NextOffset(RECORDS))
            });
        });
    }
    group.finish();
}

fn json(criterion: &mut Criterion) {
    let value = record().value.unwrap_or_default();
    let decoded = values::from_json_bytes(&value).expect("an event of ours is JSON");
    let mut group = criterion.benchmark_group("json");
    group.throughput(Throughput::Bytes(value.len() as u64));
    group.bench_function("decode", |bencher| bencher.iter(|| values::from_json_bytes(black_box(&value))));
    group.bench_function("encode", |bencher| bencher.iter(|| values::to_json_bytes(black_box(&decoded))));
    group.finish();
}

fn avro(criterion: &mut Criterion) {
    let result = ExecutionResult {
        pipeline: "stripe-payments".to_owned(),
        outcome: Outcome::Succeeded,
        stage: None,
        error_class: None,
        error: None,
        attempts: 1,
        event_id: events::id(1),
        event_source: "stripe".to_owned(),
        event_type: "charge.succeeded".to_owned(),
        tenant: None,
        topic: "events.stripe".to_owned(),
        partition: 3,
        offset: 42,
        event_time: now(),
        started_at: now(),
        duration_us: 35,
        records_out: 1,
        config_hash: "0123456789ab".to_owned(),
    };
    let codec = Codec::embedded();
    let framed = codec.execution(&result);
    assert_eq!(codec.read_execution(&framed).ok().as_ref(), Some(&result));
    let mut group = criterion.benchmark_group("avro");
    group.bench_function("write an execution result", |bencher| {
        bencher.iter(|| codec.execution(black_box(&result)))
    });
    group.bench_function("read an execution result", |bencher| {
        bencher.iter(|| codec.read_execution(black_box(&framed)));
    });
    group.finish();
}

fn signature(criterion: &mut Criterion) {
    let body = record().value.unwrap_or_default();
    let secret = Secret::new("whsec_benchmark");
    let timestamp = now().timestamp().to_string();
    let key = MacKey::new(Algorithm::Sha256, secret.expose());
    let mac = key.sign(&[timestamp.as_bytes(), b".", &body]);
    let header = format!("t={timestamp},v1={}", hex::encode(mac));
    let headers = [("content-type", &b"application/json"[..]), ("stripe-signature", header.as_bytes())];
    let request = Unverified { method: "POST", target: "/hooks/stripe", headers: &headers, body: &body };
    let verifier = stripe::Verifier::new(&[secret], Duration::from_secs(300));
    assert_eq!(verifier.verify(&request, now()), Ok(()));
    let mut group = criterion.benchmark_group("webhook");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("verify a signature", |bencher| {
        bencher.iter(|| verifier.verify(black_box(&request), now()))
    });
    group.bench_function("normalise", |bencher| bencher.iter(|| stripe::normalise(black_box(&request))));
    group.finish();
}

criterion_group!(parts, verdicts, outbox, tracker, json, avro, signature);
criterion_main!(parts);
