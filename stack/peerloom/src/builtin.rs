//! The kinds that come with Peerloom. This is the only place that lists them.

use peerloom_core::{Kinds, Result};

/// All built-in kinds; an error if two have one name, which a test rules out.
pub fn kinds() -> Result<Kinds> {
    let mut kinds = Kinds::new();
    peerloom_transport_quic::register(&mut kinds)?;
    peerloom_transport_webrtc::register(&mut kinds)?;
    peerloom_discovery_invite::register(&mut kinds)?;
    peerloom_discovery_mdns::register(&mut kinds)?;
    peerloom_discovery_registry::register(&mut kinds)?;
    peerloom_storage_redb::register(&mut kinds)?;
    peerloom_storage_sqlite::register(&mut kinds)?;
    peerloom_storage_vault::register(&mut kinds)?;
    peerloom_crypto_mls::register(&mut kinds)?;
    peerloom_crypto_sealed::register(&mut kinds)?;
    Ok(kinds)
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_two_kinds_have_one_name() {
        assert!(super::kinds().expect("kinds").describe().len() >= 10);
    }
}
