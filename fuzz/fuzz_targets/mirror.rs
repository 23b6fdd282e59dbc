#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rtt0_fuzzing::mirror::run(data));
