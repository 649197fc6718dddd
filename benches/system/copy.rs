//! B1 and B2: one copy, written in ways from the C API to safe calls with channels.

use std::ffi::CStr;
use std::sync::mpsc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaRespErr;

use crate::forwarded::ForwardedConsumer;
use crate::job::Job;
use crate::measure::{CpuMark, CpuSpent};
use crate::producer::{RawProducer, Reports};
use crate::raw::{self, Batch, BatchConsumer, Message, Outcome};
use crate::topics::send;

const WAIT: Duration = Duration::from_millis(100);

pub fn run(job: &Job) -> Outcome<CpuSpent> {
    match job.variant.as_str() {
        "raw" => raw_each(job),
        "raw-batch" => raw_batch(job),
        "poll-send" => poll_send(job, true),
        "poll-send-dr" => poll_send(job, false),
        "detach-std-1" => detach_std(job, 1),
        "detach-std-256" => detach_std(job, 256),
        "detach-tokio-1" => detach_tokio(job, 1),
        "detach-tokio-256" => detach_tokio(job, 256),
        "arena-send" => arena(job, ArenaSend::Safe),
        "arena-produce" => arena(job, ArenaSend::Each),
        "arena-batch" => arena(job, ArenaSend::Batch),
        "arena-send-5-headers" => arena(job, ArenaSend::SafeHeaders),
        "arena-produceva" => arena(job, ArenaSend::VaHeaders(0)),
        "arena-produceva-1-header" => arena(job, ArenaSend::VaHeaders(1)),
        "arena-produceva-2-headers" => arena(job, ArenaSend::VaHeaders(2)),
        "arena-produceva-5-headers" => arena(job, ArenaSend::VaHeaders(5)),
        "forwarded-send" => forwarded_send(job),
        "arena-channel" => arena_channel(job),
        other => Err(format!("unknown variant `{other}`")),
    }
}

pub fn reports(job: &Job) -> Reports {
    match job.reports.as_str() {
        "callback" => Reports::Callback,
        "events" => Reports::Events,
        _ => Reports::ErrorEvents,
    }
}

fn batch_consumer(job: &Job) -> Outcome<BatchConsumer> {
    let consumer = BatchConsumer::new(&job.consumer(), job.batch)?;
    consumer.subscribe(&job.input)?;
    Ok(consumer)
}

/// A run that consumed everything. The consumer is kept until the figures are taken: closing it takes time, and
/// the CPU time of its threads is read while they live.
struct Consumed<C> {
    mark: CpuMark,
    _consumer: C,
}

