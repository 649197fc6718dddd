//! The `millrace` binary as child processes, as an operator runs it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Read while a program is being started; written by what must not happen meanwhile.
pub static STARTING: RwLock<()> = RwLock::new(());

/// Starts a program.
pub fn spawn(command: &mut Command) -> std::io::Result<Child> {
    let _starts = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// Runs a program to its end.
pub fn output(command: &mut Command) -> std::io::Result<Output> {
    spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?.wait_with_output()
}

/// Where its servers are.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Bootstrap servers.
    pub kafka: String,
    /// Schema registry; without one the schemas are embedded.
    pub registry: Option<String>,
    /// Postgres, where a role needs it.
    pub postgres: Option<String>,
}

/// How the binary is called in one scenario: project folder, servers, namespace.
#[derive(Clone, Debug)]
pub struct Millrace {
    /// The program: the one that was built with the tests.
    pub program: PathBuf,
    /// Project folder; logs of child processes are written beside its files.
    pub project: PathBuf,
    /// Arguments that every call gets.
    pub arguments: Vec<String>,
    /// Environment that every call gets.
    pub environment: Vec<(String, String)>,
}

/// A running child; killed when dropped, so that a failed test leaves no process.
pub struct Running {
    child: Child,
    /// Its log.
    pub log: PathBuf,
}

impl Millrace {
    /// Calls for a project against these servers.
    pub fn new(project: &Path, namespace: &str, servers: &Addresses) -> Self {
        let Addresses { kafka, registry, postgres } = servers;
        let mut arguments = vec![
            ("--project", project.display().to_string()),
            ("--namespace", namespace.to_owned()),
            ("--kafka", kafka.clone()),
        ];
        arguments.extend(registry.iter().map(|url| ("--registry", url.clone())));
        arguments.extend(postgres.iter().map(|url| ("--postgres", url.clone())));
        Self {
            program: PathBuf::from(env!("CARGO_BIN_EXE_millrace")),
            project: project.to_owned(),
            arguments: arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect(),
            environment: Vec::new(),
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).args(&self.arguments).stdin(Stdio::null());
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command
    }

    /// Runs to the end.
    pub fn run(&self, words: &[&str]) -> Output {
        output(&mut self.command(words)).expect("the binary starts")
    }

    /// Runs to the end and expects success.
    pub fn run_ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "millrace {words:?}: {}\n{stdout}\n{stderr}", output.status);
        stdout
    }

    /// Starts a role; its log goes to `<name>.log` in the project folder.
    pub fn start(&self, name: &str, words: &[&str]) -> Running {
        let log = self.project.join(format!("{name}.log"));
        let file = File::create(&log).expect("the project folder can be written");
        let mut command = self.command(words);
        command.stdout(file.try_clone().expect("a file handle can be shared")).stderr(file);
        let child = spawn(&mut command).expect("the binary starts");
        Running { child, log }
    }
}

impl Running {
    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process is ours");
        self.child.wait().expect("the process is ours");
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `libc::SIGSTOP`.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: kill(2) with the id of a child that was not waited for yet reaches that child and nothing else.
        unsafe { libc::kill(pid, signal) };
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process is ours")
    }

    /// SIGTERM, then waits for the exit; true when it ended by itself with success.
    pub fn terminate(&mut self, patience: Duration) -> bool {
        self.signal(libc::SIGTERM);
        self.ends_within(patience)
    }

    /// Waits for its exit; true when it ended with success.
    pub fn ends_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// Fails when the process has ended.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended: {status}\n{}", self.log.display(), self.log_text());
        }
    }

    /// What it logged.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
