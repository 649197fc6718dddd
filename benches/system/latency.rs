//! Latency from sent to readable with `read_committed`, at a steady rate far below the limit.

use std::time::{Duration, Instant};

use crate::events;
use crate::job::Job;
use crate::measure;
use crate::producer::{RawProducer, Reports};
use crate::raw::{self, BatchConsumer, Outcome, PartitionList};

pub const EVENTS_PER_S: u64 = 1_000;
/// Events of the first seconds are not counted: the copy is still joining its group.
const WARM_UP_EVENTS: u64 = 3_000;

/// Sends `job.events` events into the input at [`EVENTS_PER_S`] while another process copies, and returns the
/// latencies in milliseconds that a reader of the output saw.
pub fn measure(job: &Job) -> Outcome<Vec<f64>> {
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| read(job));
        load(job)?;
        reading.join().map_err(|_| "the reader panicked".to_owned())?
    })
}

fn load(job: &Job) -> Outcome<()> {
    let mut settings = Job::new(&job.kafka, "load");
    settings.linger_ms = 0;
    let producer = RawProducer::new(&settings.producer("load"), &job.input, Reports::ErrorEvents)?;
    let (mut key, mut payload) = (Vec::new(), Vec::new());
    let started = Instant::now();
    for seq in 0..job.events {
        let due = Duration::from_nanos(seq * 1_000_000_000 / EVENTS_PER_S);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        events::write(seq, measure::monotonic_ns(), &mut key, &mut payload);
        producer.produce(-1, &key, &payload)?;
    }
    producer.flush()
}

fn read(job: &Job) -> Outcome<Vec<f64>> {
    let mut settings = Job::new(&job.kafka, "read");
    settings.output = format!("{}-reader", job.output);
    let mut consumer = BatchConsumer::new(&settings.consumer(), 4096)?;
    let list = PartitionList::new();
    (0..job.partitions).for_each(|partition| list.add(&job.output, partition, Some(0)));
    consumer.assign(&list)?;
    let mut latencies = Vec::new();
    let mut read = 0;
    let started = Instant::now();
    while read < job.events {
        if started.elapsed() > Duration::from_secs(30 + 2 * job.events / EVENTS_PER_S) {
            return Err(format!("read {read} of {} events", job.events));
        }
        let batch = consumer.receive(Duration::from_millis(100));
        let now = measure::monotonic_ns();
        for message in batch.iter() {
            // SAFETY: the message lives as long as the batch.
            let payload = unsafe { raw::bytes(message.payload, message.len) };
            let (Some(seq), Some(sent)) = (events::seq(payload), events::sent_ns(payload)) else {
                return Err(format!("not an event of ours in {}", job.output));
            };
            read += 1;
            if seq >= WARM_UP_EVENTS {
                latencies.push(now.saturating_sub(sent) as f64 / 1e6);
            }
        }
    }
    Ok(latencies)
}
