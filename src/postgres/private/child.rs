//! The programs as child processes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::postgres::private::folder::{self, Home};
use crate::postgres::private::programs::{Programs, User};
use crate::postgres::private::{LOOK_EVERY, NAME, PrivateError, system};

/// Lines of a log that an error shows.
const LOG_LINES: usize = 15;

/// Only the role `millrace`, from this machine. The superuser has no way in: everything else is refused.
const ACCESS: &str = "host all millrace 127.0.0.1/32 trust\n";

/// Makes a cluster with its role and database.
///
/// # Errors
/// [`PrivateError`]; nothing is left that could be taken for a cluster.
pub fn initialise(programs: &Programs, home: &Home, user: Option<&User>) -> Result<(), PrivateError> {
    let data = home.unfinished();
    folder::remove(&data)?;
    DirBuilder::new().mode(0o700).create(&data).map_err(|source| system("make the folder", &data, source))?;
    if let Some(user) = user {
        std::os::unix::fs::chown(&data, Some(user.uid), Some(user.gid))
            .map_err(|source| system("give away the folder", &data, source))?;
    }
    let words =
        ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"];
    let mut initdb = command(&programs.initdb, &data, user, libc::SIGKILL);
    initdb.arg("-D").arg(&data).args(words);
    finish("initdb", initdb, home, "")?;
    // Without a server: nobody can connect before the access rules are in place.
    let mut alone = command(&programs.postgres, &data, user, libc::SIGKILL);
    alone.arg("--single").arg("-D").arg(&data).args(["-F", "-c", "exit_on_error=on", "template1"]);
    // The database that initdb makes is renamed: to copy another costs as much as all the rest here.
    let orders = format!(
        "create role {NAME} login createdb\nalter database postgres rename to {NAME}\nalter database {NAME} owner to {NAME}\n"
    );
    finish("postgres --single", alone, home, &orders)?;
    let rules = data.join("pg_hba.conf");
    fs::write(&rules, ACCESS).map_err(|source| system("write", &rules, source))?;
    fs::rename(&data, home.data()).map_err(|source| system("rename", &data, source))
}

/// A program that runs as `user` in `folder`, and is signalled when the thread that starts it ends.
fn command(program: &Path, folder: &Path, user: Option<&User>, at_end: libc::c_int) -> Command {
    let mut command = Command::new(program);
    // A terminal's Ctrl-C is for Millrace, which stops the server after its roles.
    command.current_dir(folder).process_group(0).env("LC_ALL", "C");
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    follow_parent(&mut command, at_end);
    command
}

