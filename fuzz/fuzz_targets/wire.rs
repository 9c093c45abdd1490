//! Every decoder of `peerloom-wire`; the first byte chooses which.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let decoders = peerloom_wire::decoders::ALL;
    if let Some((which, bytes)) = data.split_first() {
        let (_, decode) = decoders[usize::from(*which) % decoders.len()];
        decode(bytes);
    }
});
