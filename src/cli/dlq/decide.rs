//! `dlq replay`, `dlq discard`, `dlq reopen`: say what would be done, ask, do it, say what was done.

use std::collections::{BTreeMap, HashSet};
use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::app::dead_letters::{self, From, NoWay, Ways};
use crate::app::decisions::{State, Verb};
use crate::app::redrive::{self, Done, Order};
use crate::app::supervise;
use crate::cli::args::dlq::{Deciding, DlqDiscard, DlqReopen, DlqReplay, FROM_START};
use crate::cli::args::{Common, Output};
use crate::cli::dlq::select::{Found, Selection, Wanted, select};
use crate::cli::dlq::{counted, decided, ids, sums, unreadable};
use crate::cli::{Exit, ask, check, ends, output, roles};

/// Names that a text shows of those that are refused for one reason.
const REFUSED_SHOWN: usize = 5;
/// Decisions a second, where they bring no work to anybody.
const RATE_UNPACED: u32 = 100_000;

/// What is to be done, as it was typed.
struct Task<'a> {
    verb: Verb,
    deciding: &'a Deciding,
    reason: Option<&'a str>,
    rate: u32,
    force: bool,
    /// With which stage a replayed record begins.
    from: From,
    /// Letters in these states are meant.
    states: &'a [State],
}

#[derive(Serialize)]
struct Refused {
    id: String,
    why: String,
}

/// What is decided about, and what not.
#[derive(Default)]
struct Chosen {
    letters: HashSet<dead_letters::LetterId>,
    /// How many are replayed to each topic.
    topics: BTreeMap<String, usize>,
    refused: Vec<Refused>,
}

/// Runs `dlq replay`.
///
/// # Errors
/// When Kafka cannot be reached, what was named does not exist, or there is nobody to ask.
pub fn replay(common: &Common, arguments: &DlqReplay) -> anyhow::Result<Exit> {
    let DlqReplay { deciding, from, rate, force, reason } = arguments;
    let reason = reason.as_deref();
    let states = &[State::Open];
    let from = if from == FROM_START { From::Start } else { From::FailedStage };
    run(common, &Task { verb: Verb::Replayed, deciding, reason, rate: *rate, force: *force, from, states })
}

/// Runs `dlq discard`.
///
/// # Errors
/// As [`replay`].
pub fn discard(common: &Common, arguments: &DlqDiscard) -> anyhow::Result<Exit> {
    let DlqDiscard { deciding, reason } = arguments;
    let (reason, states, rate) = (Some(reason.as_str()), &[State::Open], RATE_UNPACED);
    run(
        common,
        &Task { verb: Verb::Discarded, deciding, reason, rate, force: false, from: From::Start, states },
    )
}

/// Runs `dlq reopen`.
///
/// # Errors
/// As [`replay`].
pub fn reopen(common: &Common, arguments: &DlqReopen) -> anyhow::Result<Exit> {
    let DlqReopen { deciding, decided, reason } = arguments;
    let states: &[State] = match decided.as_deref() {
        Some("replayed") => &[State::Replayed],
        Some(_) => &[State::Discarded],
        None => &[State::Replayed, State::Discarded],
    };
    let (reason, rate) = (Some(reason.as_str()), RATE_UNPACED);
    run(
        common,
        &Task { verb: Verb::Reopened, deciding, reason, rate, force: false, from: From::Start, states },
    )
}

fn run(common: &Common, task: &Task<'_>) -> anyhow::Result<Exit> {
    let Deciding { ids: names, filter, limit, dry_run, actor, yes } = task.deciding;
    let wanted = Wanted { filter, ids: ids(names)?, states: task.states, limit: *limit, newest: false };
    let selection = select(common, wanted)?;
    let is_text = common.output == Output::Text;
    let ways = ways(common, task, &selection)?;
    let chosen = choose(task, &selection, &ways)?;
    if is_text {
        output::print(&announced(task, &selection, &chosen))?;
    }
    let mut done = Done::default();
    if !chosen.letters.is_empty() && !dry_run {
        let question = format!("{} {} dead letters?", imperative(task.verb), chosen.letters.len());
        if !ask::confirmed(&question, *yes)? {
            output::print(&format!("nothing was {}\n", participle(task.verb)))?;
            return Ok(Exit::Done);
        }
        let bar = bar(chosen.letters.len(), is_text);
        let runtime = roles::runtime()?;
        let stop = {
            let _entered = runtime.enter();
            supervise::shutdown_on_signal()?
        };
        let order = Order {
            connection: &selection.connection,
            namespace: &selection.namespace,
            verb: task.verb,
            ways: &ways,
            from: task.from,
            actor,
            reason: task.reason,
            rate: task.rate,
            stop: &stop,
            progress: &mut |count| bar.inc(count as u64),
        };
        done = redrive::run(order, &chosen.letters);
        bar.finish_and_clear();
        runtime.shutdown_background();
    }
    match common.output {
        Output::Json => output::json(&report(task, &selection, &chosen, &done))?,
        Output::Text => output::print(&ended(task, &chosen, &done))?,
    }
    let is_whole = done.failed.is_none() && !done.was_stopped;
    Ok(if is_whole { Exit::Done } else { Exit::Failed })
}

/// Where letters are replayed to: to those topics of the project by which records come back to their pipeline.
fn ways(common: &Common, task: &Task<'_>, selection: &Selection) -> anyhow::Result<Ways> {
    match (task.verb, &selection.plan) {
        (Verb::Discarded | Verb::Reopened, _) => Ok(Ways::default()),
        (Verb::Replayed, Some(plan)) => Ok(Ways::new(plan, &selection.topics)),
        (Verb::Replayed, None) => Ok(Ways::new(&check::plan(common)?, &selection.topics)),
    }
}

