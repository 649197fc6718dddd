//! What keeps strangers and busy senders from using the endpoint up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connectors::source::SourceLimits;
use crate::yaml::units::Rate;

/// Limits of the endpoint as a whole. Limits of one source stand in its connector.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IngestSettings {
    /// Open connections; more wait in the system's queue.
    pub connections_max: usize,
    /// Requests on one connection before it is closed.
    pub requests_per_connection_max: u32,
    /// Age at which a connection is closed after its running request.
    pub connection_age_max: Duration,
    /// From the begin of a connection, or the end of the former request, to the end of a request's head. Also how
    /// long an idle connection stays open.
    pub header_read_timeout: Duration,
    /// Bytes of a request's head, at least 8 KiB.
    pub header_bytes_max: usize,
    /// Headers of one request.
    pub headers_max: usize,
    /// From the head to the end of the body; a source's own deadline counts as well.
    pub body_read_timeout: Duration,
    /// Bytes of all bodies in memory together.
    pub body_bytes_in_flight_max: usize,
    /// How long running requests may take when the role stops, and the flush of the producer after that.
    pub drain_max: Duration,
}

impl Default for IngestSettings {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            requests_per_connection_max: 10_000,
            connection_age_max: Duration::from_secs(600),
            header_read_timeout: Duration::from_secs(30),
            header_bytes_max: 32 * 1024,
            headers_max: 64,
            body_read_timeout: Duration::from_secs(15),
            body_bytes_in_flight_max: 256 * 1024 * 1024,
            drain_max: Duration::from_secs(20),
        }
    }
}

/// The limits of one source, at work.
pub struct Gate {
    rate: Option<DefaultDirectRateLimiter>,
    slots: Arc<Semaphore>,
}

impl Gate {
    /// A gate with these limits.
    pub fn new(limits: &SourceLimits) -> Self {
        let slots = usize::try_from(limits.concurrency_max).unwrap_or(Semaphore::MAX_PERMITS);
        Self { rate: limits.rate.map(limiter), slots: Arc::new(Semaphore::new(slots)) }
    }

    /// A place among the requests that run at one time; `None` when all are taken.
    pub fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    /// Counts a request whose sender is proved.
    ///
    /// # Errors
    /// The time after which the next one is let through.
    pub fn count(&self) -> Result<(), Duration> {
        let Some(rate) = &self.rate else { return Ok(()) };
        rate.check().map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }
}

/// A whole period's count may come at once; after that they are let through evenly.
fn limiter(rate: Rate) -> DefaultDirectRateLimiter {
    let each = rate.per / rate.count.get();
    // A period is at least a second and a count at most u32::MAX, but whole nanoseconds may round down to none.
    let quota = Quota::with_period(each.max(Duration::from_nanos(1)))
        .unwrap_or_else(|| Quota::per_second(rate.count))
        .allow_burst(rate.count);
    RateLimiter::direct(quota)
}

/// Memory that all bodies share.
#[derive(Clone)]
pub struct BodyBudget {
    used: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// The share of one body; given back when dropped.
pub struct BodyShare {
    budget: BodyBudget,
    bytes: usize,
}

impl BodyBudget {
    /// A budget of `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self { used: Arc::default(), bytes_max }
    }

    /// An empty share.
    pub fn share(&self) -> BodyShare {
        BodyShare { budget: self.clone(), bytes: 0 }
    }
}

impl BodyShare {
    /// Takes `bytes` more; false when the budget is used up. A body takes what has arrived of it, so that a sender
    /// who announces much and sends little holds little.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let BodyBudget { used, bytes_max } = &self.budget;
        let before = used.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > *bytes_max {
            used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for BodyShare {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn shares_are_given_back() {
        let budget = BodyBudget::new(10);
        let mut first = budget.share();
        let mut second = budget.share();
        assert!(first.grow(6) && !second.grow(5) && second.grow(4) && !first.grow(1));
        drop(first);
        assert!(second.grow(6) && !second.grow(1));
        drop(second);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_gate_counts_requests_and_says_when_to_come_again() {
        let rate = Rate { count: NonZeroU32::new(2).unwrap(), per: Duration::from_secs(60) };
        let gate = Gate::new(&SourceLimits {
            body_bytes_max: 1,
            rate: Some(rate),
            deadline: Duration::from_secs(1),
            concurrency_max: 1,
        });
        assert!(gate.count().is_ok() && gate.count().is_ok());
        let wait = gate.count().unwrap_err();
        assert!(wait > Duration::from_secs(25) && wait <= Duration::from_secs(30), "{wait:?}");
        let place = gate.enter();
        assert!(place.is_some() && gate.enter().is_none());
        drop(place);
        assert!(gate.enter().is_some());
    }
}
