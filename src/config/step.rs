//! Steps of a pipeline and error policies, as they are written.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::stop_above::StopAboveConfig;
use crate::stages::{KINDS, StageConfig};
use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::{Lints, Span, Spanned, suggestion};
use crate::yaml::node::{Key, Node, Yaml};

/// Stages of the language that this version does not have.
const NOT_AVAILABLE: [&str; 5] = ["parallel", "lookup", "notify", "delay", "approve"];
/// Most attempts of a retry policy.
const ATTEMPTS_MAX: i64 = 50;
/// Most retry tiers: each is a topic with as many partitions as the input.
const TIERS_MAX: usize = 8;
/// The shortest and the longest tier. A shorter wait is cheaper in the process; a longer one comes close to what the
/// tiers' topics keep, which must also cover a worker that is down.
const TIER_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
/// Longest wait between two attempts in the process: a record that waits holds its key, and its place in memory.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Most elements of a `for_each` that run at the same time.
const CONCURRENCY_MAX: i64 = 256;
/// Most elements of one `for_each`, unless `max` says less or more.
const ITEMS_DEFAULT: i64 = 1_000;
/// The most that `max` may say.
const ITEMS_MAX: i64 = 100_000;
/// Longest id of a step.
const ID_BYTES_MAX: usize = 64;

/// A step as written.
#[derive(Clone, Debug)]
pub struct StepConfig {
    /// Its id, where it is written.
    pub id: Option<Spanned<String>>,
    /// Where its kind stands: the place that messages about the step name.
    pub span: Span,
    /// What it does.
    pub action: ActionConfig,
    /// Its own error policy.
    pub on_error: Option<ErrorPolicyConfig>,
}

/// What a step does.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a handful per pipeline, made once when a project is read")]
pub enum ActionConfig {
    /// A leaf stage.
    Stage(StageConfig),
    /// `route`
    Route(RouteConfig),
    /// `for_each`
    ForEach(ForEachConfig),
}

/// `route: [...]` takes the first branch that matches, `route: {all: [...]}` each that does.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// Whether every branch that matches runs.
    pub all: bool,
    /// Branches in order.
    pub branches: Vec<BranchConfig>,
    /// Steps when none matched, and where they stand.
    pub otherwise: Option<Spanned<Vec<StepConfig>>>,
}

/// One branch.
#[derive(Clone, Debug)]
pub struct BranchConfig {
    /// Condition.
    pub when: Node,
    /// Steps.
    pub steps: Vec<StepConfig>,
}

/// `for_each: {in, concurrency?, max?, stages}`
#[derive(Clone, Debug)]
pub struct ForEachConfig {
    /// Gives the list.
    pub list: Node,
    /// How many elements at the same time.
    pub concurrency: usize,
    /// Most elements of one event.
    pub items_max: usize,
    /// Steps.
    pub steps: Vec<StepConfig>,
}

/// An error policy as written; what is left out takes the default.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ErrorPolicyConfig {
    /// Attempts in all.
    pub attempts: Option<NonZeroU32>,
    /// Wait before the second attempt.
    pub backoff: Option<Duration>,
    /// Longest wait.
    pub max: Option<Duration>,
    /// Retries in percent of first attempts.
    pub budget_percent: Option<u32>,
    /// Retry tiers, the shortest first; of a pipeline's policy only.
    pub tiers: Option<Spanned<Vec<Duration>>>,
    /// What follows.
    pub then: Option<ThenConfig>,
    /// When the pipeline stops because of dead letters; of a pipeline's policy only.
    pub stop_above: Option<Spanned<StopAboveConfig>>,
}

/// The end of an error policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ThenConfig {
    /// `dead_letter`
    DeadLetter,
    /// `ignore`
    Ignore,
}

const THEN: [(&str, ThenConfig); 2] =
    [("dead_letter", ThenConfig::DeadLetter), ("ignore", ThenConfig::Ignore)];

