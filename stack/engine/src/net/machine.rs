//! The machine's own addresses, which change when it moves.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::info;

use super::Shared;

/// How often the addresses are looked at. A look takes some 50 µs.
const EVERY: Duration = Duration::from_secs(1);

/// Tells transports, discoveries and listeners when the machine's addresses change.
pub(super) async fn watch(shared: Arc<Shared>, moved: watch::Sender<()>) {
    let mut before = addresses();
    loop {
        tokio::time::sleep(EVERY).await;
        let now = addresses();
        if now == before {
            continue;
        }
        info!(?now, "the machine's addresses changed");
        before = now;
        shared.transports.iter().for_each(|transport| transport.network_changed());
        shared.discoveries.iter().for_each(|discovery| discovery.network_changed());
        moved.send_replace(());
        // Whoever waits for a later attempt may be reachable now.
        shared.contacts.devices().into_iter().for_each(|(_, device)| shared.links.want(device.device));
    }
}

/// Temporary addresses (RFC 8981) come and go with no change of the network; they count all the same.
fn addresses() -> BTreeSet<IpAddr> {
    let reachable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.iter().map(|interface| interface.ip()).filter(reachable).collect()
}
