use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;
use rust_decimal::Decimal;

use crate::config::kpi::{Aggregate, Window};
use crate::ledger::KpiFact;
use crate::plan::kpis::KpiSpec;
use crate::project::window::{Billionths, Folded, Folder, KpiRow, Refusal, bounds};

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().expect("the tests' times are RFC 3339")
}

#[track_caller]
fn check_bounds(window: Window, zone: Tz, time: &str, start: &str, end: &str) {
    let found = bounds(window, zone, utc(time)).expect("in range");
    assert_eq!((found.start, found.end), (utc(start), utc(end)));
}

#[test]
fn days_follow_the_zone_through_both_changes_of_the_clock() {
    let madrid = chrono_tz::Europe::Madrid;
    let day = Window::Day;
    check_bounds(day, madrid, "2026-06-30T22:00:00Z", "2026-06-30T22:00:00Z", "2026-07-01T22:00:00Z");
    check_bounds(day, madrid, "2026-06-30T21:59:59Z", "2026-06-29T22:00:00Z", "2026-06-30T22:00:00Z");
    // 29 March 2026 has 23 hours, 25 October 2026 has 25.
    check_bounds(day, madrid, "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z");
    check_bounds(day, madrid, "2026-10-25T22:59:59Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z");
    check_bounds(day, Tz::UTC, "2026-03-29T12:00:00Z", "2026-03-29T00:00:00Z", "2026-03-30T00:00:00Z");
}

#[test]
fn hours_and_minutes_follow_the_offset() {
    let hour = Window::Hour;
    // The hour from 2:00 that comes twice in Madrid is two windows.
    let madrid = chrono_tz::Europe::Madrid;
    check_bounds(hour, madrid, "2026-10-25T00:30:00Z", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z");
    check_bounds(hour, madrid, "2026-10-25T01:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z");
    // Kathmandu is 5:45 ahead.
    let kathmandu = chrono_tz::Asia::Kathmandu;
    check_bounds(hour, kathmandu, "2026-01-01T00:14:59Z", "2025-12-31T23:15:00Z", "2026-01-01T00:15:00Z");
    check_bounds(
        Window::Minute,
        madrid,
        "2026-01-01T00:00:59.999999Z",
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:01:00Z",
    );
}

#[test]
fn a_day_without_midnight_begins_with_its_first_instant() {
    // Beirut went from 23:59:59 to 01:00 on 29 March 2026.
    let beirut = chrono_tz::Asia::Beirut;
    check_bounds(Window::Day, beirut, "2026-03-29T12:00:00Z", "2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z");
    // Samoa had no 30 December 2011: the day before ends where the 31st begins.
    let apia = chrono_tz::Pacific::Apia;
    check_bounds(Window::Day, apia, "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z");
}

fn spec(lateness: Duration) -> KpiSpec {
    KpiSpec {
        name: Arc::from("revenue"),
        fact: Arc::from("payment"),
        aggregate: Aggregate::Sum,
        windows: vec![Window::Hour, Window::Day],
        dimensions: vec![Arc::from("currency")],
        time_zone: chrono_tz::Europe::Madrid,
        lateness: lateness.to_std().expect("positive"),
        retention: None,
    }
}

fn fact(time: DateTime<Utc>, value: Decimal, currency: Option<&str>) -> KpiFact {
    KpiFact {
        fact: String::from("payment"),
        value,
        time,
        dimensions: currency.map(|c| (String::from("currency"), c.to_owned())).into_iter().collect(),
        pipeline: String::from("p"),
        tenant: None,
        topic: String::from("t"),
        partition: 0,
        offset: 0,
    }
}

fn fold(specs: &[KpiSpec], facts: &[KpiFact], now: DateTime<Utc>) -> Folded {
    let mut folder = Folder::new(specs, None);
    for (offset, fact) in facts.iter().enumerate() {
        folder.fold(offset as i64, fact, now);
    }
    folder.finish()
}

const NOW: &str = "2026-11-23T12:00:00Z";

#[test]
fn facts_are_summed_by_window_and_dimension() {
    let time = utc("2026-11-23T10:30:00Z");
    let facts = [
        fact(time, Decimal::new(1050, 2), Some("EUR")),
        fact(time, Decimal::new(-50, 2), Some("EUR")),
        fact(time, Decimal::ONE, Some("U\0D")),
        fact(time, Decimal::ONE, None),
    ];
    let folded = fold(&[spec(Duration::zero())], &facts, utc(NOW));
    let shown: Vec<String> = folded
        .rows
        .iter()
        .map(|row| {
            format!("{} {} n={} {} {}..{}", row.window, row.dimensions, row.events, row.sum, row.min, row.max)
        })
        .collect();
    assert_eq!(
        shown,
        [
            r#"1d {"currency":"EUR"} n=2 10 -0.5..10.5"#,
            r#"1d {"currency":"U�D"} n=1 1 1..1"#,
            r#"1d {"currency":null} n=1 1 1..1"#,
            r#"1h {"currency":"EUR"} n=2 10 -0.5..10.5"#,
            r#"1h {"currency":"U�D"} n=1 1 1..1"#,
            r#"1h {"currency":null} n=1 1 1..1"#,
        ]
    );
    assert_eq!(folded.time_max, Some(time));
}

#[test]
fn what_cannot_be_folded_is_refused_with_its_reason() {
    let time = utc(NOW);
    let facts = [
        fact(time + Duration::days(1) + Duration::microseconds(1), Decimal::ONE, None),
        fact(DateTime::from_timestamp(-99_999_999_999, 0).expect("in range"), Decimal::ONE, None),
        fact(time, Decimal::MAX, None),
        fact(time, Decimal::new(1, 10), None),
        fact(time + Duration::days(1), Decimal::ONE, None),
    ];
    let folded = fold(&[spec(Duration::zero())], &facts, time);
    let refusals: Vec<(i64, Refusal)> =
        folded.refused.iter().map(|refused| (refused.offset, refused.refusal)).collect();
    assert_eq!(
        refusals,
        [(0, Refusal::Ahead), (1, Refusal::NoTime), (2, Refusal::TooLarge), (3, Refusal::TooLarge)]
    );
    assert_eq!(folded.rows.iter().map(|row| row.events).sum::<i64>(), 2);
    assert_eq!(folded.time_max, Some(time), "a fact ahead of the clock does not close windows ahead of it");
}

#[test]
fn late_facts_count_and_are_counted_as_late() {
    let at = |text: &str| fact(utc(text), Decimal::ONE, None);
    let facts = [
        at("2026-11-23T08:10:00Z"),
        at("2026-11-23T10:05:00Z"),
        at("2026-11-23T08:20:00Z"),
        at("2026-11-23T09:30:00Z"),
    ];
    let late = |lateness| {
        let folded = fold(&[spec(lateness)], &facts, utc(NOW));
        let hours: Vec<(i64, i64)> = folded
            .rows
            .iter()
            .filter(|row| row.window == Window::Hour)
            .map(|row| (row.events, row.late_events))
            .collect();
        hours
    };
    assert_eq!(late(Duration::zero()), [(2, 1), (1, 1), (1, 0)]);
    assert_eq!(late(Duration::minutes(30)), [(2, 1), (1, 0), (1, 0)]);
    assert_eq!(late(Duration::hours(2)), [(2, 0), (1, 0), (1, 0)]);
}

/// Adds rows as Postgres does over the batches.
fn merge(into: &mut BTreeMap<(String, &'static str, DateTime<Utc>, String), KpiRow>, rows: Vec<KpiRow>) {
    for row in rows {
        let key = (row.kpi.to_string(), row.window.name(), row.bounds.start, row.dimensions.clone());
        match into.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(row);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let sums = entry.get_mut();
                sums.events += row.events;
                sums.sum = Billionths(sums.sum.0 + row.sum.0);
                sums.min = sums.min.min(row.min);
                sums.max = sums.max.max(row.max);
                sums.late_events += row.late_events;
            }
        }
    }
}