/// Sorts out what is left alone; of two dead letters of one record the newest is replayed.
fn choose(task: &Task<'_>, selection: &Selection, ways: &Ways) -> anyhow::Result<Chosen> {
    let mut chosen = Chosen::default();
    let mut origins = HashSet::new();
    for found in selection.letters.iter().rev() {
        let letter = &found.letter;
        let hash = selection.plan.as_ref().and_then(|plan| plan.pipeline(&letter.id.pipeline));
        let hash = hash.map(|pipeline| &*pipeline.config_hash);
        let mut topic = None;
        let why = if !task.states.contains(&found.state) {
            Some(standing(found))
        } else if task.verb == Verb::Replayed {
            match ways.of(letter) {
                Err(error @ NoWay::NotApplied(_)) => return Err(ends(Exit::Failed, error.to_string())),
                Err(NoWay::Refused(why)) => Some(why),
                Ok(way) => {
                    topic = Some(way.to_string());
                    dead_letters::refusal(letter, hash, task.force).or_else(|| {
                        let is_first = origins.insert((&letter.id.pipeline, &letter.origin));
                        (!is_first).then(|| "another dead letter of the same record is replayed".to_owned())
                    })
                }
            }
        } else {
            None
        };
        match why {
            Some(why) => chosen.refused.push(Refused { id: letter.id.to_string(), why }),
            None => {
                if let Some(topic) = topic {
                    *chosen.topics.entry(topic).or_default() += 1;
                }
                chosen.letters.insert(letter.id.clone());
            }
        }
    }
    Ok(chosen)
}

fn standing(found: &Found) -> String {
    match (found.state, &found.decision) {
        (State::Replayed, None) => "another dead letter of the same record was replayed".to_owned(),
        (state, _) => format!("it is {}{}", state.name(), decided(found)),
    }
}

/// What would be done.
fn announced(task: &Task<'_>, selection: &Selection, chosen: &Chosen) -> String {
    let word = if task.verb == Verb::Reopened { "decided " } else { "open " };
    let word = if task.deciding.ids.is_empty() { word } else { "" };
    let mut text = counted(selection, word, task.deciding.limit);
    for sum in sums(selection) {
        let stage = sum.kind.stage.as_ref().map(|stage| format!(" at `{stage}`")).unwrap_or_default();
        text.push_str(&format!("  {:>6}  {}: {}{stage}\n", sum.count, sum.kind.pipeline, sum.kind.class));
    }
    text.push_str(&unreadable(selection));
    for (topic, count) in &chosen.topics {
        let begin = match task.from {
            From::FailedStage => "with what was answered before they failed",
            From::Start => "from the first stage, so that every call is made again",
        };
        text.push_str(&format!("{count} to be replayed through {topic}, {begin}\n"));
    }
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Refused { id, why } in &chosen.refused {
        by_reason.entry(why).or_default().push(id);
    }
    for (why, ids) in by_reason {
        let shown = ids[..ids.len().min(REFUSED_SHOWN)].join(", ");
        let more = if ids.len() > REFUSED_SHOWN { ", ..." } else { "" };
        text.push_str(&format!("{} refused: {why}\n  {shown}{more}\n", ids.len()));
    }
    text
}

/// What was done, for people.
fn ended(task: &Task<'_>, chosen: &Chosen, done: &Done) -> String {
    let word = participle(task.verb);
    if task.deciding.dry_run {
        return format!("nothing was {word}: --dry-run\n");
    }
    let mut text = format!("{} {word}, {} refused\n", done.decided, chosen.refused.len());
    if done.passed_over > 0 {
        text.push_str(&format!("{} were decided by somebody else meanwhile\n", done.passed_over));
    }
    if done.missing > 0 {
        text.push_str(&format!("{} are not kept any more\n", done.missing));
    }
    let left = chosen.letters.len().saturating_sub(done.decided + done.passed_over + done.missing);
    if let Some(why) = &done.failed {
        text.push_str(&format!("stopped: {why}\n"));
    }
    if left > 0 {
        text.push_str(&format!("{left} are left; type the same again to go on, nothing is {word} twice\n"));
    }
    text
}

/// What was done, for programs.
fn report(task: &Task<'_>, selection: &Selection, chosen: &Chosen, done: &Done) -> serde_json::Value {
    let Done { run, decided, passed_over, missing, was_stopped, failed } = done;
    let mut report = serde_json::json!({
        "run": (!run.is_empty()).then_some(run),
        "selected": chosen.letters.len(),
        "topics": chosen.topics,
        "counts": sums(selection),
        "refused": chosen.refused,
        "passed_over": passed_over,
        "missing": missing,
        "stopped": was_stopped,
        "failed": failed,
        "dry_run": task.deciding.dry_run,
    });
    report[participle(task.verb)] = (*decided).into();
    report
}

fn imperative(verb: Verb) -> &'static str {
    match verb {
        Verb::Replayed => "replay",
        Verb::Discarded => "discard",
        Verb::Reopened => "reopen",
    }
}

fn participle(verb: Verb) -> &'static str {
    match verb {
        Verb::Replayed => "replayed",
        Verb::Discarded => "discarded",
        Verb::Reopened => "reopened",
    }
}

fn bar(length: usize, is_text: bool) -> ProgressBar {
    let is_shown = is_text && std::io::stderr().is_terminal();
    let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
    let bar = ProgressBar::with_draw_target(Some(length as u64), target);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
