//! Keys seen by `dedupe` stages, in table `dedupe_keys`.
//!
//! Claims of many records go to Postgres in one statement: those that come while one is under way make up the next
//! (`batch.rs`).

mod batch;

use std::time::Duration;

use sqlx::{PgPool, Row as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::postgres::dedupe::batch::Merged;
use crate::postgres::fault::SqlFault;

/// Most claims of one statement.
const CLAIMS_MAX: usize = 512;
/// Claims that may wait; further ones wait to be taken in.
const WAITING_MAX: usize = 4_096;
/// How long a statement waits for more claims, when the one before it had several.
const WAIT_MAX: Duration = Duration::from_millis(1);
/// How often partitions that are over are dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

const CLAIM: &str =
    "select claim, topic, partition, \"offset\", element from dedupe_claim($1, $2, $3, $4, $5, $6, $7)";

/// A record that brought a key, or one element of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Sighting {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Numbers of the elements within `for_each`, each after a slash; empty outside.
    pub element: String,
}

/// A key that a record claims.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Space of keys.
    pub scope: String,
    /// SHA-256 of the key.
    pub key_hash: [u8; 32],
    /// Who claims it.
    pub sighting: Sighting,
    /// How long it stays claimed.
    pub ttl: Duration,
}

/// A claim and where its answer goes.
type Request = (Claim, oneshot::Sender<Result<bool, SqlFault>>);

/// The table.
#[derive(Debug)]
pub struct DedupeTable {
    requests: mpsc::Sender<Request>,
}

impl DedupeTable {
    /// Over a database that has been migrated. Within a runtime: the claims are gathered by a task, which ends when
    /// the table is dropped.
    pub fn new(pool: PgPool) -> Self {
        let (requests, inbox) = mpsc::channel(WAITING_MAX);
        tokio::spawn(gather(pool, inbox));
        Self { requests }
    }

    /// Claims a key. True when it is the claimant's, now or from before; false when an earlier claim of another is not
    /// over.
    ///
    /// # Errors
    /// [`SqlFault`]: nothing is known then.
    pub async fn claim(&self, claim: Claim) -> Result<bool, SqlFault> {
        let (answer, answered) = oneshot::channel();
        let ended = || SqlFault::of(sqlx::Error::WorkerCrashed);
        self.requests.send((claim, answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// Drops the partitions whose keys are all over; how many it dropped.
///
/// # Errors
/// [`SqlFault`].
pub async fn sweep(pool: &PgPool) -> Result<i32, SqlFault> {
    let swept = sqlx::query_scalar("select dedupe_sweep(now())").fetch_one(pool).await;
    swept.map_err(SqlFault::of)
}

/// Makes statements of claims, one after the other, until nobody can claim any more.
async fn gather(pool: PgPool, mut inbox: mpsc::Receiver<Request>) {
    let mut sweep_due = Instant::now();
    let mut is_busy = false;
    while let Some(first) = inbox.recv().await {
        let mut requests = vec![first];
        fill(&mut requests, &mut inbox, is_busy).await;
        is_busy = requests.len() > 1;
        // Whoever has gone, because the record's partition was given away, does not claim.
        requests.retain(|(_, answer)| !answer.is_closed());
        let (claims, answers): (Vec<Claim>, Vec<_>) = requests.into_iter().unzip();
        let merged = Merged::of(claims);
        let owners = owners(&pool, merged.distinct()).await;
        for (at, answer) in answers.into_iter().enumerate() {
            let told = match &owners {
                Ok(owners) => Ok(merged.is_mine(at, owners)),
                Err(fault) => Err(fault.again()),
            };
            let _gone = answer.send(told);
        }
        if sweep_due <= Instant::now() && owners.is_ok() {
            sweep_due = Instant::now() + SWEEP_EVERY;
            match sweep(&pool).await {
                Ok(0) => {}
                Ok(partitions) => tracing::info!(partitions, "keys of dedupe stages are over and dropped"),
                Err(fault) => {
                    let error = crate::telemetry::logs::chain(&fault);
                    tracing::warn!(error, "keys of dedupe stages that are over stay");
                }
            }
        }
    }
}

/// Takes what is there; waits a moment for more when there was more the last time.
async fn fill(requests: &mut Vec<Request>, inbox: &mut mpsc::Receiver<Request>, is_busy: bool) {
    let until = Instant::now() + WAIT_MAX;
    while requests.len() < CLAIMS_MAX {
        let next = match inbox.try_recv() {
            Ok(next) => Some(next),
            Err(_) if is_busy => tokio::time::timeout_at(until, inbox.recv()).await.ok().flatten(),
            Err(_) => None,
        };
        match next {
            Some(next) => requests.push(next),
            None => return,
        }
    }
}

/// Whose the keys are, in the order of the claims, each of which names another key.
async fn owners(pool: &PgPool, claims: &[Claim]) -> Result<Vec<Sighting>, SqlFault> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let sightings = || claims.iter().map(|claim| &claim.sighting);
    let rows = sqlx::query(CLAIM)
        .bind(claims.iter().map(|claim| claim.scope.clone()).collect::<Vec<_>>())
        .bind(claims.iter().map(|claim| claim.key_hash.to_vec()).collect::<Vec<_>>())
        .bind(sightings().map(|sighting| sighting.topic.clone()).collect::<Vec<_>>())
        .bind(sightings().map(|sighting| sighting.partition).collect::<Vec<_>>())
        .bind(sightings().map(|sighting| sighting.offset).collect::<Vec<_>>())
        .bind(sightings().map(|sighting| sighting.element.clone()).collect::<Vec<_>>())
        .bind(claims.iter().map(|claim| claim.ttl.as_secs_f64()).collect::<Vec<_>>())
        .fetch_all(pool)
        .await
        .map_err(SqlFault::of)?;
    let mut owners: Vec<Option<Sighting>> = vec![None; claims.len()];
    for row in &rows {
        let (number, owner) = owner(row).map_err(SqlFault::of)?;
        let at = usize::try_from(number - 1).ok();
        if let Some(slot) = at.and_then(|at| owners.get_mut(at)) {
            *slot = Some(owner);
        }
    }
    let all: Option<Vec<Sighting>> = owners.into_iter().collect();
    all.ok_or_else(|| SqlFault::refused("dedupe_claim did not answer every claim"))
}

fn owner(row: &sqlx::postgres::PgRow) -> Result<(i64, Sighting), sqlx::Error> {
    let sighting = Sighting {
        topic: row.try_get(1)?,
        partition: row.try_get(2)?,
        offset: row.try_get(3)?,
        element: row.try_get(4)?,
    };
    Ok((row.try_get(0)?, sighting))
}
