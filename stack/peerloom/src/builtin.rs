//! The kinds that come with Peerloom. This is the only place that lists them.

use peerloom_core::Kinds;

/// All built-in kinds.
pub fn kinds() -> Kinds {
    let mut kinds = Kinds::new();
    peerloom_transport_quic::register(&mut kinds);
    peerloom_transport_webrtc::register(&mut kinds);
    peerloom_discovery_invite::register(&mut kinds);
    peerloom_discovery_mdns::register(&mut kinds);
    peerloom_discovery_registry::register(&mut kinds);
    peerloom_storage_redb::register(&mut kinds);
    peerloom_storage_sqlite::register(&mut kinds);
    peerloom_storage_vault::register(&mut kinds);
    peerloom_crypto_mls::register(&mut kinds);
    peerloom_crypto_sealed::register(&mut kinds);
    kinds
}