/// Changing the user forgets the signal, so it is set after that: `pre_exec` runs last before the program.
#[cfg(target_os = "linux")]
fn follow_parent(command: &mut Command, at_end: libc::c_int) {
    let parent = std::process::id();
    let follow = move || {
        // SAFETY: prctl(2) with these arguments takes numbers alone and may be called between fork and exec.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, at_end) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have ended before the line above; getppid(2) always succeeds.
        // SAFETY: takes nothing, and may be called between fork and exec.
        match u32::try_from(unsafe { libc::getppid() }) {
            Ok(id) if id == parent => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(follow) };
}

/// Other systems have no such signal: there a killed Millrace leaves the server running.
#[cfg(not(target_os = "linux"))]
fn follow_parent(_command: &mut Command, _at_end: libc::c_int) {}

/// Runs a program to its end, with `input`.
fn finish(name: &'static str, mut command: Command, home: &Home, input: &str) -> Result<(), PrivateError> {
    let program = command.get_program().to_owned();
    let started = |source| system("start", &program, source);
    let log = open_log(home)?;
    let out = log.try_clone().map_err(started)?;
    let mut child = command.stdin(Stdio::piped()).stdout(out).stderr(log).spawn().map_err(started)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read has ended, and its status says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let status = child.wait().map_err(started)?;
    if status.success() {
        return Ok(());
    }
    Err(PrivateError::Failed { program: name, status: status.to_string(), log: log_end(home) })
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
    /// What the server did before this start stands before here in the log.
    log_begin: usize,
    home: Paths,
}

/// What is needed of the folder; the lock stays with its owner.
#[derive(Debug)]
struct Paths {
    pid_file: std::path::PathBuf,
    log: std::path::PathBuf,
    is_temporary: bool,
}

impl Server {
    /// Starts the server. A former one that still stops is waited for.
    ///
    /// # Errors
    /// [`PrivateError::System`].
    pub fn spawn(
        programs: &Programs,
        home: &Home,
        user: Option<&User>,
        port: u16,
    ) -> Result<Self, PrivateError> {
        let pid_file = home.data().join("postmaster.pid");
        await_former(&pid_file);
        let log = open_log(home)?;
        let log_begin = log.metadata().map_or(0, |metadata| usize::try_from(metadata.len()).unwrap_or(0));
        let mut server = command(&programs.postgres, &home.data(), user, stop_signal(home.is_temporary()));
        server.arg("-D").arg(home.data()).arg("-p").arg(port.to_string());
        for setting in settings(home.is_temporary()) {
            server.arg("-c").arg(setting);
        }
        let started = |source| system("start", &programs.postgres, source);
        let out = log.try_clone().map_err(started)?;
        let child = server.stdin(Stdio::null()).stdout(out).stderr(log).spawn().map_err(started)?;
        let home = Paths { pid_file, log: home.log(), is_temporary: home.is_temporary() };
        Ok(Self { child, port, log_begin, home })
    }

    /// Waits until it takes connections.
    ///
    /// # Errors
    /// [`PrivateError::Failed`] when it ends instead, [`PrivateError::PortTaken`] when that is why,
    /// [`PrivateError::Late`].
    pub fn wait_until_ready(&mut self, patience: Duration) -> Result<(), PrivateError> {
        let deadline = Instant::now() + patience;
        loop {
            if is_ready(&fs::read_to_string(&self.home.pid_file).unwrap_or_default(), self.child.id()) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.why_not(status));
            }
            if Instant::now() > deadline {
                self.stop(LOOK_EVERY);
                return Err(PrivateError::Late { log: self.log() });
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn why_not(&self, status: ExitStatus) -> PrivateError {
        let log = self.log();
        if log.contains("could not bind") || log.contains("Address already in use") {
            return PrivateError::PortTaken { port: self.port };
        }
        PrivateError::Failed { program: "postgres", status: status.to_string(), log }
    }

    /// Whether it runs no more.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Stops it: clients are cut off, transactions rolled back. Kills it after `patience`.
    pub fn stop(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.signal(stop_signal(self.home.is_temporary));
        while !self.has_ended() {
            if Instant::now() > deadline {
                tracing::warn!("the private Postgres does not stop and is killed");
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn signal(&mut self, signal: libc::c_int) {
        if self.has_ended() {
            return;
        }
        if let Ok(pid) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: kill(2) with the id of a child that was not waited for yet reaches that child and nothing else.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        let text = fs::read(&self.home.log).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(text.get(self.log_begin..).unwrap_or_default()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only a server whose start was given up is still there.
        if !self.has_ended() {
            self.stop(Duration::from_secs(1));
        }
    }
}

/// SIGINT ends clients and writes everything down; SIGQUIT just ends, for data that is removed next.
fn stop_signal(is_temporary: bool) -> libc::c_int {
    if is_temporary { libc::SIGQUIT } else { libc::SIGINT }
}

/// For one machine and one user: no socket file, no replication. Temporary data need no disk.
fn settings(is_temporary: bool) -> Vec<&'static str> {
    let mut settings = vec![
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "max_connections=100",
        "wal_level=minimal",
        "max_wal_senders=0",
        "synchronous_commit=off",
        "jit=off",
        "logging_collector=off",
        "log_destination=stderr",
    ];
    if is_temporary {
        settings.extend(["fsync=off", "full_page_writes=off"]);
    }
    settings
}

/// A former server of this folder, whose Millrace was killed, may still be stopping.
fn await_former(pid_file: &Path) {
    let deadline = Instant::now() + super::STOP_MAX;
    let is_there = || {
        let text = fs::read_to_string(pid_file).unwrap_or_default();
        let pid = text.lines().next().and_then(|line| line.trim().parse::<libc::pid_t>().ok());
        // SAFETY: kill(2) with signal 0 only asks whether the process is there.
        pid.is_some_and(|pid| pid > 0 && unsafe { libc::kill(pid, 0) } == 0)
    };
    while is_there() && Instant::now() < deadline {
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether a `postmaster.pid` says that the server `pid` takes connections: its eighth line.
fn is_ready(pid_file: &str, pid: u32) -> bool {
    let mut lines = pid_file.lines().map(str::trim);
    let is_own = lines.next().is_some_and(|line| line.parse() == Ok(pid));
    is_own && lines.nth(6) == Some("ready")
}

fn open_log(home: &Home) -> Result<File, PrivateError> {
    let path = home.log();
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(|source| system("open the log", path, source))
}

fn log_end(home: &Home) -> String {
    last_lines(&String::from_utf8_lossy(&fs::read(home.log()).unwrap_or_default()))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_the_eighth_line_of_the_servers_own_file() {
        let file =
            |state: &str| format!("4711\n/data\n1795132800\n5433\n\n127.0.0.1\n  5433001  0\n{state}\n");
        assert!(is_ready(&file("ready   "), 4711));
        assert!(!is_ready(&file("starting"), 4711));
        assert!(!is_ready(&file("ready   "), 4712), "of a former server");
        assert!(!is_ready("4711\n/data\n", 4711), "half written");
        assert!(!is_ready("", 4711));
    }

    #[test]
    fn only_the_end_of_a_log_is_shown() {
        let log: String = (0..100).map(|line| format!("{line}\n")).collect();
        let end = last_lines(&log);
        assert_eq!(end.lines().count(), LOG_LINES);
        assert!(end.ends_with("99"));
        assert_eq!(last_lines(""), "");
    }

    #[test]
    fn what_is_kept_is_written_through() {
        assert!(settings(true).contains(&"fsync=off"));
        assert!(!settings(false).iter().any(|setting| setting.starts_with("fsync")));
    }
}
