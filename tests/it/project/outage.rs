//! Postgres is killed and comes back while the projector works.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::project::fixture::{Fixture, Oracle};

/// A Postgres of this scenario's own; its folder and process go with it.
struct PrivatePostgres {
    folder: tempfile::TempDir,
}

impl PrivatePostgres {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("millrace-outage").tempdir_in("/tmp").expect("a folder");
        // The server's user is not ours when we are root.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("our own folder");
        let postgres = Self { folder };
        postgres.services("start");
        postgres
    }

    fn services(&self, command: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
        let output = Command::new(script)
            .args([command, "--only", "postgres", "--dir"])
            .arg(self.folder.path().join("services"))
            .output()
            .expect("the script runs");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn url(&self) -> String {
        let env = self.services("env");
        let line = env.lines().find_map(|line| line.strip_prefix("export MILLRACE_POSTGRES="));
        line.expect("the script names its address").to_owned()
    }

    fn kill(&self) {
        let pid = std::fs::read_to_string(self.folder.path().join("services/postgres/pid")).expect("it runs");
        let pid: i32 =
            pid.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a process id");
        // SAFETY: sends a signal to a process that this test started.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
        // Its children notice within moments; a new server does not start before.
        std::thread::sleep(Duration::from_secs(1));
        // In a container whose first process does not wait for children, the dead server keeps its process id, and a
        // new one would believe its lock file.
        std::fs::remove_file(self.folder.path().join("services/postgres/data/postmaster.pid"))
            .expect("it was left");
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
        let folder = self.folder.path().join("services");
        let _ended = Command::new(script)
            .args(["stop", "--purge", "--only", "postgres", "--dir"])
            .arg(folder)
            .output();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_killed_is_waited_for() {
    let postgres = tokio::task::spawn_blocking(PrivatePostgres::start).await.expect("it starts");
    let fixture = Fixture::on("project-outage", &postgres.url()).await;
    let mut oracle = Oracle::default();
    let running = fixture.start();
    for round in 0..3_i64 {
        let base = round * 6_000;
        fixture.write(&mut oracle, base..base + 3_000, true).await;
        postgres.kill();
        fixture.write(&mut oracle, base + 3_000..base + 6_000, true).await;
        assert!(!running.task.is_finished(), "the projector waits, it does not end");
        postgres.services("start");
    }
    fixture.caught_up(&running).await;
    running.stop().await;
    oracle.check(&fixture.pool).await;
    fixture.pool.close().await;
}