impl ActionConfig {
    /// Name of the stage, as it is written.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stage(stage) => stage.kind(),
            Self::Route(_) => "route",
            Self::ForEach(_) => "for_each",
        }
    }
}

/// Decodes a list of steps. Steps that fail are left out after their lints.
pub fn decode_steps(node: &Node, lints: &mut Lints) -> Option<Vec<StepConfig>> {
    let steps = fields::list(node, lints, StepConfig::decode)?;
    if matches!(&node.value, Yaml::List(items) if items.is_empty()) {
        lints.error("empty", &node.span, "there are no stages here", "write at least one, or remove the key");
    }
    Some(steps)
}

impl StepConfig {
    /// Decodes one step.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "a stage", lints)?;
        let id = fields.optional("id").map(|node| id(node, lints));
        let on_error = fields.optional("on_error").map(|node| ErrorPolicyConfig::decode(node, lints));
        let kinds = fields.rest();
        let [(kind, value)] = kinds[..] else {
            several(node, &kinds, lints);
            return None;
        };
        let action = action(kind, value, lints);
        // Every part is decoded before any failure ends this, so that one run shows all there is to mend.
        let id = match id {
            Some(id) => Some(id?),
            None => None,
        };
        let on_error = match on_error {
            Some(policy) => Some(policy?),
            None => None,
        };
        if let Some(tiers) = on_error.as_ref().and_then(|policy| policy.tiers.as_ref()) {
            let message = "a step has no retry tiers of its own";
            let help = "write `tiers` in the pipeline's `on_error`; steps that say no `then` use them";
            lints.error("misplaced-key", &tiers.span, message, help);
            return None;
        }
        if let Some(stop_above) = on_error.as_ref().and_then(|policy| policy.stop_above.as_ref()) {
            let message = "a stage cannot stop, only the pipeline can";
            let help = "write `stop_above` into the `on_error` of the pipeline";
            lints.error("misplaced-key", &stop_above.span, message, help);
        }
        Some(Self { id, span: kind.span.clone(), action: action?, on_error })
    }
}

fn several(node: &Node, kinds: &[(&Key, &Node)], lints: &mut Lints) {
    match kinds {
        [] => {
            let help = format!("write one of {}, route, for_each", KINDS.join(", "));
            lints.error("missing-key", &node.span, "this step has no stage", help);
        }
        [_, second, ..] => {
            // A key that is no stage is more likely a slip than a second stage.
            let is_stage = |key: &Key| {
                KINDS.contains(&key.name.as_str()) || key.name == "route" || key.name == "for_each"
            };
            let odd = kinds.iter().find(|(key, _)| !is_stage(key)).unwrap_or(second);
            let known: Vec<&str> = ["id", "on_error"].into_iter().chain(KINDS).collect();
            let (message, help) = if is_stage(odd.0) {
                let help = String::from("begin a new list item (`- `) for it");
                (format!("`{}` is a second stage in one step", odd.0.name), help)
            } else {
                (format!("there is no key `{}` here", odd.0.name), suggestion(&odd.0.name, &known))
            };
            lints.error("unknown-key", &odd.0.span, message, help);
        }
        [_] => {}
    }
}

fn action(kind: &Key, value: &Node, lints: &mut Lints) -> Option<ActionConfig> {
    match kind.name.as_str() {
        "route" => RouteConfig::decode(value, lints).map(ActionConfig::Route),
        "for_each" => ForEachConfig::decode(value, lints).map(ActionConfig::ForEach),
        name if KINDS.contains(&name) => StageConfig::decode(name, value, lints).map(ActionConfig::Stage),
        name if NOT_AVAILABLE.contains(&name) => {
            let message = format!("stage `{name}` is not available yet");
            let help = format!("this version has {}, route, for_each", KINDS.join(", "));
            lints.error("not-available", &kind.span, message, help);
            None
        }
        name => {
            let known: Vec<&str> = KINDS.into_iter().chain(["route", "for_each"]).collect();
            let message = format!("there is no stage `{name}`");
            lints.error("unknown-stage", &kind.span, message, suggestion(name, &known));
            None
        }
    }
}

