//! A Postgres server of a scenario's own, which may be killed and put back.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::millrace;

/// A Postgres of this scenario's own; its folder and process go with it.
pub struct PrivatePostgres {
    folder: tempfile::TempDir,
}

impl PrivatePostgres {
    /// A new, empty one.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("millrace-outage").tempdir().expect("a folder");
        // The server's user is not ours when we are root.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("our own folder");
        let postgres = Self { folder };
        postgres.services("start");
        postgres
    }

    /// `scripts/services COMMAND`: `start`, `stop`.
    pub fn services(&self, command: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
        let mut script = Command::new(script);
        script.args([command, "--only", "postgres", "--dir"]).arg(self.folder.path().join("services"));
        let output = millrace::output(&mut script).expect("the script runs");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Its address.
    pub fn url(&self) -> String {
        let env = self.services("env");
        let line = env.lines().find_map(|line| line.strip_prefix("export MILLRACE_POSTGRES="));
        line.expect("the script names its address").to_owned()
    }

    /// `kill -9`.
    pub fn kill(&self) {
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

    /// Copies its files; it must have been stopped.
    pub fn back_up(&self) {
        self.copy("data", "backup");
    }

    /// Puts the copy back; it must have been stopped.
    pub fn put_back(&self) {
        let data = self.folder.path().join("services/postgres/data");
        std::fs::remove_dir_all(data).expect("our own folder");
        self.copy("backup", "data");
    }

    fn copy(&self, from: &str, to: &str) {
        let folder = self.folder.path().join("services/postgres");
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(folder.join(from)).arg(folder.join(to));
        let output = millrace::output(&mut copy).expect("cp is there");
        assert!(output.status.success(), "{from} is copied to {to}");
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
        let folder = self.folder.path().join("services");
        let mut script = Command::new(script);
        script.args(["stop", "--purge", "--only", "postgres", "--dir"]).arg(folder);
        let _ended = millrace::output(&mut script);
    }
}
