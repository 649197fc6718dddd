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
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Parser as _;
use millrace::failpoint;
use tokio::runtime::Runtime;

use crate::args::{Args, Output};
use crate::cases::Case;
use crate::cluster::Cluster;
use crate::ground::Demand;
use crate::project::Workload;
use crate::report::{Run, Verdict};

/// Events of each workload in the short set.
const SHORT_EVENTS: u64 = 2_000;

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
    let mut stage = Stage {
        folder,
        servers,
        program: args.program.clone(),
        runtime: Runtime::new()?,
        small: None,
        large: None,
    };
    let events = if args.short { SHORT_EVENTS } else { args.events };
    eprintln!("seed {seed}, {events} events; logs in {}", folder.display());
    let mut runs = Vec::new();
    for seed in seed..seed + args.runs {
        for case in &cases {
            let workloads = if args.short { case.short } else { case.workloads };
            let plays = if args.mutations { mutated(case) } else { whole(workloads) };
            runs.extend(stage.perform(case, plays, seed, events));
        }
    }
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

/// A workload, and the rules switched off.
type Play = (Workload, Vec<&'static str>);

fn whole(workloads: &[Workload]) -> Vec<Play> {
    workloads.iter().map(|workload| (*workload, Vec::new())).collect()
}

/// One run for each mutation, on the workload that shows it.
fn mutated(case: &Case) -> Vec<Play> {
    let off = |mutation: &cases::Mutation| mutation.off.iter().map(|rule| rule.name()).collect();
    case.mutations.iter().map(|mutation| (mutation.on, off(mutation))).collect()
}

/// The servers, started when a case first needs them.
struct Stage<'f> {
    folder: &'f Path,
    servers: &'f Path,
    program: Option<PathBuf>,
    runtime: Runtime,
    small: Option<Cluster>,
    large: Option<Cluster>,
}

impl Stage<'_> {
    /// A case, as often as `plays` says.
    fn perform(&mut self, case: &'static Case, plays: Vec<Play>, seed: u64, events: u64) -> Vec<Run> {
        let run = |workload: Workload, off: Vec<&'static str>, verdict: Verdict| Run {
            case: case.number,
            name: case.name,
            workload: workload.name(),
            off,
            seed,
            verdict,
        };
        if let Some(why) = (case.obstacle)() {
            let skipped = run(case.workloads[0], Vec::new(), Verdict::Skipped(why));
            skipped.tell();
            return vec![skipped];
        }
        let mut runs = Vec::new();
        for (workload, off) in plays {
            let without = if off.is_empty() { String::new() } else { format!(" without {}", off.join(", ")) };
            eprintln!("{:>2} {} {workload}{without}: {}", case.number, case.name, case.what);
            let verdict = self
                .play(case, workload, &off, seed, events)
                .map_or_else(|error| Verdict::Broken(format!("{error:#}")), Verdict::Played);
            let ended = run(workload, off, verdict);
            ended.tell();
            runs.push(ended);
        }
        runs
    }

    fn play(
        &mut self,
        case: &Case,
        workload: Workload,
        off: &[&'static str],
        seed: u64,
        events: u64,
    ) -> anyhow::Result<ground::Played> {
        let (slot, name) = match case.nodes {
            1 => (&mut self.small, "one-node"),
            _ => (&mut self.large, "three-nodes"),
        };
        if slot.is_none() {
            eprintln!("    starting servers: {} node(s) of Kafka, Postgres", case.nodes);
            *slot = Some(Cluster::start(&self.servers.join(name), case.nodes)?);
        }
        let cluster = slot.as_ref().context("just started")?;
        let mut environment = vec![("MILLRACE_LOG".to_owned(), "warn,millrace=info".to_owned())];
        if !off.is_empty() {
            environment.push((failpoint::OFF.to_owned(), off.join(",")));
        }
        let demand = Demand { seed, events, program: self.program.clone(), environment };
        let without = if off.is_empty() { String::new() } else { format!("-without-{}", off.join("-")) };
        let folder = self.folder.join(format!("{:02}-{}-{workload}-{seed}{without}", case.number, case.name));
        ground::play(case, workload, (cluster, &self.runtime), &demand, &folder)
    }
}
