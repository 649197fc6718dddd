//! Settings of topics: their names, Kafka's defaults, and which values it takes.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;

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

/// Whether Kafka would take this setting. Only values of the default's kind are.
pub(super) fn check(name: &str, value: &str) -> Result<(), ResponseError> {
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
pub(super) fn value<'a>(set: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    let default = || DEFAULTS.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
    set.get(name).map_or_else(default, String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_of_the_defaults_kind() {
        for (name, default) in DEFAULTS {
            assert_eq!(check(name, default), Ok(()), "{name}");
        }
        assert_eq!(check("cleanup.policy", "compact, delete"), Ok(()));
        for (name, wrong) in [
            ("cleanup.policy", "compacted"),
            ("retention.ms", "7d"),
            ("preallocate", "maybe"),
            ("min.cleanable.dirty.ratio", "2"),
            ("retention", "1"),
        ] {
            assert_eq!(check(name, wrong), Err(ResponseError::InvalidConfig), "{name}={wrong}");
        }
    }
}
