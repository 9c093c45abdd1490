//! What all groups and key packages have in common.

use openmls::prelude::{Capabilities, ExtensionType, Lifetime, SenderRatchetConfiguration};

use crate::suite::SUITE;

/// How far behind the newest opened entry another one may still be opened, and how far ahead.
const OUT_OF_ORDER: u32 = 64;
const FORWARD: u32 = 4096;

/// Certificates carry no expiry yet, and clocks of peers differ: MLS lifetimes are not used.
pub(crate) fn always() -> Lifetime {
    Lifetime::init(0, u64::MAX)
}

pub(crate) fn capabilities() -> Capabilities {
    Capabilities::new(None, Some(&[SUITE]), Some(&[ExtensionType::LastResort]), None, None)
}

/// Which keys of a member's ratchet are kept.
pub(crate) fn sender_ratchet() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(OUT_OF_ORDER, FORWARD)
}
