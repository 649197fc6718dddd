//! Rate limits: token buckets by generic cell rate. The only file that names `governor`.
//!
//! Whoever has to wait does so in its own lane, in the order of arrival; nothing is dropped, and the poll loop never
//! comes here. Limits hold for one process: a group of three instances may do three times as much.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::stages::clock::Clock;
use crate::yaml::units::Rate;

/// Most keys that one limit remembers. Beyond it those not asked for the longest are forgotten, a tenth at a time; a
/// forgotten key starts again with its whole burst.
pub const KEYS_MAX: usize = 10_000;

/// A rate, and how many may come at once after a pause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// How many in what time.
    pub rate: Rate,
    /// How many at once.
    pub burst: NonZeroU32,
}

impl Limit {
    /// Of `rate`, with as much at once as comes in `share`, at least one.
    pub fn with_share(rate: Rate, share: Duration) -> Self {
        let count = u128::from(rate.count.get()) * share.as_nanos() / rate.per.as_nanos().max(1);
        let burst = u32::try_from(count).unwrap_or(u32::MAX);
        Self { rate, burst: NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN) }
    }

    fn quota(self) -> Quota {
        let between = self.rate.per / self.rate.count.get();
        let between = between.max(Duration::from_nanos(1));
        let quota = Quota::with_period(between).unwrap_or(Quota::per_second(NonZeroU32::MAX));
        quota.allow_burst(self.burst)
    }
}

/// The time as it was last told: `governor` sees no other clock, so that simulated time works too.
#[derive(Clone, Default, Debug)]
struct ToldTime(Arc<AtomicU64>);

impl governor::clock::Clock for ToldTime {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.load(Ordering::Relaxed))
    }
}

type Governor = RateLimiter<NotKeyed, InMemoryState, ToldTime, NoOpMiddleware<Nanos>>;

/// One token bucket.
#[derive(Debug)]
pub struct Bucket {
    governor: Governor,
    time: ToldTime,
    /// Whoever waits holds it, so that others wait behind in the order they came.
    turn: tokio::sync::Mutex<()>,
}

impl Bucket {
    /// A full bucket.
    pub fn new(limit: Limit) -> Self {
        let time = ToldTime::default();
        let governor = RateLimiter::direct_with_clock(limit.quota(), time.clone());
        Self { governor, time, turn: tokio::sync::Mutex::new(()) }
    }

    /// Takes a token, or says how long until there is one. `now` is the time of one clock since its start.
    ///
    /// # Errors
    /// The wait; never zero.
    pub fn take(&self, now: Duration) -> Result<(), Duration> {
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let now_ns = self.time.0.fetch_max(now_ns, Ordering::Relaxed).max(now_ns);
        self.governor
            .check()
            .map_err(|refused| refused.wait_time_from(Nanos::new(now_ns)).max(Duration::from_micros(1)))
    }

    /// Waits for a token. True when it had to be waited for.
    pub async fn wait(&self, clock: &Clock) -> bool {
        let mut has_waited = false;
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(_) => {
                has_waited = true;
                self.turn.lock().await
            }
        };
        while let Err(wait) = self.take(clock.elapsed()) {
            has_waited = true;
            clock.sleep(wait).await;
        }
        has_waited
    }
}

/// The buckets of all `rate_limit` stages.
#[derive(Default, Debug)]
pub struct Limits {
    tables: Mutex<HashMap<String, Table>>,
}

/// The buckets of one stage, by key.
#[derive(Default, Debug)]
struct Table {
    buckets: HashMap<String, (Arc<Bucket>, u64)>,
    /// Counts the times a bucket was asked for.
    asked: u64,
}

impl Limits {
    /// The bucket of `key` under the limit called `name`.
    pub fn bucket(&self, name: &str, key: &str, limit: Limit) -> Arc<Bucket> {
        let mut tables = lock(&self.tables);
        if !tables.contains_key(name) {
            tables.insert(name.to_owned(), Table::default());
        }
        let table = tables.entry(name.to_owned()).or_default();
        table.bucket(key, limit)
    }
}

impl Table {
    fn bucket(&mut self, key: &str, limit: Limit) -> Arc<Bucket> {
        self.asked += 1;
        if let Some((bucket, asked)) = self.buckets.get_mut(key) {
            *asked = self.asked;
            return Arc::clone(bucket);
        }
        if self.buckets.len() >= KEYS_MAX {
            self.forget_oldest();
        }
        let bucket = Arc::new(Bucket::new(limit));
        self.buckets.insert(key.to_owned(), (Arc::clone(&bucket), self.asked));
        bucket
    }

