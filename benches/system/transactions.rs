//! The transactional copy: when to commit, producers that take turns, lanes, and what an abort costs.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaRespErr;

use crate::copy::reports;
use crate::job::Job;
use crate::measure::{CpuMark, CpuSpent};
use crate::producer::RawProducer;
use crate::raw::{self, BatchConsumer, Outcome, PartitionList};

/// Time of each step, summed over the transactions of a run.
#[derive(Default, Clone, Debug)]
pub struct Steps {
    pub transactions: u64,
    pub flush: Duration,
    pub offsets: Duration,
    pub commit: Duration,
    pub aborts: u64,
    pub abort: Duration,
    /// From the abort to the first record that comes again.
    pub replay: Duration,
}

struct Lane<'a> {
    job: &'a Job,
    consumer: BatchConsumer,
    producers: Vec<RawProducer>,
    /// Next offset to read of each partition, as of the open transaction.
    open: BTreeMap<i32, i64>,
    committed: BTreeMap<i32, i64>,
    opened_at: Option<Instant>,
    records: u64,
    aborted_at: Option<Instant>,
    steps: Steps,
}

/// Runs all lanes; the figures are of the whole process.
pub fn run(job: &Job) -> Outcome<(CpuSpent, Steps)> {
    let mut lanes = (0..job.lanes).map(|lane| Lane::new(job, lane)).collect::<Outcome<Vec<_>>>()?;
    let done = AtomicU64::new(0);
    let mark = OnceLock::new();
    std::thread::scope(|scope| {
        let running: Vec<_> = lanes.iter_mut().map(|lane| scope.spawn(|| lane.copy(&done, &mark))).collect();
        running.into_iter().try_for_each(|lane| lane.join().map_err(|_| "a lane panicked".to_owned())?)
    })?;
    let spent = mark.get().ok_or("no events")?.spent();
    let mut steps = Steps::default();
    for lane in &lanes {
        steps.transactions += lane.steps.transactions;
        steps.flush += lane.steps.flush;
        steps.offsets += lane.steps.offsets;
        steps.commit += lane.steps.commit;
        steps.aborts += lane.steps.aborts;
        steps.abort += lane.steps.abort;
        steps.replay += lane.steps.replay;
    }
    Ok((spent, steps))
}

impl<'a> Lane<'a> {
    fn new(job: &'a Job, ordinal: usize) -> Outcome<Lane<'a>> {
        let mut producers = Vec::new();
        for turn in 0..job.turns {
            let config = job.producer(&format!("{ordinal}.{turn}"));
            let producer = RawProducer::new(&config, &job.output, reports(job))?;
            producer.init_transactions()?;
            producers.push(producer);
        }
        let consumer = BatchConsumer::new(&job.consumer(), job.batch)?;
        let mine = (0..job.partitions).filter(|partition| *partition as usize % job.lanes == ordinal);
        let committed: BTreeMap<i32, i64> = mine.map(|partition| (partition, 0)).collect();
        if job.lanes == 1 {
            consumer.subscribe(&job.input)?;
        } else {
            consumer.assign(&list(&job.input, &committed))?;
        }
        Ok(Lane {
            job,
            consumer,
            producers,
            open: BTreeMap::new(),
            committed,
            opened_at: None,
            records: 0,
            aborted_at: None,
            steps: Steps::default(),
        })
    }

    fn copy(&mut self, done: &AtomicU64, mark: &OnceLock<CpuMark>) -> Outcome<()> {
        while done.load(Ordering::Relaxed) < self.job.events || self.opened_at.is_some() {
            let full = self.receive()?;
            let Some(opened_at) = self.opened_at else {
                continue;
            };
            mark.get_or_init(CpuMark::now);
            let due = match self.job.commit_ms {
                0 => !full,
                ms => opened_at.elapsed() >= Duration::from_millis(ms),
            };
            let ending = done.load(Ordering::Relaxed) + self.records >= self.job.events;
            if due || ending || self.records >= self.job.records_max {
                let number = self.steps.transactions + self.steps.aborts + 1;
                if self.job.abort_every > 0 && number.is_multiple_of(self.job.abort_every) {
                    self.abort()?;
                } else {
                    done.fetch_add(self.commit()?, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// The producer whose turn it is: one transaction is open at a time.
    fn producer(&self) -> &RawProducer {
        &self.producers[(self.steps.transactions + self.steps.aborts) as usize % self.producers.len()]
    }

    /// Takes a batch and produces it; true when the batch was full.
    fn receive(&mut self) -> Outcome<bool> {
        let turn = (self.steps.transactions + self.steps.aborts) as usize % self.producers.len();
        let wait = match (self.opened_at, self.job.commit_ms) {
            (None, _) => Duration::from_millis(20),
            (Some(_), 0) => Duration::ZERO,
            (Some(at), ms) => Duration::from_millis(ms).saturating_sub(at.elapsed()),
        };
        let batch = self.consumer.receive(wait);
        if batch.len() == 0 {
            return Ok(false);
        }
        let producer = &self.producers[turn];
        if self.opened_at.is_none() {
            producer.begin()?;
            self.opened_at = Some(Instant::now());
        }
        if let Some(at) = self.aborted_at.take() {
            self.steps.replay += at.elapsed();
        }
        for message in batch.iter() {
            if message.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Err(format!("consumed {:?}", message.err));
            }
            // SAFETY: the message lives as long as the batch.
            let (key, payload) = unsafe {
                (raw::bytes(message.key, message.key_len), raw::bytes(message.payload, message.len))
            };
            producer.produce(message.partition, key, payload)?;
            self.open.insert(message.partition, message.offset + 1);
        }
        self.records += batch.len() as u64;
        Ok(batch.len() == self.job.batch)
    }

    fn commit(&mut self) -> Outcome<u64> {
        let offsets = list(&self.job.input, &self.open);
        let started = Instant::now();
        if !self.job.offsets_first {
            self.producer().flush()?;
        }
        let flushed = Instant::now();
        self.producer().send_offsets(&offsets, &self.consumer)?;
        let sent = Instant::now();
        if self.job.offsets_first {
            self.producer().flush()?;
        }
        let committing = Instant::now();
        self.producer().commit()?;
        self.steps.flush += (flushed - started) + (committing - sent);
        self.steps.offsets += sent - flushed;
        self.steps.commit += committing.elapsed();
        self.steps.transactions += 1;
        self.committed.append(&mut self.open);
        self.opened_at = None;
        Ok(std::mem::take(&mut self.records))
    }

    fn abort(&mut self) -> Outcome<()> {
        let started = Instant::now();
        // Aborted with records in flight, librdkafka 2.12 now and then fails the next transaction as well; an engine
        // answers that with one more abort, here it would blur the figure.
        self.producer().flush()?;
        self.producer().abort()?;
        let touched = self.open.keys().map(|p| (*p, self.committed.get(p).copied().unwrap_or(0))).collect();
        self.consumer.seek(&list(&self.job.input, &touched))?;
        self.steps.abort += started.elapsed();
        self.steps.aborts += 1;
        self.open.clear();
        self.opened_at = None;
        self.records = 0;
        self.aborted_at = Some(Instant::now());
        Ok(())
    }
}

fn list(topic: &str, offsets: &BTreeMap<i32, i64>) -> PartitionList {
    let list = PartitionList::new();
    for (partition, offset) in offsets {
        list.add(topic, *partition, Some(*offset));
    }
    list
}
