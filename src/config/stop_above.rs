//! `stop_above`, in a pipeline's `on_error`: `{ratio: 50%, of: 100, within: 1m}`, or `off`.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::yaml::fields::{self, Fields};
use crate::yaml::lint::Lints;
use crate::yaml::node::{Node, Yaml};

/// Most verdicts that a window may ask for.
const OF_MAX: i64 = 1_000_000;
/// Shortest and longest window.
const WITHIN: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

/// What is written; what is left out takes the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopAboveConfig {
    /// Never stop.
    Off,
    /// Stop above this.
    Limit {
        /// Percent, 1 to 99.
        percent: Option<u32>,
        /// Fewest verdicts.
        of: Option<NonZeroU32>,
        /// Window.
        within: Option<Duration>,
    },
}

impl StopAboveConfig {
    /// Decodes it.
    pub fn decode(node: &Node, lints: &mut Lints) -> Option<Self> {
        if !matches!(node.value, Yaml::Map(_)) {
            if node.expression() == Some("off") {
                return Some(Self::Off);
            }
            let message = format!("`{}` is no limit for dead letters", node.expression().unwrap_or_default());
            let help = "write {ratio: 50%, of: 100, within: 1m}, or off";
            lints.error("unknown-word", &node.span, message, help);
            return None;
        }
        let mut fields = Fields::of(node, "`stop_above`", lints)?;
        let ratio = fields.optional("ratio").map(|node| percent(node, lints));
        let of = fields.optional("of").map(|node| fields::integer(node, 1..=OF_MAX, lints));
        let within = fields.optional("within").map(|node| within(node, lints));
        fields.finish(lints);
        // All are decoded before any failure ends this, so that one run shows all there is to mend.
        let percent = ratio.map_or(Some(None), |percent| percent.map(Some))?;
        let of = of.map_or(Some(None), |of| of.map(Some))?;
        let within = within.map_or(Some(None), |within| within.map(Some))?;
        let of = of.and_then(|of| u32::try_from(of).ok()).and_then(NonZeroU32::new);
        Some(Self::Limit { percent, of, within })
    }
}

fn percent(node: &Node, lints: &mut Lints) -> Option<u32> {
    let percent = fields::percent(node, lints)?;
    if (1..=99).contains(&percent) {
        return Some(percent);
    }
    let message = format!("{percent}% is out of range");
    lints.error("out-of-range", &node.span, message, "1% to 99%; `stop_above: off` never stops");
    None
}

fn within(node: &Node, lints: &mut Lints) -> Option<Duration> {
    let within = fields::duration(node, lints)?;
    if WITHIN.contains(&within) {
        return Some(within);
    }
    lints.error("out-of-range", &node.span, "a window is 1s to 1d long", "1m suits most pipelines");
    None
}
