//! Rules of delivery that a test may switch off, and places where it may let the process die or fall asleep.
//!
//! A test that passes proves little until it has been seen to fail. Each rule here stands at the one line of the
//! program that keeps it; `scripts/chaos --mutations` switches it off and expects the case to find out. Only builds
//! with debug assertions have the switch: in others [`keeps`] is `true`, [`dies`] is `false` and [`freeze`] does nothing
//! at compile time, and the environment is not read.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Names the rules that are not kept, separated by commas.
pub const OFF: &str = "MILLRACE_RULES_OFF";
/// Names the place to die at: `after_send`, or `after_send:5` for the fifth time.
pub const DIE_AT: &str = "MILLRACE_DIE_AT";

/// Names the place to fall asleep at, likewise.
pub const FREEZE_AT: &str = "MILLRACE_FREEZE_AT";

/// A rule that delivery rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Source offsets are in the transaction of what follows from them. Off: committed before it.
    OffsetsInTransaction,
    /// A producer whose commit was slow is replaced, so that a late request ends no later transaction.
    RecycleProducer,
    /// After a commit with an unknown end, committed offsets are read. Off: the same batch is sent again.
    CommitOutcomeIsRead,
    /// After a failed transaction everything is read again from the committed offsets.
    RereadAfterAbort,
    /// A transaction carries the membership of its reader, and none begins without one.
    MembershipInTransaction,
    /// Of two processes with one transactional id, the fenced one ends.
    FencedIsFinal,
    /// The broker gives up a silent worker's transaction within the session.
    ShortTransactions,
    /// Only the contiguous finished prefix of a partition is committed.
    CommitsPrefix,
    /// A partition that is given away has no more committed than what is finished. Off: all that was read.
    RevokeCommitsFinished,
    /// Records of one key wait for each other.
    KeyOrder,
    /// What cannot be handled becomes a dead letter. Off: it vanishes.
    DeadLetters,
    /// A dead letter has the record's own bytes.
    DeadLetterBytes,
    /// At a limit a partition pauses.
    Limits,
    /// A call that a destination or its breaker put off is no attempt.
    ThrottledIsNoAttempt,
    /// Only committed records are read.
    ReadsCommitted,
    /// A position that is no longer in the log stops the group. Off: it goes on at the oldest record.
    StopsAtLoss,
    /// The projector's position moves by compare-and-set, and an unknown end is looked up there.
    PositionCas,
    /// The projector's writes carry the epoch of its ownership.
    EpochCas,
    /// The projector tries again what Postgres did not take.
    WritesUntilDone,
    /// A record counts as written when the broker said where it stands. Off: when librdkafka infers that it is.
    AcknowledgedHasOffset,
    /// While rebuilt rows take the place of a KPI's old ones, no projector writes.
    SwapHoldsProjector,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::OffsetsInTransaction,
        Self::RecycleProducer,
        Self::CommitOutcomeIsRead,
        Self::RereadAfterAbort,
        Self::MembershipInTransaction,
        Self::FencedIsFinal,
        Self::ShortTransactions,
        Self::CommitsPrefix,
        Self::RevokeCommitsFinished,
        Self::KeyOrder,
        Self::DeadLetters,
        Self::DeadLetterBytes,
        Self::Limits,
        Self::ThrottledIsNoAttempt,
        Self::ReadsCommitted,
        Self::StopsAtLoss,
        Self::PositionCas,
        Self::EpochCas,
        Self::WritesUntilDone,
        Self::AcknowledgedHasOffset,
        Self::SwapHoldsProjector,
    ];

    /// Its name in the environment.
    pub fn name(self) -> &'static str {
        match self {
            Self::OffsetsInTransaction => "offsets_in_transaction",
            Self::RecycleProducer => "recycle_producer",
            Self::CommitOutcomeIsRead => "commit_outcome_is_read",
            Self::RereadAfterAbort => "reread_after_abort",
            Self::MembershipInTransaction => "membership_in_transaction",
            Self::FencedIsFinal => "fenced_is_final",
            Self::ShortTransactions => "short_transactions",
            Self::CommitsPrefix => "commits_prefix",
            Self::RevokeCommitsFinished => "revoke_commits_finished",
            Self::KeyOrder => "key_order",
            Self::DeadLetters => "dead_letters",
            Self::DeadLetterBytes => "dead_letter_bytes",
            Self::Limits => "limits",
            Self::ThrottledIsNoAttempt => "throttled_is_no_attempt",
            Self::ReadsCommitted => "reads_committed",
            Self::StopsAtLoss => "stops_at_loss",
            Self::PositionCas => "position_cas",
            Self::EpochCas => "epoch_cas",
            Self::WritesUntilDone => "writes_until_done",
            Self::AcknowledgedHasOffset => "acknowledged_has_offset",
            Self::SwapHoldsProjector => "swap_holds_projector",
        }
    }

    fn bit(self) -> u64 {
        1 << self as u32
    }
}