prop_compose! {
    fn any_fact()(
        seconds in 0_i64..400_000,
        mantissa in -10_i64.pow(12)..10_i64.pow(12),
        scale in 0_u32..=9,
        currency in proptest::option::of(prop_oneof![Just("EUR"), Just("USD")]),
    ) -> KpiFact {
        fact(utc("2026-10-23T00:00:00Z") + Duration::seconds(seconds), Decimal::new(mantissa, scale), currency)
    }
}

proptest! {
    #[test]
    fn any_split_into_batches_gives_the_same_rows(
        facts in proptest::collection::vec(any_fact(), 0..80),
        cuts in proptest::collection::vec(0_usize..80, 0..6),
        lateness in 0_i64..200_000,
    ) {
        let specs = [spec(Duration::seconds(lateness))];
        let now = utc(NOW);
        let mut whole = BTreeMap::new();
        merge(&mut whole, fold(&specs, &facts, now).rows);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(facts.len())).chain([facts.len()]).collect();
        cuts.sort_unstable();
        let mut pieces = BTreeMap::new();
        let (mut from, mut time_max) = (0, None);
        for cut in cuts {
            let mut folder = Folder::new(&specs, time_max);
            for (at, fact) in facts[from..cut].iter().enumerate() {
                folder.fold((from + at) as i64, fact, now);
            }
            let folded = folder.finish();
            merge(&mut pieces, folded.rows);
            (from, time_max) = (cut, folded.time_max);
        }
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn sums_equal_an_oracle_and_every_fact_is_in_one_window_of_each_length(
        facts in proptest::collection::vec(any_fact(), 0..80),
    ) {
        let folded = fold(&[spec(Duration::zero())], &facts, utc(NOW));
        for window in [Window::Hour, Window::Day] {
            let rows: Vec<&KpiRow> = folded.rows.iter().filter(|row| row.window == window).collect();
            prop_assert_eq!(rows.iter().map(|row| row.events).sum::<i64>(), facts.len() as i64);
            for row in rows {
                let inside: Vec<Decimal> = facts
                    .iter()
                    .filter(|fact| row.bounds.start <= fact.time && fact.time < row.bounds.end)
                    .filter(|fact| {
                        let currency = fact.dimensions.get("currency").map_or(String::from("null"), |c| format!("{c:?}"));
                        row.dimensions == format!("{{\"currency\":{currency}}}")
                    })
                    .map(|fact| fact.value)
                    .collect();
                let sum: Decimal = inside.iter().sum();
                prop_assert_eq!(row.events, inside.len() as i64);
                prop_assert_eq!(row.sum.to_string(), sum.normalize().to_string());
                prop_assert_eq!(row.max.to_string(), inside.iter().max().expect("a row has facts").normalize().to_string());
            }
        }
    }
}
