//! One budget of memory for all groups of a process.
//!
//! Half of it is divided evenly, so that a group whose destination is dead cannot starve the others: each always may
//! hold its part. The other half goes to whoever asks first. A group that holds more than its part while the common
//! half is used up stops reading until it, or somebody else, has let go of enough.
//!
//! | who | counted | limit |
//! |---|---|---|
//! | librdkafka's fetch queue, a fetch under way, the producer's queue | beforehand, by [`divide`] | librdkafka's own settings |
//! | records read and not committed, what they led to, retries that wait | as they come, by [`Share::hold`] | [`Budget`] |

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const MIB: usize = 1 << 20;

/// Budget of a process that is told nothing else.
pub const BUDGET_BYTES: usize = 128 * MIB;
/// Smallest budget that a worker takes.
pub const BUDGET_BYTES_MIN: usize = 16 * MIB;
/// Decompressed, a fetch is counted as so many times its size; topics that are compressed further take from the fixed
/// allowance that a process needs beside its budget.
const FETCH_RATIO: usize = 4;

/// A process' budget, divided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parts {
    /// Fetched records that each group's consumer may hold ready.
    pub prefetch_bytes: usize,
    /// One answer to each group's consumer, before it is decompressed.
    pub fetch_bytes: usize,
    /// The part of one partition in it.
    pub partition_fetch_bytes: usize,
    /// Records that each group's producer may hold.
    pub queue_bytes: usize,
    /// Records at work, of all groups together.
    pub work_bytes: usize,
}

/// Divides a budget among `groups`. Each part has a size below which a client does not work; a quarter is always left
/// for records at work. So a budget below about 12 MiB a group is exceeded.
pub fn divide(budget_bytes: usize, groups: usize) -> Parts {
    let groups = groups.max(1);
    let share = budget_bytes / groups;
    let prefetch_bytes = (share / 16).clamp(MIB, 8 * MIB);
    let fetch_bytes = (share / 32).clamp(MIB, 4 * MIB);
    let queue_bytes = (share / 8).clamp(4 * MIB, 16 * MIB);
    let taken = groups * (prefetch_bytes + FETCH_RATIO * fetch_bytes + queue_bytes);
    Parts {
        prefetch_bytes,
        fetch_bytes,
        partition_fetch_bytes: (fetch_bytes / 8).clamp(64 << 10, 256 << 10),
        queue_bytes,
        work_bytes: budget_bytes.saturating_sub(taken).max(budget_bytes / 4),
    }
}

/// Bytes of records at work that the groups of a process share.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: usize,
    members: AtomicUsize,
    used: AtomicUsize,
    /// What members hold beyond their parts.
    common_used: AtomicUsize,
}

impl Budget {
    /// A budget that nobody uses yet.
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        let none = || AtomicUsize::new(0);
        Arc::new(Self { limit_bytes, members: none(), used: none(), common_used: none() })
    }

    /// Takes part.
    pub fn join(self: &Arc<Self>) -> Share {
        self.members.fetch_add(1, Ordering::Relaxed);
        Share { budget: Arc::clone(self), held: 0, common: 0, is_over: false }
    }

    /// Bytes in all.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Bytes that all members hold.
    pub fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// What each member always may hold.
    fn part(&self) -> usize {
        self.limit_bytes / 2 / self.members.load(Ordering::Relaxed).max(1)
    }
}

/// One group's part in a [`Budget`]; given back on drop.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    held: usize,
    common: usize,
    is_over: bool,
}

impl Share {
    /// Says how much is held now. Whether nothing more may be taken; after that, not until enough has become free.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let part = self.budget.part();
        let common_limit = self.budget.limit_bytes - self.budget.limit_bytes / 2;
        replace(&self.budget.used, &mut self.held, bytes);
        replace(&self.budget.common_used, &mut self.common, bytes.saturating_sub(part));
        let common_used = self.budget.common_used.load(Ordering::Relaxed);
        self.is_over = if self.is_over {
            bytes > part / 2 && common_used > common_limit / 2
        } else {
            bytes > part && common_used > common_limit
        };
        self.is_over
    }

    /// The budget it is a part of.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
        self.budget.members.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes what was counted before out of `sum`, and counts `new` instead.
fn replace(sum: &AtomicUsize, counted: &mut usize, new: usize) {
    if new >= *counted {
        sum.fetch_add(new - *counted, Ordering::Relaxed);
    } else {
        sum.fetch_sub(*counted - new, Ordering::Relaxed);
    }
    *counted = new;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_group_alone_may_use_all_of_it() {
        let budget = Budget::new(100);
        let mut alone = budget.join();
        assert!(!alone.hold(100));
        assert!(alone.hold(101));
        assert!(alone.hold(80), "goes on below three quarters");
        assert!(!alone.hold(75));
        drop(alone);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_group_that_is_stuck_leaves_the_others_their_part() {
        let budget = Budget::new(100);
        let (mut stuck, mut other) = (budget.join(), budget.join());
        assert!(stuck.hold(76), "25 of its own and all that is common");
        assert!(!other.hold(25), "its own part");
        assert!(other.hold(26), "nothing common is left");
        assert!(!other.hold(12));
    }

    #[test]
    fn one_group_with_the_default_budget() {
        let parts = divide(128 * MIB, 1);
        assert_eq!(parts.work_bytes, 88 * MIB);
        assert_eq!((parts.prefetch_bytes, parts.fetch_bytes), (8 * MIB, 4 * MIB));
        assert_eq!((parts.partition_fetch_bytes, parts.queue_bytes), (256 << 10, 16 * MIB));
    }

    proptest! {
        #[test]
        fn parts_add_up(budget_mib in 16..4096_usize, groups in 1..40_usize) {
            let parts = divide(budget_mib * MIB, groups);
            let each = parts.prefetch_bytes + FETCH_RATIO * parts.fetch_bytes + parts.queue_bytes;
            prop_assert!(parts.work_bytes >= budget_mib * MIB / 4);
            if budget_mib >= 12 * groups {
                prop_assert!(groups * each + parts.work_bytes <= budget_mib * MIB);
            }
        }

        /// Groups that take a batch only while they may never hold more than the budget and a batch each; who holds no
        /// more than its part may always go on.
        #[test]
        fn is_kept_and_starves_nobody(
            members in 1..6_usize,
            steps in prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize, 0..200_usize), 1..400),
        ) {
            const BATCH: usize = 200;
            let budget = Budget::new(10_000);
            let mut shares: Vec<Share> = (0..members).map(|_| budget.join()).collect();
            let mut held = vec![0_usize; members];
            for (which, step, bytes) in steps {
                let at = which.index(members);
                let is_over = shares[at].hold(held[at]);
                prop_assert!(!is_over || held[at] > budget.part() / 2, "a part is guaranteed");
                match step {
                    0 => held[at] = held[at].saturating_sub(bytes * 10),
                    _ if !is_over => held[at] += bytes.min(BATCH),
                    _ => {}
                }
                shares[at].hold(held[at]);
                let total: usize = held.iter().sum();
                prop_assert_eq!(budget.used_bytes(), total);
                prop_assert!(total <= 10_000 + members * BATCH);
            }
        }
    }
}
