//! Feeds `checks::dead_letters`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::dead_letters::check(input));
