//! librdkafka's mock cluster, for scenarios in which a broker is down.

use std::sync::PoisonError;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::support::millrace::STARTING;

/// Takes a broker of a mock cluster down. It keeps its port, by closing it and taking it up again, and librdkafka aborts
/// the process where that fails: while a program is being started, which has our files for a moment.
pub fn take_down(cluster: &MockCluster<'_, DefaultProducerContext>, broker: i32) {
    let _none_starts = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    cluster.broker_down(broker).expect("goes down");
}
