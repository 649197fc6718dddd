//! Roles of Millrace as child processes, looked after as an orchestrator does: what ends is started again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::millrace::{Millrace, Running};

/// How long an orchestrator waits before it starts again what has ended.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// How long a role may take to end after SIGTERM.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// A role that is kept running.
pub struct Member {
    /// Its name, with which its `client.id` begins.
    pub name: String,
    words: Vec<String>,
    millrace: Millrace,
    running: Option<Running>,
    starts: u32,
    start_at: Option<Instant>,
    is_frozen: bool,
}

/// How a role ended by itself.
#[derive(Clone, Debug)]
pub struct Exit {
    /// Whose.
    pub member: String,
    /// Its exit code; none after a signal.
    pub code: Option<i32>,
    /// The log of that run.
    pub log: PathBuf,
}

/// All roles of one case.
pub struct Fleet {
    session: &'static str,
    /// How the `client.id` of each ends.
    clients: String,
    /// Further lines of their `--kafka-config`.
    properties: String,
    members: Vec<Member>,
    /// Ends that nobody asked for.
    pub exits: Vec<Exit>,
    /// Largest resident memory of any of them, in KiB.
    pub rss_kib_max: u64,
}

impl Fleet {
    /// No roles yet; those that come have this session time-out, a `client.id` that ends with `clients`, and these
    /// settings of librdkafka.
    pub fn new(session: &'static str, clients: String, properties: String) -> Self {
        Self { session, clients, properties, members: Vec::new(), exits: Vec::new(), rss_kib_max: 0 }
    }

    /// Members that are started from now on have librdkafka's usual settings.
    pub fn forget_properties(&mut self) {
        self.properties.clear();
    }

    /// Adds a role and starts it. `words` begin with the verb.
    pub fn add(&mut self, name: &str, millrace: &Millrace, words: &[&str]) -> anyhow::Result<()> {
        let config = millrace.project.join(format!("{name}.properties"));
        std::fs::write(&config, format!("client.id={name}{}\n{}", self.clients, self.properties))?;
        let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        words.extend(
            ["--metrics", "127.0.0.1:0", "--session-timeout", self.session, "--kafka-config"]
                .map(str::to_owned),
        );
        words.push(config.display().to_string());
        self.members.push(Member {
            name: name.to_owned(),
            words,
            millrace: millrace.clone(),
            running: None,
            starts: 0,
            start_at: None,
            is_frozen: false,
        });
        self.members.last_mut().expect("just pushed").start();
        Ok(())
    }

    /// Takes a role out for good, as it is: killed.
    pub fn remove(&mut self, name: &str) {
        self.members.retain(|member| member.name != name);
    }

    /// Names of the roles that begin with `prefix`.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.members
            .iter()
            .map(|member| member.name.clone())
            .filter(|name| name.starts_with(prefix))
            .collect()
    }

    /// The role called `name`.
    pub fn get(&mut self, name: &str) -> &mut Member {
        self.members.iter_mut().find(|member| member.name == name).expect("a role of this case")
    }

    /// SIGSTOP for every role that begins with `prefix`.
    pub fn freeze(&mut self, prefix: &str) {
        self.members.iter_mut().filter(|member| member.name.starts_with(prefix)).for_each(Member::freeze);
    }

    /// SIGCONT for all.
    pub fn thaw(&mut self) {
        self.members.iter_mut().for_each(Member::thaw);
    }

    /// Notes what has ended and starts it again; notes memory. To be called while waiting for anything.
    pub fn tend(&mut self) {
        for member in &mut self.members {
            if let Some(exit) = member.look() {
                self.exits.push(exit);
            }
            if member.start_at.is_some_and(|at| Instant::now() >= at) {
                member.start();
            }
            self.rss_kib_max = self.rss_kib_max.max(member.rss_kib_max());
        }
    }

    /// Everybody goes on and runs.
    pub fn heal(&mut self) {
        self.thaw();
        for member in &mut self.members {
            member.wake();
            if member.running.is_none() {
                member.start();
            }
        }
    }

    /// SIGTERM for one after another; those that did not end by themselves with success.
    pub fn end(&mut self) -> Vec<String> {
        self.thaw();
        self.members.iter().for_each(|member| member.signal(libc::SIGTERM));
        let unclean = |member: &mut Member| {
            let running = member.running.as_mut()?;
            let is_clean = running.ends_within(END_PATIENCE);
            (!is_clean).then(|| format!("{} did not end by itself: {}", member.name, running.log.display()))
        };
        self.members.iter_mut().filter_map(unclean).collect()
    }
}

impl Member {
    /// Sets a variable of its environment from the next start on; without a value it is taken out.
    pub fn set(&mut self, variable: &str, value: Option<&str>) {
        self.millrace.environment.retain(|(name, _)| name != variable);
        self.millrace.environment.extend(value.map(|value| (variable.to_owned(), value.to_owned())));
    }

    /// Starts it.
    pub fn start(&mut self) {
        self.starts += 1;
        self.start_at = None;
        self.is_frozen = false;
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        self.running = Some(self.millrace.start(&format!("{}.{}", self.name, self.starts), &words));
    }

    /// `kill -9`; it stays down until it is started.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
        }
        self.start_at = None;
    }

    /// SIGTERM, and waits for the end; it stays down until it is started. Whether it ended well.
    pub fn terminate(&mut self) -> bool {
        self.start_at = None;
        let Some(mut running) = self.running.take() else { return false };
        // Until it says that it has started it listens to no signal, and would end as any program does.
        let until = Instant::now() + END_PATIENCE;
        while Instant::now() < until && !has_started(&running.log) && running.ended().is_none() {
            std::thread::sleep(Duration::from_millis(50));
        }
        running.terminate(END_PATIENCE)
    }

    /// SIGSTOP.
    pub fn freeze(&mut self) {
        // Who sleeps already is not woken by the next thaw.
        self.is_frozen |= !self.is_asleep();
        self.signal(libc::SIGSTOP);
    }

    /// Whether it has stopped by itself, or was stopped.
    pub fn is_asleep(&self) -> bool {
        let Some(running) = &self.running else { return false };
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.id())).unwrap_or_default();
        // The name, which may hold anything, is in brackets; the state follows.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// SIGCONT for one that stopped by itself.
    pub fn wake(&mut self) {
        self.signal(libc::SIGCONT);
    }

    /// SIGCONT.
    pub fn thaw(&mut self) {
        if std::mem::take(&mut self.is_frozen) {
            self.signal(libc::SIGCONT);
        }
    }

    fn signal(&self, signal: i32) {
        if let Some(running) = &self.running {
            running.signal(signal);
        }
    }

    fn look(&mut self) -> Option<Exit> {
        let status = self.running.as_mut()?.ended()?;
        let running = self.running.take().expect("looked at above");
        self.start_at = Some(Instant::now() + RESTART_PAUSE);
        Some(Exit { member: self.name.clone(), code: status.code(), log: running.log.clone() })
    }

    fn rss_kib_max(&self) -> u64 {
        let Some(running) = &self.running else { return 0 };
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }
}

fn has_started(log: &Path) -> bool {
    std::fs::read_to_string(log).is_ok_and(|text| text.contains(" started"))
}

/// The last lines of a log.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
