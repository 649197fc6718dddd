//! Faults under load, and what must hold all the same. `scripts/chaos --help` tells how to run it, `README.md` beside
//! this file what each case does.

mod args;
mod cases;
mod check;
mod cluster;
mod database;
mod destination;
mod events;
mod fleet;
mod ground;
mod invariants;
mod observe;
mod project;
mod proxy;
mod report;
mod support;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser as _;
use millrace::failpoint;
use tokio::runtime::Runtime;

use crate::args::{Args, Output};
use crate::cases::{Case, Hurts};
use crate::cluster::Cluster;
use crate::ground::Demand;
use crate::project::Workload;
use crate::report::{Run, Verdict};

/// Events of each workload in the short set.
const SHORT_EVENTS: u64 = 2_000;
/// Its cases played at a time.
const SHORT_JOBS: usize = 4;

fn main() -> ExitCode {
    if std::env::args_os().len() < 2 {
        println!("These tests start servers and take minutes: run them with scripts/chaos.");
        return ExitCode::SUCCESS;
    }
    let args = Args::parse();
    if args.list {
        cases::ALL.iter().for_each(|case| println!("{:>2}  {:<28} {}", case.number, case.name, case.what));
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    anyhow::ensure!(
        !args.mutations || cfg!(debug_assertions),
        "this build cannot switch rules off: build without --release"
    );
    let seed = match args.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_micros().into(),
    };
    let cases = chosen(args)?;
    let temporary = tempfile::Builder::new().prefix("millrace-chaos.").tempdir()?;
    let folder = args.dir.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(folder)?;
    let servers = args.servers.as_deref().unwrap_or(temporary.path());
    open_to_others(servers)?;
    let stage = Stage {
        folder,
        servers,
        program: args.program.clone(),
        events: if args.short { SHORT_EVENTS } else { args.events },
        runtime: Runtime::new()?,
        small: Mutex::new(None),
        large: Mutex::new(None),
    };
    eprintln!("seed {seed}, {} events; logs in {}", stage.events, folder.display());
    let plays: Vec<Play> = (seed..seed + args.runs)
        .flat_map(|seed| cases.iter().flat_map(move |case| plays_of(case, seed, args)))
        .collect();
    let jobs = args.jobs.unwrap_or(if args.short { SHORT_JOBS } else { 1 });
    let runs = perform_all(&stage, &plays, jobs);
    drop(stage);
    match args.output {
        Output::Text => report::print_table(&runs),
        Output::Json => {
            let list: Vec<_> = runs.iter().map(Run::json).collect();
            println!("{}", serde_json::to_string_pretty(&list)?);
        }
    }
    let is_good = runs.iter().all(Run::is_good);
    if !is_good && args.dir.is_none() {
        eprintln!("logs are kept in {}", temporary.keep().display());
    }
    Ok(is_good)
}

/// Postgres runs as another user when this is run by root; it must be able to enter.
fn open_to_others(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711))?;
    Ok(())
}

fn chosen(args: &Args) -> anyhow::Result<Vec<&'static Case>> {
    if args.cases.is_empty() {
        return Ok(cases::ALL.iter().filter(|case| !args.short || !case.short.is_empty()).collect());
    }
    let mut chosen: Vec<&Case> = Vec::new();
    for word in &args.cases {
        let number = word.parse::<u8>().ok();
        let is_meant = |case: &&Case| {
            number.map_or_else(|| case.name.contains(word.as_str()), |number| number == case.number)
        };
        let found: Vec<&Case> = cases::ALL.iter().filter(is_meant).collect();
        anyhow::ensure!(!found.is_empty(), "there is no case `{word}`; --list tells which there are");
        chosen.extend(found);
    }
    Ok(chosen)
}

/// A case on a workload.
struct Play {
    case: &'static Case,
    workload: Workload,
    /// Rules that are switched off.
    off: Vec<&'static str>,
    seed: u64,
}

impl Play {
    /// Whether a case beside this one would be hurt, too.
    fn is_alone(&self, all: &[Self]) -> bool {
        match self.case.hurts {
            Hurts::Nothing => false,
            Hurts::Postgres => all.iter().filter(|other| other.workload.has_kpi()).count() > 1,
            Hurts::Kafka => true,
        }
    }
}

