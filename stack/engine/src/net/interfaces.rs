//! The machine's own addresses, which change when it moves.

use std::sync::Arc;
use std::time::Duration;

use peerloom_core::interfaces::reachable;
use tokio::sync::watch;
use tracing::info;

use super::Shared;

/// How often the addresses are looked at. A look takes some 100 µs.
const EVERY: Duration = Duration::from_secs(1);

/// Tells transports, discoveries and listeners when the machine's addresses change, or the way by which packets
/// leave it. Temporary addresses (RFC 8981) come and go with no change of the network; they count all the same.
pub(super) async fn watch(shared: Arc<Shared>, moved: watch::Sender<()>) {
    let mut before = reachable().ok();
    loop {
        tokio::time::sleep(EVERY).await;
        // A look that fails, for want of descriptors say, tells nothing.
        let Some(now) = reachable().ok().filter(|now| before.as_ref() != Some(now)) else { continue };
        info!(?now, "the machine's addresses changed");
        before = Some(now);
        shared.transports.iter().for_each(|transport| transport.network_changed());
        shared.discoveries.iter().for_each(|discovery| discovery.network_changed());
        moved.send_replace(());
        // A device that waits for a later attempt may be reachable now.
        shared.links.moved();
    }
}
