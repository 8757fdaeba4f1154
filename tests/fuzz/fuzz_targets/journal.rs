#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| licet_tests::fuzzing::check("journal", input));
