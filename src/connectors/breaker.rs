//! A destination's circuit breaker, as a pure state machine: time is an argument.
//!
//! | state     | admits                     | a success | a failure                         |
//! |-----------|----------------------------|-----------|-----------------------------------|
//! | closed    | everything                 | count = 0 | count + 1; opens at `failures`    |
//! | open      | nothing until the cooldown | ignored   | ignored: it was sent before       |
//! | half-open | one probe                  | closes    | opens again for a whole cooldown  |
//!
//! A destination that asks to wait (429, 503 with `Retry-After`) holds everything back until then; that is neither a
//! success nor a failure. Only calls admitted in the current state count: each carries the generation it was admitted
//! in, so that a slow call from before an opening does not close or reopen the circuit.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BreakerConfig {
    /// Failures in a row that open it.
    pub failures: NonZeroU32,
    /// How long it stays open before one probe is let through.
    pub cooldown: Duration,
}

impl Default for BreakerConfig {
    /// Five failures, one minute.
    fn default() -> Self {
        Self { failures: NonZeroU32::MIN.saturating_add(4), cooldown: Duration::from_secs(60) }
    }
}

/// How long callers wait who come while a probe is under way, at most.
const PROBE_WAIT_MAX: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen,
}

/// The breaker of one destination.
#[derive(Clone, Debug)]
pub struct Breaker {
    config: BreakerConfig,
    state: State,
    /// Counts changes of state; see [`Ticket`].
    generation: u64,
    /// Nothing is sent before this instant, because the destination asked so.
    held_until: Option<Instant>,
}

/// The right to send one call. Its end must be reported with [`Breaker::settle`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    generation: u64,
}

