//! `millrace dev` and `millrace quickstart` as child processes on servers of their own, followed by what they print.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::millrace;

/// How long anything may take; the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running child; killed when dropped.
pub struct Live {
    child: Child,
    told: Arc<Mutex<Vec<Value>>>,
    errors: Arc<Mutex<String>>,
    /// Lines before this one were waited for.
    seen: usize,
}

/// The binary with no server named: what the environment of the tests names is not for it.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    command.args(words).stdin(Stdio::null());
    for name in ["MILLRACE_KAFKA", "MILLRACE_REGISTRY", "MILLRACE_POSTGRES", "MILLRACE_PROJECT"] {
        command.env_remove(name);
    }
    command
}

/// `millrace dev` on the project in `folder`, on free ports, with this in its environment.
pub fn dev(folder: &Path, words: &[&str], environment: &[(&str, &str)]) -> Live {
    let folder = folder.display().to_string();
    let own = ["dev", "--project", &folder, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    let words: Vec<&str> = own.into_iter().chain(["--output", "json"]).chain(words.iter().copied()).collect();
    let mut command = command(&words);
    command.envs(environment.iter().copied());
    Live::start(command)
}

impl Live {
    /// Starts a command that tells what happens as JSON, an object a line.
    pub fn start(mut command: Command) -> Self {
        let mut child = millrace::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
            .expect("the binary starts");
        let (told, errors) = (Arc::<Mutex<Vec<Value>>>::default(), Arc::<Mutex<String>>::default());
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut stderr = child.stderr.take().expect("it is piped");
        let (into, errors_into) = (Arc::clone(&told), Arc::clone(&errors));
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or_else(|_| Value::String(line.clone()));
                into.lock().expect("nobody panics with it").push(value);
            }
        });
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                errors_into.lock().expect("nobody panics with it").push_str(&text);
            }
        });
        Self { child, told, errors, seen: 0 }
    }

    /// The first object from here on that is `wanted`.
    pub fn until(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            {
                let told = self.told.lock().expect("nobody panics with it");
                if let Some(at) = told[self.seen..].iter().position(&wanted) {
                    self.seen += at + 1;
                    return told[self.seen - 1].clone();
                }
            }
            let ended = self.child.try_wait().expect("the process is ours");
            assert!(ended.is_none() && Instant::now() < deadline, "{name}: {ended:?}\n{}", self.all());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The first object from here on of this kind.
    pub fn what(&mut self, what: &str) -> Value {
        self.until(what, |told| told["what"] == what)
    }

    /// Objects of this kind so far.
    pub fn count(&self, what: &str) -> usize {
        self.told.lock().expect("nobody panics with it").iter().filter(|told| told["what"] == what).count()
    }

    /// Everything that was printed.
    pub fn all(&self) -> String {
        let told = self.told.lock().expect("nobody panics with it");
        let lines: Vec<String> = told.iter().map(ToString::to_string).collect();
        format!("{}\n{}", lines.join("\n"), self.errors.lock().expect("nobody panics with it"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: libc::c_int) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: kill(2) with the id of a child that was not waited for yet reaches that child and nothing else.
        unsafe { libc::kill(pid, signal) };
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the process is ours") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end\n{}", self.all());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it with Ctrl-C, which must go well.
    pub fn stop(&mut self) {
        self.signal(libc::SIGINT);
        let status = self.ended();
        assert!(status.success(), "{status}\n{}", self.all());
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
