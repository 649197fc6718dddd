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
        Header::of(dead_letter::CONFIG_HASH, "0123456789ab"),
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

/// Replays a letter, and reads what comes back; also where to it goes.
fn replayed(pipeline: &str, record: &InRecord, from: From) -> (Arc<str>, Comeback) {
    let topic: Arc<str> = Arc::from(format!("{pipeline}.replay"));
    let sent = replay(pipeline, record, &topic, from).expect("it says where it came from");
    let OutRecord { topic, partition, timestamp_ms, key, value, headers } = sent;
    let partition = partition.expect("that of the record that failed");
    let read =
        InRecord { topic: Arc::clone(&topic), partition, offset: 99, timestamp_ms, key, value, headers };
    (topic, Comeback::read(read).expect("it comes back"))
}

#[test]
fn a_replay_has_the_original_headers_and_says_what_was_before() {
    let mut headers = vec![Header::of("ce_id", "evt_1"), Header::of(SOURCE, "raw/0/1")];
    headers.extend(letter_headers("0"));
    let (topic, back) = replayed("leads", &record(headers), From::FailedStage);
    assert_eq!(&*topic, "leads.replay");
    let Comeback { record, past } = back;
    assert_eq!((&*record.topic, record.partition, record.offset), ("events", 1, 5));
    assert_eq!((record.key.as_deref(), record.timestamp_ms), (Some(&b"ada"[..]), Some(1_000)));
    assert_eq!(names(&record.headers), [("ce_id", "evt_1"), (SOURCE, "raw/0/1")]);
    assert_eq!(
        names(&past.replay),
        [
            (dead_letter::FIRST_FAILURE, "2026-11-24T00:00:00.000Z"),
            (dead_letter::REPLAYED_CLASS, "permanent"),
            (dead_letter::REPLAYED_CONFIG_HASH, "0123456789ab"),
            (dead_letter::REPLAYED_LETTER, "leads/2/7"),
            (dead_letter::REPLAY_COUNT, "1"),
        ]
    );
    assert_eq!((past.tier, past.attempts), (0, 0));
}

