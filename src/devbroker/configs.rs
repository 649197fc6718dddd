//! Settings of topics: their names, Kafka's defaults, and which values it takes.

use std::collections::BTreeMap;

use super::wire::{ResponseError, StrBytes};

/// What is set on a topic.
pub(super) type Configs = BTreeMap<String, String>;

/// Names and defaults of Kafka 4.
pub(super) const DEFAULTS: &[(&str, &str)] = &[
    ("cleanup.policy", "delete"),
    ("compression.gzip.level", "-1"),
    ("compression.lz4.level", "9"),
    ("compression.type", "producer"),
    ("compression.zstd.level", "3"),
    ("delete.retention.ms", "86400000"),
    ("file.delete.delay.ms", "60000"),
    ("flush.messages", "9223372036854775807"),
    ("flush.ms", "9223372036854775807"),
    ("follower.replication.throttled.replicas", ""),
    ("index.interval.bytes", "4096"),
    ("leader.replication.throttled.replicas", ""),
    ("local.retention.bytes", "-2"),
    ("local.retention.ms", "-2"),
    ("max.compaction.lag.ms", "9223372036854775807"),
    ("max.message.bytes", "1048588"),
    ("message.timestamp.after.max.ms", "3600000"),
    ("message.timestamp.before.max.ms", "9223372036854775807"),
    ("message.timestamp.type", "CreateTime"),
    ("min.cleanable.dirty.ratio", "0.5"),
    ("min.compaction.lag.ms", "0"),
    ("min.insync.replicas", "1"),
    ("preallocate", "false"),
    ("remote.log.copy.disable", "false"),
    ("remote.log.delete.on.disable", "false"),
    ("remote.storage.enable", "false"),
    ("retention.bytes", "-1"),
    ("retention.ms", "604800000"),
    ("segment.bytes", "1073741824"),
    ("segment.index.bytes", "10485760"),
    ("segment.jitter.ms", "0"),
    ("segment.ms", "604800000"),
    ("unclean.leader.election.enable", "false"),
];

/// Settings that a request brings, when Kafka would take them.
pub(super) fn checked<'a>(
    mut settings: impl Iterator<Item = (&'a StrBytes, Option<&'a StrBytes>)>,
) -> Result<Configs, ResponseError> {
    settings.try_fold(Configs::new(), |mut configs, (name, value)| {
        let value = value.ok_or(ResponseError::InvalidConfig)?;
        check(name, value)?;
        configs.insert(name.to_string(), value.to_string());
        Ok(configs)
    })
}

/// Whether Kafka would take this setting. Only values of the default's kind are.
fn check(name: &str, value: &str) -> Result<(), ResponseError> {
    let (_, default) =
        DEFAULTS.iter().find(|(known, _)| *known == name).ok_or(ResponseError::InvalidConfig)?;
    let among = |words: &[&str]| value.split(',').all(|word| words.contains(&word.trim()));
    let good = match name {
        "cleanup.policy" => among(&["compact", "delete"]),
        "compression.type" => among(&["uncompressed", "producer", "gzip", "lz4", "snappy", "zstd"]),
        "message.timestamp.type" => among(&["CreateTime", "LogAppendTime"]),
        _ if default.parse::<i64>().is_ok() => value.parse::<i64>().is_ok_and(|number| number >= -2),
        _ if default.parse::<bool>().is_ok() => value.parse::<bool>().is_ok(),
        _ if default.parse::<f64>().is_ok() => {
            value.parse::<f64>().is_ok_and(|ratio| (0.0..=1.0).contains(&ratio))
        }
        _ => true,
    };
    if good { Ok(()) } else { Err(ResponseError::InvalidConfig) }
}

/// The value in force.
pub(super) fn value<'a>(set: &'a Configs, name: &str) -> &'a str {
    let default = || DEFAULTS.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
    set.get(name).map_or_else(default, String::as_str)
}
