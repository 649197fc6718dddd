//! Errors that come again and again while something is wrong, told once in a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

/// Before the same error is told again.
const PAUSE: Duration = Duration::from_secs(30);

/// What a client has complained of.
#[derive(Default)]
pub(super) struct Complaints(Mutex<Vec<Told>>);

struct Told {
    code: RDKafkaErrorCode,
    at: Instant,
    left_out: u64,
}

impl Complaints {
    /// Whether to tell of an error that came at `now`: then how many of its kind were left out since the last was told.
    pub(super) fn note(&self, code: RDKafkaErrorCode, now: Instant) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(told) = all.iter_mut().find(|told| told.code == code) else {
            all.push(Told { code, at: now, left_out: 0 });
            return Some(0);
        };
        if now.saturating_duration_since(told.at) < PAUSE {
            told.left_out += 1;
            return None;
        }
        told.at = now;
        Some(std::mem::take(&mut told.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_is_counted_and_told_once_in_a_while() {
        let (complaints, begun) = (Complaints::default(), Instant::now());
        let down = RDKafkaErrorCode::AllBrokersDown;
        assert_eq!(complaints.note(down, begun), Some(0));
        assert_eq!(complaints.note(down, begun), None);
        assert_eq!(complaints.note(RDKafkaErrorCode::TopicAuthorizationFailed, begun), Some(0));
        assert_eq!(complaints.note(down, begun + PAUSE / 2), None);
        assert_eq!(complaints.note(down, begun + PAUSE), Some(2));
        assert_eq!(complaints.note(down, begun + PAUSE), None);
    }
}
