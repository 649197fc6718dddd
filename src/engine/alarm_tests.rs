use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;

fn limit(percent: u32, of: u32, within_s: u64) -> StopAbove {
    StopAbove { percent, of: NonZeroU32::new(of).expect("not zero"), within: Duration::from_secs(within_s) }
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn rings_above_the_ratio_and_not_at_it() {
    let mut alarm = Alarm::new(limit(50, 10, 60));
    for ms in 0..5 {
        alarm.passed(at(ms));
    }
    for ms in 5..10 {
        assert_eq!(alarm.dead(at(ms), "permanent", None, "no"), None, "five of ten are half");
    }
    let alert = alarm.dead(at(10), "permanent", None, "no").expect("six of eleven are more");
    assert_eq!((alert.dead, alert.total), (6, 11));
}

#[test]
fn a_few_events_are_no_reason() {
    let mut alarm = Alarm::new(limit(50, 100, 60));
    for ms in 0..99 {
        assert_eq!(alarm.dead(at(ms), "poison", None, "no JSON"), None);
    }
    assert!(alarm.dead(at(99), "poison", None, "no JSON").is_some());
}

#[test]
fn what_is_long_ago_does_not_count() {
    let mut alarm = Alarm::new(limit(50, 10, 60));
    for second in 0..200 {
        assert_eq!(alarm.dead(at(second * 10_000), "permanent", None, "no"), None, "six a minute");
    }
}

#[test]
fn a_clock_that_is_told_late_does_no_harm() {
    let mut alarm = Alarm::new(limit(50, 3, 60));
    alarm.passed(at(600_000));
    assert_eq!(alarm.dead(at(1), "bug", None, "late"), None);
    assert!(alarm.dead(at(2), "bug", None, "late").is_some(), "both count for the newest part");
}

#[test]
fn the_most_frequent_cause_is_named() {
    let mut alarm = Alarm::new(limit(50, 10, 60));
    let (upsert, map): (Arc<str>, Arc<str>) = (Arc::from("upsert"), Arc::from("map-1"));
    let mut last = None;
    for number in 0..10_u64 {
        let now = at(number * 5_000);
        last = if number % 3 == 0 {
            alarm.dead(now, "bug", Some(&map), "expected integer")
        } else {
            alarm.dead(now, "permanent", Some(&upsert), &format!("400, call {number}"))
        };
    }
    let text = last.expect("all of them are dead letters").to_string();
    assert_eq!(
        text,
        "10 of 10 events (100 %) within 60 s became dead letters; \
         6 of them permanent at `upsert`: 400, call 8"
    );
}

proptest! {
    /// It rings exactly when counting over all that ever happened says so, and keeps no more than a window.
    #[test]
    fn counts_as_a_simple_model_does(
        percent in 1..100_u32,
        of in 1..40_u32,
        within_s in 1..120_u64,
        events in prop::collection::vec((0..20_000_u64, any::<bool>()), 1..300),
    ) {
        let mut alarm = Alarm::new(limit(percent, of, within_s));
        let step_ms = (within_s * 1_000 / STEPS).max(1);
        let (mut now, mut all) = (0, Vec::new());
        for (pause, is_dead) in events {
            now += pause;
            all.push((now / step_ms, is_dead));
            let alert = if is_dead {
                alarm.dead(at(now), "permanent", None, "no")
            } else {
                alarm.passed(at(now));
                None
            };
            let within = all.iter().filter(|(step, _)| step + STEPS > now / step_ms);
            let (dead, total) = within.fold((0, 0), |(dead, total), (_, is_dead)| (dead + u64::from(*is_dead), total + 1));
            let rings = is_dead && total >= u64::from(of) && dead * 100 > u64::from(percent) * total;
            prop_assert_eq!(alert.map(|alert| (alert.dead, alert.total)), rings.then_some((dead, total)));
            prop_assert!(alarm.steps.len() <= usize::try_from(STEPS).expect("small"));
        }
    }
}