/// Hands every non-empty batch to `each` until all events have come; the clock starts with the first record.
fn batches(job: &Job, each: &mut dyn FnMut(&Batch<'_>) -> Outcome<()>) -> Outcome<Consumed<BatchConsumer>> {
    let mut consumer = batch_consumer(job)?;
    let mut mark = None;
    let mut events = 0;
    while events < job.events {
        let batch = consumer.receive(WAIT);
        if batch.len() == 0 {
            continue;
        }
        mark.get_or_insert_with(CpuMark::now);
        if let Some(failed) = batch.iter().find(|m| m.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR) {
            return Err(format!("consumed {:?}", failed.err));
        }
        each(&batch)?;
        events += batch.len() as u64;
        drop(batch);
        if consumer.assignment_epoch() > 1 {
            return Err("the group rebalanced during the run".to_owned());
        }
    }
    Ok(Consumed { mark: mark.ok_or("no events")?, _consumer: consumer })
}

fn raw_each(job: &Job) -> Outcome<CpuSpent> {
    let producer = RawProducer::new(&job.producer("0"), &job.output, reports(job))?;
    let consumed = batches(job, &mut |batch| {
        for message in batch.iter() {
            // SAFETY: the message lives as long as the batch.
            let (key, payload) = unsafe {
                (raw::bytes(message.key, message.key_len), raw::bytes(message.payload, message.len))
            };
            producer.produce(message.partition, key, payload)?;
        }
        producer.serve(Duration::ZERO)
    })?;
    producer.flush()?;
    Ok(consumed.mark.spent())
}

fn raw_batch(job: &Job) -> Outcome<CpuSpent> {
    let producer = RawProducer::new(&job.producer("0"), &job.output, reports(job))?;
    let mut records: Vec<Message> = Vec::new();
    let consumed = batches(job, &mut |batch| {
        records.clear();
        records.extend(batch.iter().map(|m| outgoing(m.partition, m.key, m.key_len, m.payload, m.len)));
        producer.produce_batch(&mut records)?;
        producer.serve(Duration::ZERO)
    })?;
    producer.flush()?;
    Ok(consumed.mark.spent())
}

fn outgoing(
    partition: i32,
    key: *mut libc::c_void,
    key_len: usize,
    payload: *mut libc::c_void,
    len: usize,
) -> Message {
    Message {
        err: RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
        rkt: std::ptr::null_mut(),
        partition,
        payload,
        len,
        key,
        key_len,
        offset: 0,
        _private: std::ptr::null_mut(),
    }
}

fn safe_producer(job: &Job, errors_only: bool) -> Outcome<BaseProducer> {
    let mut config = job.producer("0");
    config.set("delivery.report.only.error", errors_only.to_string());
    config.create().map_err(|e| e.to_string())
}

fn safe_consumer(job: &Job) -> Outcome<BaseConsumer> {
    let consumer: BaseConsumer = job.consumer().create().map_err(|e| e.to_string())?;
    consumer.subscribe(&[&job.input]).map_err(|e| e.to_string())?;
    Ok(consumer)
}

/// Waits for everything to be delivered without the 100 ms steps of `BaseProducer::flush`.
fn flush(producer: &BaseProducer) {
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn poll_send(job: &Job, errors_only: bool) -> Outcome<CpuSpent> {
    let (consumer, producer) = (safe_consumer(job)?, safe_producer(job, errors_only)?);
    let mut mark = None;
    for event in 0..job.events {
        let message = poll(&consumer)?;
        mark.get_or_insert_with(CpuMark::now);
        let (key, payload) = (message.key().unwrap_or_default(), message.payload().unwrap_or_default());
        let record = BaseRecord::to(&job.output).partition(message.partition());
        send(&producer, record.key(key).payload(payload))?;
        if event % 256 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    flush(&producer);
    Ok(mark.ok_or("no events")?.spent())
}

fn poll(consumer: &BaseConsumer) -> Outcome<rdkafka::message::BorrowedMessage<'_>> {
    loop {
        if let Some(polled) = consumer.poll(WAIT) {
            return polled.map_err(|e| e.to_string());
        }
    }
}

/// Consumes on a thread of its own and hands out owned messages in groups of `group`.
fn detach_into(
    job: &Job,
    group: usize,
    hand_over: &mut dyn FnMut(Vec<OwnedMessage>) -> bool,
) -> Outcome<Consumed<BaseConsumer>> {
    let consumer = safe_consumer(job)?;
    let mut mark = None;
    let mut held = Vec::with_capacity(group);
    for event in 1..=job.events {
        let message = poll(&consumer)?;
        mark.get_or_insert_with(CpuMark::now);
        held.push(message.detach());
        let full = held.len() == group || event == job.events;
        if full && !hand_over(std::mem::replace(&mut held, Vec::with_capacity(group))) {
            return Err("the sender is gone".to_owned());
        }
    }
    Ok(Consumed { mark: mark.ok_or("no events")?, _consumer: consumer })
}

fn send_owned(job: &Job, producer: &BaseProducer, messages: &[OwnedMessage]) -> Outcome<()> {
    for message in messages {
        let (key, payload) = (message.key().unwrap_or_default(), message.payload().unwrap_or_default());
        let record = BaseRecord::to(&job.output).partition(message.partition());
        send(producer, record.key(key).payload(payload))?;
    }
    Ok(())
}

fn detach_std(job: &Job, group: usize) -> Outcome<CpuSpent> {
    let producer = safe_producer(job, true)?;
    let (tx, rx) = mpsc::sync_channel::<Vec<OwnedMessage>>(8192 / group);
    std::thread::scope(|scope| {
        let consuming = scope.spawn(move || detach_into(job, group, &mut |held| tx.send(held).is_ok()));
        for messages in rx {
            send_owned(job, &producer, &messages)?;
        }
        flush(&producer);
        Ok(consuming.join().map_err(|_| "consumer thread panicked")??.mark.spent())
    })
}

fn detach_tokio(job: &Job, group: usize) -> Outcome<CpuSpent> {
    let producer = safe_producer(job, true)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().map_err(|e| e.to_string())?;
    let (tx, mut rx) = tokio::sync::mpsc::channel::<Vec<OwnedMessage>>(8192 / group);
    let sending = {
        let job = job.clone();
        runtime.spawn(async move {
            while let Some(messages) = rx.recv().await {
                send_owned(&job, &producer, &messages)?;
            }
            flush(&producer);
            Ok::<(), String>(())
        })
    };
    std::thread::scope(|scope| {
        let consuming =
            scope.spawn(move || detach_into(job, group, &mut |held| tx.blocking_send(held).is_ok()));
        runtime.block_on(sending).map_err(|e| e.to_string())??;
        Ok(consuming.join().map_err(|_| "consumer thread panicked")??.mark.spent())
    })
}

/// Headers as an event has them after ingest.
const HEADERS: [(&CStr, &[u8]); 5] = [
    (c"ce_id", b"evt_1PQJ2eLkdIwHu7ixTz0nS0Xq"),
    (c"ce_type", b"com.stripe.charge.succeeded"),
    (c"ce_source", b"/stripe/acct_1032D82eZvKYlo2C"),
    (c"ce_specversion", b"1.0"),
    (c"ce_time", b"2024-06-20T12:00:00Z"),
];

enum ArenaSend {
    Safe,
    SafeHeaders,
    VaHeaders(usize),
    Each,
    Batch,
}

/// One buffer for all bytes of a batch, and where each record lies in it.
#[derive(Default)]
struct Arena {
    bytes: Vec<u8>,
    records: Vec<(i32, usize, usize, usize)>,
}

impl Arena {
    fn fill(&mut self, batch: &Batch<'_>) {
        self.bytes.clear();
        self.records.clear();
        for m in batch.iter() {
            let at = self.bytes.len();
            // SAFETY: the message lives as long as the batch.
            unsafe {
                self.bytes.extend_from_slice(raw::bytes(m.key, m.key_len));
                self.bytes.extend_from_slice(raw::bytes(m.payload, m.len));
            }
            self.records.push((m.partition, at, at + m.key_len, self.bytes.len()));
        }
    }

    /// Partition, key and payload of each record.
    fn iter(&self) -> impl Iterator<Item = (i32, &[u8], &[u8])> {
        self.records.iter().map(|&(partition, key, payload, end)| {
            (partition, &self.bytes[key..payload], &self.bytes[payload..end])
        })
    }
}

fn arena(job: &Job, how: ArenaSend) -> Outcome<CpuSpent> {
    let safe = safe_producer(job, true)?;
    let producer = RawProducer::new(&job.producer("0"), &job.output, reports(job))?;
    let mut arena = Arena::default();
    let mut records: Vec<Message> = Vec::new();
    let consumed = batches(job, &mut |batch| {
        arena.fill(batch);
        match how {
            ArenaSend::Safe => {
                for (partition, key, payload) in arena.iter() {
                    send(&safe, BaseRecord::to(&job.output).partition(partition).key(key).payload(payload))?;
                }
                safe.poll(Duration::ZERO);
            }
            ArenaSend::SafeHeaders => {
                for (partition, key, payload) in arena.iter() {
                    let headers = HEADERS.iter().fold(
                        OwnedHeaders::new_with_capacity(HEADERS.len()),
                        |all, (name, value)| {
                            all.insert(Header { key: name.to_str().unwrap_or_default(), value: Some(*value) })
                        },
                    );
                    let record = BaseRecord::to(&job.output).partition(partition).headers(headers);
                    send(&safe, record.key(key).payload(payload))?;
                }
                safe.poll(Duration::ZERO);
            }
            ArenaSend::VaHeaders(count) => {
                let headers = &HEADERS[..count];
                for (partition, key, payload) in arena.iter() {
                    producer.produce_with(partition, key, payload, headers)?;
                }
                producer.serve(Duration::ZERO)?;
            }
            ArenaSend::Each => {
                for (partition, key, payload) in arena.iter() {
                    producer.produce(partition, key, payload)?;
                }
                producer.serve(Duration::ZERO)?;
            }
            ArenaSend::Batch => {
                records.clear();
                records.extend(arena.iter().map(|(partition, key, payload)| {
                    outgoing(partition, key.as_ptr() as _, key.len(), payload.as_ptr() as _, payload.len())
                }));
                producer.produce_batch(&mut records)?;
                producer.serve(Duration::ZERO)?;
            }
        }
        Ok(())
    })?;
    flush(&safe);
    producer.flush()?;
    Ok(consumed.mark.spent())
}

/// Batches from a forwarded queue, in an arena, to the safe producer.
fn forwarded_send(job: &Job) -> Outcome<CpuSpent> {
    let producer = safe_producer(job, true)?;
    let mut consumer = ForwardedConsumer::new(job)?;
    let mut arena = Arena::default();
    let mut mark = None;
    let mut events = 0;
    while events < job.events {
        let batch = consumer.receive(Duration::from_millis(10))?;
        if batch.len() == 0 {
            continue;
        }
        mark.get_or_insert_with(CpuMark::now);
        arena.fill(&batch);
        events += batch.len() as u64;
        drop(batch);
        for (partition, key, payload) in arena.iter() {
            send(&producer, BaseRecord::to(&job.output).partition(partition).key(key).payload(payload))?;
        }
        producer.poll(Duration::ZERO);
    }
    flush(&producer);
    if consumer.assignment_epoch() > 1 {
        return Err("the group rebalanced during the run".to_owned());
    }
    Ok(mark.ok_or("no events")?.spent())
}

/// Batches in arenas over a channel: what a sender thread of its own costs or brings.
fn arena_channel(job: &Job) -> Outcome<CpuSpent> {
    let producer = RawProducer::new(&job.producer("0"), &job.output, reports(job))?;
    let (tx, rx) = mpsc::sync_channel::<Arena>(4);
    std::thread::scope(|scope| {
        let consuming = scope.spawn(move || {
            batches(job, &mut |batch| {
                let mut arena = Arena::default();
                arena.fill(batch);
                tx.send(arena).map_err(|_| "the sender is gone".to_owned())
            })
        });
        for arena in rx {
            for (partition, key, payload) in arena.iter() {
                producer.produce(partition, key, payload)?;
            }
        }
        producer.flush()?;
        Ok(consuming.join().map_err(|_| "consumer thread panicked")??.mark.spent())
    })
}
