use super::*;

fn record(headers: Vec<Header>) -> InRecord {
    InRecord {
        topic: Arc::from("leads.dlq"),
        partition: 2,
        offset: 7,
        timestamp_ms: Some(1_000),
        key: Some(Bytes::from_static(b"ada")),
        value: Some(Bytes::from_static(b"{}")),
        headers,
    }
}

/// The headers that the engine adds, shortened.
fn letter_headers(replays: &str) -> Vec<Header> {
    vec![
        Header::of(SOURCE, "events/1/5"),
        Header::of(connect::TOPIC, "events"),
        Header::of(connect::PARTITION, "1"),
        Header::of(connect::OFFSET, "5"),
        Header::of(dead_letter::CLASS, "permanent"),
        Header::of(dead_letter::MESSAGE, "no such field"),
        Header::of(dead_letter::FIRST_FAILURE, "2026-11-24T00:00:00.000Z"),
        Header::of(dead_letter::LAST_FAILURE, "2026-11-24T01:00:00.000Z"),
        Header::of(dead_letter::REPLAY_COUNT, replays.to_owned()),
    ]
}

fn names(headers: &[Header]) -> Vec<(&str, &str)> {
    headers
        .iter()
        .map(|header| {
            (
                header.name.as_str(),
                std::str::from_utf8(header.value.as_deref().unwrap_or_default()).expect("text"),
            )
        })
        .collect()
}

#[test]
fn a_name_is_read_as_it_is_printed() {
    let id = LetterId::parse("leads-hubspot/3/120").expect("a name");
    assert_eq!(id, LetterId { pipeline: "leads-hubspot".to_owned(), partition: 3, offset: 120 });
    assert_eq!(id.to_string(), "leads-hubspot/3/120");
    for odd in ["", "leads", "leads/3", "leads/x/1", "leads/1/-1", "/1/2", "leads/99999999999/1"] {
        assert_eq!(LetterId::parse(odd), None, "{odd}");
    }
}

#[test]
fn a_replay_has_the_original_headers_and_counts() {
    let mut headers = vec![Header::of("ce_id", "evt_1"), Header::of(SOURCE, "raw/0/1")];
    headers.extend(letter_headers("0"));
    let replayed = replay(&record(headers)).expect("it says where it came from");
    assert_eq!(&*replayed.topic, "events");
    assert_eq!((replayed.key, replayed.partition), (Some(Bytes::from_static(b"ada")), None));
    assert_eq!(
        names(&replayed.headers),
        [
            ("ce_id", "evt_1"),
            (SOURCE, "raw/0/1"),
            (dead_letter::FIRST_FAILURE, "2026-11-24T00:00:00.000Z"),
            (dead_letter::REPLAY_COUNT, "1"),
        ]
    );
}

#[test]
fn a_second_replay_counts_on_and_keeps_each_header_once() {
    let mut headers = vec![
        Header::of("ce_id", "evt_1"),
        Header::of(dead_letter::FIRST_FAILURE, "2026-11-24T00:00:00.000Z"),
        Header::of(dead_letter::REPLAY_COUNT, "1"),
    ];
    headers.extend(letter_headers("1"));
    let replayed = replay(&record(headers)).expect("it says where it came from");
    assert_eq!(
        names(&replayed.headers),
        [
            ("ce_id", "evt_1"),
            (dead_letter::FIRST_FAILURE, "2026-11-24T00:00:00.000Z"),
            (dead_letter::REPLAY_COUNT, "2"),
        ]
    );
}

#[test]
fn dead_letters_of_kafka_connect_are_understood() {
    let headers = vec![
        Header::of(connect::TOPIC, "events"),
        Header::of(connect::PARTITION, "0"),
        Header::of(connect::OFFSET, "3"),
        Header::of("mine", "1"),
        Header::of(connect::EXCEPTION_MESSAGE, "it broke"),
    ];
    let record = record(headers);
    let replayed = replay(&record).expect("it says the topic");
    assert_eq!(names(&replayed.headers), [("mine", "1"), (dead_letter::REPLAY_COUNT, "1")]);
}

#[test]
fn what_is_replayed_too_often_or_has_no_value_is_refused() {
    assert_eq!(refusal(&letter("leads", &record(letter_headers("2")))), None);
    assert!(
        refusal(&letter("leads", &record(letter_headers("3")))).is_some_and(|text| text.contains("3 times"))
    );
    assert!(refusal(&letter("leads", &record(Vec::new()))).is_some());
    let mut headers = letter_headers("0");
    headers.push(Header::of(dead_letter::VALUE_DROPPED, "2000000"));
    assert!(refusal(&letter("leads", &record(headers))).is_some_and(|text| text.contains("too large")));
}

#[test]
fn filters_take_what_they_name() {
    let letter = letter("leads", &record(letter_headers("0")));
    let takes = |class: Option<&str>, key: Option<&str>, ids: &[&str]| {
        let ids = ids.iter().filter_map(|id| LetterId::parse(id)).collect();
        Filter { class: class.map(str::to_owned), key: key.map(str::to_owned), ids }.takes(&letter)
    };
    assert!(takes(None, None, &[]) && takes(Some("permanent"), Some("ada"), &["leads/2/7"]));
    assert!(!takes(Some("poison"), None, &[]) && !takes(None, Some("bob"), &[]));
    assert!(!takes(None, None, &["leads/2/8"]));
}

#[test]
fn the_newest_stand_first() {
    let at = |offset: i64, time: &str| {
        let mut record = record(vec![Header::of(dead_letter::LAST_FAILURE, time.to_owned())]);
        record.offset = offset;
        letter("leads", &record)
    };
    let mut letters =
        vec![at(1, "2026-11-24T00:00:00Z"), at(2, "2026-11-24T02:00:00Z"), at(3, "2026-11-24T00:00:00Z")];
    sort_newest_first(&mut letters);
    assert_eq!(letters.iter().map(|letter| letter.id.offset).collect::<Vec<_>>(), [2, 3, 1]);
}

#[test]
fn no_count_of_replays_starts_again() {
    let replayed = replay(&record(letter_headers("4294967295"))).expect("it says where it came from");
    let count = last_header(&replayed.headers, dead_letter::REPLAY_COUNT).expect("it counts");
    assert_eq!(count, "4294967295");
}
