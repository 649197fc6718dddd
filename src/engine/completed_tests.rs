use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn completed(offsets: &BTreeSet<i64>) -> Completed {
    let mut completed = Completed::default();
    offsets.iter().for_each(|offset| completed.push(*offset..*offset + 1));
    completed
}

#[test]
fn one_slow_record_costs_a_few_bytes() {
    let mut completed = Completed::default();
    completed.push(101..10_000);
    let text = completed.encode(NextOffset(100));
    assert_eq!(text, "AQBkAatN");
    assert_eq!(Completed::decode(NextOffset(100), &text), Ok(completed));
}

#[test]
fn nothing_done_is_no_text() {
    assert_eq!(Completed::default().encode(NextOffset(7)), "");
    assert_eq!(Completed::decode(NextOffset(7), ""), Ok(Completed::default()));
    let mut before = Completed::default();
    before.push(0..8);
    assert_eq!(before.encode(NextOffset(7)), "", "nothing up to the base is told");
}

#[test]
fn what_it_does_not_know_says_nothing() {
    let mut completed = Completed::default();
    completed.push(5..6);
    let text = completed.encode(NextOffset(3));
    let with = |at: usize, byte: u8| {
        let mut raw = URL_SAFE_NO_PAD.decode(&text).expect("ours");
        raw[at] = byte;
        Completed::decode(NextOffset(3), &URL_SAFE_NO_PAD.encode(raw))
    };
    assert_eq!(with(0, 2), Err(Unreadable::Version(2)));
    assert_eq!(with(1, 9), Err(Unreadable::Garbage));
    assert_eq!(Completed::decode(NextOffset(4), &text), Err(Unreadable::OtherOffset(3)));
    for garbage in ["x", "owner=batch 7", "{\"v\":1}", "AQ", "AQA", "\u{fffd}"] {
        assert_eq!(Completed::decode(NextOffset(0), garbage), Err(Unreadable::Garbage), "{garbage}");
    }
    let long = "A".repeat(TEXT_BYTES_MAX + 4);
    assert_eq!(Completed::decode(NextOffset(0), &long), Err(Unreadable::Garbage));
}

/// Offsets as a partition delivers them, with gaps, and whether each is done.
fn history() -> impl Strategy<Value = Vec<(i64, bool)>> {
    let gap = prop_oneof![20 => Just(0_i64), 3 => 1..5_i64, 1 => 0..3_000_i64];
    (prop::collection::vec((gap, any::<prop::sample::Index>()), 1..600), 0..=100_usize).prop_map(
        |(steps, share)| {
            let mut offset = 0;
            let mut history = Vec::new();
            for (gap, dice) in steps {
                offset += gap + 1;
                history.push((offset, dice.index(100) < share));
            }
            history
        },
    )
}

proptest! {
    /// What is read back is what was written; an unfinished record is never claimed.
    #[test]
    fn comes_back_as_it_was(base in 0..i64::MAX / 4, history in history()) {
        let done = history.iter().filter(|(_, done)| *done).map(|(offset, _)| base + offset).collect();
        let written = completed(&done);
        let text = written.encode(NextOffset(base));
        prop_assert!(text.len() <= TEXT_BYTES_MAX);
        let read = Completed::decode(NextOffset(base), &text).expect("just written");
        for (offset, is_done) in &history {
            prop_assert!(*is_done || !read.contains(base + offset), "{offset} is claimed");
        }
        let span = history.last().map_or(0, |(offset, _)| usize::try_from(*offset).expect("small"));
        let unfinished = history.iter().filter(|(_, done)| !done).count();
        let gaps = span - history.len();
        if text_bytes_bound(span, unfinished + gaps) <= TEXT_BYTES_MAX {
            prop_assert_eq!(read, written, "all of it fits");
        }
    }

    /// The bound holds for every way of completing what is unfinished.
    #[test]
    fn is_never_longer_than_told_before(history in history()) {
        // As the tracker says it: offsets between two done records belong to them.
        let mut ranges = Completed::default();
        let mut last_done = None;
        for (offset, is_done) in &history {
            if *is_done {
                ranges.push(last_done.unwrap_or(*offset)..offset + 1);
            }
            last_done = is_done.then_some(offset + 1);
        }
        let span = history.last().map_or(0, |(offset, _)| usize::try_from(*offset).expect("small"));
        let unfinished = history.iter().filter(|(_, done)| !done).count();
        let text = ranges.encode(NextOffset(0));
        prop_assert!(text.len() <= text_bytes_bound(span, unfinished), "{} {span} {unfinished}", text.len());
    }

    /// However much there is to tell, it fits, and what is told is true.
    #[test]
    fn leaves_out_what_does_not_fit(step in 2..400_i64, count in 2_000..12_000_i64) {
        let done: BTreeSet<i64> = (1..count).map(|number| number * step).collect();
        let text = completed(&done).encode(NextOffset(0));
        prop_assert!(text.len() <= TEXT_BYTES_MAX);
        let read = Completed::decode(NextOffset(0), &text).expect("just written");
        prop_assert!(!read.is_empty());
        for range in read.since(0) {
            for offset in range {
                prop_assert!(done.contains(&offset));
            }
        }
    }

    #[test]
    fn reads_anything_without_panic(text in "\\PC*", bytes in prop::collection::vec(any::<u8>(), 0..64), base in any::<i64>()) {
        let _ = Completed::decode(NextOffset(base), &text);
        let mut ours = vec![VERSION, bytes.first().copied().unwrap_or(0) % 2];
        if base >= 0 {
            push_varint(&mut ours, base.unsigned_abs());
        }
        ours.extend_from_slice(&bytes);
        if let Ok(read) = Completed::decode(NextOffset(base), &URL_SAFE_NO_PAD.encode(&ours)) {
            prop_assert!(read.since(i64::MIN).all(|range| range.start > base));
        }
    }
}