#[test]
fn a_replay_begins_with_the_failed_stage_or_makes_every_call_again() {
    let mut headers = vec![Header::of("ce_id", "evt_1")];
    headers.extend([
        Header::of(comeback::ORIGIN, "events/1/5"),
        Header::of(comeback::ORIGIN_HEADERS, "1"),
        Header::of(comeback::ORIGIN_TIMESTAMP, "500"),
    ]);
    headers.extend(letter_headers("0"));
    headers.push(Header::of(dead_letter::ATTEMPTS, "4"));
    headers
        .push(Header::of(comeback::ANSWERS, r#"{"config":"0123456789ab","steps":{"charge":{"answer":1}}}"#));
    let letter = record(headers);
    for (from, is_kept) in [(From::FailedStage, true), (From::Start, false)] {
        let (_, back) = replayed("leads", &letter, from);
        assert_eq!(back.past.answers.get("charge", true, "").is_some(), is_kept, "{from:?}");
        assert_eq!(names(&back.record.headers), [("ce_id", "evt_1")]);
        assert_eq!((back.record.offset, back.record.timestamp_ms, back.past.attempts), (5, Some(500), 4));
    }
    assert_eq!(own_time(&letter), Some(500), "not that of the letter");
}

#[test]
fn what_the_project_does_not_know_is_not_replayed() {
    let ways = |replays: &[(&str, i32)]| Ways {
        topics: BTreeMap::from([(
            "leads".to_owned(),
            BTreeMap::from([("events".to_owned(), Arc::from("leads.replay"))]),
        )]),
        partitions: replays.iter().map(|(topic, count)| (Arc::from(*topic), *count)).collect(),
    };
    let failed = letter("leads", &record(letter_headers("0")));
    let applied = ways(&[("leads.replay", 2)]);
    assert_eq!(applied.of(&failed).map(|topic| &**topic), Ok("leads.replay"));
    let not_applied = ways(&[]).of(&failed).expect_err("there is no such topic");
    assert!(
        matches!(not_applied, NoWay::NotApplied(_)) && not_applied.to_string().contains("millrace apply")
    );
    for (odd, words) in [
        (Letter { origin: None, ..failed.clone() }, "which topic"),
        (
            Letter { origin: Some(("older".to_owned(), 0, 1)), ..failed.clone() },
            "does not read topic `older`",
        ),
        (Letter { origin: Some(("events".to_owned(), 2, 1)), ..failed.clone() }, "partition 2"),
        (letter("gone", &record(letter_headers("0"))), "no pipeline `gone`"),
    ] {
        let why = applied.of(&odd).expect_err("it has no way");
        assert!(matches!(&why, NoWay::Refused(text) if text.contains(words)), "{why:?}");
    }
}

#[test]
fn a_second_replay_counts_on_and_keeps_each_header_once() {
    let mut headers = vec![
        Header::of("ce_id", "evt_1"),
        Header::of(dead_letter::FIRST_FAILURE, "2026-11-20T00:00:00.000Z"),
        Header::of(dead_letter::REPLAYED_CLASS, "transient"),
        Header::of(dead_letter::REPLAY_COUNT, "1"),
    ];
    headers.extend(letter_headers("1"));
    let (_, back) = replayed("leads", &record(headers), From::FailedStage);
    assert_eq!(names(&back.record.headers), [("ce_id", "evt_1")]);
    assert_eq!(
        names(&back.past.replay),
        [
            (dead_letter::FIRST_FAILURE, "2026-11-20T00:00:00.000Z"),
            (dead_letter::REPLAYED_CLASS, "permanent"),
            (dead_letter::REPLAYED_CONFIG_HASH, "0123456789ab"),
            (dead_letter::REPLAYED_LETTER, "leads/2/7"),
            (dead_letter::REPLAY_COUNT, "2"),
        ]
    );
}

#[test]
fn the_dead_letter_that_a_record_was_stays_when_its_reader_fails() {
    // A pipeline read the dead letters of another and failed on one.
    let mut own = vec![Header::of("ce_id", "evt_1")];
    own.extend(letter_headers("2"));
    own.push(Header::of(dead_letter::EVENT_ID, "evt_1"));
    let mut headers = own.clone();
    headers.extend(letter_headers("0"));
    let record = record(headers);
    assert_eq!(letter("audit", &record).replays, 0);
    let (_, back) = replayed("audit", &record, From::FailedStage);
    assert_eq!(back.record.headers, own);
    assert_eq!(back.past.replay.len(), 5);
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
    let (_, back) = replayed("leads", &record, From::FailedStage);
    assert_eq!(names(&back.record.headers), [("mine", "1")]);
    assert_eq!((back.record.partition, back.record.offset, back.record.timestamp_ms), (0, 3, Some(1_000)));
    assert_eq!(
        names(&back.past.replay),
        [
            (dead_letter::FIRST_FAILURE, "1970-01-01T00:00:01.000Z"),
            (dead_letter::REPLAYED_CLASS, "unknown"),
            (dead_letter::REPLAYED_LETTER, "leads/2/7"),
            (dead_letter::REPLAY_COUNT, "1"),
        ]
    );
}

#[test]
fn what_is_replayed_too_often_or_has_no_value_is_refused() {
    let refused = |headers: Vec<Header>| refusal(&letter("leads", &record(headers)), None, true);
    assert_eq!(refused(letter_headers("2")), None);
    assert!(refused(letter_headers("3")).is_some_and(|text| text.contains("3 times")));
    for dropped in [dead_letter::VALUE_DROPPED, dead_letter::HEADERS_DROPPED, dead_letter::KEY_DROPPED] {
        let mut headers = letter_headers("0");
        headers.push(Header::of(dropped, "2000000"));
        assert!(refused(headers).is_some_and(|text| text.contains("too large")), "{dropped}");
    }
}

#[test]
fn where_nothing_has_changed_a_replay_is_refused_unless_forced() {
    const FAILED_WITH: &str = "0123456789ab";
    let replayed = |class: &str, hash: &str| Replayed {
        count: 1,
        class: Some(class.to_owned()),
        config_hash: Some(hash.to_owned()),
        ..Replayed::default()
    };
    let alike = Some(replayed("permanent", FAILED_WITH));
    // Class now, replay before, hash of the present text; whether it is refused.
    for (class, before, hash, is_refused) in [
        ("permanent", None, Some(FAILED_WITH), false),
        ("permanent", None, None, false),
        ("permanent", alike.clone(), Some(FAILED_WITH), true),
        ("permanent", alike.clone(), None, true),
        ("permanent", alike.clone(), Some("mended"), false),
        ("permanent", Some(replayed("transient", FAILED_WITH)), Some(FAILED_WITH), false),
        ("permanent", Some(replayed("permanent", "older")), Some(FAILED_WITH), false),
        ("bug", None, Some(FAILED_WITH), true),
        ("bug", None, Some("mended"), false),
        ("poison", None, Some(FAILED_WITH), true),
        ("poison", None, None, false),
        ("transient", None, Some(FAILED_WITH), false),
    ] {
        let letter = Letter {
            class: class.to_owned(),
            replayed: before.clone(),
            ..letter("leads", &record(letter_headers("0")))
        };
        let why = refusal(&letter, hash, false);
        assert_eq!(why.is_some(), is_refused, "{class} {before:?} {hash:?}: {why:?}");
        assert!(why.is_none_or(|why| why.contains("--force") && why.contains(FAILED_WITH)));
        assert_eq!(refusal(&letter, hash, true), None);
    }
}

#[test]
fn filters_take_what_they_name() {
    let mut headers = letter_headers("0");
    headers.push(Header::of(dead_letter::STAGE, "upsert"));
    let letter = letter("leads", &record(headers));
    let all = Filter::default();
    let text = |text: &str| Some(text.to_owned());
    let at = |text: &str| DateTime::parse_from_rfc3339(text).ok().map(|time| time.with_timezone(&Utc));
    let ids = |id: &str| LetterId::parse(id).into_iter().collect::<Vec<_>>();
    for filter in [
        all.clone(),
        Filter { class: text("permanent"), stage: text("upsert"), key: text("ada"), ..all.clone() },
        Filter { since: at("2026-11-24T01:00:00Z"), until: at("2026-11-24T01:00:00.001Z"), ..all.clone() },
        Filter { ids: ids("leads/2/7"), ..all.clone() },
    ] {
        assert!(filter.takes(&letter), "{filter:?}");
    }
    for filter in [
        Filter { class: text("poison"), ..all.clone() },
        Filter { stage: text("map-1"), ..all.clone() },
        Filter { key: text("bob"), ..all.clone() },
        Filter { since: at("2026-11-24T01:00:00.001Z"), ..all.clone() },
        Filter { until: at("2026-11-24T01:00:00Z"), ..all.clone() },
        Filter { ids: ids("leads/2/8"), ..all.clone() },
    ] {
        assert!(!filter.takes(&letter), "{filter:?}");
    }
}

#[test]
fn the_newest_stand_first() {
    let at = |offset: i64, time: &str| {
        let mut record = record(vec![Header::of(dead_letter::LAST_FAILURE, time.to_owned())]);
        record.offset = offset;
        letter("leads", &record)
    };
    let mut letters =
        [at(1, "2026-11-24T00:00:00Z"), at(2, "2026-11-24T02:00:00Z"), at(3, "2026-11-24T00:00:00Z")];
    letters.sort_by(newest_first);
    assert_eq!(letters.iter().map(|letter| letter.id.offset).collect::<Vec<_>>(), [2, 3, 1]);
}

#[test]
fn no_count_of_replays_starts_again() {
    let (_, back) = replayed("leads", &record(letter_headers("4294967295")), From::FailedStage);
    let count = last_header(&back.past.replay, dead_letter::REPLAY_COUNT).expect("it counts");
    assert_eq!(count, "4294967295");
}