    fn forget_oldest(&mut self) {
        let mut asked: Vec<u64> = self.buckets.values().map(|(_, asked)| *asked).collect();
        let (_, oldest_kept, _) = asked.select_nth_unstable(KEYS_MAX / 10);
        let oldest_kept = *oldest_kept;
        self.buckets.retain(|_, (_, asked)| *asked >= oldest_kept);
    }
}

/// A lock whose holder panicked still guards sound data: each change here is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limit(count: u32, burst: u32) -> Limit {
        let number = |number| NonZeroU32::new(number).expect("not zero");
        Limit { rate: Rate { count: number(count), per: Duration::from_secs(1) }, burst: number(burst) }
    }

    #[test]
    fn a_share_of_a_rate_is_at_least_one() {
        let rate = limit(100, 1).rate;
        assert_eq!(Limit::with_share(rate, Duration::from_millis(100)).burst.get(), 10);
        assert_eq!(Limit::with_share(rate, Duration::from_secs(1)).burst.get(), 100);
        let slow = Rate { count: NonZeroU32::MIN, per: Duration::from_secs(3600) };
        assert_eq!(Limit::with_share(slow, Duration::from_secs(1)).burst.get(), 1);
    }

    #[tokio::test]
    async fn waiting_takes_as_long_as_the_rate_says() {
        let clock = Clock::simulated();
        let bucket = Bucket::new(limit(10, 5));
        let mut waited = 0;
        for _ in 0..25 {
            waited += u32::from(bucket.wait(&clock).await);
        }
        assert_eq!(waited, 20);
        let elapsed = clock.elapsed();
        assert!(elapsed >= Duration::from_secs(2) && elapsed < Duration::from_millis(2_001), "{elapsed:?}");
    }

    #[tokio::test]
    async fn those_who_wait_are_served_in_the_order_they_came() {
        let clock = Arc::new(Clock::wall());
        let bucket = Arc::new(Bucket::new(limit(100, 1)));
        let served = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..10)
            .map(|number| {
                let (clock, bucket, served) = (Arc::clone(&clock), Arc::clone(&bucket), Arc::clone(&served));
                tokio::spawn(async move {
                    bucket.wait(&clock).await;
                    lock(&served).push(number);
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(*lock(&served), (0..10).collect::<Vec<_>>());
        assert!(clock.elapsed() >= Duration::from_millis(85), "{:?}", clock.elapsed());
    }

    #[test]
    fn keys_have_buckets_of_their_own_and_their_number_is_bounded() {
        let limits = Limits::default();
        let now = Duration::ZERO;
        assert_eq!(limits.bucket("a", "x", limit(1, 1)).take(now), Ok(()));
        assert!(limits.bucket("a", "x", limit(1, 1)).take(now).is_err());
        assert_eq!(limits.bucket("a", "y", limit(1, 1)).take(now), Ok(()));
        assert_eq!(limits.bucket("b", "x", limit(1, 1)).take(now), Ok(()));
        for number in 0..KEYS_MAX {
            limits.bucket("a", &number.to_string(), limit(1, 1));
            limits.bucket("a", "y", limit(1, 1));
        }
        let tables = lock(&limits.tables);
        assert!(tables["a"].buckets.len() <= KEYS_MAX);
        assert!(tables["a"].buckets.contains_key("y") && !tables["a"].buckets.contains_key("x"));
    }

    proptest! {
        /// In no stretch of time are there more than burst + rate x time.
        #[test]
        fn never_more_than_the_rate_allows(steps in prop::collection::vec(0_u64..200, 1..200)) {
            let bucket = Bucket::new(limit(10, 3));
            let mut now = Duration::ZERO;
            let mut taken_at: Vec<Duration> = Vec::new();
            for pass_ms in steps {
                now += Duration::from_millis(pass_ms);
                if bucket.take(now).is_ok() {
                    taken_at.push(now);
                }
            }
            for (at, first) in taken_at.iter().enumerate() {
                for (count, last) in taken_at[at..].iter().enumerate() {
                    let allowed = 3.0 + (*last - *first).as_secs_f64() * 10.0;
                    prop_assert!((count + 1) as f64 <= allowed + 1e-6, "{} within {:?}", count + 1, *last - *first);
                }
            }
        }
    }
}
