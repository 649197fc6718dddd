//! Waiting, for real or simulated.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How time passes for stages that wait.
#[derive(Debug)]
pub enum Clock {
    /// As it does.
    Wall {
        /// When this clock was made.
        since: Instant,
    },
    /// Only by waiting: a wait returns at once and moves the clock, so that tests of back-off and rate limits take no time.
    Simulated {
        /// Microseconds waited so far.
        waited_us: AtomicU64,
    },
}

impl Clock {
    /// The clock on the wall.
    pub fn wall() -> Self {
        Self::Wall { since: Instant::now() }
    }

    /// A clock that only waiting moves.
    pub fn simulated() -> Self {
        Self::Simulated { waited_us: AtomicU64::new(0) }
    }

    /// Time since this clock was made; never goes back.
    pub fn elapsed(&self) -> Duration {
        match self {
            Self::Wall { since } => since.elapsed(),
            Self::Simulated { waited_us } => Duration::from_micros(waited_us.load(Ordering::Relaxed)),
        }
    }

    /// Waits.
    pub async fn sleep(&self, wait: Duration) {
        match self {
            Self::Wall { .. } => tokio::time::sleep(wait).await,
            Self::Simulated { waited_us } => {
                let wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
                // Saturating: centuries of simulated waiting are still one test.
                let _ = waited_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                    Some(now.saturating_add(wait_us))
                });
            }
        }
    }
}
