//! What stands between a stage and its destination: rate, concurrency and circuit breaker, one set per connector and
//! process. The call itself is `connectors/http.rs`.
//!
//! Waiting happens in the record's lane and is bounded by [`WAIT_MAX`]; beyond it, and while the circuit is open, the
//! stage is throttled: the engine waits and tries again without counting an attempt.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::connectors::answer::Answer;
use crate::connectors::breaker::{Breaker, Ending, Ticket};
use crate::connectors::http::{CallInputs, Target, TargetError};
use crate::connectors::target::TargetConfig;
use crate::fault::{Fault, FaultClass};
use crate::secrets::Secrets;
use crate::stages::clock::Clock;
use crate::stages::limits::{Bucket, Limit};
use crate::telemetry::{self, names};

/// Longest wait for a destination's rate and for a free slot.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long everybody waits after a 429 that does not say.
const HOLD_DEFAULT: Duration = Duration::from_secs(1);
/// Part of a destination's rate that may be used at once: small, because vendors count over windows that a burst on
/// top of the steady rate would overrun.
const BURST_SHARE: Duration = Duration::from_millis(100);

/// The destinations of this process, by connector.
#[derive(Debug)]
pub struct Destinations(BTreeMap<Arc<str>, Destination>);

#[derive(Debug)]
struct Destination {
    name: Arc<str>,
    target: Target,
    bucket: Option<Bucket>,
    slots: Semaphore,
    breaker: Mutex<Breaker>,
}

impl Destinations {
    /// Reads the secrets of all targets. Connects to nothing.
    ///
    /// # Errors
    /// The first target that cannot be used.
    pub fn new(
        targets: &BTreeMap<String, Arc<TargetConfig>>,
        secrets: &Secrets,
    ) -> Result<Self, TargetError> {
        let mut destinations = BTreeMap::new();
        for (name, config) in targets {
            let name: Arc<str> = name.as_str().into();
            let limits = config.limits;
            let bucket = limits.rate.map(|rate| Bucket::new(Limit::with_share(rate, BURST_SHARE)));
            let destination = Destination {
                name: Arc::clone(&name),
                bucket,
                slots: Semaphore::new(limits.concurrency.get() as usize),
                breaker: Mutex::new(Breaker::new(config.breaker)),
                target: Target::new(Arc::clone(&name), Arc::clone(config), secrets)?,
            };
            destinations.insert(name, destination);
        }
        Ok(Self(destinations))
    }

    /// Calls `connector`, when its limits and its circuit allow.
    ///
    /// # Errors
    /// As [`Target::call`]; [`FaultClass::Throttled`] when nothing was sent because it has to wait.
    pub async fn call(
        &self,
        connector: &str,
        call: &str,
        inputs: &CallInputs,
        clock: &Clock,
    ) -> Result<Answer, Fault> {
        match self.0.get(connector) {
            Some(destination) => destination.call(call, inputs, clock).await,
            None => {
                let message = format!("connector {connector} has no target");
                Err(Fault::new(FaultClass::Permanent, message))
            }
        }
    }
}

impl Destination {
    async fn call(&self, call: &str, inputs: &CallInputs, clock: &Clock) -> Result<Answer, Fault> {
        // Asked before the queue too, so that nobody waits for a turn that would not be used.
        let may_go = self.breaker().peek(Instant::now());
        may_go.map_err(|wait| self.held(wait))?;
        let turn = async {
            if let Some(bucket) = &self.bucket {
                bucket.wait(clock).await;
            }
            // The semaphore is never closed; if it were, calls would only be unbounded.
            self.slots.acquire().await.ok()
        };
        let Ok(_slot) = tokio::time::timeout(WAIT_MAX, turn).await else {
            let message = format!("{}.{call}: no turn within {} s", self.name, WAIT_MAX.as_secs());
            return Err(Fault::new(FaultClass::Throttled { after: Some(HOLD_DEFAULT) }, message));
        };
        let mut admission = self.admit()?;
        let started = Instant::now();
        let result = self.target.call(call, inputs).await;
        admission.ending = ending(&result);
        drop(admission);
        self.observe(call, &result, started.elapsed());
        result
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // Every change of a breaker is complete before it can panic.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self) -> Result<Admission<'_>, Fault> {
        // On a line of its own: `held` takes the lock again.
        let ticket = self.breaker().admit(Instant::now());
        let ticket = ticket.map_err(|wait| self.held(wait))?;
        Ok(Admission { destination: self, ticket, ending: Ending::Unknown })
    }

    fn held(&self, wait: Duration) -> Fault {
        let wait_ms = wait.as_millis();
        let is_open = self.breaker().is_open();
        let message = match is_open {
            true => format!("{}: the circuit is open, next try in {wait_ms} ms", self.name),
            false => format!("{}: asked to wait another {wait_ms} ms", self.name),
        };
        Fault::new(FaultClass::Throttled { after: Some(wait) }, message)
    }

    fn observe(&self, call: &str, result: &Result<Answer, Fault>, took: Duration) {
        let status = match result {
            Ok(answer) => Some(answer.status),
            Err(fault) => fault.http_status,
        };
        let status = status.map_or_else(|| String::from("error"), |status| status.to_string());
        telemetry::count(names::HTTP_REQUESTS, &[&self.name, call, &status], 1);
        telemetry::duration(names::HTTP_DURATION, &[&self.name, call], took);
        let is_open = self.breaker().is_open();
        telemetry::gauge(names::BREAKER_OPEN, &[&self.name], f64::from(u8::from(is_open)));
    }
}

/// A call that the breaker admitted. Its end is reported when it is dropped, so that a call that is given up in the
/// middle, because its partition went away, does not keep the probe for ever.
struct Admission<'a> {
    destination: &'a Destination,
    ticket: Ticket,
    ending: Ending,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.destination.breaker().settle(self.ticket, self.ending, Instant::now());
    }
}

/// What a result says of the destination's health. A request it refused (4xx) is an answer of a healthy one.
fn ending(result: &Result<Answer, Fault>) -> Ending {
    let fault = match result {
        Ok(_) => return Ending::Success,
        Err(fault) => fault,
    };
    match (fault.class, fault.http_status) {
        (FaultClass::Throttled { after }, _) => Ending::Held(after.unwrap_or(HOLD_DEFAULT)),
        (_, Some(501 | 505)) => Ending::Success,
        (_, Some(500..)) => Ending::Failure,
        (_, Some(_)) => Ending::Success,
        (FaultClass::Transient, None) => Ending::Failure,
        // Nothing was sent.
        (FaultClass::Permanent | FaultClass::Poison | FaultClass::Bug, None) => Ending::Unknown,
    }
}

#[cfg(test)]
mod tests;
