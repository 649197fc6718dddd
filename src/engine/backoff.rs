//! How long a failed step waits before its next attempt. Pure: the dice are an argument.

use std::time::Duration;

use crate::failpoint::{Rule, keeps};
use crate::fault::{Fault, FaultClass};
use crate::plan::flow::Retry;

/// Shortest wait that a destination can ask for; a zero would be a busy loop.
const THROTTLED_MIN: Duration = Duration::from_millis(100);
/// Waits that destinations asked for, all together; from then on each counts as an attempt, so that a record that is
/// told to wait for ever ends as a dead letter.
const THROTTLED_TOTAL_MAX: Duration = Duration::from_secs(600);

/// The attempts of one step for one record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempts {
    /// Attempts begun, the first included. A wait that the destination asked for does not begin a new one.
    pub made: u32,
    throttled: Duration,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { made: 1, throttled: Duration::ZERO }
    }
}

impl Attempts {
    /// The wait before the next attempt after `fault`; `None` when there is none. `dice` is from 0 up to 1:
    /// full jitter, because records that failed together would else come back together.
    ///
    /// | class | wait | counts |
    /// |---|---|---|
    /// | transient | up to backoff, 2 x backoff, 4 x backoff, ... at most max | yes |
    /// | throttled by an answer | as asked, else as transient | no, until 10 minutes are waited in all |
    /// | throttled before anything was sent: the circuit is open, there is no turn | as said | never: an outage is not the record's fault |
    /// | permanent, poison, bug | none | |
    pub fn next(&mut self, fault: &Fault, retry: &Retry, dice: f64) -> Option<Duration> {
        match fault.class {
            FaultClass::Permanent | FaultClass::Poison | FaultClass::Bug => None,
            FaultClass::Transient => self.counted(retry, dice),
            FaultClass::Throttled { .. } if !keeps(Rule::ThrottledIsNoAttempt) => self.counted(retry, dice),
            FaultClass::Throttled { after: Some(after) } if fault.http_status.is_none() => {
                Some(after.max(THROTTLED_MIN))
            }
            FaultClass::Throttled { after } => {
                let asked = after.unwrap_or_else(|| jittered(retry, self.made, dice)).max(THROTTLED_MIN);
                let total = self.throttled.saturating_add(asked);
                if total > THROTTLED_TOTAL_MAX {
                    return self.counted(retry, dice);
                }
                self.throttled = total;
                Some(asked)
            }
        }
    }

    fn counted(&mut self, retry: &Retry, dice: f64) -> Option<Duration> {
        if self.made >= retry.attempts.get() {
            return None;
        }
        let wait = jittered(retry, self.made, dice);
        self.made += 1;
        Some(wait)
    }
}

/// A part of the ceiling after `made` attempts.
fn jittered(retry: &Retry, made: u32, dice: f64) -> Duration {
    let doubled = made.saturating_sub(1).min(31);
    let ceiling = retry.backoff.saturating_mul(1 << doubled).min(retry.max);
    ceiling.mul_f64(dice.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    fn retry(attempts: u32) -> Retry {
        Retry {
            attempts: NonZeroU32::new(attempts).unwrap(),
            backoff: Duration::from_secs(2),
            max: Duration::from_secs(16),
            budget_percent: 20,
        }
    }

    /// As a destination answers it.
    fn answered(class: FaultClass) -> Fault {
        Fault { http_status: Some(429), ..Fault::new(class, "asked to wait") }
    }

    #[test]
    fn an_open_circuit_is_no_attempt_however_long_it_is() {
        let mut attempts = Attempts::default();
        let hour = Duration::from_secs(3600);
        let held = Fault::new(FaultClass::Throttled { after: Some(hour) }, "the circuit is open");
        for _ in 0..1000 {
            assert_eq!(attempts.next(&held, &retry(2), 1.0), Some(hour));
        }
        assert_eq!(attempts, Attempts::default());
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut attempts = Attempts::default();
        let waits: Vec<u64> =
            std::iter::from_fn(|| attempts.next(&answered(FaultClass::Transient), &retry(7), 1.0))
                .map(|wait| wait.as_secs())
                .collect();
        assert_eq!(waits, [2, 4, 8, 16, 16, 16]);
        assert_eq!(attempts.made, 7);
    }

    #[test]
    fn what_cannot_be_mended_is_not_tried_again() {
        for class in [FaultClass::Permanent, FaultClass::Poison, FaultClass::Bug] {
            assert_eq!(Attempts::default().next(&answered(class), &retry(7), 1.0), None);
        }
    }

    #[test]
    fn throttling_is_waited_for_without_counting_until_ten_minutes_are_over() {
        let mut attempts = Attempts::default();
        let fault = answered(FaultClass::Throttled { after: Some(Duration::from_secs(250)) });
        assert_eq!(attempts.next(&fault, &retry(2), 1.0), Some(Duration::from_secs(250)));
        assert_eq!(attempts.next(&fault, &retry(2), 1.0), Some(Duration::from_secs(250)));
        assert_eq!(attempts.made, 1);
        assert_eq!(attempts.next(&fault, &retry(2), 1.0), Some(Duration::from_secs(2)));
        assert_eq!(attempts.made, 2);
        assert_eq!(attempts.next(&fault, &retry(2), 1.0), None);
    }

    proptest! {
        #[test]
        fn every_policy_ends(
            attempts in 1_u32..60, backoff_ms in 0_u64..600_000, max_ms in 0_u64..600_000,
            after_ms in proptest::option::of(0_u64..10_000_000), is_throttled in any::<bool>(), dice in 0.0..1.0,
        ) {
            let retry = Retry {
                attempts: NonZeroU32::new(attempts).unwrap(),
                backoff: Duration::from_millis(backoff_ms),
                max: Duration::from_millis(max_ms),
                budget_percent: 20,
            };
            let class = if is_throttled {
                FaultClass::Throttled { after: after_ms.map(Duration::from_millis) }
            } else {
                FaultClass::Transient
            };
            let mut made = Attempts::default();
            let mut waits = 0;
            while let Some(wait) = made.next(&answered(class), &retry, dice) {
                waits += 1;
                prop_assert!(waits < 6_100);
                prop_assert!(is_throttled || wait <= retry.max);
            }
            prop_assert_eq!(made.made, attempts);
        }
    }
}
