//! The private Postgres cluster: used, kept, two at once, refused, and gone with the process that started it.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use millrace::postgres::private::{self, Cluster, Folder, PrivateError};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::support::millrace::STARTING;

async fn ask(url: &str, question: &'static str) -> i64 {
    let mut connection = PgConnection::connect(url).await.expect("the cluster answers");
    let answer = sqlx::query_scalar(question).fetch_one(&mut connection).await.expect("an answer");
    connection.close().await.expect("it can be closed");
    answer
}

async fn order(url: &str, order: &'static str) {
    let mut connection = PgConnection::connect(url).await.expect("the cluster answers");
    sqlx::query(order).execute(&mut connection).await.expect("it is allowed");
    connection.close().await.expect("it can be closed");
}

/// Starting waits; the test's runtime does not.
async fn start(folder: Folder) -> Result<Cluster, PrivateError> {
    start_at(folder, 0).await
}

async fn start_at(folder: Folder, port: u16) -> Result<Cluster, PrivateError> {
    let start = move || {
        let _starts = STARTING.read().unwrap_or_else(PoisonError::into_inner);
        Cluster::start(&folder, port)
    };
    tokio::task::spawn_blocking(start).await.expect("it does not panic")
}

/// The folder in which the server at `port` works, found by its process.
fn folder_of(port: u16) -> Option<PathBuf> {
    let port = port.to_string();
    std::fs::read_dir("/proc").expect("Linux").flatten().find_map(|process| {
        let words = std::fs::read(process.path().join("cmdline")).ok()?;
        let words: Vec<String> =
            words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let after = |flag: &str| words.iter().skip_while(|word| *word != flag).nth(1).cloned();
        let is_it = words.first()?.ends_with("/postgres") && after("-p")? == port;
        is_it.then(|| Path::new(&after("-D")?).parent().map(Path::to_owned)).flatten()
    })
}

#[tokio::test]
async fn two_temporary_clusters_run_side_by_side_and_leave_nothing() {
    let (one, two) = tokio::join!(start(Folder::Temporary), start(Folder::Temporary));
    let (one, two) = (one.expect("PostgreSQL is installed"), two.expect("PostgreSQL is installed"));
    assert_ne!(one.port(), two.port());
    order(&one.url(), "create table things (id bigint primary key)").await;
    order(&one.url(), "insert into things select generate_series(1, 1000)").await;
    assert_eq!(ask(&one.url(), "select count(*) from things").await, 1000);
    let elsewhere = "select count(*) from pg_class where relname = 'things'";
    assert_eq!(ask(&two.url(), elsewhere).await, 0);
    let rights =
        "select (rolsuper::int + rolbypassrls::int)::bigint from pg_roles where rolname = current_user";
    assert_eq!(ask(&one.url(), rights).await, 0, "nobody needs a superuser");
    let superuser = one.url().replacen("millrace@", "postgres@", 1);
    assert!(PgConnection::connect(&superuser).await.is_err(), "the superuser has no way in");

    for cluster in [one, two] {
        let (port, ended) = (cluster.port(), cluster.ended());
        let folder = folder_of(port).expect("it runs");
        let begun = Instant::now();
        drop(cluster);
        assert!(begun.elapsed() < Duration::from_secs(5), "stopped in {:?}", begun.elapsed());
        assert!(ended.is_cancelled());
        assert!(folder_of(port).is_none() && !folder.exists(), "{}", folder.display());
    }
}

#[tokio::test]
async fn a_kept_cluster_goes_on_where_it_was() {
    let above = open_folder();
    let path = above.path().join("cluster");
    let folder = Folder::Kept(path.clone());
    let first = start(folder.clone()).await.expect("PostgreSQL is installed");
    order(&first.url(), "create table kept as select 42::bigint as answer").await;
    let busy = start(folder.clone()).await.expect_err("it is in use");
    assert!(matches!(busy, PrivateError::Busy { .. }), "{busy}");
    assert!(matches!(private::forget(&path), Err(PrivateError::Busy { .. })));
    drop(first);

    let second = start(folder.clone()).await.expect("it is free again");
    assert_eq!(ask(&second.url(), "select answer from kept").await, 42);
    drop(second);

    private::forget(&path).expect("it is free again");
    let third = start(folder).await.expect("it begins anew");
    assert_eq!(ask(&third.url(), "select count(*) from pg_class where relname = 'kept'").await, 0);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let error = start_at(Folder::Temporary, port).await.expect_err("the port is taken");
    assert!(matches!(error, PrivateError::PortTaken { port: named } if named == port), "{error}");
}

#[tokio::test]
async fn a_server_that_dies_is_noticed() {
    let cluster = start(Folder::Temporary).await.expect("PostgreSQL is installed");
    let folder = folder_of(cluster.port()).expect("it runs");
    let pid = std::fs::read_to_string(folder.join("data/postmaster.pid")).expect("it runs");
    let pid: i32 = pid.lines().next().and_then(|line| line.parse().ok()).expect("a process id");
    // SAFETY: kill(2) reaches the server of this test alone, which runs.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    tokio::time::timeout(Duration::from_secs(10), cluster.ended().cancelled()).await.expect("it is noticed");
    drop(cluster);
    assert!(!folder.exists());
}

/// A temporary folder that the server may enter: it runs as another user where the tests run as root.
fn open_folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).expect("it is ours");
    folder
}
