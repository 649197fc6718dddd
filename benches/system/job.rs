//! What one child process does, written as `key=value` arguments, and the client settings it uses.

use rdkafka::ClientConfig;

#[derive(Clone, Debug)]
pub struct Job {
    pub kafka: String,
    pub variant: String,
    pub input: String,
    pub output: String,
    pub partitions: i32,
    /// Records in the input; the copy ends when it has them all.
    pub events: u64,
    pub linger_ms: u64,
    pub batch: usize,
    /// Commit when this much time has passed; 0: when the poll comes back short.
    pub commit_ms: u64,
    /// Commit at this many records at the latest.
    pub records_max: u64,
    /// Producers that take turns in one lane.
    pub turns: usize,
    /// Lanes: threads with a consumer and producers of their own.
    pub lanes: usize,
    /// Abort every n-th transaction; 0: never.
    pub abort_every: u64,
    /// Send the offsets before the records are flushed.
    pub offsets_first: bool,
    /// Delivery reports: `callback`, `events` or `errors`.
    pub reports: String,
    pub transactional: bool,
    /// Where a server listens.
    pub port: u16,
}

impl Job {
    pub fn new(kafka: &str, variant: &str) -> Job {
        Job {
            kafka: kafka.to_owned(),
            variant: variant.to_owned(),
            input: String::new(),
            output: String::new(),
            partitions: 12,
            events: 0,
            linger_ms: 5,
            batch: 4096,
            commit_ms: 100,
            records_max: 1_000_000,
            turns: 1,
            lanes: 1,
            abort_every: 0,
            offsets_first: false,
            reports: "errors".to_owned(),
            transactional: false,
            port: 0,
        }
    }

    /// The inverse of [`Job::arguments`].
    pub fn parse(arguments: &[String]) -> Result<Job, String> {
        let mut job = Job::new("", "");
        for argument in arguments {
            let (key, value) = argument.split_once('=').ok_or(format!("`{argument}` is not key=value"))?;
            job.set(key, value)?;
        }
        Ok(job)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
            value.parse().map_err(|_| format!("`{value}` is not a number"))
        }
        match key {
            "kafka" => self.kafka = value.to_owned(),
            "variant" => self.variant = value.to_owned(),
            "input" => self.input = value.to_owned(),
            "output" => self.output = value.to_owned(),
            "partitions" => self.partitions = number(value)?,
            "events" => self.events = number(value)?,
            "linger_ms" => self.linger_ms = number(value)?,
            "batch" => self.batch = number(value)?,
            "commit_ms" => self.commit_ms = number(value)?,
            "records_max" => self.records_max = number(value)?,
            "turns" => self.turns = number(value)?,
            "lanes" => self.lanes = number(value)?,
            "abort_every" => self.abort_every = number(value)?,
            "offsets_first" => self.offsets_first = value == "true",
            "reports" => self.reports = value.to_owned(),
            "port" => self.port = number(value)?,
            "transactional" => self.transactional = value == "true",
            _ => return Err(format!("unknown setting `{key}`")),
        }
        Ok(())
    }

    pub fn arguments(&self) -> Vec<String> {
        let Job {
            kafka,
            variant,
            input,
            output,
            partitions,
            events,
            linger_ms,
            batch,
            commit_ms,
            records_max,
            turns,
            lanes,
            abort_every,
            offsets_first,
            reports,
            transactional,
            port,
        } = self;
        vec![
            format!("kafka={kafka}"),
            format!("variant={variant}"),
            format!("input={input}"),
            format!("output={output}"),
            format!("partitions={partitions}"),
            format!("events={events}"),
            format!("linger_ms={linger_ms}"),
            format!("batch={batch}"),
            format!("commit_ms={commit_ms}"),
            format!("records_max={records_max}"),
            format!("turns={turns}"),
            format!("lanes={lanes}"),
            format!("abort_every={abort_every}"),
            format!("offsets_first={offsets_first}"),
            format!("reports={reports}"),
            format!("transactional={transactional}"),
            format!("port={port}"),
        ]
    }

    pub fn consumer(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.kafka)
            .set("group.id", &self.output)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("queued.max.messages.kbytes", "8192")
            .set("fetch.queue.backoff.ms", "20");
        config
    }

    pub fn producer(&self, ordinal: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.kafka)
            .set("enable.idempotence", "true")
            .set("linger.ms", self.linger_ms.to_string())
            .set("queue.buffering.max.kbytes", "8192")
            .set("partitioner", "murmur2_random");
        if self.transactional {
            config
                .set("transactional.id", format!("{}.{ordinal}", self.output))
                .set("transaction.timeout.ms", "15000")
                .set("message.timeout.ms", "15000")
                .set("socket.timeout.ms", "10000");
        }
        config
    }
}