fn id(node: &Node, lints: &mut Lints) -> Option<Spanned<String>> {
    let id = fields::text(node, lints)?;
    let is_word = id.value.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    if is_word
        && id.value.starts_with(|first: char| first.is_ascii_lowercase())
        && id.value.len() <= ID_BYTES_MAX
    {
        return Some(id);
    }
    let message = format!("`{}` cannot be an id", id.value);
    let help = "lower-case letters, digits, _ and -, a letter first, at most 64";
    lints.error("bad-id", &id.span, message, help);
    None
}

impl RouteConfig {
    fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let (all, list) = match &node.value {
            Yaml::Map(_) => {
                let mut fields = Fields::of(node, "a route", lints)?;
                let list = fields.required("all", lints);
                fields.finish(lints);
                (true, list?)
            }
            _ => (false, node),
        };
        let mut route = Self { all, branches: Vec::new(), otherwise: None };
        let mut is_whole = true;
        fields::list(list, lints, |node, lints| {
            is_whole &= route.branch(node, lints).is_some();
            Some(())
        })?;
        if route.branches.is_empty() && is_whole {
            lints.error("empty", &list.span, "a route has no branch", "write - when: ... with stages: [...]");
            return None;
        }
        is_whole.then_some(route)
    }

    fn branch(&mut self, node: &Node, lints: &mut Lints) -> Option<()> {
        let mut fields = Fields::of(node, "a branch", lints)?;
        if let Some((key, steps)) = fields.entry("otherwise") {
            fields.finish(lints);
            if self.otherwise.is_some() {
                lints.error("duplicate-key", &key.span, "a route has one `otherwise`", "remove one");
                return None;
            }
            let value = decode_steps(steps, lints)?;
            self.otherwise = Some(Spanned { value, span: key.span.clone() });
            return Some(());
        }
        let when = fields.required("when", lints).cloned();
        let steps = fields.required("stages", lints).and_then(|node| decode_steps(node, lints));
        fields.finish(lints);
        if self.otherwise.is_some() {
            lints.error(
                "unreachable-branch",
                &node.span,
                "this stands after `otherwise`",
                "put `otherwise` last",
            );
        }
        self.branches.push(BranchConfig { when: when?, steps: steps? });
        Some(())
    }
}

impl ForEachConfig {
    fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        let mut fields = Fields::of(node, "`for_each`", lints)?;
        let list = fields.required("in", lints).cloned();
        let concurrency = match fields.optional("concurrency") {
            Some(node) => fields::integer(node, 1..=CONCURRENCY_MAX, lints),
            None => Some(1),
        };
        let items_max = match fields.optional("max") {
            Some(node) => fields::integer(node, 1..=ITEMS_MAX, lints),
            None => Some(ITEMS_DEFAULT),
        };
        let steps = fields.required("stages", lints).and_then(|node| decode_steps(node, lints));
        fields.finish(lints);
        Some(Self {
            list: list?,
            concurrency: usize::try_from(concurrency?).ok()?,
            items_max: usize::try_from(items_max?).ok()?,
            steps: steps?,
        })
    }
}

