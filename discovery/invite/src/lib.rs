//! Discovery by invitation: a link that a person hands over.
//!
//! `peerloom://invite/` followed by the [`Invitation`](peerloom_core::wire::Invitation) in base32 (RFC 4648 §6, no
//! padding). No network, no server: what is known is what was handed over.

mod discovery;
mod link;

use std::sync::Arc;

use peerloom_core::kinds::NoSettings;
use peerloom_core::{Kinds, Result};

pub use discovery::InviteDiscovery;
pub use link::{PREFIX, decode, encode, for_qr, for_terminal};

/// Registers the `invite` kind.
pub fn register(kinds: &mut Kinds) -> Result<()> {
    let summary = "records handed over in invitation links; asks nobody";
    kinds.discoveries.add("invite", summary, |_: NoSettings, _| Ok(Arc::new(InviteDiscovery::default())))
}
