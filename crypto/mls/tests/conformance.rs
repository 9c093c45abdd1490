//! The crypto suite over the `mls-classical` kind.

use std::sync::Arc;

use peerloom_conformance::crypto;
use peerloom_conformance::identity::Identity;
use peerloom_core::Crypto;
use peerloom_crypto_mls::MlsCrypto;

#[test]
fn crypto_mls_classical() {
    let make = |identity: &Identity| -> Arc<dyn Crypto> {
        Arc::new(MlsCrypto::new(&identity.secret, identity.certificate.clone()).expect("a crypto"))
    };
    crypto::run(&make);
}
