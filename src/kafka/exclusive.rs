//! Transactions of records alone, by the one process that may write under a `transactional.id` at a time.
//!
//! Whoever begins later takes the id over: what the former had open is aborted, and its next call fails as fenced. So
//! what is read after [`Exclusive::open`] and decided by it cannot be decided otherwise in between: either our commit
//! succeeds and nobody else has written under this id, or somebody has and it fails. Blocks; use it where that does no
//! harm.

use std::sync::Arc;
use std::time::Instant;

use crate::failpoint::Place;
use crate::kafka::beacon::Beacon;
use crate::kafka::outgoing::Outgoing;
use crate::kafka::settings::TransactionSettings;
use crate::kafka::txn::{self, Calls, TxnError};
use crate::record::OutRecord;

/// What a commit leaves to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Committed {
    /// Go on.
    Promptly,
    /// It took so long, or a connection broke meanwhile, that the request may have been repeated, and a late copy could
    /// end a later transaction: open anew before the next one, and look again at what others have decided.
    Doubtfully,
}

/// The only writer under its id, as long as nobody opens the same.
pub struct Exclusive {
    settings: TransactionSettings,
    outgoing: Outgoing,
    /// Signs of requests sent twice, when the last commit began. Statistics tell of some only later.
    signs: u64,
}

impl Exclusive {
    /// Takes the id of `settings` over, which ends whatever a former owner has open.
    ///
    /// # Errors
    /// When the coordinator cannot be reached or refuses.
    pub fn open(settings: TransactionSettings) -> Result<Self, TxnError> {
        let outgoing = txn::start(&settings, 0, &Beacon::default(), &|| {})?;
        Ok(Self { settings, signs: outgoing.signs(), outgoing })
    }

    /// Whether a sign came up since the last commit began that its request was sent twice: open anew, as after
    /// [`Committed::Doubtfully`].
    pub fn is_suspect(&self) -> bool {
        self.outgoing.serve();
        self.outgoing.signs() != self.signs
    }

    /// Writes all of `records` in one transaction. After an error they are not to be seen by readers of committed
    /// records, unless the commit itself was left undecided: the next [`Exclusive::open`] of this id decides it.
    ///
    /// # Errors
    /// [`TxnError::Fenced`] when the id was taken over; others as of [`txn::Transactor::run`]. Do not use this one again.
    pub fn commit(&mut self, records: Vec<OutRecord>) -> Result<Committed, TxnError> {
        let id = format!("{}.0", self.settings.id);
        let begun = Instant::now();
        let result = self.attempt(&id, &Arc::new(records));
        let took = begun.elapsed();
        let Self { settings, outgoing, .. } = &*self;
        match result {
            Ok(()) if took < settings.slow_commit() && !self.is_suspect() => Ok(Committed::Promptly),
            Ok(()) => Ok(Committed::Doubtfully),
            Err(error) => Err(match outgoing.producer().client().fatal_error() {
                // Records fail with other words when the producer that sends them was fenced.
                Some((code, _)) if txn::is_fenced(code) && took < settings.timeout => TxnError::Fenced { id },
                _ => txn::judge(error, took, settings),
            }),
        }
    }

    fn attempt(&mut self, id: &str, records: &Arc<Vec<OutRecord>>) -> Result<(), TxnError> {
        let Self { outgoing, signs, .. } = self;
        let beacon = Beacon::default();
        let calls = Calls { id, beacon: &beacon, meanwhile: &|| {} };
        calls.repeat("begin", || outgoing.producer().begin_transaction())?;
        outgoing.send_all(records).map_err(TxnError::Send)?;
        outgoing.flush().map_err(TxnError::Send)?;
        txn::die_at(Place::AfterSend, || Ok(()));
        txn::die_in_commit();
        *signs = outgoing.signs();
        txn::commit(&calls, outgoing)?;
        txn::die_at(Place::AfterCommit, || Ok(()));
        Ok(())
    }
}