/// A place where a test may let the process die or fall asleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A transaction is about to begin; what goes into it, and whose it is, is decided.
    BeforeTransaction,
    /// All records are acknowledged, no offsets are sent.
    AfterSend,
    /// Offsets are sent, too.
    AfterSendOffsets,
    /// While the commit is on its way.
    InCommit,
    /// The commit was answered; nobody was told.
    AfterCommit,
    /// The projector is about to write what facts come to; what, and in whose name, is decided.
    BeforeFacts,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::BeforeTransaction,
        Self::AfterSend,
        Self::AfterSendOffsets,
        Self::InCommit,
        Self::AfterCommit,
        Self::BeforeFacts,
    ];

    /// Its name in the environment.
    pub fn name(self) -> &'static str {
        match self {
            Self::BeforeTransaction => "before_transaction",
            Self::AfterSend => "after_send",
            Self::AfterSendOffsets => "after_send_offsets",
            Self::InCommit => "in_commit",
            Self::AfterCommit => "after_commit",
            Self::BeforeFacts => "before_facts",
        }
    }
}

/// What the environment says.
struct Switches {
    off: u64,
    die_at: Option<Countdown>,
    freeze_at: Option<Countdown>,
}

/// A place, and how often it is still passed.
struct Countdown(Place, AtomicU32);

impl Switches {
    fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let off = variable(OFF).unwrap_or_default();
        let names: Vec<&str> = off.split(',').collect();
        let rules = Rule::ALL.iter().filter(|rule| names.contains(&rule.name()));
        let place = |name| Countdown::parse(&variable(name)?);
        Self {
            off: rules.fold(0, |bits, rule| bits | rule.bit()),
            die_at: place(DIE_AT),
            freeze_at: place(FREEZE_AT),
        }
    }
}

impl Countdown {
    /// `after_send:5`; nothing when it is something else.
    fn parse(text: &str) -> Option<Self> {
        let (name, times) = text.split_once(':').unwrap_or((text, "1"));
        let place = Place::ALL.into_iter().find(|place| place.name() == name)?;
        let times = times.parse().ok().filter(|times| *times > 0)?;
        Some(Self(place, AtomicU32::new(times)))
    }

    /// Whether `place` is passed for the last time.
    fn ends_at(&self, place: Place) -> bool {
        self.0 == place && self.1.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

fn switches() -> &'static Switches {
    static SWITCHES: OnceLock<Switches> = OnceLock::new();
    SWITCHES.get_or_init(|| Switches::read(|name| std::env::var(name).ok()))
}

/// Whether `rule` is kept; always, unless a test switched it off.
#[inline]
pub fn keeps(rule: Rule) -> bool {
    !cfg!(debug_assertions) || switches().off & rule.bit() == 0
}

/// Whether a test wants the process to die at `place`, now. The caller sees to it.
#[inline]
pub fn dies(place: Place) -> bool {
    cfg!(debug_assertions) && switches().die_at.as_ref().is_some_and(|left| left.ends_at(place))
}

/// Stops the process here, if a test wants it so, until it is sent SIGCONT.
#[inline]
pub fn freeze(place: Place) {
    if cfg!(debug_assertions) && switches().freeze_at.as_ref().is_some_and(|left| left.ends_at(place)) {
        let pid = std::process::id().to_string();
        // The test sees whether the process has stopped.
        let _ = std::process::Command::new("kill").args(["-STOP", &pid]).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<const N: usize>(set: [(&str, &str); N]) -> Switches {
        Switches::read(|name| {
            set.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn reads_places() {
        let parse = |text| Countdown::parse(text).map(|Countdown(place, left)| (place, left.into_inner()));
        assert_eq!(parse("after_send"), Some((Place::AfterSend, 1)));
        assert_eq!(parse("in_commit:7"), Some((Place::InCommit, 7)));
        for wrong in ["", "after", "after_send:0", "after_send:x"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn counts_down_to_its_place_and_no_further() {
        let switches = read([(DIE_AT, "in_commit:2"), (FREEZE_AT, "before_transaction")]);
        let die_at = switches.die_at.expect("named");
        let passed = [Place::InCommit, Place::AfterSend, Place::InCommit, Place::InCommit];
        assert_eq!(passed.map(|place| die_at.ends_at(place)), [false, false, true, false]);
        assert!(switches.freeze_at.expect("named").ends_at(Place::BeforeTransaction));
    }

    #[test]
    fn switches_off_what_is_named_and_nothing_else() {
        let switches = read([(OFF, "epoch_cas,dead_letters,unknown")]);
        let off: Vec<&str> =
            Rule::ALL.into_iter().filter(|rule| switches.off & rule.bit() != 0).map(Rule::name).collect();
        assert_eq!(off, ["dead_letters", "epoch_cas"]);
        assert_eq!(read([]).off, 0);
    }

    #[test]
    fn every_rule_is_kept_here() {
        assert!(Rule::ALL.into_iter().all(keeps));
        assert!(!Place::ALL.into_iter().any(dies));
    }
}
