//! Owners that come and go, and an owner that does not know that it was replaced.

use std::time::Duration;

use millrace::position::{NextOffset, Partition};
use millrace::project::copy::CopyText;
use millrace::project::store::{Outcome, Rows, Store, Write};

use crate::project::fixture::{Fixture, Oracle, result};
use crate::support::servers;

/// A second owner takes the partition over with a higher epoch: what the first still writes changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_replaced_writes_nothing() {
    let fixture = Fixture::new("project-fence").await;
    let store = Store { pool: fixture.pool.clone(), group: String::from("g") };
    let partition = Partition::new("t", 0);
    let write = |to: i64, number: i64| {
        let mut copy = CopyText::default();
        copy.execution(&result(number));
        Write { to: NextOffset(to), rows: Rows::Executions(copy), rejects: Vec::new(), records: &[] }
    };
    let first = store.take_over(&partition, NextOffset(5)).await.expect("Postgres answers");
    assert_eq!(first.next, NextOffset(5));
    assert_eq!(store.write(&partition, first, &write(6, 1)).await.expect("Postgres answers"), Outcome::Done);
    let second = store.take_over(&partition, NextOffset(0)).await.expect("Postgres answers");
    assert_eq!((second.next, second.epoch), (NextOffset(6), first.epoch.next()));
    let stale = millrace::project::store::Position { next: NextOffset(6), ..first };
    assert_eq!(store.write(&partition, stale, &write(7, 2)).await.expect("Postgres answers"), Outcome::Moved);
    assert_eq!(store.write(&partition, second, &write(7, 3)).await.expect("Postgres answers"), Outcome::Done);
    let again = store.write(&partition, second, &write(7, 4)).await.expect("Postgres answers");
    assert_eq!(again, Outcome::Moved, "a batch cannot be written twice");
    let offsets: Vec<i64> = sqlx::query_scalar("select \"offset\" from executions order by 1")
        .fetch_all(&fixture.pool)
        .await
        .expect("the table can be read");
    assert_eq!(offsets, [1, 3]);
}

/// An owner that is stopped in the middle of a transaction holds locks until Postgres ends its connection: whoever comes
/// after it waits for that in one statement, and has the partition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_sleeps_in_a_transaction_is_replaced() {
    let fixture = Fixture::new("project-asleep").await;
    let store = Store { pool: fixture.pool.clone(), group: String::from("g") };
    let partition = Partition::new("t", 0);
    let first = store.take_over(&partition, NextOffset(5)).await.expect("Postgres answers");
    let mut asleep = fixture.pool.begin().await.expect("Postgres answers");
    sqlx::query("update projector_positions set next_offset = 6 where grp = 'g'")
        .execute(&mut *asleep)
        .await
        .expect("Postgres answers");
    let second = store.take_over(&partition, NextOffset(0)).await.expect("not held up for long");
    assert_eq!((second.next, second.epoch), (NextOffset(5), first.epoch.next()));
    assert!(asleep.commit().await.is_err(), "it must not write when it wakes");
}

/// A projector is cut off in the middle again and again, another joins and leaves: the tables equal the oracle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projectors_that_die_and_join_lose_and_double_nothing() {
    let fixture = Fixture::new("project-owners").await;
    let mut oracle = Oracle::default();
    let some = servers::amount(2_000, 800);
    for round in 0..4_i64 {
        let base = round * 2 * some;
        let doomed = fixture.start();
        fixture.write(&mut oracle, base..base + some, true).await;
        tokio::time::sleep(Duration::from_millis(300 * (round as u64 + 1))).await;
        doomed.task.abort();
        let _aborted = doomed.task.await;
        fixture.write(&mut oracle, base + some..base + 2 * some, true).await;
    }
    let one = fixture.start();
    let two = fixture.start();
    fixture.write(&mut oracle, 10 * some..12 * some, true).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    two.stop().await;
    fixture.write(&mut oracle, 15 * some..16 * some, true).await;
    fixture.caught_up(&one).await;
    one.stop().await;
    oracle.check(&fixture.pool).await;
}

/// Somebody takes the partitions over beside the group (an operator's second deployment) and goes away again: the
/// projector that the group still gives them to takes them back, and nothing is folded twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projector_takes_back_what_the_group_still_gives_it() {
    let fixture = Fixture::new("project-takeback").await;
    let mut oracle = Oracle::default();
    let running = fixture.start();
    fixture.write(&mut oracle, 0..500, true).await;
    fixture.caught_up(&running).await;
    sqlx::query("update projector_positions set epoch = epoch + 1")
        .execute(&fixture.pool)
        .await
        .expect("Postgres answers");
    fixture.write(&mut oracle, 500..1_000, true).await;
    fixture.caught_up(&running).await;
    running.stop().await;
    oracle.check(&fixture.pool).await;
}
