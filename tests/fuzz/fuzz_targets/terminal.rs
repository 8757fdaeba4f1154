#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| licet_tests::fuzzing::hold("terminal", bytes));