/// On each workload; with mutations one for each of them, on the workload that shows it.
fn plays_of(case: &'static Case, seed: u64, args: &Args) -> Vec<Play> {
    let play = |workload: Workload, off: Vec<&'static str>| Play { case, workload, off, seed };
    if args.mutations {
        let off = |mutation: &cases::Mutation| mutation.off.iter().map(|rule| rule.name()).collect();
        return case.mutations.iter().map(|mutation| play(mutation.on, off(mutation))).collect();
    }
    let workloads = if args.short { case.short } else { case.workloads };
    workloads.iter().map(|workload| play(*workload, Vec::new())).collect()
}

/// Plays them all, `jobs` at a time: most of a case's time is waiting. Those that hurt what others need come last, one by
/// one.
fn perform_all(stage: &Stage<'_>, plays: &[Play], jobs: usize) -> Vec<Run> {
    if jobs == 1 {
        return plays.iter().map(|play| stage.perform(play)).collect();
    }
    let (alone, beside): (Vec<&Play>, Vec<&Play>) = plays.iter().partition(|play| play.is_alone(plays));
    let (next, runs) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(beside.len()) {
            scope.spawn(|| {
                while let Some(play) = beside.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let run = stage.perform(play);
                    locked(&runs).push(run);
                }
            });
        }
    });
    let mut runs = runs.into_inner().unwrap_or_else(PoisonError::into_inner);
    runs.extend(alone.into_iter().map(|play| stage.perform(play)));
    runs.sort_by_key(|run| (run.seed, run.case));
    runs
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The servers, started when a case first needs them.
struct Stage<'f> {
    folder: &'f Path,
    servers: &'f Path,
    program: Option<PathBuf>,
    events: u64,
    runtime: Runtime,
    small: Mutex<Option<Arc<Cluster>>>,
    large: Mutex<Option<Arc<Cluster>>>,
}

impl Stage<'_> {
    fn perform(&self, play: &Play) -> Run {
        let Play { case, workload, off, seed } = play;
        let run = |verdict: Verdict| Run {
            case: case.number,
            name: case.name,
            workload: workload.name(),
            off: off.clone(),
            seed: *seed,
            verdict,
        };
        let ended = run(match (case.obstacle)() {
            Some(why) => Verdict::Skipped(why),
            None => {
                let without =
                    if off.is_empty() { String::new() } else { format!(" without {}", off.join(", ")) };
                eprintln!("{:>2} {} {workload}{without}: {}", case.number, case.name, case.what);
                self.play(play).map_or_else(|error| Verdict::Broken(format!("{error:#}")), Verdict::Played)
            }
        });
        ended.tell();
        ended
    }

    fn play(&self, play: &Play) -> anyhow::Result<ground::Played> {
        let Play { case, workload, off, seed } = play;
        let cluster = self.cluster(case.nodes)?;
        let mut environment = vec![("MILLRACE_LOG".to_owned(), "warn,millrace=info".to_owned())];
        if !off.is_empty() {
            environment.push((failpoint::OFF.to_owned(), off.join(",")));
        }
        let program = self.program.clone();
        let demand = Demand { seed: *seed, events: self.events, program, environment };
        let without = if off.is_empty() { String::new() } else { format!("-without-{}", off.join("-")) };
        let folder = self.folder.join(format!("{:02}-{}-{workload}-{seed}{without}", case.number, case.name));
        ground::play(case, *workload, (&cluster, &self.runtime), &demand, &folder)
    }

    fn cluster(&self, nodes: usize) -> anyhow::Result<Arc<Cluster>> {
        let (slot, name) = match nodes {
            1 => (&self.small, "one-node"),
            _ => (&self.large, "three-nodes"),
        };
        let mut slot = locked(slot);
        if let Some(cluster) = &*slot {
            return Ok(Arc::clone(cluster));
        }
        eprintln!("    starting servers: {nodes} node(s) of Kafka, Postgres");
        let cluster = Arc::new(Cluster::start(&self.servers.join(name), nodes)?);
        Ok(Arc::clone(slot.insert(cluster)))
    }
}
