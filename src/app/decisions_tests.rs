use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_500_000 + seconds, 0).expect("a time")
}

fn letter(offset: i64, failed: i64, origin: i64) -> Letter {
    Letter {
        id: LetterId { pipeline: String::from("leads"), partition: 0, offset },
        class: String::from("permanent"),
        stage: None,
        message: String::new(),
        attempts: Some(1),
        replays: 0,
        failed_at: Some(at(failed)),
        origin: Some((String::from("events"), 0, origin)),
        key: None,
        event_id: None,
        value_dropped: None,
        headers_dropped: None,
        key_dropped: None,
        config_hash: None,
        replayed: None,
    }
}

fn decided(decisions: &mut Decisions, verb: Verb, letter: &Letter) {
    let decision = Decision {
        decision: verb,
        decided_at: at(100),
        actor: String::from("ada"),
        run: String::from("r1"),
        reason: None,
        failed_at: letter.failed_at,
        origin: origin_text(letter),
    };
    let OutRecord { topic, key, value, headers, .. } = decision.record(&Arc::from("d"), &letter.id);
    decisions.add(&InRecord { topic, partition: 0, offset: 0, timestamp_ms: None, key, value, headers });
}

#[test]
fn the_last_decision_counts() {
    let (letter, other) = (letter(1, 5, 7), letter(2, 5, 8));
    let mut decisions = Decisions::default();
    assert_eq!(decisions.of(&letter), (State::Open, None));
    for (verb, state) in [
        (Verb::Discarded, State::Discarded),
        (Verb::Replayed, State::Replayed),
        (Verb::Reopened, State::Open),
        (Verb::Replayed, State::Replayed),
    ] {
        decided(&mut decisions, verb, &letter);
        let (is, decision) = decisions.of(&letter);
        assert_eq!((is, decision.map(|decision| decision.decision)), (state, Some(verb)));
        assert_eq!(decisions.of(&other), (State::Open, None));
    }
}

#[test]
fn a_topic_that_was_made_anew_has_new_letters() {
    let mut decisions = Decisions::default();
    decided(&mut decisions, Verb::Discarded, &letter(1, 5, 7));
    assert_eq!(decisions.of(&letter(1, 6, 7)).0, State::Open, "the same place, another failure");
    assert_eq!(decisions.of(&letter(1, 5, 8)).0, State::Open, "the same place, another record");
}

#[test]
fn two_letters_of_one_record_are_replayed_once() {
    let (older, newer, later) = (letter(1, 5, 7), letter(2, 6, 7), letter(3, 9, 7));
    let mut decisions = Decisions::default();
    decided(&mut decisions, Verb::Replayed, &newer);
    assert_eq!(decisions.of(&older).0, State::Replayed);
    assert_eq!(decisions.of(&later).0, State::Open, "it failed again after the replay");
    decided(&mut decisions, Verb::Reopened, &newer);
    assert_eq!((decisions.of(&older).0, decisions.of(&newer).0), (State::Open, State::Open));
}

#[test]
fn what_is_no_decision_is_passed_over() {
    let mut decisions = Decisions::default();
    for (key, value) in [(Some("leads/0/1"), None), (Some("x"), Some("{}")), (None, Some("{\"decision\":1}"))]
    {
        let bytes = |text: Option<&'static str>| text.map(|text| Bytes::from_static(text.as_bytes()));
        let (key, value) = (bytes(key), bytes(value));
        let topic = Arc::from("d");
        let headers = Vec::new();
        decisions.add(&InRecord { topic, partition: 0, offset: 0, timestamp_ms: None, key, value, headers });
    }
    assert_eq!(decisions.of(&letter(1, 5, 7)), (State::Open, None));
}
