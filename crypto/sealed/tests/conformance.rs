//! The crypto suite over the `sealed-classical` kind.

use std::sync::Arc;

use peerloom_conformance::crypto;
use peerloom_conformance::identity::Identity;
use peerloom_core::Crypto;
use peerloom_crypto_sealed::SealedCrypto;

#[test]
fn crypto_sealed_classical() {
    let make = |identity: &Identity| -> Arc<dyn Crypto> {
        Arc::new(SealedCrypto::new(&identity.secret, identity.certificate.clone()).expect("a crypto"))
    };
    crypto::run(&make);
}
