//! Invitation links as people paste them.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    drop(peerloom_discovery_invite::decode(text));
});
