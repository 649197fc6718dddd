//! Feeds `checks::verifiers`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::verifiers::check(input));
