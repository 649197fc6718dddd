//! Numbers with units: durations `2s`, sizes `1MiB`, rates `100/s`. A bare number where a unit is needed is a mistake.

use std::num::NonZeroU32;
use std::time::Duration;

/// A rate: so many per second, minute or hour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// In how long.
    pub per: Duration,
}

/// What a duration looks like, for messages.
pub const DURATION_HELP: &str = "a duration has a unit: 500ms, 2s, 5m, 1h, 30d";
/// What a size looks like, for messages.
pub const SIZE_HELP: &str = "a size has a unit: 512B, 64KiB, 1MiB, 1GiB";
/// What a rate looks like, for messages.
pub const RATE_HELP: &str = "a rate is a count per unit: 100/s, 600/m, 1000/h";
/// What a ratio looks like, for messages.
pub const PERCENT_HELP: &str = "a ratio is in whole percent: 5%, 50%";

/// Reads `500ms`, `2s`, `5m`, `1h`, `30d`. `None` when it is something else or longer than about 292 years.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let factor_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(factor_ms).filter(|ms| *ms <= i64::MAX as u64 / 1_000_000).map(Duration::from_millis)
}

/// The shortest text that [`duration`] reads as `duration`: `10m`, not `600s`. Parts of a millisecond are left out.
pub fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let whole = units.into_iter().find(|(factor, _)| ms >= *factor && ms.is_multiple_of(*factor));
    let (factor, unit) = whole.unwrap_or((1, "ms"));
    format!("{}{unit}", ms / factor)
}

/// Reads `512B`, `64KiB`, `1MiB`, `1GiB`, in bytes.
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Reads `100/s`, `600/m`, `1000/h`.
pub fn rate(text: &str) -> Option<Rate> {
    let (count, unit) = text.split_once('/')?;
    let per = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return None,
    };
    Some(Rate { count: count.trim().parse().ok()?, per: Duration::from_secs(per) })
}

/// Reads `50%`, as whole percent.
pub fn percent(text: &str) -> Option<u32> {
    text.strip_suffix('%')?.trim_end().parse().ok()
}

/// Splits `12ms` into 12 and `ms`.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim_start()))
}
