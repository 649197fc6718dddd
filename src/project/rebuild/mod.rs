//! Folds KPIs anew while the projector works: into rows of its own (`shadow.rs`), from the oldest fact that Kafka keeps
//! up to where the projector stands, and there the new rows take the place of the old ones in one transaction
//! (`swap.rs`), after both were compared (`compare.rs`).
//!
//! The rows are folded exactly to the positions that the projector holds at that moment, and the definitions change in
//! the same transaction: the next fact that the projector folds is the first one that the rebuild did not, and it is
//! folded by the new definition. Until then everybody reads the old values.
//!
//! What has been read is kept with its positions: a rebuild that was killed goes on where it stood.

pub mod compare;
mod read;
mod shadow;
mod swap;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sqlx::PgPool;

use crate::kafka::settings::Connection;
use crate::kafka::tail::{self, TailError};
use crate::ledger::Namespace;
use crate::plan::kpis::KpiSpec;
use crate::position::NextOffset;
use crate::postgres::fault::SqlFault;
use crate::project::rebuild::compare::{Comparison, Keep};
use crate::project::rebuild::read::ReadError;
use crate::project::rebuild::shadow::Shadow;
use crate::project::rebuild::swap::Swapped;
use crate::project::store::Store;
use crate::schema::codec::Codec;
use crate::schema::error::SchemaError;

/// Facts that may be left to read when the projector is stopped for the swap.
const LEFT_MAX: i64 = 20_000;
/// Pause before the projector is stopped again for a swap.
const SWAP_PAUSE: Duration = Duration::from_secs(1);
/// How often the projector may run ahead while it should be stopped, before the rebuild gives up.
const SWAPS_MAX: usize = 20;

/// What to rebuild, and how.
#[derive(Clone, Debug)]
pub struct Rebuild {
    /// Connections to Postgres; three are used.
    pub pool: PgPool,
    /// How to reach Kafka.
    pub connection: Connection,
    /// First word of topics and groups.
    pub namespace: Namespace,
    /// How values are read.
    pub codec: Arc<Codec>,
    /// KPIs, as the files define them.
    pub kpis: Vec<KpiSpec>,
    /// What happens to windows whose facts Kafka does not keep any more.
    pub keep: Keep,
    /// Build and compare, but leave everything as it is.
    pub is_dry_run: bool,
}

/// How far a rebuild is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Offsets read, those of an earlier run included.
    pub done: u64,
    /// Offsets to be read, as far as the projector stands now.
    pub total: u64,
}

/// What came of a rebuild.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Whether the new rows are in place.
    pub swapped: bool,
    /// Whether an earlier rebuild was gone on with.
    pub resumed: bool,
    /// Facts folded by this run.
    pub facts: u64,
    /// Records that could not be read as facts; the projector keeps them among its rejects.
    pub unreadable: u64,
    /// Old and new rows, by KPI.
    pub kpis: Vec<Comparison>,
    /// Offsets of facts that Kafka does not keep any more.
    pub deleted: i64,
}