/// How a call ended, as far as the breaker cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The destination answered and is well; also when it refused the request (4xx).
    Success,
    /// No answer, or one that says the destination is not well (5xx).
    Failure,
    /// The destination asked to wait so long.
    Held(Duration),
    /// Nothing is known: the call was given up by us.
    Unknown,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(config: BreakerConfig) -> Self {
        Self { config, state: State::Closed { failures: 0 }, generation: 0, held_until: None }
    }

    /// Whether a call may be sent now.
    ///
    /// # Errors
    /// How long to wait before asking again; never zero.
    pub fn admit(&mut self, now: Instant) -> Result<Ticket, Duration> {
        self.peek(now)?;
        if let State::Open { .. } = self.state {
            self.enter(State::HalfOpen);
        }
        Ok(Ticket { generation: self.generation })
    }

    /// What [`Breaker::admit`] would say, without taking the probe.
    ///
    /// # Errors
    /// How long to wait before asking again; never zero.
    pub fn peek(&self, now: Instant) -> Result<(), Duration> {
        if let Some(until) = self.held_until.filter(|until| *until > now) {
            return Err(until - now);
        }
        match self.state {
            State::Closed { .. } => Ok(()),
            State::Open { until } if until > now => Err(until - now),
            State::Open { .. } => Ok(()),
            State::HalfOpen => Err(self.config.cooldown.min(PROBE_WAIT_MAX).max(Duration::from_millis(1))),
        }
    }

    /// Reports the end of the call that `ticket` admitted.
    pub fn settle(&mut self, ticket: Ticket, ending: Ending, now: Instant) {
        if let Ending::Held(wait) = ending {
            let until = now + wait;
            self.held_until = Some(self.held_until.map_or(until, |held| held.max(until)));
        }
        if ticket.generation != self.generation {
            return;
        }
        match (self.state, ending) {
            (State::Closed { .. }, Ending::Success) => self.state = State::Closed { failures: 0 },
            (State::Closed { failures }, Ending::Failure) => {
                let failures = failures + 1;
                if failures >= self.config.failures.get() {
                    self.enter(State::Open { until: now + self.config.cooldown });
                } else {
                    self.state = State::Closed { failures };
                }
            }
            (State::HalfOpen, Ending::Success) => self.enter(State::Closed { failures: 0 }),
            (State::HalfOpen, Ending::Failure) => {
                self.enter(State::Open { until: now + self.config.cooldown });
            }
            // The probe told nothing: the next caller is the probe.
            (State::HalfOpen, Ending::Held(_) | Ending::Unknown) => self.enter(State::Open { until: now }),
            (State::Closed { .. }, Ending::Held(_) | Ending::Unknown) | (State::Open { .. }, _) => {}
        }
    }

    /// Whether the circuit is not closed.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn breaker(failures: u32, cooldown_ms: u64) -> Breaker {
        let failures = NonZeroU32::new(failures).expect("not zero");
        Breaker::new(BreakerConfig { failures, cooldown: Duration::from_millis(cooldown_ms) })
    }

    #[test]
    fn opens_after_failures_in_a_row_and_closes_after_a_good_probe() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut breaker = breaker(2, 1000);
        let one = breaker.admit(at(0)).expect("closed");
        breaker.settle(one, Ending::Failure, at(0));
        let two = breaker.admit(at(1)).expect("closed");
        breaker.settle(two, Ending::Success, at(1));
        for ms in [2, 3] {
            let ticket = breaker.admit(at(ms)).expect("closed");
            breaker.settle(ticket, Ending::Failure, at(ms));
        }
        assert!(breaker.is_open());
        assert_eq!(breaker.admit(at(500)), Err(Duration::from_millis(503)));
        let probe = breaker.admit(at(1003)).expect("half-open");
        assert_eq!(breaker.admit(at(1003)), Err(Duration::from_secs(1)));
        breaker.settle(probe, Ending::Failure, at(1010));
        assert_eq!(breaker.admit(at(1010)), Err(Duration::from_secs(1)));
        let probe = breaker.admit(at(2010)).expect("half-open");
        breaker.settle(probe, Ending::Success, at(2020));
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_probe_given_up_lets_the_next_caller_probe() {
        let now = Instant::now();
        let mut breaker = breaker(1, 100);
        let ticket = breaker.admit(now).expect("closed");
        breaker.settle(ticket, Ending::Failure, now);
        let later = now + Duration::from_millis(100);
        let probe = breaker.admit(later).expect("half-open");
        breaker.settle(probe, Ending::Unknown, later);
        assert!(breaker.admit(later).is_ok());
    }

    #[test]
    fn a_destination_that_asks_to_wait_holds_everything_back_and_opens_nothing() {
        let now = Instant::now();
        let mut breaker = breaker(1, 100);
        let ticket = breaker.admit(now).expect("closed");
        breaker.settle(ticket, Ending::Held(Duration::from_secs(7)), now);
        assert!(!breaker.is_open());
        assert_eq!(breaker.admit(now), Err(Duration::from_secs(7)));
        assert!(breaker.admit(now + Duration::from_secs(7)).is_ok());
    }

    fn ending() -> impl Strategy<Value = Ending> {
        prop_oneof![Just(Ending::Success), Just(Ending::Failure), Just(Ending::Unknown)]
    }

    proptest! {
        /// Calls begin and end in any order. While open nothing is admitted before the cooldown is over, and
        /// half-open there is never more than one call under way that was admitted since.
        #[test]
        fn never_two_probes_and_never_a_call_within_the_cooldown(
            steps in prop::collection::vec((any::<bool>(), 0_u64..80, ending(), any::<prop::sample::Index>()), 1..200)
        ) {
            let mut breaker = breaker(3, 100);
            let mut now = Instant::now();
            let mut under_way: Vec<Ticket> = Vec::new();
            let mut opened_at: Option<Instant> = None;
            for (begins, pass_ms, ending, which) in steps {
                now += Duration::from_millis(pass_ms);
                if begins {
                    match breaker.admit(now) {
                        Ok(ticket) => {
                            if let Some(opened) = opened_at {
                                prop_assert!(now - opened >= Duration::from_millis(100), "admitted within the cooldown");
                                prop_assert!(under_way.iter().all(|other| *other != ticket), "two probes");
                            }
                            under_way.push(ticket);
                        }
                        Err(wait) => {
                            prop_assert!(wait > Duration::ZERO && wait <= Duration::from_millis(100));
                        }
                    }
                } else if !under_way.is_empty() {
                    let ticket = under_way.remove(which.index(under_way.len()));
                    let was_open = breaker.is_open();
                    let counts = ticket.generation == breaker.generation;
                    breaker.settle(ticket, ending, now);
                    if breaker.is_open() && counts && ending == Ending::Failure {
                        opened_at = Some(now);
                        prop_assert!(breaker.admit(now).is_err());
                    }
                    if !breaker.is_open() {
                        opened_at = None;
                    }
                    if was_open && !counts {
                        prop_assert!(breaker.is_open(), "a call from before the opening closed it");
                    }
                }
            }
        }
    }
}
