//! `millrace` as a child process on a project made for the run, measured from outside.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::measure;
use crate::raw::Outcome;

const READY_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(30);
/// How often a child is asked whether it is ready, or has ended.
const ASK_EVERY: Duration = Duration::from_millis(5);
const LOG_LINES: usize = 20;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Measures another build than the one this benchmark was built with. To be called once, before any run.
pub fn choose(program: PathBuf) {
    // A second call changes nothing; there is none.
    let _ = PROGRAM.set(program);
}

fn program() -> &'static Path {
    PROGRAM.get_or_init(|| PathBuf::from(env!("CARGO_BIN_EXE_millrace")))
}

/// A project's folder, removed when dropped.
pub struct Project(tempfile::TempDir);

impl Project {
    pub fn new() -> Outcome<Project> {
        tempfile::tempdir().map(Project).map_err(|e| e.to_string())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn file(&self, name: &str, text: &str) -> Outcome<()> {
        let path = self.path(name);
        let folder = path.parent().ok_or("a file has a folder")?;
        fs::create_dir_all(folder).and_then(|()| fs::write(&path, text)).map_err(|e| e.to_string())
    }

    /// A topic of JSON values.
    pub fn topic(&self, name: &str, partitions: i32) -> Outcome<()> {
        self.file(
            &format!("topics/{name}.yaml"),
            &format!("partitions: {partitions}\nvalue: {{format: json}}\n"),
        )
    }

    /// Runs a command of the program to its end.
    pub fn run(&self, words: &[&str]) -> Outcome<()> {
        let output = self.command(words).output().map_err(|e| format!("the program cannot start: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(format!("millrace {words:?} ended with {}: {}", output.status, String::from_utf8_lossy(&said)))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MILLRACE_"));
        for (name, _) in ours {
            command.env_remove(name);
        }
        command.args(words).args(["--project".as_ref(), self.0.path().as_os_str()]).stdin(Stdio::null());
        command
    }
}

/// A running role, killed when dropped.
pub struct Program {
    child: Child,
    log: PathBuf,
    /// Port of metrics and health.
    port: u16,
    started: Instant,
}

impl Program {
    /// Starts a role: `words` are its name and options, `env` the secrets that its project asks for.
    pub fn start(project: &Project, words: &[&str], env: &[(&str, &str)]) -> Outcome<Program> {
        let port = free_port()?;
        let role = words.first().ok_or("a role has a name")?;
        let log = project.path(&format!("{role}.log"));
        let file = File::create(&log).map_err(|e| e.to_string())?;
        let mut command = project.command(words);
        command.args(["--metrics", &format!("127.0.0.1:{port}")]).envs(env.iter().copied());
        command.stdout(Stdio::null()).stderr(file);
        let started = Instant::now();
        let child = command.spawn().map_err(|e| format!("the program cannot start: {e}"))?;
        Ok(Program { child, log, port, started })
    }

    /// Starts a program that is not ours; its output goes into the project's folder.
    pub fn foreign(project: &Project, mut command: Command) -> Outcome<Program> {
        let log = project.path("foreign.log");
        let file = File::create(&log).map_err(|e| e.to_string())?;
        let errors = file.try_clone().map_err(|e| e.to_string())?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let started = Instant::now();
        let child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        Ok(Program { child, log, port: 0, started })
    }

    /// Ends a program that is not ours, in whatever way it takes a signal to end.
    pub fn end(mut self) -> Outcome<()> {
        self.terminate();
        let asked = Instant::now();
        while asked.elapsed() < STOP_MAX {
            if self.child.try_wait().map_err(|e| e.to_string())?.is_some() {
                return Ok(());
            }
            std::thread::sleep(ASK_EVERY);
        }
        Err(format!("the program did not end within {STOP_MAX:?}"))
    }

    fn terminate(&self) {
        // SAFETY: a signal to a child of ours that has not been waited for, so the id is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
    }

    /// Waits until `/health/ready` says so; gives the time since the start.
    pub fn ready(&mut self) -> Outcome<Duration> {
        while self.started.elapsed() < READY_MAX {
            self.expect_alive()?;
            if self.is_ready() {
                return Ok(self.started.elapsed());
            }
            std::thread::sleep(ASK_EVERY);
        }
        Err(format!("not ready after {READY_MAX:?}"))
    }

    fn is_ready(&self) -> bool {
        let asked = || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream
                .write_all(b"GET /health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        };
        asked().is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
    }

    pub fn expect_alive(&mut self) -> Outcome<()> {
        match self.child.try_wait().map_err(|e| e.to_string())? {
            Some(status) => Err(format!("the program ended by itself: {status}")),
            None => Ok(()),
        }
    }

    /// CPU time so far, in seconds, in steps of 10 ms.
    pub fn cpu_s(&self) -> Outcome<f64> {
        measure::process_cpu_of(self.child.id())
    }

    pub fn librdkafka_cpu_s(&self) -> f64 {
        measure::librdkafka_cpu_of(&self.proc())
    }

    /// Highest resident memory so far.
    pub fn rss_mib(&self) -> f64 {
        measure::rss_peak_mib_of(&self.proc())
    }

    pub fn threads(&self) -> usize {
        fs::read_dir(self.proc().join("task")).map_or(0, Iterator::count)
    }

    fn proc(&self) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string())
    }

    /// `result`, with the end of the log when it is an error.
    pub fn explained<T>(&self, result: Outcome<T>) -> Outcome<T> {
        result.map_err(|error| {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            format!("{error}\n{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
        })
    }

    /// Asks it to end in order, and waits.
    pub fn stop(mut self) -> Outcome<()> {
        self.terminate();
        let ended = self.ended();
        self.explained(ended)
    }

    fn ended(&mut self) -> Outcome<()> {
        let asked = Instant::now();
        while asked.elapsed() < STOP_MAX {
            match self.child.try_wait().map_err(|e| e.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the program ended with {status}")),
                None => std::thread::sleep(ASK_EVERY),
            }
        }
        Err(format!("the program did not end within {STOP_MAX:?}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free now.
pub fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    listener.local_addr().map(|address| address.port()).map_err(|e| e.to_string())
}
