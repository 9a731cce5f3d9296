#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tower_iroh_fuzz::peer(data));