/// Why a rebuild ended.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Another one is under way.
    #[error("another rebuild is under way in this database; one runs at a time")]
    Busy,
    /// Another one took this one's place.
    #[error("another rebuild has taken over; this one has written nothing since")]
    Replaced,
    /// The projector's position lies before what was read: the database was put back, or somebody set the position.
    #[error(
        "partition {partition}: the projector's position went back from {read:?} to {live:?}; run this again"
    )]
    WentBack {
        /// Partition of the fact topic.
        partition: i32,
        /// What this rebuild had read.
        read: NextOffset,
        /// Where the projector stands.
        live: NextOffset,
    },
    /// Facts are missing, and nobody said what to do about it.
    #[error("Kafka does not keep all facts any more; nothing was changed")]
    Loss(Box<Report>),
    /// The projector does not hold still.
    #[error(
        "the projector folded more than could be caught up with, {SWAPS_MAX} times; run this again when it is less busy: \
         what was read is kept"
    )]
    Outrun,
    /// Facts were deleted while they were read.
    #[error(
        "partition {partition}: facts from offset {next:?} on were deleted before they were read; run this again"
    )]
    Deleted {
        /// Partition of the fact topic.
        partition: i32,
        /// The next one to read.
        next: NextOffset,
    },
    /// A view cannot become what the KPI says, mostly because another one is made of it.
    #[error("view {view} cannot be changed; nothing was")]
    View {
        /// The view.
        view: String,
        /// Why.
        source: sqlx::Error,
    },
    /// Kafka failed.
    #[error("the facts cannot be read")]
    Kafka(#[from] TailError),
    /// The registry failed.
    #[error("the facts' schema cannot be had")]
    Schema(#[from] SchemaError),
    /// Postgres failed.
    #[error("Postgres failed; what was read is kept, run this again")]
    Sql(#[from] SqlFault),
    /// Our own thread ended.
    #[error("the reader of the facts ended")]
    Reader,
}

impl Rebuild {
    /// Runs to the end, telling how far it is. May be dropped at any time: nothing that others read has changed then,
    /// and the next run goes on from there.
    ///
    /// # Errors
    /// [`RebuildError`].
    pub async fn run(&self, mut tell: impl FnMut(Progress) + Send) -> Result<Report, RebuildError> {
        let hold = shadow::hold(&self.pool).await?;
        let result = self.run_held(&mut tell).await;
        shadow::release(hold).await;
        result
    }

    async fn run_held(&self, tell: &mut (impl FnMut(Progress) + Send)) -> Result<Report, RebuildError> {
        let topic = self.namespace.kpi_facts_topic();
        let (connection, asked) = (self.connection.clone(), Arc::clone(&topic));
        let ranges = tokio::task::spawn_blocking(move || tail::ranges(&connection, &asked));
        let ranges = ranges.await.map_err(|_| RebuildError::Reader)??;
        let mut shadow = Shadow::begin(&self.pool, &self.kpis, &ranges).await?;
        let result = self.build(&mut shadow, &topic, tell).await;
        // What cannot be gone on with is not left lying about; nor does a dry run leave anything.
        let is_over = matches!(result, Err(RebuildError::WentBack { .. } | RebuildError::Deleted { .. }));
        if is_over || (self.is_dry_run && result.is_ok()) {
            shadow::clear(&mut *self.pool.acquire().await?).await?;
        }
        result
    }

    async fn build(
        &self,
        shadow: &mut Shadow,
        topic: &Arc<str>,
        tell: &mut (impl FnMut(Progress) + Send),
    ) -> Result<Report, RebuildError> {
        let mut report = Report {
            swapped: false,
            resumed: shadow.is_resumed,
            facts: 0,
            unreadable: 0,
            kpis: Vec::new(),
            deleted: shadow.deleted(),
        };
        let store = Store { pool: self.pool.clone(), group: self.namespace.name("project").to_string() };
        for _ in 0..SWAPS_MAX {
            self.catch_up(&store, topic, shadow, (&mut report, &mut *tell)).await?;
            match swap::swap(self, &store.group, topic, shadow, &mut report).await? {
                Swapped::Done | Swapped::DryRun => return Ok(report),
                Swapped::Loss => return Err(RebuildError::Loss(Box::new(report))),
                Swapped::Behind => tokio::time::sleep(SWAP_PAUSE).await,
            }
        }
        Err(RebuildError::Outrun)
    }

    /// Reads until little is left.
    async fn catch_up(
        &self,
        store: &Store,
        topic: &Arc<str>,
        shadow: &mut Shadow,
        (report, tell): (&mut Report, &mut (impl FnMut(Progress) + Send)),
    ) -> Result<(), RebuildError> {
        loop {
            let mut live = BTreeMap::new();
            for (partition, position) in store.positions().await? {
                if partition.topic == *topic {
                    live.insert(partition.number, position.next);
                }
            }
            let parts = shadow.left(&live)?;
            tell(shadow.progress(&live));
            if left(&parts) <= LEFT_MAX {
                return Ok(());
            }
            let mut facts = read::Facts::open(&self.connection, topic, parts)?;
            while let Some(batch) = facts.next().await? {
                let read = shadow.fold(&self.kpis, &self.codec, batch).await?;
                report.facts += read.facts;
                report.unreadable += read.unreadable;
                tell(shadow.progress(&live));
            }
        }
    }
}

/// Parts of partitions: from the first offset to the second.
type Parts = BTreeMap<i32, (NextOffset, NextOffset)>;

/// Offsets in `parts`.
fn left(parts: &Parts) -> i64 {
    parts.values().map(|(from, to)| to.0 - from.0).sum()
}

impl From<sqlx::Error> for RebuildError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(SqlFault::of(error))
    }
}

impl From<ReadError> for RebuildError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Kafka(error) => Self::Kafka(error),
            ReadError::Deleted { partition, next } => Self::Deleted { partition, next },
            ReadError::Ended => Self::Reader,
        }
    }
}
