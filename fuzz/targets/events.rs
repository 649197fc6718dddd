//! Feeds `checks::events`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::events::check(input));
