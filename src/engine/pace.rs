//! How many records the sender gets at a time: fewer after an order that could not be written in time.
//!
//! A broker that is slow, or that holds a client to a quota, writes only so many records within the delivery time-out.
//! More than that in one transaction would fail again and again, as it is read and handed over at the same size.
//!
//! Pure: no clock.

use std::time::Duration;

/// Size of the orders to the sender.
#[derive(Debug)]
pub(super) struct Pace {
    most: usize,
    now: usize,
    /// Delivery time-out.
    patience: Duration,
    /// Records of the order that is under way.
    begun: usize,
}

impl Pace {
    /// Up to `most` records at a time, which are delivered within `patience` or have failed.
    pub(super) fn new(most: usize, patience: Duration) -> Self {
        Self { most, now: most, patience, begun: 0 }
    }

    /// How many of `ready` records to hand over.
    pub(super) fn begin(&mut self, ready: usize) -> usize {
        self.begun = ready.min(self.now);
        self.begun
    }

    /// The order ended after `took`. What failed at once did not fail for its size; what took long grows no further.
    pub(super) fn end(&mut self, is_sent: bool, took: Duration) {
        if is_sent && took <= self.patience / 4 {
            self.now = self.now.saturating_mul(2).min(self.most);
        } else if !is_sent && self.begun > 0 && took >= self.patience / 2 {
            self.now = (self.begun / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::histories;

    const PATIENCE: Duration = Duration::from_secs(5);

    proptest! {
        #![proptest_config(histories::cases(256))]

        /// However slow the broker is, all is written, after failures whose number grows with the logarithm only.
        #[test]
        fn a_slow_broker_writes_everything(
            most in 1..10_000usize,
            each_micros in 1..2_500_000u64,
            records in 1..20_000usize,
        ) {
            let mut pace = Pace::new(most, PATIENCE);
            let (mut left, mut failures) = (records, 0);
            while left > 0 {
                let count = pace.begin(left);
                prop_assert!((1..=most).contains(&count));
                let wanted = Duration::from_micros(each_micros * count as u64);
                let is_sent = wanted <= PATIENCE;
                pace.end(is_sent, wanted.min(PATIENCE));
                if is_sent {
                    left -= count;
                } else {
                    failures += 1;
                }
                prop_assert!(failures <= 14, "{} of {most}", pace.now);
            }
        }
    }

    #[test]
    fn a_failure_that_is_no_matter_of_size_changes_nothing_and_good_times_come_back() {
        let mut pace = Pace::new(1_000, PATIENCE);
        pace.begin(1_000);
        pace.end(false, PATIENCE / 10);
        assert_eq!(pace.begin(5_000), 1_000);
        pace.end(false, PATIENCE);
        assert_eq!(pace.begin(5_000), 500);
        pace.end(true, PATIENCE / 2);
        assert_eq!(pace.begin(5_000), 500, "as much as is possible");
        pace.end(true, PATIENCE / 10);
        assert_eq!(pace.begin(5_000), 1_000);
    }
}
