//! Feeds `checks::vrl`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::vrl::check(input));