impl ErrorPolicyConfig {
    /// Decodes `{retry: {attempts, backoff, max, budget}, tiers, then}`, or the short forms `ignore` and `dead_letter`: no retry.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        if !matches!(node.value, Yaml::Map(_)) {
            let then = fields::choice(node, &THEN, lints)?;
            return Some(Self { attempts: Some(NonZeroU32::MIN), then: Some(then), ..Self::default() });
        }
        let mut fields = Fields::of(node, "an error policy", lints)?;
        let mut policy = Self::default();
        if let Some(retry) = fields.optional("retry") {
            policy.retry(retry, lints)?;
        }
        if let Some(node) = fields.optional("tiers") {
            policy.tiers = Some(Spanned { value: tiers(node, lints)?, span: node.span.clone() });
        }
        if let Some(node) = fields.optional("then") {
            policy.then = Some(fields::choice(node, &THEN, lints)?);
        }
        if let Some((key, node)) = fields.entry("stop_above") {
            let value = StopAboveConfig::decode(node, lints)?;
            policy.stop_above = Some(Spanned { value, span: key.span.clone() });
        }
        fields.finish(lints);
        Some(policy)
    }

    fn retry(&mut self, node: &Node, lints: &mut Lints) -> Option<()> {
        let mut fields = Fields::of(node, "`retry`", lints)?;
        let attempts = fields.optional("attempts").map(|node| fields::integer(node, 1..=ATTEMPTS_MAX, lints));
        let backoff = fields.optional("backoff").map(|node| wait(node, lints));
        let longest = fields.optional("max").map(|at| (at, wait(at, lints)));
        let budget = fields.optional("budget").map(|node| percent(node, lints));
        fields.finish(lints);
        if let Some(attempts) = attempts {
            self.attempts = u32::try_from(attempts?).ok().and_then(NonZeroU32::new);
        }
        if let Some(backoff) = backoff {
            self.backoff = Some(backoff?);
        }
        if let Some(budget) = budget {
            self.budget_percent = Some(budget?);
        }
        if let Some((at, longest)) = longest {
            self.max = Some(longest?);
            if self.max < self.backoff {
                lints.error("out-of-range", &at.span, "`max` is shorter than `backoff`", "make it longer");
            }
        }
        Some(())
    }
}

fn wait(node: &Node, lints: &mut Lints) -> Option<Duration> {
    let wait = fields::duration(node, lints)?;
    if wait > WAIT_MAX {
        let message = "a wait in the process is at most 10m";
        lints.error("out-of-range", &node.span, message, "for longer waits write `tiers: [...]`");
        return None;
    }
    Some(wait)
}

/// `20%`.
fn percent(node: &Node, lints: &mut Lints) -> Option<u32> {
    let text = fields::text(node, lints)?;
    let percent = text.value.strip_suffix('%').and_then(|number| number.trim().parse().ok());
    let percent = percent.filter(|percent| (1..=1_000).contains(percent));
    if percent.is_none() {
        let help = "write the part of retries beside first attempts, from 1% to 1000%: 20%";
        lints.error("out-of-range", &node.span, format!("`{}` is no such part", text.value), help);
    }
    percent
}

/// Retry tiers: durations, each longer than the one before.
fn tiers(node: &Node, lints: &mut Lints) -> Option<Vec<Duration>> {
    let tiers = fields::list(node, lints, |node, lints| {
        let value = fields::duration(node, lints)?;
        Some(Spanned { value, span: node.span.clone() })
    })?;
    if tiers.is_empty() || tiers.len() > TIERS_MAX {
        let message = format!("`tiers` lists {} durations", tiers.len());
        let help = format!("write 1 to {TIERS_MAX}, or remove the key");
        lints.error("out-of-range", &node.span, message, help);
        return None;
    }
    for tier in tiers.iter().filter(|tier| !TIER_RANGE.contains(&tier.value)) {
        let help = "from 1s to 7d: shorter waits are cheaper in place, longer ones outlast a tier's topic";
        lints.error("out-of-range", &tier.span, "this tier is out of range", help);
    }
    for pair in tiers.windows(2).filter(|pair| pair[1].value <= pair[0].value) {
        let message = "this tier is not longer than the one before it";
        lints.error("tiers-order", &pair[1].span, message, "write the shortest first, each once");
    }
    Some(tiers.into_iter().map(|tier| tier.value).collect())
}
