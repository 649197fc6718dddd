//! What a replay adds behind a record's own headers, so that the next failure knows of the earlier ones.
//!
//! These headers stand last, and only there do they mean this: a pipeline may read the dead letters of another, whose
//! headers are to it like any others.

use crate::engine::headers::dead_letter;
use crate::record::{Header, last_header};

/// What may stand there.
const NAMES: [&str; 5] = [
    dead_letter::FIRST_FAILURE,
    dead_letter::REPLAYED_CLASS,
    dead_letter::REPLAYED_CONFIG_HASH,
    dead_letter::REPLAYED_LETTER,
    dead_letter::REPLAY_COUNT,
];

/// Longest text of these that is taken over: times, classes and hashes are short, and a letter's name holds that of a
/// topic. Longer ones were not written by a replay.
const TEXT_BYTES_MAX: usize = 64;
const LETTER_BYTES_MAX: usize = 300;

/// What the last replay of a record wrote.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replayed {
    /// How often the record has been replayed.
    pub count: u32,
    /// When it failed for the first time (RFC 3339).
    pub first_failure: Option<String>,
    /// Class of the failure before the replay.
    pub class: Option<String>,
    /// Hash of the pipeline's text at that failure.
    pub config_hash: Option<String>,
    /// The dead letter that was replayed.
    pub letter: Option<String>,
}

/// Whether a replay wrote this record.
pub fn is_replayed(headers: &[Header]) -> bool {
    headers.last().is_some_and(is_ours)
}

fn is_ours(header: &Header) -> bool {
    let name = header.name.as_bytes();
    NAMES.iter().any(|own| own.as_bytes() == name)
}

/// The record's own headers, and what a replay added behind them.
pub fn split(headers: &[Header]) -> (&[Header], Option<Replayed>) {
    let own = headers.iter().rposition(|header| !is_ours(header)).map_or(0, |last| last + 1);
    let (own, added) = headers.split_at(own);
    if added.is_empty() {
        return (own, None);
    }
    (own, Some(Replayed::read(added)))
}

impl Replayed {
    /// What is noted among `headers`, which are none of the record's own; `None` when they are not those of a replay.
    pub fn of(headers: &[Header]) -> Option<Self> {
        let is_replay = headers.iter().any(|header| header.name.as_str() == dead_letter::REPLAYED_LETTER);
        is_replay.then(|| Self::read(headers))
    }

    fn read(headers: &[Header]) -> Self {
        let capped = |name: &str, bytes_max: usize| {
            let value = last_header(headers, name).filter(|value| value.len() <= bytes_max);
            value.and_then(|value| std::str::from_utf8(value).ok()).map(str::to_owned)
        };
        let text = |name: &str| capped(name, TEXT_BYTES_MAX);
        Self {
            count: text(dead_letter::REPLAY_COUNT).and_then(|count| count.parse().ok()).unwrap_or(0),
            first_failure: text(dead_letter::FIRST_FAILURE),
            class: text(dead_letter::REPLAYED_CLASS),
            config_hash: text(dead_letter::REPLAYED_CONFIG_HASH),
            letter: capped(dead_letter::REPLAYED_LETTER, LETTER_BYTES_MAX),
        }
    }

    /// The headers that tell of the failure before, without count and first failure.
    pub fn before(&self) -> impl Iterator<Item = Header> {
        let text = |name, value: &Option<String>| value.clone().map(|value| Header::of(name, value));
        let headers = [
            text(dead_letter::REPLAYED_CLASS, &self.class),
            text(dead_letter::REPLAYED_CONFIG_HASH, &self.config_hash),
            text(dead_letter::REPLAYED_LETTER, &self.letter),
        ];
        headers.into_iter().flatten()
    }

    /// The headers that say all of it.
    pub fn headers(&self) -> Vec<Header> {
        let first = self.first_failure.clone().map(|time| Header::of(dead_letter::FIRST_FAILURE, time));
        let count = Header::of(dead_letter::REPLAY_COUNT, self.count.to_string());
        first.into_iter().chain(self.before()).chain([count]).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = Header> {
        let name = prop_oneof![
            Just("ce_id"),
            Just("millrace.source"),
            Just(dead_letter::EVENT_ID),
            Just(dead_letter::REPLAY_COUNT),
            Just(dead_letter::REPLAYED_CLASS),
        ];
        (name, prop::option::of("[a-z0-9]{0,4}")).prop_map(|(name, value)| Header {
            name: crate::record::HeaderName::from_static(name),
            value: value.map(Into::into),
        })
    }

    fn replayed() -> impl Strategy<Value = Replayed> {
        let text = || prop::option::of("[a-z/0-9]{0,12}");
        (any::<u32>(), text(), text(), text(), text()).prop_map(
            |(count, first_failure, class, config_hash, letter)| Replayed {
                count,
                first_failure,
                class,
                config_hash,
                letter,
            },
        )
    }

    proptest! {
        /// What is added is read back, and what stood before it stays, unless that looks the same: only a record that was
        /// replayed has such headers last.
        #[test]
        fn what_is_added_is_found_and_taken_off(
            mut own in prop::collection::vec(header(), 0..8),
            replayed in replayed(),
        ) {
            own.push(Header::of("ce_type", "said"));
            prop_assert_eq!(split(&own), (&own[..], None));
            let mut headers = own.clone();
            headers.extend(replayed.clone().headers());
            prop_assert!(is_replayed(&headers) && !is_replayed(&own));
            prop_assert_eq!(split(&headers), (&own[..], Some(replayed)));
        }
    }

    #[test]
    fn the_dead_letters_of_another_pipeline_are_no_replay() {
        let headers = [Header::of(dead_letter::REPLAY_COUNT, "2"), Header::of(dead_letter::EVENT_ID, "e")];
        assert_eq!(split(&headers), (&headers[..], None));
    }

    #[test]
    fn a_record_without_headers_of_its_own_is_a_replay_all_the_same() {
        let headers = [Header::of(dead_letter::REPLAY_COUNT, "x")];
        assert_eq!(split(&headers), (&headers[..0], Some(Replayed::default())));
    }
}
